import { describe, expect, it, vi } from 'vitest';
import { RealtimeClient, RealtimeError } from '../src/index';
import { until, useServer } from './support';

const context = useServer();

describe('publish', () => {
  it('answers id and position', async () => {
    const { client } = context.open();
    await expect(client.publish('report.generated', { reportId: 'rpt_1' })).resolves.toEqual({
      id: 'evt_report.generated_e1_1',
      epoch: 'e1',
      offset: 1,
    });
    expect(context.server.sent('publish')).toEqual([{ topic: 'report.generated', payload: { reportId: 'rpt_1' } }]);
  });

  it('passes type and id on', async () => {
    const { client } = context.open();
    await expect(client.publish('a.b', { n: 1 }, { type: 'made', id: 'own_1' })).resolves.toMatchObject({ id: 'own_1' });
    expect(context.server.sent('publish')).toEqual([{ topic: 'a.b', payload: { n: 1 }, type: 'made', id: 'own_1' }]);
  });

  it('rejects with the refusal of the server', async () => {
    context.server.refuse = () => ({
      error: 'ValidationError',
      code: 'SCHEMA_VIOLATION',
      message: 'payload.n: must be a number',
      details: [{ path: 'payload.n', message: 'must be a number' }],
    });
    const { client } = context.open();
    const failure: unknown = await client.publish('a.b', { n: 'x' }).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(RealtimeError);
    expect(failure).toMatchObject({
      code: 'SCHEMA_VIOLATION',
      errorClass: 'ValidationError',
      message: 'payload.n: must be a number',
      details: [{ path: 'payload.n', message: 'must be a number' }],
    });
  });

  it('rejects at once while disconnected', async () => {
    const { client } = context.open({ autoConnect: false });
    await expect(client.publish('a.b', {})).rejects.toMatchObject({ code: 'NOT_CONNECTED' });
  });

  it('waits for the connection while there is an attempt, but not for ever', async () => {
    await context.server.stop();
    const { client } = context.open({ requestTimeout: 50, reconnectionDelay: 60_000 });
    await expect(client.publish('a.b', {})).rejects.toMatchObject({ code: 'NOT_CONNECTED' });
    expect(client.state).toBe('reconnecting');
    const waiting = client.publish('a.b', {});
    client.disconnect();
    await expect(waiting).rejects.toMatchObject({ code: 'NOT_CONNECTED' });
  });

  it('rejects when no answer comes in time', async () => {
    context.server.silent.add('publish');
    const { client } = context.open({ requestTimeout: 50 });
    await expect(client.publish('a.b', {})).rejects.toMatchObject({ code: 'TIMEOUT' });
  });

  it('rejects when the connection ends before the answer', async () => {
    context.server.silent.add('publish');
    const { client } = context.open();
    const waiting = client.publish('a.b', {});
    await until(() => {
      expect(context.server.sent('publish')).toHaveLength(1);
    });
    context.server.cut();
    await expect(waiting).rejects.toMatchObject({ code: 'CONNECTION_LOST' });
  });
});

describe('history', () => {
  it('answers events and position', async () => {
    context.server.append('a.b', { n: 1 });
    context.server.append('a.b', { n: 2 });
    const { client } = context.open();
    const page = await client.history('a.b', { since: { epoch: 'e1', offset: 0 }, limit: 1 });
    expect(page).toMatchObject({ epoch: 'e1', offset: 1, events: [{ payload: { n: 1 } }] });
    expect(context.server.sent('history')).toEqual([{ topic: 'a.b', since: { epoch: 'e1', offset: 0 }, limit: 1 }]);
  });
});

describe('handlers', () => {
  it('are removed by off', async () => {
    const { client } = context.open();
    const handler = vi.fn();
    client.on('connection', handler);
    client.off('connection', handler);
    await client.publish('a.b', {});
    expect(handler).not.toHaveBeenCalled();
  });

  it('that throw do not hinder the others', async () => {
    const thrown: unknown[] = [];
    // The test runner listens for uncaught errors too; here they are expected.
    const others = process.listeners('uncaughtException');
    process.removeAllListeners('uncaughtException');
    process.once('uncaughtException', (error) => thrown.push(error));
    const { client } = context.open();
    const seen: unknown[] = [];
    const broken = (): void => {
      throw new Error('a bug in the page');
    };
    client.on('connection', broken);
    client.on('connection', ({ state }) => seen.push(state));
    await client.publish('a.b', {});
    client.off('connection', broken);
    await until(() => {
      expect(thrown).toMatchObject([{ message: 'a bug in the page' }]);
    });
    for (const listener of others) process.on('uncaughtException', listener);
    expect(seen).toEqual(['connected']);
  });

  it('are missed by a warning where an error has none', async () => {
    const warn = vi.spyOn(console, 'warn').mockImplementation(() => undefined);
    context.server.refuseHandshake = () => ({ message: 'AUTH_FAILED: no such key' });
    const client = new RealtimeClient({ url: context.server.url, token: 'x' });
    await until(() => {
      expect(client.state).toBe('disconnected');
    });
    expect(warn.mock.calls).toEqual([['realtime: AUTH_FAILED: no such key']]);
    warn.mockRestore();
    client.destroy();
  });
});
