import { describe, expect, it, vi } from 'vitest';
import { CLIENT_ERROR_CODES } from '../src/index';
import { until, useServer, type Recorded } from './support';

const context = useServer();
const ROOM = 'chat:room1';
const forbidden = { error: 'ForbiddenError', code: 'FORBIDDEN', message: 'no right to it' };

/** A client that has joined the room. */
async function member(token: string): Promise<Recorded> {
  const recorded = context.open({ token });
  recorded.client.socketClient.joinChannel(ROOM);
  await joined(recorded);
  return recorded;
}

async function joined(recorded: Recorded, times = 1): Promise<void> {
  await until(() => {
    expect(recorded.joined).toHaveLength(times);
  });
}

/** Everything that was sent before has been answered. */
async function answered({ client }: Recorded): Promise<void> {
  await client.history('a.b');
}

function socketOf(token: string): string {
  const socket = context.server.sockets.find(({ handshake }) => handshake.auth['token'] === token);
  if (!socket) throw new Error(`${token} is not connected`);
  return socket.id;
}

describe('channels', () => {
  it('carry messages to their members, by name, by channel and in all', async () => {
    const alice = await member('alice');
    const bob = await member('bob');
    const byName = vi.fn();
    const byChannel = vi.fn();
    bob.client.socketClient.on('typing', byName);
    bob.client.on(`message:${ROOM}`, byChannel);
    alice.client.socketClient.publish(ROOM, 'typing', { is: true });
    alice.client.socketClient.publish(ROOM, 'message', 'hello');
    await until(() => {
      expect(bob.messages).toHaveLength(2);
    });
    const from = { clientId: 'alice', socketId: socketOf('alice') };
    const said = { channel: ROOM, event: 'typing', from, timestamp: 1 };
    expect(bob.messages[0]).toEqual({ ...said, data: { is: true } });
    expect(bob.messages[1]).toMatchObject({ event: 'message', data: 'hello' });
    expect(byName.mock.calls).toEqual([[{ is: true }, said]]);
    expect(byChannel.mock.calls).toEqual([[bob.messages[0]], [bob.messages[1]]]);
    expect(alice.messages).toEqual([]);
    expect([...alice.errors, ...bob.errors]).toEqual([]);
  });

  it('tell who has joined, and echo where asked to', async () => {
    const alice = await member('alice');
    const bob = await member('bob');
    expect(bob.joined[0]?.channel).toBe(ROOM);
    expect(bob.joined[0]?.members.map(({ clientId }) => clientId)).toEqual(['alice', 'bob']);
    alice.client.socketClient.publish(ROOM, 'note', 1, { echo: true });
    await until(() => {
      expect(alice.messages).toMatchObject([{ event: 'note', data: 1 }]);
    });
    expect(context.server.sent('channel:publish')).toEqual([{ channel: ROOM, event: 'note', data: 1, echo: true }]);
  });

  it('carry what servers say, who are no connection', async () => {
    const bob = await member('bob');
    context.server.channels.broadcast(ROOM, 'closing', { at: 6 });
    await until(() => {
      expect(bob.messages).toMatchObject([{ event: 'closing', data: { at: 6 }, from: { clientId: 'a server' } }]);
    });
    expect(bob.messages[0]?.from.socketId).toBeUndefined();
  });

  it('are no longer heard after leaving, and off removes a handler', async () => {
    const bob = await member('bob');
    const handler = vi.fn();
    bob.client.socketClient.on('note', handler);
    bob.client.socketClient.off('note', handler);
    context.server.channels.broadcast(ROOM, 'note', 1);
    await until(() => {
      expect(bob.messages).toHaveLength(1);
    });
    // Under way while the client leaves.
    context.server.channels.broadcast(ROOM, 'note', 2);
    bob.client.socketClient.leaveChannel(ROOM);
    bob.client.socketClient.leaveChannel(ROOM);
    await answered(bob);
    expect(bob.messages).toHaveLength(1);
    expect(handler).not.toHaveBeenCalled();
    expect(context.server.sent('channel:leave')).toEqual([{ channel: ROOM }]);
    expect(context.server.channels.channels).toEqual([]);
  });

  it('are joined once, before the first connection too, and again after each loss', async () => {
    const bob = context.open({ token: 'bob', autoConnect: false });
    const { socketClient } = bob.client;
    socketClient.joinChannel(ROOM);
    socketClient.joinChannel(ROOM);
    socketClient.joinChannel('chat:left');
    socketClient.leaveChannel('chat:left');
    bob.client.connect();
    await joined(bob);
    socketClient.joinChannel(ROOM);
    context.server.cut();
    await joined(bob, 2);
    expect(context.server.sent('channel:join')).toEqual([{ channel: ROOM }, { channel: ROOM }]);
    context.server.channels.broadcast(ROOM, 'note', 1);
    await until(() => {
      expect(bob.messages).toHaveLength(1);
    });
    bob.client.disconnect();
    bob.client.connect();
    await joined(bob, 3);
    expect(bob.errors).toEqual([]);
  });

  it('share the bounded rate with the subscriptions', async () => {
    const bob = context.open({ token: 'bob' });
    const asked = (): number => context.server.sent('subscribe').length + context.server.sent('channel:join').length;
    for (let n = 0; n < 70; n += 1) {
      bob.client.subscribe({ topic: `topic.${n}` });
      bob.client.socketClient.joinChannel(`room:${n}`);
    }
    await until(() => {
      expect(asked()).toBeGreaterThan(0);
    });
    // Sent after the burst: when it is answered, the server has the whole burst.
    await answered(bob);
    expect(asked()).toBeGreaterThanOrEqual(100);
    expect(asked()).toBeLessThan(140);
    await joined(bob, 70);
  });

  it('that are refused say so by an error that names them, and are asked for with the next session', async () => {
    context.server.refuse = (name) => (name === 'channel:join' ? forbidden : undefined);
    const bob = context.open({ token: 'bob' });
    bob.client.socketClient.joinChannel(ROOM);
    await until(() => {
      expect(bob.errors).toMatchObject([{ code: 'FORBIDDEN', errorClass: 'ForbiddenError', channel: ROOM }]);
    });
    expect(bob.joined).toEqual([]);
    context.server.refuse = () => undefined;
    context.server.cut();
    await joined(bob);
  });

  it('that are refused for a passing reason are asked for again by themselves', async () => {
    const busy = { error: 'UnavailableError', code: 'UNAVAILABLE', message: 'try again' };
    context.server.refuse = (name) => (name === 'channel:join' ? busy : undefined);
    const bob = context.open({ token: 'bob' });
    bob.client.socketClient.joinChannel(ROOM);
    await until(() => {
      expect(bob.errors).toMatchObject([{ code: 'UNAVAILABLE', channel: ROOM }]);
    });
    context.server.refuse = () => undefined;
    await joined(bob);
    expect(context.server.handshakes).toHaveLength(1);
  });

  it('that the server ended are named, because all are asked for once more', async () => {
    const bob = await member('bob');
    bob.client.socketClient.joinChannel('chat:allowed');
    await joined(bob, 2);
    context.server.refuse = (name, { channel }) =>
      name === 'channel:join' && channel === ROOM ? forbidden : undefined;
    context.server.complain({ ...forbidden, message: `${ROOM} ended` });
    await until(() => {
      expect(bob.errors.map(({ code, channel }) => [code, channel])).toEqual([
        ['FORBIDDEN', undefined],
        ['FORBIDDEN', ROOM],
      ]);
    });
    expect(bob.joined).toHaveLength(2);
  });

  it('say by an error that a message was refused', async () => {
    const alice = await member('alice');
    context.server.refuse = (name) => (name === 'channel:publish' ? forbidden : undefined);
    alice.client.socketClient.publish(ROOM, 'note', 1);
    await until(() => {
      expect(alice.errors).toMatchObject([{ code: 'FORBIDDEN', channel: ROOM }]);
    });
    alice.client.disconnect();
    alice.client.socketClient.publish(ROOM, 'note', 2);
    await until(() => {
      expect(alice.errors[1]).toMatchObject({ code: CLIENT_ERROR_CODES.notConnected, channel: ROOM });
    });
  });

  it('refuse what has no name', () => {
    const { socketClient } = context.open({ autoConnect: false }).client;
    const unusable = expect.objectContaining({ code: 'INVALID_ARGUMENT' }) as Error;
    expect(() => { socketClient.joinChannel(''); }).toThrow(unusable);
    expect(() => { socketClient.publish(ROOM, '', 1); }).toThrow(unusable);
    expect(() => { socketClient.directMessage('', 'note', 1); }).toThrow(unusable);
  });

  it.each([5, undefined, null, {}, 'handler'])('take no %j for a handler', (handler) => {
    const { client } = context.open({ autoConnect: false });
    const refusal = (name: string): Error =>
      expect.objectContaining({ name: 'TypeError', message: `handler of ${name} must be a function` }) as Error;
    expect(() => { client.on('event:x', handler as never); }).toThrow(refusal('event:x'));
    expect(() => { client.on('presence', handler as never); }).toThrow(refusal('presence'));
    expect(() => { client.socketClient.on('typing', handler as never); }).toThrow(refusal('typing'));
    // Removing what cannot be there does nothing.
    client.off('event:x', handler as never);
  });
});

