/**
 * The connection's state machine over one Socket.IO socket at a time: connect, lose, wait, try again,
 * give up, wake. Owns the socket and its timers. Knows no subscriptions: frames and changes of state go
 * to its hooks, requests come in by `request`.
 */

import { io, type Socket } from 'socket.io-client';
import { backoffDelayMs } from './backoff';
import { CLIENT_ERROR_CODES, RealtimeError, isAuthError } from './errors';
import type { TokenSource } from './token-source';
import type { ConnectionChange, ConnectionState } from './types';
import { listenForWake } from './wake';
import { SERVER_FRAMES, readConnectError, readError, readReply, type Reply } from './wire';

/** A handshake is several requests, and may take this many times as long as one. */
const HANDSHAKE_REQUESTS = 2;

/** How many requests may wait for the connection to come up. */
const MAX_WAITING_REQUESTS = 1_000;

/** How the connection tries. Times in milliseconds. */
export interface ConnectionSettings {
  /** Scheme, host and port. */
  origin: string;
  /** Path of the Socket.IO endpoint. */
  path: string;
  reconnection: boolean;
  reconnectionAttempts: number;
  reconnectionDelayMs: number;
  requestTimeoutMs: number;
}

/** Who is told what. All are called synchronously and in the order of the wire. */
export interface ConnectionHooks {
  /** A fresh session: nothing of an earlier one is known to the server. Called before the state is announced. */
  opened(): void;
  /** The session ended; its requests have failed or are about to. */
  closed(): void;
  stateChanged(change: ConnectionChange): void;
  /** The connection itself failed. */
  failed(error: RealtimeError): void;
  /** The server sent an `error` message. */
  serverError(error: RealtimeError, frame: unknown): void;
  event(frame: unknown, matched: unknown): void;
  position(frame: unknown): void;
  presence(frame: unknown): void;
  /** A channel or direct message. */
  message(name: string, data: unknown, context: unknown): void;
}

/** Keeps one connection, as long as it is wanted. */
export class Connection {
  private current: ConnectionState = 'disconnected';
  private socket: Socket | undefined;
  /** Grows with every attempt and every stop, so that what belongs to an earlier one is recognized. */
  private run = 0;
  /** Attempts in a row since the last success, the first connect not counted. */
  private attempts = 0;
  /** The application wants a connection, and trying is not known to be pointless. */
  private wanted = false;
  /** An attempt is under way: a token is awaited or a socket is opening. */
  private trying = false;
  /** A refused token was already replaced once since the last success. */
  private tokenReplaced = false;
  /** The server said during this session that the token is no longer accepted. */
  private tokenRefused = false;
  /** WebSocket was tried first and did not answer. */
  private pollingFirst = false;
  /** Of the attempt under way, or until the next. */
  private timer: ReturnType<typeof setTimeout> | undefined;
  private readonly waiting = new Set<(error?: RealtimeError) => void>();
  private readonly stopListening: () => void;

  constructor(
    private readonly settings: ConnectionSettings,
    private readonly tokens: TokenSource,
    private readonly hooks: ConnectionHooks,
  ) {
    this.stopListening = listenForWake(() => {
      this.wake();
    });
  }

  get state(): ConnectionState {
    return this.current;
  }

  /** Starts connecting; while waiting between attempts, tries at once. Nothing happens where an attempt is under way. */
  connect(): void {
    if (this.current === 'connected' || this.trying) return;
    this.wanted = true;
    this.attempts = 0;
    this.tokenReplaced = false;
    const { run } = this;
    if (this.current === 'disconnected') this.setState('connecting');
    if (run === this.run) this.attempt();
  }

  /** Ends the connection and stops trying. */
  disconnect(): void {
    this.stop('client disconnect');
  }

  /** Ends the connection and listens no more to the browser. */
  destroy(): void {
    this.stop('client disconnect');
    this.stopListening();
  }

  /** The token in use was replaced on the running session: what the server said of the old one no longer holds. */
  tokenAccepted(): void {
    this.tokenRefused = false;
  }

