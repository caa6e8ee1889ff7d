// Rows of an outbox in the target become events: installed and set up as the documentation says, over kill -9.
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { stream } from '../lib/clients.mjs';
import { Platform, pause, within } from '../lib/platform.mjs';
import { Target } from '../lib/target.mjs';

const TOPIC = 'order.paid';
const SOON_MS = 30_000;
const ROWS = 400;

describe('the outbox of a target', () => {
  let platform, target;

  before(async () => {
    platform = await Platform.start();
    target = new Target(platform);
    const { targetUrl } = platform.place;
    const installed = await platform.program('outbox', 'install', '--url', targetUrl, '--json');
    assert.equal(installed.code, 0, installed.errors);
    assert.deepEqual(JSON.parse(installed.output), { database: 'shop', pending: 0 });
    const config = { outbox: { development: { databaseUrl: targetUrl } } };
    await platform.rest('PATCH', '/api/applications/app_default', { config }, await platform.setUp());
  });

  after(async () => platform?.stop());

  const write = (n) =>
    target.sql(
      `insert into event_outbox (topic, event_type, payload, table_name, operation)
       values ($1, 'order.paid', jsonb_build_object('orderId', $2::int), 'orders', 'update')`,
      [TOPIC, n],
    );

  /** Waits until `holds` answers true. */
  async function until(what, holds) {
    const wait = async () => {
      while (!(await holds())) await pause(50);
    };
    await within(what, SOON_MS, wait());
  }

  it('reaches a client that is connected', async () => {
    let arrived;
    const event = new Promise((resolve) => (arrived = resolve));
    const { url, token } = platform;
    const client = await stream({ url, token, topic: TOPIC, onEvent: arrived });
    try {
      await write(0);
      const { payload, source, type, metadata } = await within('the event', SOON_MS, event);
      assert.deepEqual([payload, source, type], [{ orderId: 0 }, 'database', 'order.paid']);
      assert.deepEqual([metadata.table, metadata.operation], ['orders', 'update']);
    } finally {
      client.close();
      await client.closed;
    }
    await until('the status', async () => {
      const status = await platform.rest('GET', '/api/database/outbox/status');
      return status.state === 'reading' && status.pending === 0;
    });
  });

  it('loses and repeats nothing over kill -9', async () => {
    const written = [];
    const writing = (async () => {
      for (let n = 1; n <= ROWS; n += 1) {
        // A row that is not acknowledged may be there all the same: it is written again only where it is not.
        for (;;) {
          try {
            const [{ there }] = await target.sql(
              `select exists (select from event_outbox where (payload ->> 'orderId')::int = $1) as there`,
              [n],
            );
            if (!there) await write(n);
            break;
          } catch {
            await pause(50);
          }
        }
        written.push(n);
      }
    })();
    for (const enough of [ROWS / 4, ROWS / 2]) {
      await until('some rows', () => written.length >= enough);
      await platform.kill();
      await platform.up();
    }
    await writing;
    await until('all are read', async () => {
      const [{ left }] = await target.sql(`select count(*)::int as left from event_outbox where processed_at is null`);
      return left === 0;
    });
    const { events } = await platform.rest('GET', `/api/topics/${TOPIC}/history?limit=500`);
    const expected = Array.from({ length: ROWS + 1 }, (_, n) => n);
    assert.deepEqual(events.map((event) => event.payload.orderId), expected);
  });
});
