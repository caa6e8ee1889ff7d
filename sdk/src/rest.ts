/** Calls of the REST API with the client's token. Knows no resource. */

import { CLIENT_ERROR_CODES, RealtimeError, isAuthError } from './errors';
import type { TokenSource } from './token-source';
import { isRecord, protocolError, readError } from './wire';

/** One request. */
export interface RestRequest {
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** Below the base URL, beginning with `/`; its variable parts are escaped by {@link path}. */
  path: string;
  query?: Record<string, string | number | undefined>;
  headers?: Record<string, string | undefined>;
  body?: unknown;
}

/** An answer of the 200s. */
export interface RestAnswer {
  body: unknown;
  headers: Headers;
}

/** What the API's place and patience are. */
export interface RestSettings {
  /** Base URL without a slash at its end. */
  base: string;
  timeoutMs: number;
}

/** Sends requests one by one; a token that the server no longer takes is renewed once. */
export class RestClient {
  private destroyed = false;
  private readonly underWay = new Set<AbortController>();

  constructor(
    private readonly settings: RestSettings,
    private readonly tokens: TokenSource,
  ) {}

  /**
   * Sends a request.
   *
   * @throws RealtimeError with the server's code where it refused; `TIMEOUT` and `CONNECTION_LOST` where no answer came,
   *   and it is unknown whether the request was carried out; `TOKEN_REFRESH_FAILED`; `DESTROYED`.
   */
  async send(request: RestRequest): Promise<RestAnswer> {
    const token = await this.tokens.current();
    try {
      return await this.attempt(request, token);
    } catch (thrown) {
      const renewable = thrown instanceof RealtimeError && isAuthError(thrown) && this.tokens.renewable;
      if (!renewable || this.destroyed) throw thrown;
      // Another request may have renewed it meanwhile.
      const { latest } = this.tokens;
      return this.attempt(request, latest !== undefined && latest !== token ? latest : await this.tokens.renew());
    }
  }

  /** Ends requests under way; later ones are refused. */
  destroy(): void {
    this.destroyed = true;
    for (const controller of this.underWay) controller.abort(destroyed());
  }

  private async attempt(request: RestRequest, token: string): Promise<RestAnswer> {
    if (this.destroyed) throw destroyed();
    const controller = new AbortController();
    const { timeoutMs } = this.settings;
    const timer = setTimeout(() => {
      controller.abort(new RealtimeError(CLIENT_ERROR_CODES.timeout, `no answer within ${timeoutMs} ms`));
    }, timeoutMs);
    this.underWay.add(controller);
    try {
      const response = await fetch(this.url(request), init(request, token, controller.signal));
      const text = await response.text();
      return read(response, text);
    } catch (thrown) {
      if (thrown instanceof RealtimeError) throw thrown;
      const reason: unknown = controller.signal.reason;
      if (reason instanceof RealtimeError) throw reason;
      throw new RealtimeError(CLIENT_ERROR_CODES.connectionLost, 'the server cannot be reached', { cause: thrown });
    } finally {
      clearTimeout(timer);
      this.underWay.delete(controller);
    }
  }

  private url({ path, query }: RestRequest): string {
    const parameters = new URLSearchParams();
    for (const [name, value] of Object.entries(query ?? {})) {
      if (value !== undefined) parameters.set(name, String(value));
    }
    const text = parameters.toString();
    return `${this.settings.base}${path}${text === '' ? '' : `?${text}`}`;
  }
}

/** A path with its variable parts escaped: ``path`/api/topics/${name}` ``. */
export function path(fixed: TemplateStringsArray, ...parts: string[]): string {
  return String.raw({ raw: fixed }, ...parts.map((part) => encodeURIComponent(part)));
}

function init({ method, headers, body }: RestRequest, token: string, signal: AbortSignal): RequestInit {
  const all: Record<string, string> = { accept: 'application/json', authorization: `Bearer ${token}` };
  for (const [name, value] of Object.entries(headers ?? {})) {
    if (value !== undefined) all[name] = value;
  }
  if (body === undefined) return { method, headers: all, signal };
  return { method, headers: { ...all, 'content-type': 'application/json' }, body: JSON.stringify(body), signal };
}

function read(response: Response, text: string): RestAnswer {
  let body: unknown;
  try {
    body = text === '' ? undefined : JSON.parse(text);
  } catch (cause) {
    throw new RealtimeError(CLIENT_ERROR_CODES.protocolError, `the answer (${response.status}) is not JSON`, { cause });
  }
  if (response.ok) return { body, headers: response.headers };
  // A proxy in between may answer in a form of its own.
  if (!isRecord(body) || typeof body['code'] !== 'string') throw protocolError(`the server answered ${response.status}`);
  throw readError(body);
}

function destroyed(): RealtimeError {
  return new RealtimeError(CLIENT_ERROR_CODES.destroyed, 'the client was destroyed');
}
