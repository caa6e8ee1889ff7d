import { describe, expect, it, vi } from 'vitest';
import { RealtimeClient, type ConnectionChange } from '../src/index';
import { live, numbers, until, useServer } from './support';

const context = useServer();

const states = (changes: ConnectionChange[]): string[] => changes.map(({ state }) => state);

/** A target that counts its listeners. */
class CountingTarget extends EventTarget {
  count = 0;

  override addEventListener(...args: Parameters<EventTarget['addEventListener']>): void {
    this.count += 1;
    super.addEventListener(...args);
  }

  override removeEventListener(...args: Parameters<EventTarget['removeEventListener']>): void {
    this.count -= 1;
    super.removeEventListener(...args);
  }
}

/** Stands in for the browser's window and document. */
function fakeBrowser(): { online: () => void; visible: () => void; listeners: () => number } {
  const window = new CountingTarget();
  const document = Object.assign(new CountingTarget(), { visibilityState: 'visible' });
  vi.stubGlobal('addEventListener', window.addEventListener.bind(window));
  vi.stubGlobal('removeEventListener', window.removeEventListener.bind(window));
  vi.stubGlobal('document', document);
  return {
    online: () => window.dispatchEvent(new Event('online')),
    visible: () => document.dispatchEvent(new Event('visibilitychange')),
    listeners: () => window.count + document.count,
  };
}

describe('connecting', () => {
  it('happens on construction, over WebSocket, with the token', async () => {
    const { client, changes } = context.open();
    expect(client.state).toBe('connecting');
    await until(() => {
      expect(client.connected).toBe(true);
    });
    expect(states(changes)).toEqual(['connected']);
    expect(context.server.handshakes).toEqual(['static-token']);
    expect(context.server.sockets[0]?.conn.transport.name).toBe('websocket');
  });

  it('falls back to polling where WebSocket does not get through', async () => {
    await context.server.stop();
    await context.server.start({ transports: ['polling'] });
    const recorded = context.open();
    recorded.client.subscribe({ topic: 'a.b' });
    await live(recorded);
    context.server.append('a.b', { n: 1 });
    await until(() => {
      expect(numbers(recorded)).toEqual([1]);
    });
    expect(context.server.sockets[0]?.conn.transport.name).toBe('polling');
    expect(recorded.errors).toEqual([]);
  });

  it('tries polling first after WebSocket did not answer at all', async () => {
    await context.server.stop();
    await context.server.start({ transports: ['polling'] });
    context.server.swallowUpgrades();
    const { client, errors } = context.open({ requestTimeout: 200 });
    await until(() => {
      expect(client.connected).toBe(true);
    });
    expect(errors).toMatchObject([{ code: 'CONNECTION_FAILED', message: 'no connection within 400 ms' }]);
  });

  it('keeps the path of the URL as prefix', async () => {
    await context.server.stop();
    await context.server.start({ path: '/behind/a-proxy/socket.io/' });
    const { client } = context.open({ url: `${context.server.url}/behind/a-proxy/` });
    await until(() => {
      expect(client.connected).toBe(true);
    });
  });

  it('waits for connect() with autoConnect: false', async () => {
    const { client, changes } = context.open({ autoConnect: false });
    expect(client.state).toBe('disconnected');
    client.connect();
    client.connect();
    await until(() => {
      expect(client.connected).toBe(true);
    });
    expect(states(changes)).toEqual(['connecting', 'connected']);
    expect(context.server.handshakes).toHaveLength(1);
  });

  it('keeps subscriptions over disconnect() and connect()', async () => {
    const recorded = context.open();
    recorded.client.subscribe({ topic: 'a.b' });
    await live(recorded);
    recorded.client.disconnect();
    expect(recorded.client.state).toBe('disconnected');
    await until(() => {
      expect(context.server.sockets).toHaveLength(0);
    });
    context.server.append('a.b', { n: 1 });
    recorded.client.connect();
    await until(() => {
      expect(numbers(recorded)).toEqual([1]);
    });
  });

  it.each([
    [{ url: 'not a url', token: 'x' }],
    [{ url: 'ftp://localhost', token: 'x' }],
    [{ url: 'http://localhost', token: '' }],
    [{ url: 'http://localhost', token: 'x', getToken: 'x' as never }],
  ])('refuses %j', (options) => {
    expect(() => new RealtimeClient(options)).toThrowError(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }) as Error,
    );
  });
});

