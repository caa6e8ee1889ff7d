/** Entry `.` of the package: the client, its types, and the token helpers. */

export { RealtimeClient } from './client';
export { applyDiff } from './diff';
export { CLIENT_ERROR_CODES, RealtimeError, type ErrorDetail } from './errors';
export type { ChannelEventName, EventArguments, EventHandler, EventName, RealtimeEventMap, TopicEventName } from './events';
export type { Presence } from './presence';
export type { MessageHandler, SocketClient } from './socket-client';
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
  DocumentName,
  EnteredNotice,
  EventContext,
  EventMetadata,
  EventSource,
  FilterScalar,
  GapNotice,
  HistoryOptions,
  HistoryPage,
  JoinedNotice,
  JsonDiff,
  MessageContext,
  MessageOptions,
  MessageSender,
  Position,
  PresenceChange,
  PresenceMember,
  PresenceTarget,
  PublishOptions,
  PublishResult,
  RealtimeClientOptions,
  RealtimeEvent,
  SocketMessage,
  SubscribeOptions,
  SubscribedNotice,
  SubscriptionFilter,
  SyncEventReturnMode,
  TokenProvider,
} from './types';
