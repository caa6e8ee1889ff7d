/** Holds the token in use and gets new ones. Knows nothing of connections. */

import { CLIENT_ERROR_CODES, RealtimeError } from './errors';
import { readExpiresIn } from './token';
import type { TokenProvider } from './types';

/** The token for the next handshake, renewed by the application's `getToken` where there is one. */
export class TokenSource {
  private renewal: Promise<string> | undefined;

  /** @param timeoutMs how long `getToken` may take. */
  constructor(
    private token: string | undefined,
    private readonly provider: TokenProvider | undefined,
    private readonly timeoutMs: number,
  ) {}

  /** Whether a new token can be had. */
  get renewable(): boolean {
    return this.provider !== undefined;
  }

  /** The token in use, if there is one yet. */
  get latest(): string | undefined {
    return this.token;
  }

  /** Forgets the token, so that the next handshake gets a new one. Without `getToken` it is kept: there is no other. */
  invalidate(): void {
    if (this.renewable) this.token = undefined;
  }

  /**
   * A token to connect with: the one in use, or a new one where it has expired.
   *
   * @throws RealtimeError `TOKEN_REFRESH_FAILED`.
   */
  async current(): Promise<string> {
    const { token } = this;
    // A token that cannot be read has no expiry to go by: it is the server's to judge.
    if (token !== undefined && !(this.renewable && readExpiresIn(token) === 0)) return token;
    return this.renew();
  }

  /**
   * A new token from `getToken`. Calls under way at the same time share one.
   *
   * @throws RealtimeError `TOKEN_REFRESH_FAILED` where it fails, takes too long or gives no usable token.
   */
  renew(): Promise<string> {
    this.renewal ??= this.fetch().finally(() => {
      this.renewal = undefined;
    });
    return this.renewal;
  }

  private async fetch(): Promise<string> {
    const { provider } = this;
    if (!provider) throw refreshFailed('there is no getToken to renew the token with');
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        reject(refreshFailed(`getToken did not answer within ${this.timeoutMs} ms`));
      }, this.timeoutMs);
    });
    try {
      const token: unknown = await Promise.race([Promise.resolve().then(provider), late]);
      if (typeof token !== 'string' || token === '') throw refreshFailed('getToken gave no token');
      if (readExpiresIn(token) === 0) throw refreshFailed('getToken gave an expired token');
      this.token = token;
      return token;
    } catch (thrown) {
      if (thrown instanceof RealtimeError) throw thrown;
      throw refreshFailed(thrown instanceof Error ? thrown.message : 'getToken failed', thrown);
    } finally {
      clearTimeout(timer);
    }
  }
}

function refreshFailed(message: string, cause?: unknown): RealtimeError {
  return new RealtimeError(CLIENT_ERROR_CODES.tokenRefreshFailed, message, { cause });
}
