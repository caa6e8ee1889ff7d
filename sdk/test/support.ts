/** What the tests share: a running server, clients that are destroyed after the test, records of their events. */

import { afterEach, beforeEach, expect, vi } from 'vitest';
import {
  RealtimeClient,
  type ConnectionChange,
  type EnteredNotice,
  type EventContext,
  type GapNotice,
  type JoinedNotice,
  type PresenceChange,
  type RealtimeClientOptions,
  type RealtimeError,
  type RealtimeEvent,
  type SocketMessage,
  type SubscribedNotice,
} from '../src/index';
import { FakeServer } from './fake-server';

export interface Recorded {
  client: RealtimeClient;
  events: RealtimeEvent[];
  contexts: EventContext[];
  errors: RealtimeError[];
  gaps: GapNotice[];
  subscribed: SubscribedNotice[];
  changes: ConnectionChange[];
  messages: SocketMessage[];
  presence: PresenceChange[];
  joined: JoinedNotice[];
  entered: EnteredNotice[];
}

/** Registers set-up and tear-down; the server is a fresh one in each test. */
export function useServer(): { server: FakeServer; open: (options?: Partial<RealtimeClientOptions>) => Recorded } {
  const context = { server: new FakeServer(), open };
  const clients: RealtimeClient[] = [];

  function open(options: Partial<RealtimeClientOptions> = {}): Recorded {
    const client = new RealtimeClient({
      url: context.server.url,
      token: 'static-token',
      reconnectionDelay: 10,
      ...options,
    } as RealtimeClientOptions);
    clients.push(client);
    return record(client);
  }

  beforeEach(async () => {
    context.server = new FakeServer();
    await context.server.start();
  });
  afterEach(async () => {
    for (const client of clients.splice(0)) client.destroy();
    await context.server.stop();
  });
  return context;
}

function record(client: RealtimeClient): Recorded {
  const recorded: Recorded = {
    client,
    events: [],
    contexts: [],
    errors: [],
    gaps: [],
    subscribed: [],
    changes: [],
    messages: [],
    presence: [],
    joined: [],
    entered: [],
  };
  client.on('event', (event, context) => {
    recorded.events.push(event);
    recorded.contexts.push(context);
  });
  client.on('error', (error) => recorded.errors.push(error));
  client.on('gap', (notice) => recorded.gaps.push(notice));
  client.on('subscribed', (notice) => recorded.subscribed.push(notice));
  client.on('connection', (change) => recorded.changes.push(change));
  client.on('message', (message) => recorded.messages.push(message));
  client.on('presence', (change) => recorded.presence.push(change));
  client.on('joined', (notice) => recorded.joined.push(notice));
  client.on('entered', (notice) => recorded.entered.push(notice));
  return recorded;
}

/** Waits until the assertion holds. */
export function until(assertion: () => void): Promise<void> {
  return vi.waitFor(assertion, { timeout: 5_000, interval: 5 });
}

/** Waits for `count` answers to subscriptions. */
export async function live({ subscribed }: Recorded, count = 1): Promise<void> {
  await until(() => {
    expect(subscribed.length).toBeGreaterThanOrEqual(count);
  });
}

/** The numbers of the payloads `{ n }`, in the order in which they came. */
export function numbers({ events }: Recorded): unknown[] {
  return events.map((event) => event.payload['n']);
}

/** An unsigned token with these claims. */
export function makeToken(claims: Record<string, unknown>, header: Record<string, unknown> = { alg: 'HS256' }): string {
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');
  return `${part(header)}.${part(claims)}.signature`;
}

/** Seconds since 1970, `seconds` from now. */
export function inSeconds(seconds: number): number {
  return Date.now() / 1000 + seconds;
}
