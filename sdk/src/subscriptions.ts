/**
 * The subscriptions of one client: what is wanted, where each stands in its topic's history, and how each is
 * brought (back) to life on a session, recovering what happened in between. Knows the protocol's frames,
 * not the socket.
 */

import { backoffDelayMs } from './backoff';
import { isLost, isTransient, type RealtimeError } from './errors';
import type { Pacer } from './pacer';
import { RecentKeys } from './recent-keys';
import type { EventContext, GapNotice, Position, RealtimeEvent, SubscribeOptions, SubscribedNotice } from './types';
import {
  isEvent,
  protocolError,
  readPosition,
  readPositionFrame,
  readSubscribeResult,
  readSubscriptionIds,
  type Reply,
  type SubscribeFrame,
  type SubscribeResult,
} from './wire';

/** How many delivered events are remembered, so that handlers see each once. */
const REMEMBERED_EVENTS = 10_000;

/** First wait before a subscribe that failed for a passing reason is repeated, in milliseconds. */
const RETRY_DELAY_MS = 1_000;

/** What the subscriptions need of their surroundings, and whom they tell. */
export interface SubscriptionHooks {
  request(name: string, payload: object, done: (reply: Reply) => void): void;
  event(event: RealtimeEvent, context: EventContext): void;
  gap(notice: GapNotice): void;
  subscribed(notice: SubscribedNotice): void;
  error(error: RealtimeError): void;
}

/**
 * idle: nothing under way. requested: an answer (or a further page) is awaited. waiting: will ask again by
 * itself. live: the server delivers.
 */
type Phase = 'idle' | 'requested' | 'waiting' | 'live';

interface Subscription {
  readonly id: string;
  readonly options: SubscribeOptions;
  /** Everything up to here was delivered or is known to be lost. */
  position: Position | undefined;
  phase: Phase;
  /** The server's id on the running session. */
  serverId: string | undefined;
  /** Grows whenever what is under way is no longer wanted. */
  ticket: number;
  failures: number;
  retryTimer: ReturnType<typeof setTimeout> | undefined;
}

/** Registry and recovery of one client's subscriptions. */
export class Subscriptions {
  private readonly byId = new Map<string, Subscription>();
  private readonly byServerId = new Map<string, Subscription>();
  private readonly byTopic = new Map<string, Set<Subscription>>();
  private readonly delivered = new RecentKeys(REMEMBERED_EVENTS);
  private open = false;
  private lastId = 0;

  constructor(
    private readonly hooks: SubscriptionHooks,
    private readonly pacer: Pacer,
  ) {}

  /** Registers a subscription and asks for it where there is a session. @returns this client's id of it. */
  add(options: SubscribeOptions): string {
    this.lastId += 1;
    const { since } = options;
    const subscription: Subscription = {
      id: `sub_${this.lastId}`,
      options: { ...options },
      position: since && { epoch: since.epoch, offset: since.offset },
      phase: 'idle',
      serverId: undefined,
      ticket: 0,
      failures: 0,
      retryTimer: undefined,
    };
    this.byId.set(subscription.id, subscription);
    const sameTopic = this.byTopic.get(options.topic);
    if (sameTopic) sameTopic.add(subscription);
    else this.byTopic.set(options.topic, new Set([subscription]));
    if (this.open) this.ask(subscription);
    return subscription.id;
  }

  /** Ends a subscription here and on the server. An unknown id is ignored. */
  remove(id: string): void {
    const subscription = this.byId.get(id);
    if (!subscription) return;
    const { serverId } = subscription;
    this.byId.delete(id);
    const sameTopic = this.byTopic.get(subscription.options.topic);
    sameTopic?.delete(subscription);
    if (sameTopic?.size === 0) this.byTopic.delete(subscription.options.topic);
    this.rest(subscription);
    if (serverId !== undefined) this.release(serverId);
  }

