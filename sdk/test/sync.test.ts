import { readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { RealtimeClient, RealtimeError, applyDiff, type JsonDiff } from '../src/index';

interface Call {
  method: string;
  url: string;
  headers: IncomingMessage['headers'];
  body: unknown;
}

type Answer = (call: Call, response: ServerResponse) => void;

const DOCUMENT = {
  service: 'session',
  id: 'one',
  revision: 3,
  data: { status: 'active' },
  createdAt: 1,
  updatedAt: 2,
};

describe('sync', () => {
  let server: Server;
  let calls: Call[];
  let answer: Answer;
  let client: RealtimeClient;
  let url: string;

  beforeEach(async () => {
    calls = [];
    answer = respond(200, DOCUMENT);
    server = createServer((request, response) => {
      let text = '';
      request.on('data', (piece: Buffer) => (text += piece.toString()));
      request.on('end', () => {
        const { method = '', url = '', headers } = request;
        const call: Call = { method, url, headers, body: text === '' ? undefined : JSON.parse(text) };
        calls.push(call);
        answer(call, response);
      });
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/behind/a/proxy`;
    client = new RealtimeClient({ url, token: 'first', autoConnect: false });
  });

  afterEach(async () => {
    client.destroy();
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });

  function respond(status: number, body: unknown, headers: Record<string, string> = {}): Answer {
    return (_, response) => {
      response.writeHead(status, { 'content-type': 'application/json', ...headers });
      response.end(typeof body === 'string' ? body : JSON.stringify(body));
    };
  }

  async function failure(promise: Promise<unknown>): Promise<RealtimeError> {
    const thrown: unknown = await promise.then(
      () => undefined,
      (error: unknown) => error,
    );
    expect(thrown).toBeInstanceOf(RealtimeError);
    return thrown as RealtimeError;
  }

  it('asks as documented', async () => {
    const { sync } = client;
    await sync.create('session', { status: 'active' });
    await sync.create('session', {}, 'my-custom-id', { expiresAt: 5, durability: 'committed', idempotencyKey: 'k' });
    await sync.get('session', 'a/b ä');
    await sync.replace('session', 'one', { status: 'ended' }, 3);
    await sync.replace('session', 'one', {}, { expectedRevision: 4, expiresAt: null });
    await sync.merge('session', 'one', { notes: 'x' });
    await sync.mutate('session', 'one', { status: 'ended' }, 5);
    await sync.mutate('session', 'one', [{ op: 'increment', path: '/n', value: 1 }], { durability: 'committed' });
    expect(await sync.delete('session', 'one', 6)).toEqual(DOCUMENT);
    await sync.restore('session', 'one', 2);
    const base = '/behind/a/proxy/api/sync/session/documents';
    expect(calls.map(({ method, url, body }) => [method, url, body])).toEqual([
      ['POST', base, { data: { status: 'active' } }],
      ['POST', base, { id: 'my-custom-id', data: {}, expiresAt: 5 }],
      ['GET', `${base}/a%2Fb%20%C3%A4`, undefined],
      ['PUT', `${base}/one`, { data: { status: 'ended' }, expectedRevision: 3 }],
      ['PUT', `${base}/one`, { data: {}, expectedRevision: 4, expiresAt: null }],
      ['PATCH', `${base}/one/merge`, { data: { notes: 'x' } }],
      ['POST', `${base}/one/mutate`, { mutations: { status: 'ended' }, expectedRevision: 5 }],
      ['POST', `${base}/one/mutate`, { mutations: [{ op: 'increment', path: '/n', value: 1 }] }],
      ['DELETE', `${base}/one?expectedRevision=6`, undefined],
      ['POST', `${base}/one/restore`, { revision: 2 }],
    ]);
    expect(calls.every(({ headers }) => headers.authorization === 'Bearer first')).toBe(true);
    expect(calls.map(({ headers }) => headers['x-durability'])).toEqual(
      [undefined, 'committed', undefined, undefined, undefined, undefined, undefined, 'committed', undefined, undefined],
    );
    expect(calls[1]?.headers['idempotency-key']).toBe('k');
  });

  it('answers documents and pages', async () => {
    expect(await client.sync.get<{ status: string }>('session', 'one')).toEqual(DOCUMENT);
    answer = respond(200, [DOCUMENT], { 'x-next-cursor': 'abc' });
    const page = await client.sync.list('session', { prefix: 'o', limit: 1 });
    expect(page).toEqual({ documents: [DOCUMENT], cursor: 'abc' });
    expect(calls.at(-1)?.url).toContain('?prefix=o&limit=1');
    const revision = { revision: 3, operation: 'updated', diff: { added: {}, removed: [], changed: {} } };
    answer = respond(200, [revision]);
    expect(await client.sync.revisions('session', 'one', { cursor: 'abc' })).toEqual({ revisions: [revision] });
    expect(calls.at(-1)?.url).toContain('/one/revisions?cursor=abc');
  });

  it('says a conflict with the current revision', async () => {
    const details = [{ path: 'currentRevision', message: '7' }];
    const message = 'revision conflict: the document is at revision 7, not 3';
    answer = respond(409, { error: 'ConflictError', code: 'REVISION_CONFLICT', message, details });
    const error = await failure(client.sync.replace('session', 'one', {}, 3));
    expect(error).toMatchObject({ code: 'REVISION_CONFLICT', errorClass: 'ConflictError', details });
    expect(error.message).toContain('conflict');
  });

  it('renews a token that is no longer taken, once', async () => {
    client.destroy();
    const tokens = ['second', 'third'];
    client = new RealtimeClient({ url, token: 'first', getToken: () => tokens.shift() ?? '', autoConnect: false });
    const refused = respond(401, { error: 'UnauthorizedError', code: 'TOKEN_EXPIRED', message: 'token expired' });
    answer = (call, response) => {
      (call.headers.authorization === 'Bearer second' ? respond(200, DOCUMENT) : refused)(call, response);
    };
    expect(await client.sync.get('session', 'one')).toEqual(DOCUMENT);
    expect(calls.map(({ headers }) => headers.authorization)).toEqual(['Bearer first', 'Bearer second']);
    answer = refused;
    expect((await failure(client.sync.get('session', 'one'))).code).toBe('TOKEN_EXPIRED');
    expect(calls).toHaveLength(4);
  });

  it('says what it cannot know, and what it was not given', async () => {
    answer = () => undefined;
    const hasty = new RealtimeClient({ url, token: 'first', autoConnect: false, requestTimeout: 50 });
    expect((await failure(hasty.sync.get('session', 'one'))).code).toBe('TIMEOUT');
    hasty.destroy();
    answer = (_, response) => response.destroy();
    expect((await failure(client.sync.get('session', 'one'))).code).toBe('CONNECTION_LOST');
    answer = respond(502, '<html>bad gateway</html>');
    expect((await failure(client.sync.get('session', 'one'))).code).toBe('PROTOCOL_ERROR');
    answer = respond(200, { id: 'one' });
    expect((await failure(client.sync.get('session', 'one'))).code).toBe('PROTOCOL_ERROR');
    const before = calls.length;
    for (const id of ['', '.', '..']) {
      expect((await failure(client.sync.get('session', id))).code).toBe('INVALID_ARGUMENT');
    }
    expect(calls).toHaveLength(before);
  });

  it('ends with the client', async () => {
    answer = () => {
      client.destroy();
    };
    expect((await failure(client.sync.get('session', 'one'))).code).toBe('DESTROYED');
    expect((await failure(client.sync.get('session', 'one'))).code).toBe('DESTROYED');
    expect(calls).toHaveLength(1);
  });
});

describe('applyDiff', () => {
  interface Vector {
    name: string;
    old: Record<string, unknown>;
    new: Record<string, unknown>;
    diff: JsonDiff;
  }
  const vectors = JSON.parse(readFileSync(new URL('../../testdata/sync-diff.json', import.meta.url), 'utf8')) as Vector[];

  it.each(vectors)('leads from old to new: $name', ({ old, new: after, diff }) => {
    const before = structuredClone(old);
    expect(applyDiff(old, diff)).toEqual(after);
    expect(old).toEqual(before);
  });

  it('refuses a diff of other data', () => {
    const diff = { added: {}, removed: [], changed: { 'a.b': { to: 1 } } };
    expect(() => applyDiff({ a: 1 }, diff)).toThrow(RealtimeError);
  });

  it('takes names that objects have by themselves', () => {
    const diff = JSON.parse('{"added":{"__proto__":{"a":1}},"removed":[],"changed":{"x.__proto__":{"to":2}}}') as JsonDiff;
    const result = applyDiff({ x: {} }, diff);
    expect(JSON.stringify(result)).toBe('{"x":{"__proto__":2},"__proto__":{"a":1}}');
  });
});
