// A row changed by SQL is seen from every side.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { once } from 'node:events';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { io } from 'socket.io-client';
import { withPage } from '../lib/browser.mjs';
import { socketio, stream, websocket } from '../lib/clients.mjs';
import { Platform, root, within } from '../lib/platform.mjs';
import { Target } from '../lib/target.mjs';

const TOPIC = 'task.changed';
const SOON_MS = 20_000;

describe('an UPDATE by SQL appears', () => {
  let platform, target;
  let n = 0;

  before(async () => {
    platform = await Platform.start();
    target = new Target(platform);
    await target.follow('tasks', TOPIC);
    await target.sql("insert into tasks values (1, 'write the tests', 0)");
  });

  after(async () => platform?.stop());

  /** Changes the row; answers what its event must say. */
  async function change() {
    n += 1;
    await target.sql('update tasks set n = $1 where id = 1', [n]);
    return { id: 1, title: 'write the tests', n };
  }

  function check(event, payload) {
    assert.deepEqual(event.payload, payload);
    assert.equal(event.topic, TOPIC);
    assert.equal(event.type, 'database.update');
    assert.equal(event.source, 'database');
    assert.equal(event.metadata.table, 'tasks');
    assert.equal(event.metadata.operation, 'update');
    assert.match(event.id, /^evt_/);
  }

  /** Opens a client behind all that was, changes the row, and expects exactly its event. */
  async function seenBy(open) {
    const came = [];
    let arrived;
    const first = new Promise((resolve) => (arrived = resolve));
    const onEvent = (event) => arrived(came.push(event));
    // The insert or the last update may be on its way still: it comes before ours, and is not meant.
    const client = await open({ url: platform.url, token: platform.token, topic: TOPIC, onEvent });
    try {
      const wanted = await change();
      await within('the event', SOON_MS, first);
      const until = Date.now() + SOON_MS;
      while (came.at(-1).payload.n !== wanted.n && Date.now() < until) await new Promise((go) => setTimeout(go, 10));
      check(came.at(-1), wanted);
    } finally {
      client.close();
      await client.closed;
    }
  }

  it('in realtime tail', async () => {
    const wanted = await change();
    const until = Date.now() + SOON_MS;
    // Behind the last event but one stands ours, whenever it comes.
    let position = await platform.position(TOPIC);
    while (position.offset < 2 && Date.now() < until) position = await platform.position(TOPIC);
    const since = `${position.epoch}:${position.offset - 1}`;
    const { code, output, errors } = await platform.command('tail', TOPIC, '--count', '1', '--json', '--since', since);
    assert.equal(code, 0, errors);
    check(JSON.parse(output), wanted);
  });

  it('in a bare socket.io-client over WebSocket', () => seenBy(socketio('websocket')));

  it('in a bare socket.io-client over long-polling', () => seenBy(socketio('polling')));

  it('in a bare socket.io-client that upgrades', () => seenBy(socketio('polling', 'websocket')));

  it('in a plain WebSocket', () => seenBy(websocket));

  it('in a fetch of the stream', () => seenBy(stream));

  it('in the SDK under Node.js', async () => {
    const { RealtimeClient } = await import(join(root, 'sdk/dist/index.js'));
    await seenBy(async ({ url, token, topic, onEvent }) => {
      const client = new RealtimeClient({ url, token });
      client.on(`event:${topic}`, onEvent);
      const subscribed = new Promise((resolve, reject) => {
        client.on('subscribed', resolve);
        client.on('error', reject);
      });
      client.subscribe({ topic });
      await within('the subscription', SOON_MS, subscribed);
      return { close: () => client.destroy() };
    });
  });

  it('in a page in a browser', async () => {
    const bundle = await readFile(join(root, 'sdk/dist/realtime.browser.js'));
    const pages = createServer((request, response) => {
      const isBundle = request.url === '/realtime.js';
      response.setHeader('content-type', isBundle ? 'text/javascript' : 'text/html');
      response.end(isBundle ? bundle : '<!doctype html><title>tasks</title><ul id="tasks"></ul>');
    }).listen(0, '127.0.0.1');
    await once(pages, 'listening');
    try {
      await withPage(async (page) => {
        await page.goto(`http://localhost:${pages.address().port}/`);
        const open = page.evaluate(
          async ({ url, token, topic }) => {
            const { RealtimeClient } = await import('/realtime.js');
            const client = new RealtimeClient({ url, token });
            client.on(`event:${topic}`, (event) => {
              const item = document.createElement('li');
              item.textContent = JSON.stringify(event);
              document.querySelector('#tasks').append(item);
            });
            await new Promise((resolve, reject) => {
              client.on('subscribed', resolve);
              client.on('error', (error) => reject(new Error(error.message)));
              client.subscribe({ topic });
            });
          },
          { url: platform.url, token: platform.token, topic: TOPIC },
        );
        await within('the subscription', SOON_MS, open);
        const wanted = await change();
        const item = page.locator('li', { hasText: `"n":${wanted.n}` });
        await item.waitFor({ timeout: SOON_MS });
        check(JSON.parse(await item.textContent()), wanted);
      });
    } finally {
      pages.close();
    }
  });

  it('to nobody with a wrong token, or in another namespace', async () => {
    const refused = async (path, token) => {
      const socket = io(platform.url + path, { auth: { token }, reconnection: false, forceNew: true });
      const error = new Promise((resolve, reject) => {
        socket.once('connect_error', resolve);
        socket.once('connect', () => reject(new Error('let in')));
      });
      try {
        return await within('the refusal', SOON_MS, error);
      } finally {
        socket.disconnect();
      }
    };
    const stranger = await refused('/', 'nonsense');
    assert.match(stranger.message, /^AUTH_FAILED: /);
    assert.equal(stranger.data.code, 'AUTH_FAILED');
    assert.match((await refused('/admin', platform.token)).message, /^INVALID_NAMESPACE: /);
  });
});
