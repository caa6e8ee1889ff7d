import { describe, expect, it } from 'vitest';
import type { PresenceTarget } from '../src/index';
import { until, useServer, type Recorded } from './support';

const context = useServer();
const room = { channel: 'chat:room1' };
const note = { document: { service: 'notes', id: '1' } };
const forbidden = { error: 'ForbiddenError', code: 'FORBIDDEN', message: 'no right to it' };

function clientIds(members: readonly { clientId: string }[]): string[] {
  return members.map(({ clientId }) => clientId);
}

async function changes(recorded: Recorded, count: number): Promise<unknown[]> {
  await until(() => {
    expect(recorded.presence).toHaveLength(count);
  });
  return recorded.presence.map(({ action, member }) => [action, member.clientId, member.data]);
}

describe('presence', () => {
  it.each<[string, PresenceTarget]>([
    ['a channel', room],
    ['a document', note],
  ])('in %s: enter, update, leave and get', async (_, target) => {
    const alice = context.open({ token: 'alice' });
    const bob = context.open({ token: 'bob' });
    const there = await alice.client.socketClient.presence.enter(target, { status: 'here' });
    expect(there).toMatchObject([{ clientId: 'alice', data: { status: 'here' } }]);
    const { presence } = bob.client.socketClient;
    expect(clientIds(await presence.enter(target))).toEqual(['alice', 'bob']);
    await presence.update(target, 'away');
    expect(clientIds(await presence.get(target))).toEqual(['alice', 'bob']);
    await presence.leave(target);
    await presence.leave(target);
    expect(await changes(alice, 3)).toEqual([
      ['enter', 'bob', null],
      ['update', 'bob', 'away'],
      ['leave', 'bob', 'away'],
    ]);
    expect(alice.presence[0]).toMatchObject(target);
    expect(context.server.sent('presence:leave')).toEqual([target]);
    expect(clientIds(await presence.get(target))).toEqual(['alice']);
    expect(alice.entered).toEqual([{ ...target, members: there }]);
  });

  it('comes back after a reconnection with the last data', async () => {
    const alice = context.open({ token: 'alice' });
    const { presence } = alice.client.socketClient;
    await presence.enter(room, 1);
    await presence.update(room, 2);
    await presence.enter(note);
    context.server.cut();
    await until(() => {
      expect(alice.entered).toHaveLength(4);
    });
    expect(context.server.channels.who(room)).toMatchObject([{ clientId: 'alice', data: 2 }]);
    expect(context.server.channels.who(note)).toHaveLength(1);
    await presence.leave(room);
    context.server.cut();
    await until(() => {
      expect(alice.entered).toHaveLength(5);
    });
    expect(context.server.channels.who(room)).toEqual([]);
    expect(alice.errors).toEqual([]);
  });

  it('is entered with the first connection, and after one that was lost before the answer', async () => {
    context.server.silent.add('presence:enter');
    const alice = context.open({ token: 'alice', autoConnect: false });
    const entering = alice.client.socketClient.presence.enter(room, 1);
    alice.client.connect();
    await until(() => {
      expect(context.server.sent('presence:enter')).toHaveLength(1);
    });
    context.server.silent.clear();
    context.server.cut();
    expect(clientIds(await entering)).toEqual(['alice']);
  });

  it('sends the last of many changes that come while there is no connection', async () => {
    const alice = context.open({ token: 'alice', autoConnect: false });
    const { presence } = alice.client.socketClient;
    const calls = [1, 2, 3].map((n) => presence.enter(room, n));
    alice.client.connect();
    for (const members of await Promise.all(calls)) expect(members).toMatchObject([{ data: 3 }]);
    expect(context.server.sent('presence:enter')).toEqual([{ ...room, data: 3 }]);
  });

  it('answers each of several changes under way', async () => {
    const alice = context.open({ token: 'alice' });
    const { presence } = alice.client.socketClient;
    await presence.enter(room, 0);
    const answers = await Promise.all([1, 2, 3].map((n) => presence.update(room, n)));
    expect(answers.map(([member]) => member?.data)).toEqual([1, 2, 3]);
    expect(alice.entered).toHaveLength(1);
  });

  it('that is refused rejects and is not tried again', async () => {
    context.server.refuse = (name) => (name === 'presence:enter' ? forbidden : undefined);
    const alice = context.open({ token: 'alice' });
    const { presence } = alice.client.socketClient;
    await expect(presence.enter(note)).rejects.toMatchObject({ code: 'FORBIDDEN', document: note.document });
    await expect(presence.update(note, 1)).rejects.toMatchObject({ code: 'NOT_PRESENT', document: note.document });
    context.server.refuse = () => undefined;
    context.server.cut();
    await until(() => {
      expect(context.server.handshakes).toHaveLength(2);
    });
    await presence.enter(room);
    expect(context.server.sent('presence:enter')).toEqual([note, room]);
    expect(alice.errors).toEqual([]);
  });

  it('keeps what it was where a change is refused', async () => {
    const alice = context.open({ token: 'alice' });
    const { presence } = alice.client.socketClient;
    await presence.enter(room, 'fine');
    const invalid = { error: 'ValidationError', code: 'INVALID_TEXT', message: 'data: NUL' };
    context.server.refuse = (_, { data }) => (data === 'bad' ? invalid : undefined);
    await expect(presence.update(room, 'bad')).rejects.toMatchObject({ code: 'INVALID_TEXT' });
    context.server.cut();
    await until(() => {
      expect(alice.entered).toHaveLength(2);
    });
    expect(context.server.channels.who(room)).toMatchObject([{ data: 'fine' }]);
  });

  it('that cannot come back says so by an error', async () => {
    const alice = context.open({ token: 'alice' });
    await alice.client.socketClient.presence.enter(room);
    context.server.refuse = (name) => (name === 'presence:enter' ? forbidden : undefined);
    context.server.cut();
    await until(() => {
      expect(alice.errors).toMatchObject([{ code: 'FORBIDDEN', channel: room.channel }]);
    });
  });

  it('that is not answered in time is taken back', async () => {
    context.server.silent.add('presence:enter');
    const alice = context.open({ token: 'alice', requestTimeout: 50 });
    const { presence } = alice.client.socketClient;
    await presence.get(room);
    await expect(presence.enter(room)).rejects.toMatchObject({ code: 'TIMEOUT' });
    await until(() => {
      expect(context.server.sent('presence:leave')).toEqual([room]);
    });
  });

  it('that is left or destroyed while it waits rejects', async () => {
    const alice = context.open({ token: 'alice', autoConnect: false });
    const { presence } = alice.client.socketClient;
    const left = presence.enter(room);
    const destroyed = presence.enter(note);
    void presence.leave(room);
    alice.client.destroy();
    await expect(left).rejects.toMatchObject({ code: 'NOT_PRESENT', channel: room.channel });
    await expect(destroyed).rejects.toMatchObject({ code: 'DESTROYED' });
  });

  it('needs one channel or one document', async () => {
    const { presence } = context.open({ autoConnect: false }).client.socketClient;
    const wrong: unknown[] = [undefined, 'chat', {}, { channel: '' }, { ...room, ...note }, { document: { service: 'x' } }];
    for (const target of wrong) {
      await expect(presence.enter(target as PresenceTarget)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    }
  });
});
