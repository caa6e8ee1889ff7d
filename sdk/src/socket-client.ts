/**
 * Channels and direct messages: the client's `socketClient`. Knows neither the socket nor recovery: messages are kept
 * nowhere, and where the client is, `Places` keeps.
 */

import { CLIENT_ERROR_CODES, RealtimeError } from './errors';
import { HandlerLists } from './events';
import type { Places } from './places';
import { Presence, type Ask } from './presence';
import type { MessageContext, MessageOptions, SocketMessage } from './types';

/** A handler of messages. `data` is what another client sent: check it before use. */
export type MessageHandler = (data: unknown, context: MessageContext) => void;

/** What the socket client needs of its surroundings. */
export interface SocketClientHooks {
  ask: Ask;
  error(error: RealtimeError): void;
  /** @throws RealtimeError `DESTROYED`. */
  assertAlive(): void;
}

/**
 * Named channels that clients join, and messages to single connections.
 *
 * Its calls return at once: that the server refused, or a direct message found nobody, is said by an `error` event
 * of the client. Every call but `off` throws `DESTROYED` where the client was destroyed.
 */
export class SocketClient {
  /** Who is there. */
  readonly presence: Presence;
  private readonly handlers = new HandlerLists();

  /** Made by the client; see {@link RealtimeClient.socketClient}. */
  constructor(
    private readonly places: Places,
    private readonly hooks: SocketClientHooks,
  ) {
    this.presence = new Presence(places, hooks.ask, () => {
      hooks.assertAlive();
    });
  }

  /**
   * Joins a channel, now or as soon as there is a connection, and again after every reconnection; a `joined` event
   * says when its messages are heard. Joining twice is joining once.
   *
   * @throws RealtimeError `INVALID_ARGUMENT`.
   */
  joinChannel(channel: string): void {
    this.hooks.assertAlive();
    this.places.join(required('channel', channel));
  }

  /** Leaves a channel: its messages are no longer heard. One that was not joined is ignored. */
  leaveChannel(channel: string): void {
    this.hooks.assertAlive();
    this.places.leaveChannel(channel);
  }

  /**
   * Says something to all members of a channel but this client; one need not be a member. While the client is
   * connecting or reconnecting the message waits for the connection, at most `requestTimeout`.
   *
   * @param event the message's name; the protocol's own are refused by the server.
   * @param data any JSON value.
   * @throws RealtimeError `INVALID_ARGUMENT`.
   */
  publish(channel: string, event: string, data: unknown, options: MessageOptions = {}): void {
    this.hooks.assertAlive();
    const frame = { channel: required('channel', channel), event: required('event', event), data };
    this.hooks.ask('channel:publish', { ...frame, ...(options.echo && { echo: true }) }).catch((error: unknown) => {
      this.failed(error, channel);
    });
  }

  /**
   * Says something to one connection, whichever instance it is on. Where it is not connected an `error` event with
   * `NOT_DELIVERED` follows.
   *
   * @param targetSocketId as `from.socketId` of a message or `socketId` of a member names it.
   * @throws RealtimeError `INVALID_ARGUMENT`.
   */
  directMessage(targetSocketId: string, event: string, data: unknown): void {
    this.hooks.assertAlive();
    const target = required('targetSocketId', targetSocketId);
    const sent = this.hooks.ask('direct:message', { targetSocketId: target, event: required('event', event), data });
    sent.then(
      ({ delivered }) => {
        if (delivered !== false) return;
        const message = `${event} was not delivered: ${target} is not connected`;
        this.hooks.error(new RealtimeError(CLIENT_ERROR_CODES.notDelivered, message));
      },
      (error: unknown) => {
        this.failed(error);
      },
    );
  }

  /**
   * Registers a handler of the messages with this name: of all joined channels, and direct ones.
   *
   * @throws TypeError where `handler` is no function.
   */
  on(event: string, handler: MessageHandler): void {
    this.hooks.assertAlive();
    this.handlers.add(event, handler);
  }

  /** Removes a handler: the same function that was given to `on`. */
  off(event: string, handler: MessageHandler): void {
    this.handlers.remove(event, handler);
  }

  /** Hands a message to the handlers of its name. @internal */
  receive({ data, ...context }: SocketMessage): void {
    this.handlers.call(context.event, [data, context]);
  }

  /** Forgets all handlers. @internal */
  clear(): void {
    this.handlers.clear();
  }

  private failed(thrown: unknown, channel?: string): void {
    if (!(thrown instanceof RealtimeError)) throw thrown;
    // The client's end needs no report.
    if (thrown.code === CLIENT_ERROR_CODES.destroyed) return;
    this.hooks.error(channel === undefined ? thrown : thrown.at({ channel }));
  }
}

function required(name: string, value: unknown): string {
  if (typeof value === 'string' && value !== '') return value;
  throw new RealtimeError(CLIENT_ERROR_CODES.invalidArgument, `${name} is required`);
}
