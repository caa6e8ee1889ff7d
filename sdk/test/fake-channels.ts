/** Channels, direct messages and presence of the fake server: the protocol's rules, members in memory. */

import type { Socket } from 'socket.io';

interface Target {
  channel?: string;
  document?: { service: string; id: string };
}

interface Member {
  clientId: string;
  socketId: string;
  data: unknown;
  joinedAt: number;
}

/** Who a socket is: `sub` stands in for the token's subject. */
function clientId(socket: Socket): string {
  const token: unknown = socket.handshake.auth['token'];
  return typeof token === 'string' ? token : socket.id;
}

export class FakeChannels {
  private readonly joined = new Map<string, Set<Socket>>();
  private readonly present = new Map<string, Map<Socket, Member>>();
  private nextId = 1;

  /** Answers a message of channels or presence; undefined where it is another. */
  handle(socket: Socket, name: string, payload: Record<string, unknown>): Record<string, unknown> | undefined {
    const channel = payload['channel'] as string;
    switch (name) {
      case 'channel:join':
        this.members(channel).add(socket);
        return { channel, members: [...this.members(channel)].map((member) => describe(member, null)) };
      case 'channel:leave':
        this.members(channel).delete(socket);
        return {};
      case 'channel:publish':
        return this.say(socket, channel, payload);
      case 'direct:message':
        return { delivered: this.direct(socket, payload) };
      case 'presence:enter':
        return this.enter(socket, payload, payload['data'] ?? null);
      case 'presence:leave':
        this.leave(socket, payload);
        return { members: this.who(payload) };
      case 'presence:get':
        return { members: this.who(payload) };
      default:
        return undefined;
    }
  }

  /** The socket is gone, and with it its being anywhere. */
  gone(socket: Socket): void {
    for (const members of this.joined.values()) members.delete(socket);
    for (const members of this.present.values()) members.delete(socket);
  }

  /** Sends a message as a REST broadcast does: the sender is no connection. */
  broadcast(channel: string, event: string, data: unknown): void {
    const context = { channel, from: { clientId: 'a server' }, event, timestamp: 1 };
    for (const member of this.members(channel)) member.emit(event, data, context);
  }

  /** Announces that somebody else came, changed or went. */
  announce(sockets: Socket[], change: object): void {
    for (const socket of sockets) socket.emit('presence', change);
  }

  /** Names of the channels with members. */
  get channels(): string[] {
    return [...this.joined].filter(([, members]) => members.size > 0).map(([channel]) => channel);
  }

  who(target: Target): Member[] {
    return [...this.there(target).values()];
  }

  private say(socket: Socket, channel: string, payload: Record<string, unknown>): Record<string, unknown> {
    const event = payload['event'] as string;
    const context = { channel, from: sender(socket), event, timestamp: 1 };
    for (const member of this.members(channel)) {
      if (member !== socket || payload['echo'] === true) member.emit(event, payload['data'], context);
    }
    return { id: `evt_${this.nextId++}` };
  }

  private direct(socket: Socket, payload: Record<string, unknown>): boolean {
    const target = socket.nsp.sockets.get(payload['targetSocketId'] as string);
    const event = payload['event'] as string;
    target?.emit(event, payload['data'], { from: sender(socket), event, timestamp: 1 });
    return target !== undefined;
  }

  private enter(socket: Socket, target: Target, data: unknown): Record<string, unknown> {
    const there = this.there(target);
    const action = there.has(socket) ? 'update' : 'enter';
    const member = describe(socket, data);
    there.set(socket, member);
    this.tell(socket, target, { action, member });
    return { members: [...there.values()] };
  }

  private leave(socket: Socket, target: Target): void {
    const member = this.there(target).get(socket);
    if (!member) return;
    this.there(target).delete(socket);
    this.tell(socket, target, { action: 'leave', member });
  }

  private tell(socket: Socket, { channel, document }: Target, change: object): void {
    const others = [...this.there({ channel, document } as Target).keys()].filter((other) => other !== socket);
    this.announce(others, { ...(channel ? { channel } : { document }), ...change });
  }

  private members(channel: string): Set<Socket> {
    const known = this.joined.get(channel) ?? new Set();
    this.joined.set(channel, known);
    return known;
  }

  private there({ channel, document }: Target): Map<Socket, Member> {
    const key = document ? `${document.service}/${document.id}` : String(channel);
    const known = this.present.get(key) ?? new Map<Socket, Member>();
    this.present.set(key, known);
    return known;
  }
}

function sender(socket: Socket): { clientId: string; socketId: string } {
  return { clientId: clientId(socket), socketId: socket.id };
}

function describe(socket: Socket, data: unknown): Member {
  return { ...sender(socket), data, joinedAt: 1 };
}