  /**
   * Sends a request on the running session. `done` is called once, synchronously with the answer's arrival:
   * frames that came after the answer are handled after it.
   */
  request(name: string, payload: object, done: (reply: Reply) => void): void {
    const { socket } = this;
    if (this.current !== 'connected' || !socket) {
      done({ ok: false, error: notConnected() });
      return;
    }
    const { requestTimeoutMs } = this.settings;
    socket.timeout(requestTimeoutMs).emit(name, payload, (failure: Error | null, answer: unknown) => {
      if (!failure) done(readReply(answer));
      else if (socket.connected) done({ ok: false, error: timedOut(name, requestTimeoutMs) });
      else done({ ok: false, error: connectionLost(name) });
    });
  }

  /**
   * Waits until there is a connection, at most as long as a request may take.
   *
   * @throws RealtimeError `NOT_CONNECTED` at once where nobody is connecting, or when the time is up.
   */
  whenConnected(): Promise<void> {
    if (this.current === 'connected') return Promise.resolve();
    if (this.current === 'disconnected' || this.waiting.size >= MAX_WAITING_REQUESTS) {
      return Promise.reject(notConnected());
    }
    return new Promise((resolve, reject) => {
      const settle = (error?: RealtimeError): void => {
        clearTimeout(timer);
        this.waiting.delete(settle);
        if (error) reject(error);
        else resolve();
      };
      const timer = setTimeout(() => {
        settle(notConnected());
      }, this.settings.requestTimeoutMs);
      this.waiting.add(settle);
    });
  }

  private attempt(): void {
    this.clearTimer();
    this.trying = true;
    const run = ++this.run;
    this.tokens.current().then(
      (token) => {
        if (run === this.run) this.open(run, token);
      },
      (error: unknown) => {
        if (run === this.run) this.attemptFailed(asError(error));
      },
    );
  }

  private open(run: number, token: string): void {
    const timeoutMs = HANDSHAKE_REQUESTS * this.settings.requestTimeoutMs;
    const socket = io(this.settings.origin, {
      path: this.settings.path,
      auth: { token },
      transports: this.pollingFirst ? ['polling', 'websocket'] : ['websocket', 'polling'],
      tryAllTransports: true,
      // Attempts, waits and giving up are this machine's; a socket lives for one session.
      reconnection: false,
      forceNew: true,
      autoConnect: false,
      // The library's limit covers the transport only, not the server's answer to the handshake: ours comes first.
      timeout: 2 * timeoutMs,
    });
    this.socket = socket;
    const whileCurrent =
      <Args extends unknown[]>(handle: (...args: Args) => void) =>
      (...args: Args): void => {
        if (run === this.run) handle(...args);
      };
    socket.on('connect', whileCurrent(() => { this.opened(); }));
    socket.on('connect_error', whileCurrent((error: Error) => { this.attemptFailed(readConnectError(error)); }));
    socket.on('disconnect', whileCurrent((reason: string) => { this.lost(reason); }));
    socket.on('error', whileCurrent((frame: unknown) => { this.serverError(frame); }));
    socket.on('event', whileCurrent((frame: unknown, matched: unknown) => { this.hooks.event(frame, matched); }));
    socket.on('position', whileCurrent((frame: unknown) => { this.hooks.position(frame); }));
    socket.on('presence', whileCurrent((frame: unknown) => { this.hooks.presence(frame); }));
    // Messages come under names of their senders' choice.
    socket.onAny(
      whileCurrent((name: string, data: unknown, context: unknown) => {
        if (!SERVER_FRAMES.has(name)) this.hooks.message(name, data, context);
      }),
    );
    this.timer = setTimeout(
      whileCurrent(() => {
        this.attemptTimedOut(timeoutMs);
      }),
      timeoutMs,
    );
    socket.connect();
  }

  /** A proxy may swallow one transport without a word, so that the library never sees a reason to try the other. */
  private attemptTimedOut(timeoutMs: number): void {
    this.pollingFirst = !this.pollingFirst;
    this.attemptFailed(new RealtimeError(CLIENT_ERROR_CODES.connectionFailed, `no connection within ${timeoutMs} ms`));
  }

  private opened(): void {
    this.clearTimer();
    this.trying = false;
    this.attempts = 0;
    this.tokenReplaced = false;
    this.tokenRefused = false;
    this.current = 'connected';
    this.hooks.opened();
    this.hooks.stateChanged({ state: 'connected' });
    for (const settle of [...this.waiting]) settle();
  }