  /** Forgets everything without a word to the server. */
  clear(): void {
    this.closed();
    this.byId.clear();
    this.byTopic.clear();
    this.delivered.clear();
  }

  /** A session began: asks for every subscription, from where it stood. */
  opened(): void {
    this.open = true;
    this.askIdle();
  }

  /** The session ended; positions are kept. */
  closed(): void {
    this.open = false;
    this.pacer.clear();
    for (const subscription of this.byId.values()) this.rest(subscription);
  }

  /** Asks for those that the server refused or ended; after a new token they may be allowed. */
  askIdle(): void {
    if (!this.open) return;
    for (const subscription of [...this.byId.values()]) {
      if (subscription.phase === 'idle') this.ask(subscription);
    }
  }

  /** Handles an `event` message. `matched` names the subscriptions that it is for, where there are several on the topic. */
  receive(frame: unknown, matched: unknown): void {
    if (!isEvent(frame)) {
      this.hooks.error(protocolError('an event lacks what every event has'));
      return;
    }
    this.deliver(frame, this.targets(frame.topic, readSubscriptionIds(matched)), false);
  }

  /** Handles a `position` message: the position moves on without an event, or a gap is announced. */
  moved(frame: unknown): void {
    const moved = readPositionFrame(frame);
    const subscription = moved && this.byServerId.get(moved.subscriptionId);
    if (!moved || !subscription) return;
    const { position } = moved;
    const known = subscription.position;
    if (moved.gap || known?.epoch !== position.epoch) {
      this.move(subscription, position, moved.gap);
    } else if (position.offset > known.offset) {
      subscription.position = position;
    }
  }

  /**
   * Handles an `error` message as far as it names subscriptions: the server ended them.
   *
   * @returns the error as seen by this client, one for each subscription named, or the error itself.
   */
  ended(error: RealtimeError, frame: unknown): RealtimeError[] {
    const named = (readSubscriptionIds(frame) ?? []).flatMap((id) => this.byServerId.get(id) ?? []);
    for (const subscription of named) this.rest(subscription);
    return named.length === 0 ? [error] : named.map(({ id, options }) => error.about(id, options.topic));
  }

  /** The live subscriptions that a frame is for: those named, else all on the topic. */
  private targets(topic: string, serverIds: string[] | undefined): Subscription[] {
    const candidates = serverIds
      ? serverIds.flatMap((id) => this.byServerId.get(id) ?? [])
      : [...(this.byTopic.get(topic) ?? [])];
    return candidates.filter(({ phase }) => phase === 'live');
  }

  /** Hands an event to the handlers unless they had it, and moves the positions of those that it is for. */
  private deliver(event: RealtimeEvent, targets: Subscription[], recovered: boolean): void {
    const fresh = targets.filter((subscription) => this.advance(subscription, event));
    const [first] = fresh;
    if (!first) return;
    // A sync event comes once for each return mode, each time with another payload.
    const mode = event.source === 'sync' ? (first.options.returnMode ?? 'full') : '';
    if (!this.delivered.add(`${mode} ${event.topic} ${event.id}`)) return;
    this.hooks.event(event, { subscriptionIds: fresh.map(({ id }) => id), recovered });
  }

  /** Moves a subscription past an event. @returns false where it was past it already. */
  private advance(subscription: Subscription, event: RealtimeEvent): boolean {
    const at = readPosition(event.metadata);
    // Channel messages carry no position and are recognized by their id alone.
    if (!at) return true;
    const known = subscription.position;
    if (known?.epoch === at.epoch && at.offset <= known.offset) return false;
    this.move(subscription, at, false);
    return true;
  }

  /** Sets a position; a lost stretch or a change of epoch is announced. */
  private move(subscription: Subscription, position: Position, lost: boolean): void {
    const known = subscription.position;
    subscription.position = { epoch: position.epoch, offset: position.offset };
    if (lost || (known && known.epoch !== position.epoch)) {
      this.hooks.gap({ subscriptionId: subscription.id, topic: subscription.options.topic, ...subscription.position });
    }
  }

