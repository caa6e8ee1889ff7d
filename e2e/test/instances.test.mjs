// Two instances of the real backend: what is revoked at one holds at the other, and one that stops sends its clients away
// a few at a time.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { connect as connectTcp } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { WebSocket } from 'ws';
import { Backend } from '../lib/backend.mjs';
import { Platform, within } from '../lib/platform.mjs';

const SOON_MS = 20_000;
const REVOKED_WITHIN_MS = 2_000;
const CLIENTS = 150;

/** An open plain WebSocket; `closed` resolves with the code and the time of its end. */
async function connect(url, token) {
  const socket = new WebSocket(`${url.replace('http', 'ws')}/ws`, ['realtime.v1', `token.${token}`]);
  const closed = new Promise((resolve) => socket.once('close', (code) => resolve({ code, at: Date.now() })));
  const welcome = new Promise((resolve, reject) => {
    socket.once('message', (text) => resolve(JSON.parse(text)));
    socket.once('error', reject);
  });
  const { socketId } = await within('the welcome', SOON_MS, welcome);
  return { socket, socketId, closed };
}

describe('two instances', () => {
  let platform, here, there;

  before(async () => {
    const secretKey = randomBytes(32).toString('base64');
    process.env.REALTIME_SECRET_KEY = secretKey;
    platform = await Platform.start();
    [here, there] = await Promise.all([Backend.start(platform, secretKey), Backend.start(platform, secretKey)]);
  });

  after(async () => {
    await Promise.all([here, there].map((backend) => backend?.stop()));
    await platform?.stop();
  });

  const tokenOf = async (sub) => {
    const asked = { applicationId: 'app_default', sub, permissions: ['service'] };
    return (await platform.rest('POST', '/auth/token', asked)).token;
  };

  it('end what was revoked at the other within two seconds', async () => {
    const [alice, bob] = await Promise.all([tokenOf('alice'), tokenOf('bob')]);
    const revoked = await connect(there.url, alice);
    const kept = await connect(there.url, bob);
    const session = await platform.setUp();
    const begun = Date.now();
    await platform.rest('POST', '/api/admin/tokens/revoke', { sub: 'alice' }, session);
    const { code, at } = await within('the close', SOON_MS, revoked.closed);
    assert.equal(code, 4001);
    assert.ok(at - begun <= REVOKED_WITHIN_MS, `${at - begun} ms`);
    for (const { url } of [here, there]) {
      await assert.rejects(connect(url, alice), /401/);
    }
    assert.equal(kept.socket.readyState, WebSocket.OPEN);
    kept.socket.close();
  });

  it('list the connections of both, page by page', async () => {
    const token = await tokenOf('carol');
    const clients = await Promise.all([here, there, here].map(({ url }) => connect(url, token)));
    const listed = [];
    let cursor = '';
    do {
      const path = `/api/socket/connections?detail=true&clientId=carol&limit=2${cursor}`;
      const response = await fetch(here.url + path, { headers: { authorization: `Bearer ${platform.token}` } });
      const { count, connections } = await response.json();
      assert.equal(count, 3);
      listed.push(...connections.map(({ socketId }) => socketId));
      const next = response.headers.get('x-next-cursor');
      cursor = next ? `&cursor=${next}` : '';
    } while (cursor);
    assert.deepEqual(listed, clients.map(({ socketId }) => socketId).sort());
    for (const { socket } of clients) socket.close();
  });

  it('send their clients away one after the other when they stop', async () => {
    const token = await tokenOf('dave');
    const clients = await Promise.all(Array.from({ length: CLIENTS }, () => connect(there.url, token)));
    const elsewhere = await connect(here.url, token);
    there.child.kill('SIGTERM');
    const ends = await within('the end of all', SOON_MS, Promise.all(clients.map(({ closed }) => closed)));
    assert.deepEqual([...new Set(ends.map(({ code }) => code))], [1001]);
    const times = ends.map(({ at }) => at);
    const spread = Math.max(...times) - Math.min(...times);
    assert.ok(spread > 3_000 && spread < 8_000, `${spread} ms`);
    assert.equal(await within('the stop', SOON_MS, there.exited), 0);
    assert.equal(elsewhere.socket.readyState, WebSocket.OPEN, 'the other goes on');
    elsewhere.socket.close();
  });

  it('stop in time, whoever does not end', async () => {
    const stopping = await Backend.start(platform, process.env.REALTIME_SECRET_KEY, { SHUTDOWN_SECONDS: '5' });
    const request = connectTcp(stopping.port, '127.0.0.1');
    request.on('error', () => {});
    const head = ['POST /api/events HTTP/1.1', 'Host: localhost', `Authorization: Bearer ${platform.token}`];
    // It is answered 100 when it is being read; the rest of it never comes.
    const body = ['Content-Type: application/json', 'Expect: 100-continue', 'Content-Length: 100', '', '{'];
    const begun = new Promise((resolve) => request.once('data', resolve));
    request.write([...head, ...body].join('\r\n'));
    assert.match(String(await within('the request', SOON_MS, begun)), /^HTTP\/1.1 100/);
    const told = Date.now();
    stopping.child.kill('SIGTERM');
    assert.equal(await within('the stop', SOON_MS, stopping.exited), 0);
    assert.ok(Date.now() - told < 5_000, `${Date.now() - told} ms`);
    request.destroy();
  });
});