describe('direct messages', () => {
  it('reach one connection, which need not have joined anything', async () => {
    const alice = await member('alice');
    const bob = context.open({ token: 'bob' });
    await answered(bob);
    const handler = vi.fn();
    bob.client.socketClient.on('invite', handler);
    alice.client.socketClient.directMessage(socketOf('bob'), 'invite', { room: ROOM });
    await until(() => {
      expect(bob.messages).toMatchObject([{ event: 'invite', data: { room: ROOM }, from: { clientId: 'alice' } }]);
    });
    expect(bob.messages[0]?.channel).toBeUndefined();
    expect(handler).toHaveBeenCalledTimes(1);
    expect(alice.errors).toEqual([]);
  });

  it('that find nobody say so', async () => {
    const alice = context.open({ token: 'alice' });
    alice.client.socketClient.directMessage('nobody', 'invite', 1);
    await until(() => {
      expect(alice.errors).toMatchObject([{ code: 'NOT_DELIVERED' }]);
    });
  });
});

describe('destroy', () => {
  it('forgets channels and handlers, may be repeated, and ends every call', async () => {
    const bob = await member('bob');
    const { client } = bob;
    const handler = vi.fn();
    client.socketClient.on('note', handler);
    client.destroy();
    client.destroy();
    const destroyed = expect.objectContaining({ code: 'DESTROYED' }) as Error;
    expect(() => { client.socketClient.joinChannel(ROOM); }).toThrow(destroyed);
    expect(() => { client.socketClient.leaveChannel(ROOM); }).toThrow(destroyed);
    expect(() => { client.socketClient.publish(ROOM, 'note', 1); }).toThrow(destroyed);
    expect(() => { client.socketClient.directMessage('x', 'note', 1); }).toThrow(destroyed);
    expect(() => { client.socketClient.on('note', handler); }).toThrow(destroyed);
    await expect(client.socketClient.presence.enter({ channel: ROOM })).rejects.toThrow(destroyed);
    client.socketClient.off('note', handler);
    await until(() => {
      expect(context.server.channels.channels).toEqual([]);
    });
    expect(handler).not.toHaveBeenCalled();
  });
});

describe('what the server sends beside the protocol', () => {
  it('is an error, and no message', async () => {
    const bob = await member('bob');
    for (const socket of context.server.sockets) {
      socket.emit('surprise', 1);
      socket.emit('presence', { action: 'dance' });
    }
    await until(() => {
      expect(bob.errors.map(({ code }) => code)).toEqual(['PROTOCOL_ERROR', 'PROTOCOL_ERROR']);
    });
    expect(bob.messages).toEqual([]);
  });
});
