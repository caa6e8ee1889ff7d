/** Typed events: names, payloads, and the emitter behind `on` and `off`. Knows nothing of connections. */

import type { RealtimeError } from './errors';
import type { ConnectionChange, EventContext, GapNotice, RealtimeEvent, SubscribedNotice } from './types';

/** Every event with a fixed name and the arguments of its handlers. */
export interface RealtimeEventMap {
  /** Each event of every subscribed topic, once. */
  event: [event: RealtimeEvent, context: EventContext];
  connection: [change: ConnectionChange];
  error: [error: RealtimeError];
  gap: [notice: GapNotice];
  subscribed: [notice: SubscribedNotice];
}

/** `event:<topic>`: each event of one topic, once. */
export type TopicEventName = `event:${string}`;

/** Everything that `on` takes. */
export type EventName = keyof RealtimeEventMap | TopicEventName;

/** The arguments that handlers of `Name` get. */
export type EventArguments<Name extends EventName> = Name extends keyof RealtimeEventMap
  ? RealtimeEventMap[Name]
  : RealtimeEventMap['event'];

/** A handler of `Name`. Its result is ignored. */
export type EventHandler<Name extends EventName = EventName> = (...args: EventArguments<Name>) => void;

/** Keeps handlers by event name and calls them in the order of their registration. */
export class TypedEmitter {
  /** Under a name there are only handlers of that name: `on` sees to it, the type cannot say it. */
  private readonly handlers = new Map<EventName, Set<unknown>>();

  /** Registers a handler; the same function twice for one event counts once. */
  on<Name extends EventName>(name: Name, handler: EventHandler<Name>): void {
    const known = this.handlers.get(name);
    if (known) known.add(handler);
    else this.handlers.set(name, new Set([handler]));
  }

  /** Removes a handler that `on` registered; any other is ignored. */
  off<Name extends EventName>(name: Name, handler: EventHandler<Name>): void {
    const known = this.handlers.get(name);
    if (!known) return;
    known.delete(handler);
    if (known.size === 0) this.handlers.delete(name);
  }

  /**
   * Calls the handlers of `name`.
   *
   * A handler that throws hinders neither the others nor the caller: what it threw surfaces as an
   * uncaught error of its own.
   *
   * @returns whether there was a handler.
   */
  emit<Name extends EventName>(name: Name, ...args: EventArguments<Name>): boolean {
    const known = this.handlers.get(name);
    if (!known) return false;
    for (const handler of [...known]) {
      try {
        (handler as EventHandler<Name>)(...args);
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
