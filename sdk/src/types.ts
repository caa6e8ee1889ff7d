/**
 * The public shapes: what an application passes in and what it gets back.
 * Nothing here runs. The wire's own frames are in `wire.ts`.
 */

/** Which service produced an event. */
export type EventSource = 'database' | 'sync' | 'socket';

/** A place in a topic's history. `offset` grows by 1 from event to event while `epoch` stays the same. */
export interface Position {
  epoch: string;
  offset: number;
}

/** What travels beside an event's payload. Fields that are not listed may appear; ignore what you do not know. */
export interface EventMetadata {
  /** Unix milliseconds. */
  timestamp: number;
  /** Source table (database events). */
  table?: string;
  /**
   * Row operation (database events; `snapshot` for an existing row that a backfill sent); of a document, what happened to
   * it (sync events).
   */
  operation?: 'insert' | 'update' | 'delete' | 'snapshot';
  /** Document revision (sync events). */
  revision?: number;
  /** Position in the topic's history, with `epoch`. Channel messages have none. */
  offset?: number;
  epoch?: string;
  [extra: string]: unknown;
}

/** The envelope of everything that a topic delivers. */
export interface RealtimeEvent<Payload = Record<string, unknown>> {
  /** The same event delivered twice has the same id. */
  id: string;
  topic: string;
  source: EventSource;
  /** `database.insert`, `sync.updated`, …, or the publisher's own. */
  type: string;
  payload: Payload;
  metadata: EventMetadata;
}

/** A value that a filter can compare with. */
export type FilterScalar = string | number | boolean | null;

/**
 * Fields of the payload that must all hold: a scalar is equality, `{ in: […] }` is membership.
 * A field may be a path: `data.status`. At most 16 fields and 256 values.
 */
export type SubscriptionFilter = Record<string, FilterScalar | { in: FilterScalar[] }>;

/** What a sync event carries: the whole document, only what changed, or both. */
export type SyncEventReturnMode = 'full' | 'diff' | 'both';

/** What changed in a document: `payload.diff` of a sync event in return mode `diff` or `both`. */
export interface JsonDiff {
  /** Keys that are new. */
  added: Record<string, unknown>;
  /** Keys that are gone. */
  removed: string[];
  /** Keys (nested ones by dotted path) whose value differs. A nested key that is new has no `from`, one that is gone no `to`. */
  changed: Record<string, { from?: unknown; to?: unknown }>;
}

/** What to subscribe to. */
export interface SubscribeOptions {
  /** Topic name, e.g. `session.status`. */
  topic: string;
  /** Only events whose payload matches are delivered. */
  filter?: SubscriptionFilter | undefined;
  /** For sync topics; `full` when absent. */
  returnMode?: SyncEventReturnMode | undefined;
  /** Start after this position: what happened since is delivered first, in order. */
  since?: Position | undefined;
}

/** A function that gives a fresh token; called before expiry and whenever the server refuses the one in use. */
export type TokenProvider = () => Promise<string> | string;

interface ClientOptionsBase {
  /** Base URL of the backend, e.g. `https://realtime.example.com`; a path is kept as prefix of `/socket.io/`. */
  url: string;
  /** Connect on construction. Default `true`. */
  autoConnect?: boolean | undefined;
  /** Reconnect by itself after a connection was lost or could not be made. Default `true`. */
  reconnection?: boolean | undefined;
  /** Attempts in a row before giving up; counted anew when the browser is back online or visible. Default 10. */
  reconnectionAttempts?: number | undefined;
  /** Base of the exponential backoff, in milliseconds. Default 1000; a wait is never longer than 30 s or this, whichever is more. */
  reconnectionDelay?: number | undefined;
  /** How long to wait for an answer to a request, in milliseconds. Default 10000. */
  requestTimeout?: number | undefined;
}

/** Constructor options: a token, a function that gives one, or both (the token is then used first). */
export type RealtimeClientOptions = ClientOptionsBase &
  (
    | { token: string; getToken?: TokenProvider | undefined }
    | { token?: string | undefined; getToken: TokenProvider }
  );

/** Where the connection stands. */
export type ConnectionState = 'disconnected' | 'connecting' | 'connected' | 'reconnecting';

/** Payload of the `connection` event. `reason` is an error code or the transport's reason, where there is one. */
export interface ConnectionChange {
  state: ConnectionState;
  reason?: string;
}

/** Payload of the `gap` event: events of this subscription were lost; reload state, then go on from the position given. */
export interface GapNotice extends Position {
  subscriptionId: string;
  topic: string;
}

/** Payload of the `subscribed` event: delivery is live; nothing published from now on is missed. */
export interface SubscribedNotice extends Position {
  subscriptionId: string;
  topic: string;
  /** Everything between the position asked for and this one was delivered. */
  recovered: boolean;
}

/** Second argument of an event handler: for which of this client's subscriptions the event came. */
export interface EventContext {
  subscriptionIds: string[];
  /** It happened while this client was not subscribed or not connected, and was fetched from history. */
  recovered: boolean;
}

/** Options of `publish`. */
export interface PublishOptions {
  /** Event type; the server's default is `message`. */
  type?: string | undefined;
  /** Your own id (`^[A-Za-z0-9_-]{1,64}$`): publishing again with it answers the first result and appends nothing. */
  id?: string | undefined;
}

/** Where a published event now stands. */
export interface PublishResult extends Position {
  id: string;
}

/** Who sent a channel or direct message. */
export interface MessageSender {
  /** The subject of the sender's token, or else its socket id. */
  clientId: string;
  /** The connection; absent where a server sent it by REST. */
  socketId?: string;
}

/** What travels beside the data of a channel or direct message. */
export interface MessageContext {
  /** Absent for a direct message. */
  channel?: string;
  /** The message's name. */
  event: string;
  from: MessageSender;
  /** Unix milliseconds. */
  timestamp: number;
}

/** A channel or direct message. It is kept nowhere: what was said while this client was away is gone. */
export interface SocketMessage extends MessageContext {
  data: unknown;
}

/** Options of `socketClient.publish`. */
export interface MessageOptions {
  /** This client hears the message too, where it joined the channel. Default `false`. */
  echo?: boolean | undefined;
}

/** The name of a document. */
export interface DocumentName {
  service: string;
  id: string;
}

/** Where somebody can be present. */
export type PresenceTarget = { channel: string } | { document: DocumentName };

/** Somebody who is there. */
export interface PresenceMember {
  clientId: string;
  socketId: string;
  /** What the member says of itself; null where it says nothing. */
  data: unknown;
  /** Unix milliseconds. */
  joinedAt: number;
}

/** Payload of the `presence` event: somebody else came, changed or went. */
export interface PresenceChange {
  /** One of `channel` and `document` is there. */
  channel?: string;
  document?: DocumentName;
  action: 'enter' | 'update' | 'leave';
  member: PresenceMember;
}

/** Payload of the `joined` event: messages of the channel are heard from now on. */
export interface JoinedNotice {
  channel: string;
  /** Who has joined it, this client included; at most 1,000. */
  members: PresenceMember[];
}

/** Payload of the `entered` event: this client is present, for the first time or again after a reconnection. */
export interface EnteredNotice {
  channel?: string;
  document?: DocumentName;
  /** Who is present, this client included; at most 1,000. */
  members: PresenceMember[];
}

/** Options of `history`. */
export interface HistoryOptions {
  /** Only events after this position. */
  since?: Position | undefined;
  /** At most this many events. */
  limit?: number | undefined;
}

/** A page of a topic's history. `epoch` and `offset` are the position after its last event. */
export interface HistoryPage extends Position {
  events: RealtimeEvent[];
}
