/**
 * A server that speaks the platform's protocol over a real Socket.IO server, with a history in memory and
 * switches for what a test wants to go wrong.
 */

import { createServer, type Server as HttpServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';
import { Server, type ServerOptions, type Socket } from 'socket.io';
import type { RealtimeEvent, SubscriptionFilter } from '../src/index';
import { FakeChannels } from './fake-channels';

interface Topic {
  epoch: string;
  /** The oldest offset that history still reaches. */
  floor: number;
  events: RealtimeEvent[];
}

interface ServerSubscription {
  id: string;
  topic: string;
  returnMode: string;
  filter: SubscriptionFilter | undefined;
  live: boolean;
}

export interface SubscribeFrame {
  topic: string;
  filter?: SubscriptionFilter;
  returnMode?: string;
  since?: { epoch: string; offset: number };
  subscriptionId?: string;
}

type Ack = (reply: Record<string, unknown>) => void;
export interface Refusal {
  error: string;
  code: string;
  message: string;
  details?: { path: string; message: string }[];
}

export class FakeServer {
  /** Every message received, in order. */
  readonly received: { name: string; payload: Record<string, unknown> }[] = [];
  /** The token of every handshake. */
  readonly handshakes: unknown[] = [];
  /** Events in one page of a recovery. */
  pageSize = 1_000;
  /** Says why a handshake is refused; undefined lets it in. */
  refuseHandshake: (token: unknown) => { message: string; data?: object } | undefined = () => undefined;
  /** Says why a message is refused. */
  refuse: (name: string, payload: Record<string, unknown>) => Refusal | undefined = () => undefined;
  /** Messages that are never answered. */
  readonly silent = new Set<string>();
  /** Runs after a subscribe was handled and before its answer is sent. */
  beforeAnswer: (frame: SubscribeFrame) => void = () => undefined;

  readonly channels = new FakeChannels();

  private readonly topics = new Map<string, Topic>();
  private readonly subscriptions = new Map<Socket, Map<string, ServerSubscription>>();
  private io: Server | undefined;
  private http: HttpServer | undefined;
  private readonly hanging: Duplex[] = [];
  private nextId = 1;
  private port = 0;

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Starts, on the port of the last time if there was one. */
  async start(options: Partial<ServerOptions> = {}): Promise<void> {
    const http = createServer();
    const io = new Server(http, { cors: { origin: '*' }, ...options });
    this.http = http;
    this.io = io;
    io.use((socket, next) => {
      const token: unknown = socket.handshake.auth['token'];
      this.handshakes.push(token);
      const refusal = this.refuseHandshake(token);
      if (!refusal) next();
      else next(Object.assign(new Error(refusal.message), refusal.data && { data: refusal.data }));
    });
    io.on('connection', (socket) => {
      this.welcome(socket);
    });
    await new Promise<void>((resolve) => http.listen(this.port, '127.0.0.1', resolve));
    this.port = (http.address() as AddressInfo).port;
  }

  /** Lets requests to upgrade hang, as some proxies do. */
  swallowUpgrades(): void {
    const { http } = this;
    http?.removeAllListeners('upgrade');
    http?.on('upgrade', (_, socket) => {
      this.hanging.push(socket);
    });
  }

  /** Stops, cutting every connection. */
  async stop(): Promise<void> {
    const { io } = this;
    this.io = undefined;
    this.http?.closeAllConnections();
    for (const socket of this.hanging.splice(0)) socket.destroy();
    await io?.close();
  }

  get sockets(): Socket[] {
    return [...(this.io?.sockets.sockets.values() ?? [])];
  }

  /** Ends the transport under every session, as a network failure would. */
  cut(): void {
    for (const socket of this.sockets) socket.conn.close();
  }

  /** Ends every session by a disconnect packet. */
  kick(): void {
    for (const socket of this.sockets) socket.disconnect(true);
  }

  /** Sends an `error` message to every session. */
  complain(error: Refusal & { subscriptionId?: string | undefined }): void {
    for (const socket of this.sockets) socket.emit('error', { ok: false, ...error });
  }

  topic(name: string): Topic {
    let topic = this.topics.get(name);
    if (!topic) {
      topic = { epoch: 'e1', floor: 0, events: [] };
      this.topics.set(name, topic);
    }
    return topic;
  }

  /** A new epoch without history. */
  loseHistory(name: string, epoch: string): void {
    this.topics.set(name, { epoch, floor: 0, events: [] });
  }

  /** Appends an event and delivers it to whom it matches. */
  append(name: string, payload: Record<string, unknown>, fields: Partial<RealtimeEvent> = {}): RealtimeEvent {
    const topic = this.topic(name);
    const offset = topic.floor + topic.events.length + 1;
    const event: RealtimeEvent = {
      id: `evt_${name}_${topic.epoch}_${offset}`,
      topic: name,
      source: 'socket',
      type: 'message',
      payload,
      metadata: { timestamp: 1, epoch: topic.epoch, offset },
      ...fields,
    };
    topic.events.push(event);
    this.deliver(event);
    return event;
  }

  /** Drops the oldest events of the history. */
  trim(name: string, count: number): void {
    const topic = this.topic(name);
    topic.events.splice(0, count);
    topic.floor += count;
  }

  /** Sends an event as a session would get it: once for each return mode, naming subscriptions where there are several. */
  deliver(event: RealtimeEvent): void {
    for (const [socket, subscriptions] of this.subscriptions) {
      const live = [...subscriptions.values()].filter((s) => s.live && s.topic === event.topic);
      const matching = live.filter((s) => matches(s.filter, event.payload));
      const modes = new Set(matching.map((s) => (event.source === 'sync' ? s.returnMode : 'full')));
      for (const mode of modes) {
        const ids = matching.filter((s) => event.source !== 'sync' || s.returnMode === mode).map((s) => s.id);
        const projected = event.source === 'sync' ? { ...event, payload: { mode } } : event;
        if (live.length > 1) socket.emit('event', projected, ids);
        else socket.emit('event', projected);
      }
    }
  }

  /** Sends `position` for every subscription of the topic. */
  announcePosition(name: string, position: object): void {
    for (const [socket, subscriptions] of this.subscriptions) {
      for (const { id, topic } of subscriptions.values()) {
        if (topic === name) socket.emit('position', { subscriptionId: id, topic, ...position });
      }
    }
  }

  /** Payloads of the messages with this name. */
  sent(name: string): Record<string, unknown>[] {
    return this.received.filter((message) => message.name === name).map(({ payload }) => payload);
  }

  /** Live server-side subscriptions of all sessions. */
  get live(): ServerSubscription[] {
    return [...this.subscriptions.values()].flatMap((s) => [...s.values()]).filter((s) => s.live);
  }

  private welcome(socket: Socket): void {
    this.subscriptions.set(socket, new Map());
    socket.on('disconnect', () => {
      this.subscriptions.delete(socket);
      this.channels.gone(socket);
    });
    socket.onAny((name: string, payload: Record<string, unknown>, ack: Ack) => {
      this.received.push({ name, payload });
      if (this.silent.has(name)) return;
      const refusal = this.refuse(name, payload);
      if (refusal) ack({ ok: false, ...refusal });
      else ack({ ok: true, ...this.handle(socket, name, payload) });
    });
  }

  private handle(socket: Socket, name: string, payload: Record<string, unknown>): Record<string, unknown> {
    switch (name) {
      case 'subscribe':
        return this.subscribe(socket, payload as unknown as SubscribeFrame);
      case 'unsubscribe':
        this.subscriptions.get(socket)?.delete(payload['subscriptionId'] as string);
        return {};
      case 'publish': {
        const event = this.append(payload['topic'] as string, payload['payload'] as Record<string, unknown>, {
          ...(payload['id'] ? { id: payload['id'] as string } : {}),
          type: (payload['type'] as string | undefined) ?? 'message',
        });
        return { id: event.id, epoch: event.metadata.epoch, offset: event.metadata.offset };
      }
      case 'history': {
        const topic = this.topic(payload['topic'] as string);
        const events = topic.events.slice(0, (payload['limit'] as number | undefined) ?? 1_000);
        return { events, epoch: topic.epoch, offset: topic.floor + events.length };
      }
      case 'auth:refresh':
        return { expiresAt: 1 };
      default: {
        const answer = this.channels.handle(socket, name, payload);
        if (!answer) throw new Error(`unexpected message ${name}`);
        return answer;
      }
    }
  }

  private subscribe(socket: Socket, frame: SubscribeFrame): Record<string, unknown> {
    const topic = this.topic(frame.topic);
    const head = topic.floor + topic.events.length;
    const { since, subscriptionId: id = `srv_${this.nextId++}` } = frame;
    const reachable = since?.epoch === topic.epoch && since.offset >= topic.floor && since.offset <= head;
    const after = reachable ? topic.events.filter((e) => (e.metadata.offset ?? 0) > since.offset) : [];
    const page = after.slice(0, this.pageSize);
    const more = page.length < after.length;
    this.subscriptions.get(socket)?.set(id, {
      id,
      topic: frame.topic,
      returnMode: frame.returnMode ?? 'full',
      filter: frame.filter,
      live: !more,
    });
    this.beforeAnswer(frame);
    return {
      subscriptionId: id,
      topic: frame.topic,
      epoch: topic.epoch,
      offset: more ? page[page.length - 1]?.metadata.offset : head,
      recovered: reachable,
      events: page.filter((e) => matches(frame.filter, e.payload)),
      ...(more && { more }),
    };
  }
}

function matches(filter: SubscriptionFilter | undefined, payload: Record<string, unknown>): boolean {
  return Object.entries(filter ?? {}).every(([field, wanted]) =>
    typeof wanted === 'object' && wanted !== null
      ? wanted.in.includes(payload[field] as string)
      : payload[field] === wanted,
  );
}
