/**
 * Where one client wants to be: the channels that it joined, and where it is present. Brings each (back) on every
 * session. Knows the protocol's frames, not the socket, and nothing of what is said there.
 */

import { backoffDelayMs } from './backoff';
import { CLIENT_ERROR_CODES, RealtimeError, isLost, isTransient } from './errors';
import type { Pacer } from './pacer';
import type { EnteredNotice, JoinedNotice, PresenceMember, PresenceTarget } from './types';
import { protocolError, readMembers, type Reply } from './wire';

/** First wait before a request that failed for a passing reason is repeated, in milliseconds. */
const RETRY_DELAY_MS = 1_000;

/** What the places need of their surroundings, and whom they tell. */
export interface PlaceHooks {
  request(name: string, payload: object, done: (reply: Reply) => void): void;
  joined(notice: JoinedNotice): void;
  entered(notice: EnteredNotice): void;
  error(error: RealtimeError): void;
}

interface Waiter {
  /** Settled by the answer to this version of the place's data, or to a later one. */
  readonly version: number;
  readonly promise: Promise<PresenceMember[]>;
  resolve(members: PresenceMember[]): void;
  reject(error: RealtimeError): void;
}

interface Place {
  readonly key: string;
  /** Set where the place is a joined channel, and not a presence. */
  readonly channel: string | undefined;
  readonly target: PresenceTarget;
  /** What this client says of itself there. */
  data: unknown;
  /** Grows with `data`; `sent` is the latest that the running session was asked for. */
  version: number;
  sent: number;
  /** The last data that the server took, on any session. */
  confirmed: { data: unknown } | undefined;
  /** On the running session: idle until asked for, or after a refusal; waiting to ask again by itself. */
  phase: 'idle' | 'requested' | 'waiting' | 'live';
  /** The running session's server has taken it. */
  isThere: boolean;
  /** A request stands in the pacer, and will take the data of then. */
  queued: boolean;
  /** Grows whenever what is under way is no longer wanted. */
  ticket: number;
  failures: number;
  retryTimer: ReturnType<typeof setTimeout> | undefined;
  readonly waiters: Waiter[];
}

/** Registry and return of one client's places. */
export class Places {
  private readonly byKey = new Map<string, Place>();
  private open = false;

  constructor(
    private readonly hooks: PlaceHooks,
    private readonly pacer: Pacer,
  ) {}

  /** Whether the channel is joined, or will be. */
  hasJoined(channel: string): boolean {
    return this.byKey.has(channelKey(channel));
  }

  /** Joins a channel now or with the next session, and again with each one after it. */
  join(channel: string): void {
    const place = this.byKey.get(channelKey(channel)) ?? this.add(channelKey(channel), { channel }, channel);
    if (this.open && place.phase === 'idle') this.ask(place);
  }

  /** Leaves a channel. One that was not joined is ignored. */
  leaveChannel(channel: string): void {
    const place = this.drop(channelKey(channel));
    if (!place || !this.open) return;
    this.hooks.request('channel:leave', { channel }, (reply) => {
      if (!reply.ok && !isLost(reply.error)) this.hooks.error(reply.error.at(place.target));
    });
  }

  /**
   * Is present from now on, with this data, or changes it. Calls that come faster than they can be sent share one
   * request with the last data.
   *
   * @throws RealtimeError the server's refusal: the place is then as before the call; `NOT_PRESENT` where it was left,
   *   `DESTROYED` where the client was destroyed meanwhile.
   */
  enter(target: PresenceTarget, data: unknown): Promise<PresenceMember[]> {
    const key = presenceKey(target);
    const place = this.byKey.get(key) ?? this.add(key, target, undefined);
    place.data = data;
    const last = place.waiters.at(-1);
    const waiter = last && last.version > place.sent ? last : newWaiter(++place.version);
    if (waiter !== last) place.waiters.push(waiter);
    if (this.open) this.ask(place);
    return waiter.promise;
  }

  /** Whether the client is present there, or will be. */
  isPresent(target: PresenceTarget): boolean {
    return this.byKey.has(presenceKey(target));
  }

