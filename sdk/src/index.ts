/** Entry `.` of the package: the client, its types, and the token helpers. */

export { RealtimeClient } from './client';
export { CLIENT_ERROR_CODES, RealtimeError, type ErrorDetail } from './errors';
export type { EventArguments, EventHandler, EventName, RealtimeEventMap, TopicEventName } from './events';
export {
  decodeToken,
  getTokenExpiresIn,
  isTokenExpired,
  shouldRefreshToken,
  type TokenClaims,
} from './token';
export type {
  ConnectionChange,
  ConnectionState,
  EventContext,
  EventMetadata,
  EventSource,
  FilterScalar,
  GapNotice,
  HistoryOptions,
  HistoryPage,
  JsonDiff,
  Position,
  PublishOptions,
  PublishResult,
  RealtimeClientOptions,
  RealtimeEvent,
  SubscribeOptions,
  SubscribedNotice,
  SubscriptionFilter,
  SyncEventReturnMode,
  TokenProvider,
} from './types';