describe('reconnecting', () => {
  it('follows a cut transport', async () => {
    const { client, changes } = context.open();
    await until(() => {
      expect(client.connected).toBe(true);
    });
    context.server.cut();
    await until(() => {
      expect(states(changes)).toEqual(['connected', 'reconnecting', 'connected']);
    });
    expect(changes[1]?.reason).toBe('transport close');
  });

  it('follows a disconnect by the server, as of a slow consumer, and recovers', async () => {
    const recorded = context.open();
    recorded.client.subscribe({ topic: 'a.b' });
    await live(recorded);
    context.server.complain({ error: 'RateLimitError', code: 'SLOW_CONSUMER', message: 'too slow' });
    context.server.kick();
    await until(() => {
      expect(context.server.sockets).toHaveLength(0);
    });
    context.server.append('a.b', { n: 1 });
    await until(() => {
      expect(numbers(recorded)).toEqual([1]);
    });
    expect(recorded.errors.map(({ code }) => code)).toEqual(['SLOW_CONSUMER']);
    expect(states(recorded.changes)).toEqual(['connected', 'reconnecting', 'connected']);
  });

  it('does not happen with reconnection: false', async () => {
    const { client, changes } = context.open({ reconnection: false });
    await until(() => {
      expect(client.connected).toBe(true);
    });
    context.server.cut();
    await until(() => {
      expect(changes[1]).toEqual({ state: 'disconnected', reason: 'transport close' });
    });
  });

  it('gives up after the attempts, and starts anew when the browser is online or visible again', async () => {
    const browser = fakeBrowser();
    context.server.refuseHandshake = () => ({ message: 'BUSY: come back later' });
    const { client, changes, errors } = context.open({ reconnectionAttempts: 3, reconnectionDelay: 1 });
    const gaveUp = (times: number): Promise<void> =>
      until(() => {
        expect(errors.filter(({ code }) => code === 'RECONNECT_FAILED')).toHaveLength(times);
      });
    await gaveUp(1);
    expect(client.state).toBe('disconnected');
    expect(changes.at(-1)).toEqual({ state: 'disconnected', reason: 'RECONNECT_FAILED' });
    expect(context.server.handshakes).toHaveLength(1 + 3);
    expect(errors[0]).toMatchObject({ code: 'BUSY', message: 'come back later' });

    browser.online();
    expect(client.state).toBe('reconnecting');
    await gaveUp(2);
    expect(context.server.handshakes).toHaveLength(4 + 1 + 3);

    context.server.refuseHandshake = () => undefined;
    browser.visible();
    await until(() => {
      expect(client.connected).toBe(true);
    });
  });

  it('counts anew and tries at once when the browser comes back between two attempts', async () => {
    const browser = fakeBrowser();
    await context.server.stop();
    const { client, errors } = context.open({ reconnectionAttempts: 1, reconnectionDelay: 60_000 });
    await until(() => {
      expect(errors).toHaveLength(1);
    });
    expect(errors[0]?.code).toBe('CONNECTION_FAILED');
    browser.online();
    await until(() => {
      expect(errors).toHaveLength(2);
    });
    // One attempt was allowed and made: counted anew, there is one again.
    expect(client.state).toBe('reconnecting');
    await context.server.start();
    browser.visible();
    await until(() => {
      expect(client.connected).toBe(true);
    });
  });

  it('is not started by the browser after disconnect()', async () => {
    const browser = fakeBrowser();
    const { client } = context.open();
    await until(() => {
      expect(client.connected).toBe(true);
    });
    client.disconnect();
    browser.online();
    expect(client.state).toBe('disconnected');
  });

  it('counts attempts in a row: a success in between starts anew', async () => {
    const { client, changes, errors } = context.open({ reconnectionAttempts: 1, reconnectionDelay: 1 });
    for (let round = 1; round <= 3; round += 1) {
      await until(() => {
        expect(states(changes).filter((state) => state === 'connected')).toHaveLength(round);
      });
      context.server.cut();
    }
    await until(() => {
      expect(client.connected).toBe(true);
    });
    expect(errors).toEqual([]);
  });
});

describe('destroy', () => {
  it('closes, forgets and is idempotent', async () => {
    const browser = fakeBrowser();
    const recorded = context.open();
    const { client } = recorded;
    client.subscribe({ topic: 'a.b' });
    await live(recorded);
    expect(browser.listeners()).toBe(2);
    client.destroy();
    client.destroy();
    expect(client.state).toBe('disconnected');
    expect(recorded.changes.at(-1)).toEqual({ state: 'disconnected', reason: 'client disconnect' });
    expect(browser.listeners()).toBe(0);
    await until(() => {
      expect(context.server.sockets).toHaveLength(0);
    });
    expect(() => {
      client.connect();
    }).toThrowError('destroyed');
    expect(() => client.subscribe({ topic: 'a.b' })).toThrowError('destroyed');
    await expect(client.publish('a.b', {})).rejects.toMatchObject({ code: 'DESTROYED' });
  });

  it('during the handshake leaves nothing behind', async () => {
    const { client, changes, errors } = context.open();
    client.destroy();
    // A later client's session shows that the first one's handshake had time to arrive.
    const second = context.open();
    await until(() => {
      expect(second.client.connected).toBe(true);
    });
    expect(context.server.sockets).toHaveLength(1);
    expect(states(changes)).toEqual(['disconnected']);
    expect(errors).toEqual([]);
  });
});
