/** Typed events: names, payloads, and the emitter behind `on` and `off`. Knows nothing of connections. */

import type { RealtimeError } from './errors';
import type {
  ConnectionChange,
  EnteredNotice,
  EventContext,
  GapNotice,
  JoinedNotice,
  PresenceChange,
  RealtimeEvent,
  SocketMessage,
  SubscribedNotice,
} from './types';

/** Every event with a fixed name and the arguments of its handlers. */
export interface RealtimeEventMap {
  /** Each event of every subscribed topic, once. */
  event: [event: RealtimeEvent, context: EventContext];
  connection: [change: ConnectionChange];
  error: [error: RealtimeError];
  gap: [notice: GapNotice];
  subscribed: [notice: SubscribedNotice];
  /** Each message of every joined channel, and each direct message. */
  message: [message: SocketMessage];
  presence: [change: PresenceChange];
  joined: [notice: JoinedNotice];
  entered: [notice: EnteredNotice];
}

/** `event:<topic>`: each event of one topic, once. */
export type TopicEventName = `event:${string}`;

/** `message:<channel>`: each message of one joined channel. */
export type ChannelEventName = `message:${string}`;

/** Everything that `on` takes. */
export type EventName = keyof RealtimeEventMap | TopicEventName | ChannelEventName;

/** The arguments that handlers of `Name` get. */
export type EventArguments<Name extends EventName> = Name extends keyof RealtimeEventMap
  ? RealtimeEventMap[Name]
  : Name extends ChannelEventName
    ? RealtimeEventMap['message']
    : RealtimeEventMap['event'];

/** A handler of `Name`. Its result is ignored. */
export type EventHandler<Name extends EventName = EventName> = (...args: EventArguments<Name>) => void;

/** Handlers by name, called in the order of their registration. */
export class HandlerLists {
  /** Under a name there are only handlers for its arguments: whoever owns the lists sees to it. */
  private readonly handlers = new Map<string, Set<unknown>>();

  /**
   * Registers a handler; the same function twice under one name counts once.
   *
   * @throws TypeError where `handler` is no function: it would only fail when something comes for it.
   */
  add(name: string, handler: unknown): void {
    if (typeof handler !== 'function') throw new TypeError(`handler of ${name} must be a function`);
    const known = this.handlers.get(name);
    if (known) known.add(handler);
    else this.handlers.set(name, new Set([handler]));
  }

  /** Removes a handler; one that is not there is ignored. */
  remove(name: string, handler: unknown): void {
    const known = this.handlers.get(name);
    if (!known) return;
    known.delete(handler);
    if (known.size === 0) this.handlers.delete(name);
  }

  /**
   * Calls the handlers under `name`.
   *
   * A handler that throws hinders neither the others nor the caller: what it threw surfaces as an
   * uncaught error of its own.
   *
   * @returns whether there was a handler.
   */
  call(name: string, args: readonly unknown[]): boolean {
    const known = this.handlers.get(name);
    if (!known) return false;
    for (const handler of [...known]) {
      try {
        (handler as (...args: readonly unknown[]) => void)(...args);
      } catch (thrown) {
        setTimeout(() => {
          throw thrown;
        });
      }
    }
    return true;
  }

  /** Removes every handler. */
  clear(): void {
    this.handlers.clear();
  }
}

/** Gives {@link HandlerLists} the types of this client's events. */
export class TypedEmitter {
  private readonly lists = new HandlerLists();

  on<Name extends EventName>(name: Name, handler: EventHandler<Name>): void {
    this.lists.add(name, handler);
  }

  off<Name extends EventName>(name: Name, handler: EventHandler<Name>): void {
    this.lists.remove(name, handler);
  }

  /** @returns whether there was a handler. */
  emit<Name extends EventName>(name: Name, ...args: EventArguments<Name>): boolean {
    return this.lists.call(name, args);
  }

  clear(): void {
    this.lists.clear();
  }
}
