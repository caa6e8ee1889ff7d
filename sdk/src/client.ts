/** The client that applications use: puts connection, token and subscriptions together. */

import { Connection, type ConnectionSettings } from './connection';
import { CLIENT_ERROR_CODES, RealtimeError, isAuthError } from './errors';
import { TypedEmitter, type EventHandler, type EventName } from './events';
import { Pacer } from './pacer';
import { Places, type PlaceHooks } from './places';
import { RestClient } from './rest';
import { SocketClient } from './socket-client';
import { Subscriptions, type SubscriptionHooks } from './subscriptions';
import { SyncClient } from './sync';
import { TokenRefresher } from './token-refresher';
import { TokenSource } from './token-source';
import type {
  ConnectionState,
  HistoryOptions,
  HistoryPage,
  PublishOptions,
  PublishResult,
  RealtimeClientOptions,
  SocketMessage,
  SubscribeOptions,
} from './types';
import { isEvent, protocolError, readMessage, readPosition, readPresenceChange, readSubscriptionIds } from './wire';

const DEFAULT_RECONNECTION_ATTEMPTS = 10;
const DEFAULT_RECONNECTION_DELAY_MS = 1_000;
const DEFAULT_REQUEST_TIMEOUT_MS = 10_000;

/**
 * One connection to the platform, and the subscriptions, channels and presences on it.
 *
 * They survive reconnection: each subscription goes on after the last event that was delivered, and says by a
 * `gap` event where that was not possible.
 */
export class RealtimeClient {
  /** Documents. */
  readonly sync: SyncClient;
  /** Channels, direct messages and presence. */
  readonly socketClient: SocketClient;
  private readonly emitter = new TypedEmitter();
  private readonly connection: Connection;
  private readonly subscriptions: Subscriptions;
  private readonly places: Places;
  private readonly refresher: TokenRefresher;
  private readonly rest: RestClient;
  private destroyed = false;

  /** @throws RealtimeError `INVALID_ARGUMENT` where the URL or the token is missing or unusable. */
  constructor(options: RealtimeClientOptions) {
    const settings = readSettings(options);
    const { token, getToken } = options;
    if (!token && !getToken) throw invalid('token or getToken is required');
    if (getToken && typeof getToken !== 'function') throw invalid('getToken must be a function');
    const tokens = new TokenSource(token === '' ? undefined : token, getToken, settings.requestTimeoutMs);
    const request: Connection['request'] = (name, payload, done) => {
      this.connection.request(name, payload, done);
    };
    const error = (failure: RealtimeError): void => {
      this.report(failure);
    };
    const pacer = new Pacer();
    this.subscriptions = this.subscriptionsBy(request, pacer);
    this.places = this.placesBy(request, pacer);
    this.socketClient = new SocketClient(this.places, {
      ask: (name, payload) => this.ask(name, payload),
      error,
      assertAlive: () => {
        this.assertAlive();
      },
    });
    this.refresher = new TokenRefresher(tokens, {
      request,
      error,
      refreshed: () => {
        this.connection.tokenAccepted();
        this.subscriptions.askIdle();
        this.places.askIdle();
      },
    });
    const base = settings.origin + settings.path.replace(/\/socket\.io\/$/, '');
    this.rest = new RestClient({ base, timeoutMs: settings.requestTimeoutMs }, tokens);
    this.sync = new SyncClient(this.rest);
    this.connection = this.connectionTo(settings, tokens);
    if (options.autoConnect !== false) this.connection.connect();
  }

  /** Where the connection stands. */
  get state(): ConnectionState {
    return this.connection.state;
  }

  /** Whether there is a connection now. */
  get connected(): boolean {
    return this.connection.state === 'connected';
  }

  /**
   * Opens the connection, or tries at once where the client waits between attempts.
   *
   * @throws RealtimeError `DESTROYED`.
   */
  connect(): void {
    this.assertAlive();
    this.connection.connect();
  }

  /** Closes the connection. Subscriptions with their positions, channels and presences are kept for the next `connect`. */
  disconnect(): void {
    this.connection.disconnect();
  }

