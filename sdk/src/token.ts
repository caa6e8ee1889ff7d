/**
 * Looking into a token without verifying it: only the server can say whether it is genuine.
 * Works in browsers and in Node.js.
 */

import { CLIENT_ERROR_CODES, RealtimeError } from './errors';

/** A token this close to its end is due for refresh, in milliseconds. */
export const DEFAULT_REFRESH_THRESHOLD_MS = 60_000;

/** What a token says. Times are in seconds since 1970, as JWT has them. */
export interface TokenClaims {
  /** Subject: user or service. */
  sub?: string;
  /** Audience: the application's id. */
  aud?: string | string[];
  /** Environment. */
  env?: string;
  iss?: string;
  exp?: number;
  iat?: number;
  jti?: string;
  /** Which key signed it; from the token's header where the claims do not have it. */
  kid?: string;
  /** Roles and verbs. */
  permissions?: string[];
  /** Verbs narrowed to names. */
  capabilities?: Record<string, string[]>;
  [claim: string]: unknown;
}

/**
 * Reads a token's claims. Verifies nothing.
 *
 * @throws RealtimeError `INVALID_TOKEN` where the text is not a JWT.
 */
export function decodeToken(token: string): TokenClaims {
  const [header, claims, signature, ...rest] = token.split('.');
  if (header === undefined || claims === undefined || signature === undefined || rest.length > 0) {
    throw new RealtimeError(CLIENT_ERROR_CODES.invalidToken, 'a token has three parts separated by dots');
  }
  const { kid } = readPart(header, 'header');
  return { ...(typeof kid === 'string' ? { kid } : {}), ...readPart(claims, 'claims') };
}

/**
 * Milliseconds until the token expires: 0 where it has expired or cannot be read, `Infinity` where it never expires.
 */
export function getTokenExpiresIn(token: string): number {
  return readExpiresIn(token) ?? 0;
}

/** As {@link getTokenExpiresIn}, but undefined where the token cannot be read. Not part of the package's interface. */
export function readExpiresIn(token: string): number | undefined {
  let exp: unknown;
  try {
    ({ exp } = decodeToken(token));
  } catch {
    return undefined;
  }
  if (exp === undefined) return Infinity;
  if (typeof exp !== 'number') return undefined;
  return Math.max(0, exp * 1000 - Date.now());
}

/** Whether the token has expired by this machine's clock (or cannot be read). */
export function isTokenExpired(token: string): boolean {
  return getTokenExpiresIn(token) === 0;
}

/** Whether the token expires within `thresholdMs` (default 60 s), has expired, or cannot be read. */
export function shouldRefreshToken(token: string, thresholdMs: number = DEFAULT_REFRESH_THRESHOLD_MS): boolean {
  return getTokenExpiresIn(token) <= thresholdMs;
}

function readPart(part: string, name: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(decodeBase64Url(part));
  } catch (cause) {
    throw new RealtimeError(CLIENT_ERROR_CODES.invalidToken, `the token's ${name} cannot be read`, { cause });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new RealtimeError(CLIENT_ERROR_CODES.invalidToken, `the token's ${name} is not an object`);
  }
  return value as Record<string, unknown>;
}

/** `atob` yields one character a byte; names outside ASCII need the bytes read as UTF-8. */
function decodeBase64Url(text: string): string {
  const bytes = Uint8Array.from(atob(text.replace(/-/g, '+').replace(/_/g, '/')), (c) => c.charCodeAt(0));
  return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
}
