import { describe, expect, it, vi } from 'vitest';
import { decodeToken } from '../src/index';
import { inSeconds, live, makeToken, until, useServer } from './support';

const context = useServer();
const fresh = (name: string): string => makeToken({ sub: name, exp: inSeconds(3600) });

describe('a refused token', () => {
  it.each([
    ['in the message alone', { message: 'AUTH_FAILED: token expired' }],
    ['in data', { message: 'refused', data: { code: 'AUTH_FAILED', reason: 'token expired' } }],
  ])('with the code %s stops a client without getToken', async (_, refusal) => {
    context.server.refuseHandshake = () => refusal;
    const { client, errors, changes } = context.open();
    await until(() => {
      expect(changes).toEqual([{ state: 'disconnected', reason: 'AUTH_FAILED' }]);
    });
    expect(errors).toHaveLength(1);
    expect(errors[0]).toMatchObject({ name: 'RealtimeError', code: 'AUTH_FAILED', message: 'token expired' });
    expect(client.state).toBe('disconnected');
    expect(context.server.handshakes).toHaveLength(1);
  });

  it('is replaced where there is getToken', async () => {
    const good = fresh('good');
    context.server.refuseHandshake = (token) => (token === good ? undefined : { message: 'AUTH_FAILED: no' });
    const { client } = context.open({ token: fresh('bad'), getToken: () => Promise.resolve(good), reconnectionDelay: 60_000 });
    await until(() => {
      expect(client.connected).toBe(true);
    });
    expect(context.server.handshakes).toEqual([expect.any(String), good]);
  });

  it('again and again ends with the attempts', async () => {
    context.server.refuseHandshake = () => ({ message: 'AUTH_FAILED: no' });
    const getToken = vi.fn(() => fresh('never'));
    const { client, errors } = context.open({ getToken, reconnectionAttempts: 2, reconnectionDelay: 1 });
    await until(() => {
      expect(errors.map(({ code }) => code)).toEqual([
        'AUTH_FAILED',
        'AUTH_FAILED',
        'AUTH_FAILED',
        'RECONNECT_FAILED',
      ]);
    });
    expect(getToken).toHaveBeenCalledTimes(2);
    expect(client.state).toBe('disconnected');
  });

  it('on a running session ends the client when the server disconnects, without getToken', async () => {
    const { client, errors, changes } = context.open();
    await until(() => {
      expect(client.connected).toBe(true);
    });
    context.server.complain({ error: 'UnauthorizedError', code: 'TOKEN_REVOKED', message: 'revoked' });
    context.server.kick();
    await until(() => {
      expect(changes.at(-1)).toEqual({ state: 'disconnected', reason: 'AUTH_FAILED' });
    });
    expect(errors.map(({ code }) => code)).toEqual(['TOKEN_REVOKED']);
    expect(context.server.handshakes).toHaveLength(1);
  });
});

describe('getToken', () => {
  it('gives the first token where none is given, and a new one for an expired one', async () => {
    const token = fresh('a');
    const first = context.open({ token: undefined, getToken: () => token });
    const second = context.open({ token: makeToken({ exp: inSeconds(-1) }), getToken: () => token });
    await until(() => {
      expect(first.client.connected && second.client.connected).toBe(true);
    });
    expect(context.server.handshakes).toEqual([token, token]);
  });

  it('is called before the token expires, and the session goes on with the new one', async () => {
    const renewed = fresh('renewed');
    const recorded = context.open({ token: makeToken({ exp: inSeconds(2.1) }), getToken: () => renewed });
    await until(() => {
      expect(context.server.sent('auth:refresh')).toEqual([{ token: renewed }]);
    });
    expect(recorded.changes.map(({ state }) => state)).toEqual(['connected']);
    expect(recorded.errors).toEqual([]);
  });

  it('is called when the server says TOKEN_EXPIRED; what was refused before is asked for again', async () => {
    context.server.refuse = (name) =>
      name === 'subscribe' ? { error: 'ForbiddenError', code: 'FORBIDDEN', message: 'no' } : undefined;
    const renewed = fresh('new');
    const getToken = vi.fn(() => renewed);
    const recorded = context.open({ token: fresh('old'), getToken });
    recorded.client.subscribe({ topic: 'a.b' });
    await until(() => {
      expect(recorded.errors).toHaveLength(1);
    });
    context.server.refuse = () => undefined;
    context.server.complain({ error: 'UnauthorizedError', code: 'TOKEN_EXPIRED', message: 'expired' });
    await live(recorded);
    expect(context.server.sent('auth:refresh')).toEqual([{ token: renewed }]);
    // The refusal no longer counts: losing the connection now is an ordinary loss.
    context.server.cut();
    await live(recorded, 2);
    expect(context.server.handshakes[1]).toBe(renewed);
    expect(getToken).toHaveBeenCalledTimes(1);
  });

  it('gives a token for the next handshake where the session refuses the first', async () => {
    context.server.refuse = (name) =>
      name === 'auth:refresh' ? { error: 'ForbiddenError', code: 'FORBIDDEN', message: 'another subject' } : undefined;
    let calls = 0;
    const recorded = context.open({ token: fresh('old'), getToken: () => fresh(`new ${++calls}`) });
    await until(() => {
      expect(recorded.client.connected).toBe(true);
    });
    context.server.complain({ error: 'UnauthorizedError', code: 'TOKEN_EXPIRED', message: 'expired' });
    await until(() => {
      expect(recorded.errors.map(({ code }) => code)).toEqual(['TOKEN_EXPIRED', 'FORBIDDEN']);
    });
    context.server.kick();
    await until(() => {
      expect(context.server.handshakes).toHaveLength(2);
    });
    expect(decodeToken(String(context.server.handshakes[1])).sub).toBe('new 2');
    await until(() => {
      expect(recorded.client.connected).toBe(true);
    });
  });

  it('that fails is said, and tried again with the attempts', async () => {
    let calls = 0;
    const recorded = context.open({
      token: undefined,
      getToken: () => {
        calls += 1;
        if (calls === 1) throw new Error('login page is down');
        if (calls === 2) return makeToken({ exp: inSeconds(-10) });
        return fresh('late');
      },
    });
    await until(() => {
      expect(recorded.client.connected).toBe(true);
    });
    expect(recorded.errors.map(({ code, message }) => [code, message])).toEqual([
      ['TOKEN_REFRESH_FAILED', 'login page is down'],
      ['TOKEN_REFRESH_FAILED', 'getToken gave an expired token'],
    ]);
  });

  it('that does not answer is given up after the request time', async () => {
    const recorded = context.open({
      token: undefined,
      getToken: () => new Promise<string>(() => undefined),
      requestTimeout: 20,
      reconnection: false,
    });
    await until(() => {
      expect(recorded.errors).toMatchObject([{ code: 'TOKEN_REFRESH_FAILED' }]);
    });
    expect(recorded.client.state).toBe('disconnected');
  });
});

describe('a subscription that the new token does not cover', () => {
  it('ends with an error that names it', async () => {
    const recorded = context.open();
    const id = recorded.client.subscribe({ topic: 'a.b' });
    await live(recorded);
    const subscriptionId = context.server.live[0]?.id;
    context.server.complain({ error: 'ForbiddenError', code: 'FORBIDDEN', message: 'no more', subscriptionId });
    context.server.append('a.b', { n: 1 });
    await recorded.client.publish('c.d', {});
    expect(recorded.errors).toMatchObject([{ code: 'FORBIDDEN', subscriptionId: id, topic: 'a.b' }]);
    expect(recorded.events).toEqual([]);
  });
});