  /**
   * Subscribes to a topic, now or as soon as there is a connection, and again after every reconnection.
   *
   * That the server refuses is said by an `error` event with this `subscriptionId`.
   *
   * @returns this client's id of the subscription, e.g. `sub_1`.
   * @throws RealtimeError `INVALID_ARGUMENT`, `DESTROYED`.
   */
  subscribe(options: SubscribeOptions): string {
    this.assertAlive();
    if (typeof options.topic !== 'string' || options.topic === '') throw invalid('topic is required');
    if (options.since !== undefined && !readPosition(options.since)) throw invalid('since must be { epoch, offset }');
    return this.subscriptions.add(options);
  }

  /** Ends a subscription: its events are no longer delivered. An unknown id is ignored. */
  unsubscribe(subscriptionId: string): void {
    this.subscriptions.remove(subscriptionId);
  }

  /**
   * Registers a handler. Handlers run in the order of their registration.
   *
   * @throws TypeError where `handler` is no function.
   */
  on<Name extends EventName>(event: Name, handler: EventHandler<Name>): void {
    if (!this.destroyed) this.emitter.on(event, handler);
  }

  /** Removes a handler: the same function that was given to `on`. */
  off<Name extends EventName>(event: Name, handler: EventHandler<Name>): void {
    this.emitter.off(event, handler);
  }

  /**
   * Publishes an event to a topic. While the client is connecting or reconnecting this waits for the connection.
   *
   * After `TIMEOUT` and `CONNECTION_LOST` it is unknown whether the event was published: give an `id` and
   * publish again with the same one, and it is appended once.
   *
   * @returns the event's id and its position in the topic; it is stored durably then.
   * @throws RealtimeError `NOT_CONNECTED` (at once where the client is disconnected, else after
   *   `requestTimeout`), `TIMEOUT`, `CONNECTION_LOST`, or the server's refusal.
   */
  async publish(topic: string, payload: Record<string, unknown>, options: PublishOptions = {}): Promise<PublishResult> {
    const { type, id } = options;
    const frame = { topic, payload, ...(type !== undefined && { type }), ...(id !== undefined && { id }) };
    const result = await this.ask('publish', frame);
    const position = readPosition(result);
    if (!position || typeof result['id'] !== 'string') throw protocolError('the answer to publish lacks id or position');
    return { id: result['id'], ...position };
  }

  /**
   * Reads a topic's stored events, oldest first.
   *
   * @throws RealtimeError as `publish`.
   */
  async history(topic: string, options: HistoryOptions = {}): Promise<HistoryPage> {
    const { since, limit } = options;
    const from = since && { since: { epoch: since.epoch, offset: since.offset } };
    const result = await this.ask('history', { topic, ...from, ...(limit !== undefined && { limit }) });
    const position = readPosition(result);
    if (!position || !Array.isArray(result['events'])) throw protocolError('the answer to history lacks events or position');
    return { events: result['events'].filter(isEvent), ...position };
  }

  /** Disconnects, forgets all subscriptions, channels, presences and handlers, and listens no more to the browser. Calling it again does nothing. */
  destroy(): void {
    if (this.destroyed) return;
    this.destroyed = true;
    this.connection.destroy();
    this.rest.destroy();
    this.refresher.stop();
    this.subscriptions.clear();
    this.places.clear();
    this.socketClient.clear();
    this.emitter.clear();
  }

  private subscriptionsBy(request: Connection['request'], pacer: Pacer): Subscriptions {
    const hooks: SubscriptionHooks = {
      request,
      error: (failure) => {
        this.report(failure);
      },
      event: (event, context) => {
        this.emitter.emit('event', event, context);
        this.emitter.emit(`event:${event.topic}`, event, context);
      },
      gap: (notice) => this.emitter.emit('gap', notice),
      subscribed: (notice) => this.emitter.emit('subscribed', notice),
    };
    return new Subscriptions(hooks, pacer);
  }

  private placesBy(request: Connection['request'], pacer: Pacer): Places {
    const hooks: PlaceHooks = {
      request,
      error: (failure) => {
        this.report(failure);
      },
      joined: (notice) => this.emitter.emit('joined', notice),
      entered: (notice) => this.emitter.emit('entered', notice),
    };
    return new Places(hooks, pacer);
  }