  private serverError(frame: unknown): void {
    const error = readError(frame);
    if (isAuthError(error)) this.tokenRefused = true;
    this.hooks.serverError(error, frame);
  }

  private lost(reason: string): void {
    this.dropSocket();
    if (this.tokenRefused) {
      this.tokens.invalidate();
      if (!this.tokens.renewable) {
        this.stop(CLIENT_ERROR_CODES.authFailed);
        return;
      }
    }
    this.retry(reason);
  }

  private attemptFailed(error: RealtimeError): void {
    this.dropSocket();
    const run = this.run;
    this.hooks.failed(error);
    // The handler may have disconnected or connected anew.
    if (run !== this.run) return;
    if (!isAuthError(error)) {
      this.retry(error.code);
    } else if (this.tokens.renewable) {
      this.tokens.invalidate();
      const firstRefusal = !this.tokenReplaced;
      this.tokenReplaced = true;
      this.retry(error.code, firstRefusal ? 0 : undefined);
    } else {
      this.stop(error.code);
    }
  }

  /** Plans the next attempt, or gives up where there is none left. */
  private retry(reason: string, delayMs?: number): void {
    const { reconnection, reconnectionAttempts, reconnectionDelayMs } = this.settings;
    if (!reconnection) {
      this.stop(reason);
      return;
    }
    if (this.attempts >= reconnectionAttempts) {
      this.exhausted(reason);
      return;
    }
    const run = ++this.run;
    this.setState('reconnecting', reason);
    if (run !== this.run) return;
    const wait = delayMs ?? backoffDelayMs(reconnectionDelayMs, this.attempts);
    this.attempts += 1;
    this.timer = setTimeout(() => {
      this.attempt();
    }, wait);
  }

  /** Out of attempts: disconnected, but the browser's return starts anew. */
  private exhausted(reason: string): void {
    const run = ++this.run;
    this.rejectWaiting();
    this.setState('disconnected', CLIENT_ERROR_CODES.reconnectFailed);
    if (run !== this.run) return;
    const { reconnectionAttempts } = this.settings;
    this.hooks.failed(
      new RealtimeError(
        CLIENT_ERROR_CODES.reconnectFailed,
        `gave up after ${reconnectionAttempts} attempts in a row; the last failed with: ${reason}`,
      ),
    );
  }

  private wake(): void {
    this.attempts = 0;
    if (!this.wanted || this.current === 'connected' || this.trying) return;
    const run = this.run;
    if (this.current === 'disconnected') this.setState('reconnecting', 'browser is back');
    if (run === this.run) this.attempt();
  }

  /** Disconnected, and not trying again until the application calls `connect`. */
  private stop(reason: string): void {
    this.wanted = false;
    this.run += 1;
    this.dropSocket();
    this.rejectWaiting();
    this.setState('disconnected', reason);
  }

  private setState(state: ConnectionState, reason?: string): void {
    if (state === this.current) return;
    this.current = state;
    this.hooks.stateChanged(reason === undefined ? { state } : { state, reason });
  }

  /** Lets go of the attempt or the session. Its requests fail as lost. */
  private dropSocket(): void {
    this.clearTimer();
    this.trying = false;
    const { socket } = this;
    if (!socket) return;
    this.socket = undefined;
    socket.off();
    socket.offAny();
    socket.disconnect();
    if (this.current === 'connected') this.hooks.closed();
  }

  private clearTimer(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
  }

  private rejectWaiting(): void {
    for (const settle of [...this.waiting]) settle(notConnected());
  }
}

function notConnected(): RealtimeError {
  return new RealtimeError(CLIENT_ERROR_CODES.notConnected, 'there is no connection to the server');
}

function timedOut(name: string, timeoutMs: number): RealtimeError {
  return new RealtimeError(CLIENT_ERROR_CODES.timeout, `no answer to ${name} within ${timeoutMs} ms`);
}

function connectionLost(name: string): RealtimeError {
  return new RealtimeError(CLIENT_ERROR_CODES.connectionLost, `the connection ended before ${name} was answered`);
}

function asError(thrown: unknown): RealtimeError {
  if (thrown instanceof RealtimeError) return thrown;
  return new RealtimeError(CLIENT_ERROR_CODES.connectionFailed, String(thrown), { cause: thrown });
}
