/**
 * The frames of the protocol over Socket.IO, and reading what the server sent without trusting its shape.
 * Knows no state.
 */

import { CLIENT_ERROR_CODES, RealtimeError, type ErrorDetail } from './errors';
import type {
  DocumentName,
  MessageContext,
  MessageSender,
  Position,
  PresenceChange,
  PresenceMember,
  RealtimeEvent,
  SocketMessage,
  SubscriptionFilter,
  SyncEventReturnMode,
} from './types';

/** What the server itself sends: no message can have one of these names. */
export const SERVER_FRAMES: ReadonlySet<string> = new Set(['event', 'presence', 'position', 'error', 'subscribed']);

/** What an answer is: its fields, or why there is none. */
export type Reply = { ok: true; result: Record<string, unknown> } | { ok: false; error: RealtimeError };

/** Payload of `subscribe`. */
export interface SubscribeFrame {
  topic: string;
  filter?: SubscriptionFilter;
  returnMode?: SyncEventReturnMode;
  since?: Position;
  /** Only to go on with a recovery that said `more`. */
  subscriptionId?: string;
}

/** Result of `subscribe`. */
export interface SubscribeResult {
  subscriptionId: string;
  position: Position;
  recovered: boolean;
  events: RealtimeEvent[];
  more: boolean;
}

/** A `position` message. */
export interface PositionFrame {
  subscriptionId: string;
  position: Position;
  gap: boolean;
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Reads `{ epoch, offset }` out of any object that has them. */
export function readPosition(value: unknown): Position | undefined {
  if (!isRecord(value)) return undefined;
  const { epoch, offset } = value;
  return typeof epoch === 'string' && typeof offset === 'number' ? { epoch, offset } : undefined;
}

/** Reads an acknowledgement. */
export function readReply(value: unknown): Reply {
  if (isRecord(value) && value['ok'] === true) return { ok: true, result: value };
  if (isRecord(value) && value['ok'] === false) return { ok: false, error: readError(value) };
  return { ok: false, error: protocolError('the answer is not an acknowledgement') };
}

/** Reads an error object `{ error, message, code, details? }`. */
export function readError(value: unknown): RealtimeError {
  if (!isRecord(value)) return protocolError('the error is not an object');
  const code = text(value['code']) ?? CLIENT_ERROR_CODES.protocolError;
  return new RealtimeError(code, text(value['message']) ?? code, {
    name: text(value['error']),
    details: readDetails(value['details']),
    topic: text(value['topic']),
  });
}

/**
 * Reads why a connection was refused. The server's library may be able to send a message only, so the
 * code is looked for in `data` first and at the message's beginning (`CODE: reason`) second.
 */
export function readConnectError(error: Error & { data?: unknown }): RealtimeError {
  const data = isRecord(error.data) ? error.data : {};
  const inMessage = /^([A-Z][A-Z0-9_]*)(?::\s*(.*))?$/s.exec(error.message);
  const code = text(data['code']) ?? inMessage?.[1] ?? CLIENT_ERROR_CODES.connectionFailed;
  const reason = text(data['reason']) ?? inMessage?.[2] ?? error.message;
  return new RealtimeError(code, reason === '' ? code : reason, { cause: error });
}

/** Reads the result of `subscribe`; undefined where it lacks what it must have. */
export function readSubscribeResult(result: Record<string, unknown>): SubscribeResult | undefined {
  const subscriptionId = text(result['subscriptionId']);
  const position = readPosition(result);
  if (subscriptionId === undefined || position === undefined) return undefined;
  const events = Array.isArray(result['events']) ? result['events'].filter(isEvent) : [];
  return { subscriptionId, position, recovered: result['recovered'] === true, events, more: result['more'] === true };
}

/** Reads a `position` message; undefined where it is not one. */
export function readPositionFrame(value: unknown): PositionFrame | undefined {
  if (!isRecord(value)) return undefined;
  const subscriptionId = text(value['subscriptionId']);
  const position = readPosition(value);
  if (subscriptionId === undefined || position === undefined) return undefined;
  return { subscriptionId, position, gap: value['gap'] === true };
}

/** Whether the value has what every event has. */
export function isEvent(value: unknown): value is RealtimeEvent {
  return (
    isRecord(value) &&
    typeof value['id'] === 'string' &&
    typeof value['topic'] === 'string' &&
    typeof value['type'] === 'string' &&
    isRecord(value['payload']) &&
    isRecord(value['metadata'])
  );
}

/** Reads a channel or direct message; undefined where what came beside the data is not a message's. */
export function readMessage(event: string, data: unknown, context: unknown): SocketMessage | undefined {
  if (!isRecord(context) || typeof context['timestamp'] !== 'number') return undefined;
  const from = readSender(context['from']);
  if (!from) return undefined;
  return { ...inChannel(context['channel']), event, from, timestamp: context['timestamp'], data };
}

/** Reads a `presence` message; undefined where it is not one. */
export function readPresenceChange(value: unknown): PresenceChange | undefined {
  if (!isRecord(value)) return undefined;
  const { action, channel, document } = value;
  const [member] = readMembers({ members: [value['member']] }) ?? [];
  const isKnown = action === 'enter' || action === 'update' || action === 'leave';
  if (!isKnown || !member) return undefined;
  const name = readDocumentName(document);
  return { ...inChannel(channel), ...(name && { document: name }), action, member };
}

/** Reads `members` of an answer; undefined where there are none. */
export function readMembers(result: Record<string, unknown>): PresenceMember[] | undefined {
  const list = result['members'];
  return Array.isArray(list) ? list.filter(isMember) : undefined;
}

/** Server-side subscription ids named beside an event or in an error; undefined where none are named. */
export function readSubscriptionIds(value: unknown): string[] | undefined {
  const list = isRecord(value) ? (value['subscriptionIds'] ?? value['subscriptionId']) : value;
  if (typeof list === 'string') return [list];
  if (!Array.isArray(list)) return undefined;
  return list.filter((id): id is string => typeof id === 'string');
}

export function protocolError(message: string): RealtimeError {
  return new RealtimeError(CLIENT_ERROR_CODES.protocolError, message);
}

function isMember(value: unknown): value is PresenceMember {
  return isRecord(value) && ['clientId', 'socketId'].every((name) => typeof value[name] === 'string');
}

function readSender(value: unknown): MessageSender | undefined {
  if (!isRecord(value) || typeof value['clientId'] !== 'string') return undefined;
  const socketId = text(value['socketId']);
  return { clientId: value['clientId'], ...(socketId !== undefined && { socketId }) };
}

function readDocumentName(value: unknown): DocumentName | undefined {
  if (!isRecord(value)) return undefined;
  const { service, id } = value;
  return typeof service === 'string' && typeof id === 'string' ? { service, id } : undefined;
}

function inChannel(value: unknown): Pick<MessageContext, 'channel'> {
  return typeof value === 'string' ? { channel: value } : {};
}

function text(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}

function readDetails(value: unknown): ErrorDetail[] | undefined {
  if (!Array.isArray(value)) return undefined;
  return value.filter(
    (item): item is ErrorDetail =>
      isRecord(item) && typeof item['path'] === 'string' && typeof item['message'] === 'string',
  );
}