  private connectionTo(settings: ConnectionSettings, tokens: TokenSource): Connection {
    return new Connection(settings, tokens, {
      opened: () => {
        this.refresher.start();
        this.subscriptions.opened();
        this.places.opened();
      },
      closed: () => {
        this.refresher.stop();
        this.subscriptions.closed();
        this.places.closed();
      },
      stateChanged: (change) => this.emitter.emit('connection', change),
      failed: (error) => {
        this.report(error);
      },
      serverError: (error, frame) => {
        if (isAuthError(error)) this.refresher.refreshNow();
        // After a token that covers less the server ends channels and presences too, each with an error of its own.
        if (error.code === 'FORBIDDEN' && !readSubscriptionIds(frame)) this.places.recheck();
        for (const failure of this.subscriptions.ended(error, frame)) this.report(failure);
      },
      event: (frame, matched) => {
        this.subscriptions.receive(frame, matched);
      },
      position: (frame) => {
        this.subscriptions.moved(frame);
      },
      presence: (frame) => {
        const change = readPresenceChange(frame);
        if (change) this.emitter.emit('presence', change);
        else this.report(protocolError('a presence message lacks what every one has'));
      },
      message: (name, data, context) => {
        this.receive(readMessage(name, data, context), name);
      },
    });
  }

  /** Hands on a message, unless it was under way from a channel that this client has left. */
  private receive(message: SocketMessage | undefined, name: string): void {
    if (!message) {
      this.report(protocolError(`the message ${name} lacks what every message has`));
      return;
    }
    const { channel } = message;
    if (channel !== undefined && !this.places.hasJoined(channel)) return;
    this.emitter.emit('message', message);
    if (channel !== undefined) this.emitter.emit(`message:${channel}`, message);
    this.socketClient.receive(message);
  }

  private async ask(name: string, payload: object): Promise<Record<string, unknown>> {
    this.assertAlive();
    await this.connection.whenConnected();
    return new Promise((resolve, reject) => {
      this.connection.request(name, payload, (reply) => {
        if (reply.ok) resolve(reply.result);
        else reject(reply.error);
      });
    });
  }

  /** An error that nobody listens for would leave a newcomer without a hint. */
  private report(error: RealtimeError): void {
    if (!this.emitter.emit('error', error)) console.warn(`realtime: ${error.code}: ${error.message}`);
  }

  private assertAlive(): void {
    if (this.destroyed) throw new RealtimeError(CLIENT_ERROR_CODES.destroyed, 'the client was destroyed');
  }
}

function readSettings(options: RealtimeClientOptions): ConnectionSettings {
  const url = readUrl(options.url);
  return {
    origin: url.origin,
    path: `${url.pathname.replace(/\/+$/, '')}/socket.io/`,
    reconnection: options.reconnection ?? true,
    reconnectionAttempts: options.reconnectionAttempts ?? DEFAULT_RECONNECTION_ATTEMPTS,
    reconnectionDelayMs: options.reconnectionDelay ?? DEFAULT_RECONNECTION_DELAY_MS,
    requestTimeoutMs: options.requestTimeout ?? DEFAULT_REQUEST_TIMEOUT_MS,
  };
}

/** In a page a relative URL is taken from where the page is. `ws` and `wss` stand for `http` and `https`. */
function readUrl(text: string): URL {
  const { location } = globalThis as Partial<Pick<Window, 'location'>>;
  let url: URL;
  try {
    url = new URL(text.replace(/^ws(s?):/i, 'http$1:'), location?.href);
  } catch (cause) {
    throw new RealtimeError(CLIENT_ERROR_CODES.invalidArgument, `url is not a URL: ${text}`, { cause });
  }
  if (url.protocol !== 'http:' && url.protocol !== 'https:') throw invalid(`url must be http or https: ${text}`);
  return url;
}

function invalid(message: string): RealtimeError {
  return new RealtimeError(CLIENT_ERROR_CODES.invalidArgument, message);
}
