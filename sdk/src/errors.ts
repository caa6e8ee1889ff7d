/** The one error type of the client, and the codes that the client itself gives. */

import type { DocumentName, PresenceTarget } from './types';

/** Codes made by this client. Every other code comes from the server (see its list of error codes). */
export const CLIENT_ERROR_CODES = {
  /** The constructor's or a call's arguments are unusable. */
  invalidArgument: 'INVALID_ARGUMENT',
  /** The client was destroyed. */
  destroyed: 'DESTROYED',
  /** There is no connection, and none came within the request's time. */
  notConnected: 'NOT_CONNECTED',
  /** The connection ended before the answer came: whether the request was carried out is unknown. */
  connectionLost: 'CONNECTION_LOST',
  /** The server did not answer in time: whether the request was carried out is unknown. */
  timeout: 'TIMEOUT',
  /** An attempt to connect failed before the server could say anything. */
  connectionFailed: 'CONNECTION_FAILED',
  /** All attempts in a row failed; the client has stopped trying. */
  reconnectFailed: 'RECONNECT_FAILED',
  /** The server refused the token, or there is none that it takes. */
  authFailed: 'AUTH_FAILED',
  /** `getToken` failed, took too long or gave an expired token. */
  tokenRefreshFailed: 'TOKEN_REFRESH_FAILED',
  /** The text is not a JWT. */
  invalidToken: 'INVALID_TOKEN',
  /** The target of a direct message is not connected. */
  notDelivered: 'NOT_DELIVERED',
  /** This client is not present there (the server says it with the same code). */
  notPresent: 'NOT_PRESENT',
  /** The server sent something that the protocol does not know. */
  protocolError: 'PROTOCOL_ERROR',
} as const;

const AUTH_CODES: ReadonlySet<string> = new Set([
  'AUTH_FAILED',
  'TOKEN_EXPIRED',
  'TOKEN_REVOKED',
  'REVOKED',
  'UNAUTHORIZED',
]);

/** Classes of refusal that another try may cure. */
const TRANSIENT_CLASSES: ReadonlySet<string> = new Set(['RateLimitError', 'UnavailableError', 'InternalError']);

/** One field that broke one rule. */
export interface ErrorDetail {
  path: string;
  message: string;
}

/** What a {@link RealtimeError} may say beside code and message. */
export interface RealtimeErrorInit {
  name?: string | undefined;
  details?: ErrorDetail[] | undefined;
  subscriptionId?: string | undefined;
  topic?: string | undefined;
  channel?: string | undefined;
  document?: DocumentName | undefined;
  cause?: unknown;
}

/**
 * Any failure that this client reports, by the `error` event or by a rejected promise.
 *
 * `code` is stable and meant for programs, `message` is for people.
 */
export class RealtimeError extends Error {
  readonly code: string;
  /** The server's class of refusal (`ValidationError`, …), where the server refused. */
  readonly errorClass: string | undefined;
  /** The fields concerned, where the server named them. */
  readonly details: readonly ErrorDetail[];
  /** This client's id of the subscription concerned, where one is. */
  readonly subscriptionId: string | undefined;
  readonly topic: string | undefined;
  /** The channel concerned, where one is. */
  readonly channel: string | undefined;
  /** The document concerned, where a presence in one is. */
  readonly document: DocumentName | undefined;
  /** What was thrown underneath, where something was. */
  readonly cause: unknown;

  constructor(code: string, message: string, init: RealtimeErrorInit = {}) {
    super(message);
    this.name = 'RealtimeError';
    this.code = code;
    this.errorClass = init.name;
    this.details = init.details ?? [];
    this.subscriptionId = init.subscriptionId;
    this.topic = init.topic;
    this.channel = init.channel;
    this.document = init.document;
    this.cause = init.cause;
  }

  /** The same failure, said of one subscription. */
  about(subscriptionId: string, topic: string): RealtimeError {
    return this.with({ subscriptionId, topic });
  }

  /** The same failure, said of a channel or of a presence. */
  at(target: PresenceTarget): RealtimeError {
    return this.with(target);
  }

  private with(concerned: RealtimeErrorInit): RealtimeError {
    const { errorClass: name, details, cause } = this;
    return new RealtimeError(this.code, this.message, { name, details: [...details], cause, ...concerned });
  }
}

/** Whether the failure says that the token is not (or no longer) accepted. */
export function isAuthError(error: RealtimeError): boolean {
  return AUTH_CODES.has(error.code) || error.errorClass === 'UnauthorizedError';
}

/** Whether there was no session to ask on, or it ended before the answer. The next session knows nothing of it. */
export function isLost(error: RealtimeError): boolean {
  return error.code === CLIENT_ERROR_CODES.connectionLost || error.code === CLIENT_ERROR_CODES.notConnected;
}

/** Whether asking again later may succeed without anybody changing anything. */
export function isTransient(error: RealtimeError): boolean {
  return (
    error.code === CLIENT_ERROR_CODES.timeout ||
    error.code === 'LIMIT_EXCEEDED' ||
    (error.errorClass !== undefined && TRANSIENT_CLASSES.has(error.errorClass))
  );
}
