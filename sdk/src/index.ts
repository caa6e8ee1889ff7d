/** Entry `.` of the package: the client, its types, and the token helpers. */

export { RealtimeClient } from './client';
export { applyDiff } from './diff';
export { CLIENT_ERROR_CODES, RealtimeError, type ErrorDetail } from './errors';
export type { EventArguments, EventHandler, EventName, RealtimeEventMap, TopicEventName } from './events';
export {
  SyncClient,
  type SyncCreateOptions,
  type SyncDocument,
  type SyncDocumentPage,
  type SyncDurability,
  type SyncListOptions,
  type SyncMutation,
  type SyncMutations,
  type SyncRevision,
  type SyncRevisionOptions,
  type SyncRevisionPage,
  type SyncUpdateOptions,
  type SyncWriteOptions,
} from './sync';
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
