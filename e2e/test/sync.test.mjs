// Documents written by the SDK, and their changes seen from every side.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { withPage } from '../lib/browser.mjs';
import { socketio, stream, websocket } from '../lib/clients.mjs';
import { Platform, pause, root, within } from '../lib/platform.mjs';

const SOON_MS = 20_000;

describe('documents', () => {
  let platform, client, RealtimeClient, applyDiff;

  before(async () => {
    ({ RealtimeClient, applyDiff } = await import(join(root, 'sdk/dist/index.js')));
    platform = await Platform.start();
    client = new RealtimeClient({ url: platform.url, token: platform.token });
  });

  after(async () => {
    client?.destroy();
    await platform?.stop();
  });

  const refused = (promise) => promise.then(() => assert.fail('not refused'), (error) => error);

  it('are created, read, changed and deleted as documented', async () => {
    const { sync } = client;
    const made = await sync.create('session', { status: 'active', participantCount: 0 });
    assert.match(made.id, /^doc_/);
    assert.equal(made.revision, 1);
    assert.deepEqual(await sync.get('session', made.id), made);
    const custom = await sync.create('session', { status: 'active' }, 'my-custom-id');
    assert.equal(custom.id, 'my-custom-id');
    assert.equal((await refused(sync.create('session', {}, 'my-custom-id'))).code, 'CONFLICT');

    const merged = await sync.merge('session', made.id, { notes: 'Session completed successfully' });
    assert.deepEqual(merged.data, { status: 'active', participantCount: 0, notes: 'Session completed successfully' });
    const mutated = await sync.mutate('session', made.id, { status: 'ended', participantCount: 0, endedAt: 5 }, 2);
    assert.equal(mutated.data.endedAt, 5);
    const operations = [
      { op: 'increment', path: '/participantCount', value: 3 },
      { op: 'push', path: '/tags', value: 'late' },
      { op: 'unset', path: '/notes' },
    ];
    const operated = await sync.mutate('session', made.id, operations, { durability: 'committed' });
    assert.deepEqual(operated.data, { status: 'ended', participantCount: 3, endedAt: 5, tags: ['late'] });
    const conflict = await refused(sync.replace('session', made.id, {}, 3));
    assert.equal(conflict.code, 'REVISION_CONFLICT');
    assert.ok(conflict.message.includes('conflict'));
    assert.deepEqual(conflict.details, [{ path: 'currentRevision', message: '4' }]);
    const replaced = await sync.replace('session', made.id, { status: 'over' }, { expectedRevision: 4 });
    assert.deepEqual([replaced.revision, replaced.data], [5, { status: 'over' }]);

    const { revisions } = await sync.revisions('session', made.id);
    assert.deepEqual(revisions.map(({ revision, operation }) => [revision, operation]), [
      [5, 'updated'],
      [4, 'updated'],
      [3, 'updated'],
      [2, 'updated'],
      [1, 'created'],
    ]);
    const gone = await sync.delete('session', made.id);
    assert.deepEqual([gone.revision, gone.deleted, gone.data], [6, true, replaced.data]);
    assert.equal((await refused(sync.get('session', made.id))).code, 'NOT_FOUND');
    const restored = await sync.restore('session', made.id, 3);
    assert.deepEqual([restored.revision, restored.data], [7, mutated.data]);
    const first = await sync.list('session', { limit: 1 });
    const second = await sync.list('session', { limit: 1, cursor: first.cursor });
    assert.deepEqual([...first.documents, ...second.documents].map(({ id }) => id), [made.id, 'my-custom-id']);
    assert.equal(second.cursor, undefined);
  });

  it('tell the SDK what changed', async () => {
    const seen = [];
    client.on('event:sync.board.updated', (event) => seen.push(event));
    const subscribed = new Promise((resolve, reject) => {
      client.on('subscribed', resolve);
      client.on('error', reject);
    });
    client.subscribe({ topic: 'sync.board.updated', returnMode: 'diff' });
    await within('the subscription', SOON_MS, subscribed);
    let board = (await client.sync.create('board', { cards: {}, title: 'a' }, 'one')).data;
    await client.sync.merge('board', 'one', { cards: { x: { done: false } } });
    await client.sync.mutate('board', 'one', [{ op: 'set', path: '/cards/x/done', value: true }]);
    const last = await client.sync.mutate('board', 'one', [{ op: 'unset', path: '/title' }]);
    const until = Date.now() + SOON_MS;
    while (seen.length < 3 && Date.now() < until) await pause(10);
    assert.deepEqual(seen.map(({ metadata }) => metadata.revision), [2, 3, 4]);
    assert.deepEqual(seen[1].payload.diff.changed, { 'cards.x.done': { from: false, to: true } });
    assert.equal('data' in seen[0].payload, false);
    for (const { payload } of seen) board = applyDiff(board, payload.diff);
    assert.deepEqual(board, last.data, 'diffs add up to the document');
  });

  const transports = {
    'Socket.IO over WebSocket': socketio('websocket'),
    'Socket.IO over long-polling': socketio('polling'),
    'a plain WebSocket': websocket,
    'server-sent events': stream,
  };
  for (const [name, open] of Object.entries(transports)) {
    it(`are told in every return mode over ${name}`, async () => {
      const service = `modes${Object.keys(transports).indexOf(name)}`;
      await client.sync.create(service, { n: 1, old: true }, 'one');
      const topic = `sync.${service}.updated`;
      const clients = [];
      const came = {};
      for (const returnMode of [undefined, 'full', 'diff', 'both']) {
        const arrived = new Promise((resolve) => {
          const onEvent = resolve;
          clients.push(open({ url: platform.url, token: platform.token, topic, returnMode, onEvent }));
        });
        came[returnMode ?? 'default'] = arrived;
      }
      try {
        await within('the subscriptions', SOON_MS, Promise.all(clients));
        await client.sync.replace(service, 'one', { n: 2, fresh: null });
        const of = async (mode) => (await within('the event', SOON_MS, came[mode])).payload;
        const common = { service, documentId: 'one', revision: 2 };
        const data = { n: 2, fresh: null };
        const diff = { added: { fresh: null }, removed: ['old'], changed: { n: { from: 1, to: 2 } } };
        assert.deepEqual(await of('default'), { ...common, data });
        assert.deepEqual(await of('full'), { ...common, data });
        assert.deepEqual(await of('diff'), { ...common, diff });
        assert.deepEqual(await of('both'), { ...common, data, diff });
      } finally {
        for (const opened of await Promise.allSettled(clients)) opened.value?.close();
      }
    });
  }

  it('are kept from a page of another origin', async () => {
    const bundle = await readFile(join(root, 'sdk/dist/realtime.browser.js'));
    const pages = createServer((request, response) => {
      const isBundle = request.url === '/realtime.js';
      response.setHeader('content-type', isBundle ? 'text/javascript' : 'text/html');
      response.end(isBundle ? bundle : '<!doctype html><title>documents</title>');
    }).listen(0, '127.0.0.1');
    await once(pages, 'listening');
    try {
      await withPage(async (page) => {
        await page.goto(`http://localhost:${pages.address().port}/`);
        const done = page.evaluate(
          async ({ url, token }) => {
            const { RealtimeClient } = await import('/realtime.js');
            const { sync } = new RealtimeClient({ url, token, autoConnect: false });
            const durability = 'committed';
            await sync.create('pages', { n: 1 }, 'a', { durability, idempotencyKey: 'page' });
            await sync.create('pages', { n: 1 }, 'b');
            await sync.replace('pages', 'a', { n: 2 }, { expectedRevision: 1, durability });
            await sync.merge('pages', 'a', { m: 1 });
            await sync.mutate('pages', 'a', [{ op: 'increment', path: '/n', value: 5 }]);
            await sync.delete('pages', 'b');
            await sync.restore('pages', 'b', 1);
            const { documents, cursor } = await sync.list('pages', { limit: 1 });
            const conflict = await sync.replace('pages', 'a', {}, 1).catch((error) => error.code);
            return { documents, more: cursor !== undefined, conflict };
          },
          { url: platform.url, token: platform.token },
        );
        const { documents, more, conflict } = await within('the page', SOON_MS, done);
        assert.deepEqual([documents.length, documents[0].data, documents[0].revision], [1, { n: 7, m: 1 }, 4]);
        assert.equal(more, true, 'the cursor can be read from another origin');
        assert.equal(conflict, 'REVISION_CONFLICT');
      });
    } finally {
      pages.close();
    }
  });

  it('count every acknowledged write over kill -9', async () => {
    await client.sync.create('counters', { n: 0 }, 'hot');
    const url = `${platform.url}/api/sync/counters/documents/hot/mutate`;
    const body = JSON.stringify({ mutations: [{ op: 'increment', path: '/n', value: 1 }] });
    const headers = { authorization: `Bearer ${platform.token}`, 'content-type': 'application/json' };
    let [acknowledged, asked, running] = [0, 0, true];
    const write = async () => {
      while (running) {
        asked += 1;
        const response = await fetch(url, { method: 'POST', headers, body }).catch(() => undefined);
        if (response?.ok) acknowledged += 1;
        else await pause(50);
      }
    };
    const writers = Array.from({ length: 16 }, write);
    const until = Date.now() + SOON_MS;
    while (acknowledged < 300 && Date.now() < until) await pause(5);
    await platform.kill();
    running = false;
    await Promise.all(writers);
    await platform.up();
    const document = await platform.rest('GET', '/api/sync/counters/documents/hot');
    assert.ok(acknowledged >= 300 && document.data.n >= acknowledged, `${document.data.n} of ${acknowledged}`);
    assert.ok(document.data.n <= asked, 'nothing happened that nobody asked for');
    assert.equal(document.revision, document.data.n + 1);
    const events = [];
    const start = await platform.position('sync.counters.updated');
    assert.equal(start.offset, document.data.n, 'every write has its event');
    for (let offset = 0; offset < start.offset; offset = events.length) {
      const path = `/api/topics/sync.counters.updated/history?limit=500&since=${start.epoch}:${offset}`;
      events.push(...(await platform.rest('GET', path)).events);
    }
    const numbers = events.map(({ payload }) => payload.data.n);
    assert.deepEqual(numbers, Array.from({ length: document.data.n }, (_, index) => index + 1), 'in order, each once');
  });
});