  /**
   * Is no longer present. Where it was not, nothing happens.
   *
   * @throws RealtimeError the server's refusal.
   */
  leave(target: PresenceTarget): Promise<void> {
    const place = this.drop(presenceKey(target));
    if (!place || !this.open) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.hooks.request('presence:leave', target, (reply) => {
        // A session that ended took the presence with it.
        if (reply.ok || isLost(reply.error)) resolve();
        else reject(reply.error.at(target));
      });
    });
  }

  /** A session began: asks for every place. */
  opened(): void {
    this.open = true;
    this.askIdle();
  }

  /** The session ended, and with it this client's being anywhere. */
  closed(): void {
    this.open = false;
    this.pacer.clear();
    for (const place of this.byKey.values()) rest(place);
  }

  /** Asks for those that were refused; after a new token they may be allowed. */
  askIdle(): void {
    this.askAll('idle');
  }

  /** Asks once more for those that were granted: the server ended some, and does not say by a field which. */
  recheck(): void {
    this.askAll('live');
  }

  /** Forgets everything without a word to the server; who waits is told that the client was destroyed. */
  clear(): void {
    this.closed();
    const error = new RealtimeError(CLIENT_ERROR_CODES.destroyed, 'the client was destroyed');
    for (const { waiters } of this.byKey.values()) settle(waiters, (waiter) => { waiter.reject(error); });
    this.byKey.clear();
  }

  private add(key: string, target: PresenceTarget, channel: string | undefined): Place {
    const place: Place = {
      key,
      channel,
      target,
      data: undefined,
      version: 0,
      sent: 0,
      confirmed: undefined,
      phase: 'idle',
      isThere: false,
      queued: false,
      ticket: 0,
      failures: 0,
      retryTimer: undefined,
      waiters: [],
    };
    this.byKey.set(key, place);
    return place;
  }

  private drop(key: string): Place | undefined {
    const place = this.byKey.get(key);
    if (!place) return undefined;
    this.byKey.delete(key);
    rest(place);
    const error = notPresent('it was left before it was entered').at(place.target);
    settle(place.waiters, (waiter) => { waiter.reject(error); });
    return place;
  }

  private askAll(phase: Place['phase']): void {
    if (!this.open) return;
    for (const place of [...this.byKey.values()]) {
      if (place.phase === phase) this.ask(place);
    }
  }

  private ask(place: Place): void {
    clearTimeout(place.retryTimer);
    place.retryTimer = undefined;
    place.phase = 'requested';
    if (place.queued) return;
    place.queued = true;
    const { ticket } = place;
    this.pacer.run(() => {
      if (place.ticket !== ticket) return false;
      place.queued = false;
      const { version, data } = place;
      place.sent = version;
      const answered = (reply: Reply): void => {
        if (place.ticket === ticket) this.answered(place, { version, data }, reply);
      };
      // To enter again is to update; unlike an update it also holds where the server had ended the presence.
      if (place.channel !== undefined) this.hooks.request('channel:join', { channel: place.channel }, answered);
      else this.hooks.request('presence:enter', { ...place.target, ...(data !== undefined && { data }) }, answered);
      return true;
    });
  }

  private answered(place: Place, asked: Pick<Place, 'version' | 'data'>, reply: Reply): void {
    const members = reply.ok ? readMembers(reply.result) : undefined;
    if (members) this.accept(place, asked, members);
    else this.refused(place, asked.version, reply.ok ? protocolError('the answer lacks members') : reply.error);
  }

  private accept(place: Place, { version, data }: Pick<Place, 'version' | 'data'>, members: PresenceMember[]): void {
    place.confirmed = { data };
    place.failures = 0;
    if (place.sent === version && !place.queued) place.phase = 'live';
    settle(waitersUpTo(place, version), (waiter) => { waiter.resolve(members); });
    if (place.isThere) return;
    place.isThere = true;
    if (place.channel === undefined) this.hooks.entered({ ...place.target, members });
    else this.hooks.joined({ channel: place.channel, members });
  }

  private refused(place: Place, version: number, refusal: RealtimeError): void {
    // A lost session is not this place's failure: the next session asks again.
    if (isLost(refusal)) return;
    const error = refusal.at(place.target);
    const waiters = waitersUpTo(place, version);
    const isLatest = place.sent === version && !place.queued;
    if (isLatest) this.settleRefusal(place, error, waiters.length > 0);
    if (waiters.length > 0) settle(waiters, (waiter) => { waiter.reject(error); });
    else if (isLatest) this.hooks.error(error);
  }

  /** The latest request failed: whoever asked takes it back, what was before is tried again. */
  private settleRefusal(place: Place, error: RealtimeError, isAwaited: boolean): void {
    rest(place);
    if (isAwaited && !place.confirmed) {
      this.byKey.delete(place.key);
      // Unanswered, the server may have entered the client nevertheless.
      if (error.code === CLIENT_ERROR_CODES.timeout) this.hooks.request('presence:leave', place.target, () => undefined);
      return;
    }
    if (isAwaited) place.data = place.confirmed?.data;
    if (isTransient(error)) this.askLater(place);
  }

  private askLater(place: Place): void {
    place.phase = 'waiting';
    const wait = backoffDelayMs(RETRY_DELAY_MS, place.failures);
    place.failures += 1;
    place.retryTimer = setTimeout(() => {
      this.ask(place);
    }, wait);
  }
}

/** That the client is not present, as the server says it too. */
export function notPresent(message: string): RealtimeError {
  return new RealtimeError(CLIENT_ERROR_CODES.notPresent, message, { name: 'ConflictError' });
}

/** Takes a place out of whatever is under way. */
function rest(place: Place): void {
  place.ticket += 1;
  place.phase = 'idle';
  place.isThere = false;
  place.queued = false;
  clearTimeout(place.retryTimer);
  place.retryTimer = undefined;
}

/** Takes out the waiters that the answer to `version` settles. */
function waitersUpTo({ waiters }: Place, version: number): Waiter[] {
  const later = waiters.findIndex((waiter) => waiter.version > version);
  return waiters.splice(0, later === -1 ? waiters.length : later);
}

function settle(waiters: Waiter[], how: (waiter: Waiter) => void): void {
  for (const waiter of waiters.splice(0)) how(waiter);
}

function newWaiter(version: number): Waiter {
  let resolve!: Waiter['resolve'];
  let reject!: Waiter['reject'];
  const promise = new Promise<PresenceMember[]>((fulfil, fail) => {
    resolve = fulfil;
    reject = fail;
  });
  return { version, promise, resolve, reject };
}

function channelKey(channel: string): string {
  return `joined ${channel}`;
}

function presenceKey(target: PresenceTarget): string {
  return 'channel' in target ? `in ${target.channel}` : `document ${target.document.service}/${target.document.id}`;
}
