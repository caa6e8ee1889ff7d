/** Who is there: `socketClient.presence`. Checks arguments; where the client is, `Places` keeps. */

import { CLIENT_ERROR_CODES, RealtimeError } from './errors';
import { notPresent, type Places } from './places';
import type { PresenceMember, PresenceTarget } from './types';
import { isRecord, protocolError, readMembers } from './wire';

/** Asks the server once, waiting for a connection; throws where the client was destroyed. */
export type Ask = (name: string, payload: object) => Promise<Record<string, unknown>>;

/**
 * Presence in channels and documents. Changes of others come as `presence` events to those who are present themselves,
 * and for a channel to those who joined it.
 */
export class Presence {
  /** Made by the client; see {@link RealtimeClient.socketClient}. */
  constructor(
    private readonly places: Places,
    private readonly ask: Ask,
    private readonly assertAlive: () => void,
  ) {}

  /**
   * Is present from now on, and again after every reconnection, until `leave`. Where there is no connection yet this
   * waits for one.
   *
   * @param data what this client says of itself.
   * @returns who is present, this client included.
   * @throws RealtimeError the server's refusal: the client is then not present (or still as it was before).
   */
  async enter(target: PresenceTarget, data?: unknown): Promise<PresenceMember[]> {
    this.assertAlive();
    return this.places.enter(checked(target), data);
  }

  /**
   * Changes what this client says of itself.
   *
   * @throws RealtimeError `NOT_PRESENT`, or as `enter`.
   */
  async update(target: PresenceTarget, data: unknown): Promise<PresenceMember[]> {
    this.assertAlive();
    const place = checked(target);
    if (!this.places.isPresent(place)) throw notPresent('enter first').at(place);
    return this.places.enter(place, data);
  }

  /**
   * Is no longer present. Calling it where the client is not present does nothing.
   *
   * @throws RealtimeError the server's refusal; it is not entered again in any case.
   */
  async leave(target: PresenceTarget): Promise<void> {
    this.assertAlive();
    await this.places.leave(checked(target));
  }

  /**
   * Who is present; at most 1,000. One need not be present to ask.
   *
   * @throws RealtimeError `NOT_CONNECTED`, `TIMEOUT`, `CONNECTION_LOST`, or the server's refusal.
   */
  async get(target: PresenceTarget): Promise<PresenceMember[]> {
    const members = readMembers(await this.ask('presence:get', checked(target)));
    if (!members) throw protocolError('the answer to presence:get lacks members');
    return members;
  }
}

/** The target without anything else in it, as the server wants it. */
function checked(target: unknown): PresenceTarget {
  if (isRecord(target)) {
    const { channel, document } = target;
    if (isName(channel) && document === undefined) return { channel };
    if (channel === undefined && isRecord(document)) {
      const { service, id } = document;
      if (isName(service) && isName(id)) return { document: { service, id } };
    }
  }
  const rule = 'presence needs { channel } or { document: { service, id } }';
  throw new RealtimeError(CLIENT_ERROR_CODES.invalidArgument, rule);
}

function isName(value: unknown): value is string {
  return typeof value === 'string' && value !== '';
}
