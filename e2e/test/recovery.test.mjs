// The platform is killed and started again while rows are inserted: nothing is lost, nothing comes twice.
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { io } from 'socket.io-client';
import { socketio, stream, websocket } from '../lib/clients.mjs';
import { Platform, pause, within } from '../lib/platform.mjs';
import { Target } from '../lib/target.mjs';

const TOPIC = 'row.inserted';
const KILLS = 2;
const SETTLED_WITHIN_MS = 90_000;

/** A client that connects again and again, each time behind what it has seen. */
class Follower {
  seen = [];
  connections = 0;
  lost = 0;
  stopped = false;

  constructor(open, placeOf) {
    this.open = open;
    this.placeOf = placeOf;
  }

  async run(platform) {
    const onEvent = (event, id) => {
      this.seen.push(event.payload.id);
      this.since = this.placeOf(event, id);
    };
    while (!this.stopped) {
      try {
        const { url, token } = platform;
        const { since } = this;
        const client = await this.open({ url, token, topic: TOPIC, since, onEvent });
        this.connections += 1;
        if (since && !client.recovered) this.lost += 1;
        this.client = client;
        if (this.stopped) client.close();
        await client.closed;
      } catch {
        await pause(100);
      }
    }
  }

  stop() {
    this.stopped = true;
    this.client?.close();
  }
}

describe('after a stop in order and a restart', () => {
  it('a bare socket.io-client comes back by itself', async () => {
    const platform = await Platform.start();
    const { url, token } = platform;
    const socket = io(url, { auth: { token }, forceNew: true });
    try {
      await within('the connection', SETTLED_WITHIN_MS, new Promise((resolve) => socket.once('connect', resolve)));
      const again = new Promise((resolve) => socket.io.once('reconnect', resolve));
      platform.child.kill('SIGINT');
      await platform.exited;
      await platform.up();
      await within('the reconnection', SETTLED_WITHIN_MS, again);
    } finally {
      socket.disconnect();
      await platform.stop();
    }
  });
});

describe('after kill -9 and a restart', () => {
  let platform, target, inserting;
  const followers = {};
  const runs = [];

  before(async () => {
    platform = await Platform.start();
    target = new Target(platform);
    await target.follow('inserted', TOPIC);
  });

  after(async () => {
    inserting = false;
    Object.values(followers).forEach((follower) => follower.stop());
    await platform?.stop();
    await Promise.all(runs);
  });

  /** Inserts rows one after the other; a row counts once its insert is acknowledged, and is repeated until it is. */
  async function insert(rows) {
    for (let id = 1; inserting; ) {
      const sql = `insert into inserted select i, 'row', i from generate_series($1::int, $2::int) i on conflict do nothing`;
      try {
        await target.sql(sql, [id, id + 4]);
        for (let row = id; row < id + 5; row += 1) rows.push(row);
        id += 5;
      } catch {
        await pause(50);
      }
    }
  }

  it('every row reaches a client of each transport once', async () => {
    const position = (event) => ({ epoch: event.metadata.epoch, offset: event.metadata.offset });
    followers.socketio = new Follower(socketio('websocket'), position);
    followers.polling = new Follower(socketio('polling'), position);
    followers.websocket = new Follower(websocket, position);
    followers.stream = new Follower(stream, (_, id) => id);
    const all = Object.entries(followers);
    runs.push(...all.map(([, follower]) => follower.run(platform)));
    const everybody = async (what, done) => {
      const wait = async () => {
        while (!all.every(([, follower]) => done(follower))) await pause(20);
      };
      await within(what, SETTLED_WITHIN_MS, wait()).catch((error) => {
        const state = all.map(([name, f]) => `${name}: ${f.connections} connections, ${f.seen.length} seen`);
        throw new Error(`${error.message}; ${state.join('; ')}; ${platform.said}`);
      });
    };
    await everybody('the first connections', (follower) => follower.connections > 0);

    const rows = [];
    inserting = true;
    const inserts = insert(rows);
    for (let kill = 1; kill <= KILLS; kill += 1) {
      const enough = rows.length + 200;
      await everybody('some rows', (follower) => follower.seen.length >= Math.min(enough, kill * 100));
      await platform.kill();
      await pause(500);
      await platform.up();
      await everybody('the reconnection', (follower) => follower.connections > kill);
    }
    const after = rows.length + 100;
    while (rows.length < after) await pause(20);
    inserting = false;
    await inserts;

    await everybody('the last row', (follower) => follower.seen.includes(rows.at(-1)));
    for (const [name, follower] of all) {
      assert.equal(follower.lost, 0, `${name}: every position was still good`);
      assert.deepEqual(follower.seen, rows, `${name}: all rows, in order, each once`);
    }
    console.log(`${rows.length} rows, ${KILLS} kills, ${all.length} clients: 0 lost, 0 twice`);
  });
});
