/**
 * Renews the token of a running session before it expires, and when the server says that it has expired.
 * Owns one timer.
 */

import { CLIENT_ERROR_CODES, RealtimeError } from './errors';
import { DEFAULT_REFRESH_THRESHOLD_MS, readExpiresIn } from './token';
import type { TokenSource } from './token-source';
import type { Reply } from './wire';

/** Never sooner than this, in milliseconds. */
const MIN_DELAY_MS = 1_000;

/** After a failure, in milliseconds. */
const RETRY_DELAY_MS = 5_000;

/** Timers overflow beyond this; a later expiry is looked at again then. */
const MAX_DELAY_MS = 2 ** 31 - 1;

/** What a refresher needs and whom it tells. */
export interface RefreshHooks {
  request(name: string, payload: object, done: (reply: Reply) => void): void;
  /** The session goes on with the new token. */
  refreshed(): void;
  error(error: RealtimeError): void;
}

/** Sends `auth:refresh` in time, as long as there is a session and a `getToken`. */
export class TokenRefresher {
  private timer: ReturnType<typeof setTimeout> | undefined;
  /** Grows with every start and stop. */
  private session = 0;
  private busy = false;

  constructor(
    private readonly tokens: TokenSource,
    private readonly hooks: RefreshHooks,
  ) {}

  /** A session began with the token in use. */
  start(): void {
    this.stop();
    this.plan();
  }

  /** The session ended. */
  stop(): void {
    this.session += 1;
    this.busy = false;
    clearTimeout(this.timer);
    this.timer = undefined;
  }

  /** Renews now, unless that is under way. */
  refreshNow(): void {
    if (!this.tokens.renewable || this.busy) return;
    clearTimeout(this.timer);
    this.busy = true;
    const { session } = this;
    this.tokens.renew().then(
      (token) => {
        if (session === this.session) this.send(session, token);
      },
      (error: unknown) => {
        if (session === this.session) this.failed(error);
      },
    );
  }

  private send(session: number, token: string): void {
    this.hooks.request('auth:refresh', { token }, (reply) => {
      if (session !== this.session) return;
      if (!reply.ok) {
        this.failed(reply.error);
        return;
      }
      this.busy = false;
      this.plan();
      this.hooks.refreshed();
    });
  }

  private failed(error: unknown): void {
    this.busy = false;
    this.schedule(RETRY_DELAY_MS);
    this.hooks.error(
      error instanceof RealtimeError
        ? error
        : new RealtimeError(CLIENT_ERROR_CODES.tokenRefreshFailed, String(error), { cause: error }),
    );
  }

  /** A minute before the end, or halfway there where less is left. */
  private plan(): void {
    const { latest } = this.tokens;
    const left = latest === undefined ? undefined : readExpiresIn(latest);
    if (!this.tokens.renewable || left === undefined || left === Infinity) return;
    this.schedule(Math.max(left - DEFAULT_REFRESH_THRESHOLD_MS, left / 2, MIN_DELAY_MS));
  }

  private schedule(delayMs: number): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(
      () => {
        if (delayMs > MAX_DELAY_MS) this.plan();
        else this.refreshNow();
      },
      Math.min(delayMs, MAX_DELAY_MS),
    );
  }
}