  /** Takes a subscription out of whatever is under way. */
  private rest(subscription: Subscription): void {
    subscription.ticket += 1;
    subscription.phase = 'idle';
    clearTimeout(subscription.retryTimer);
    subscription.retryTimer = undefined;
    if (subscription.serverId !== undefined) this.byServerId.delete(subscription.serverId);
    subscription.serverId = undefined;
  }

  /** Sends `subscribe`: a first one, or for the next page of a recovery. */
  private ask(subscription: Subscription): void {
    subscription.phase = 'requested';
    const ticket = ++subscription.ticket;
    this.pacer.run(() => {
      if (subscription.ticket !== ticket) return false;
      const frame = subscribeFrame(subscription);
      this.hooks.request('subscribe', frame, (reply) => {
        this.answered(subscription, ticket, frame, reply);
      });
      return true;
    });
  }

  private answered(subscription: Subscription, ticket: number, frame: SubscribeFrame, reply: Reply): void {
    const result = reply.ok ? readSubscribeResult(reply.result) : undefined;
    if (subscription.ticket !== ticket) {
      // No longer wanted, but the server now has it.
      if (result && this.open && result.subscriptionId !== subscription.serverId) this.release(result.subscriptionId);
      return;
    }
    if (result) this.accept(subscription, frame, result);
    else this.refused(subscription, reply.ok ? protocolError('the answer to subscribe lacks its position') : reply.error);
  }

  private accept(subscription: Subscription, frame: SubscribeFrame, result: SubscribeResult): void {
    const { ticket } = subscription;
    subscription.failures = 0;
    if (subscription.serverId !== undefined) this.byServerId.delete(subscription.serverId);
    subscription.serverId = result.subscriptionId;
    this.byServerId.set(result.subscriptionId, subscription);
    if (frame.since && !result.recovered) this.move(subscription, result.position, true);
    for (const event of result.events) {
      if (subscription.ticket !== ticket) return;
      this.deliver(event, [subscription], true);
    }
    // A handler may have unsubscribed or disconnected: then the position stays where delivery stopped.
    if (subscription.ticket !== ticket) return;
    this.move(subscription, result.position, false);
    if (subscription.ticket !== ticket) return;
    if (result.more) {
      this.ask(subscription);
      return;
    }
    subscription.phase = 'live';
    const { id, options } = subscription;
    this.hooks.subscribed({ subscriptionId: id, topic: options.topic, ...result.position, recovered: result.recovered });
  }

  private refused(subscription: Subscription, error: RealtimeError): void {
    // A lost session is not this subscription's failure: the next session asks again.
    if (isLost(error)) return;
    const unfinished = subscription.serverId;
    this.rest(subscription);
    if (unfinished !== undefined) this.release(unfinished);
    if (isTransient(error)) this.askLater(subscription);
    this.hooks.error(error.about(subscription.id, subscription.options.topic));
  }

  private askLater(subscription: Subscription): void {
    subscription.phase = 'waiting';
    const wait = backoffDelayMs(RETRY_DELAY_MS, subscription.failures);
    subscription.failures += 1;
    subscription.retryTimer = setTimeout(() => {
      this.ask(subscription);
    }, wait);
  }

  /** Ends a subscription on the server. That it is gone already is as good. */
  private release(serverId: string): void {
    this.hooks.request('unsubscribe', { subscriptionId: serverId }, (reply) => {
      if (reply.ok || reply.error.errorClass === 'NotFoundError') return;
      if (isLost(reply.error)) return;
      this.hooks.error(reply.error);
    });
  }
}

function subscribeFrame({ options, position, serverId }: Subscription): SubscribeFrame {
  return {
    topic: options.topic,
    ...(options.filter && { filter: options.filter }),
    ...(options.returnMode && { returnMode: options.returnMode }),
    ...(position && { since: position }),
    ...(serverId !== undefined && { subscriptionId: serverId }),
  };
}
