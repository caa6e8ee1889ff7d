import { describe, expect, it } from 'vitest';
import { live, numbers, until, useServer } from './support';

const context = useServer();

/** Appends `{ n }` for each number. */
function append(topic: string, from: number, to: number): void {
  for (let n = from; n <= to; n += 1) context.server.append(topic, { n });
}

describe('recovery', () => {
  it('goes on after the last event delivered', async () => {
    const recorded = context.open();
    recorded.client.subscribe({ topic: 'a.b' });
    await live(recorded);
    append('a.b', 1, 2);
    await until(() => {
      expect(numbers(recorded)).toEqual([1, 2]);
    });
    context.server.cut();
    append('a.b', 3, 5);
    await live(recorded, 2);
    append('a.b', 6, 6);
    await until(() => {
      expect(numbers(recorded)).toEqual([1, 2, 3, 4, 5, 6]);
    });
    expect(context.server.sent('subscribe')[1]).toEqual({ topic: 'a.b', since: { epoch: 'e1', offset: 2 } });
    expect(recorded.contexts.map(({ recovered }) => recovered)).toEqual([false, false, true, true, true, false]);
    expect(recorded.subscribed[1]).toMatchObject({ recovered: true, offset: 5 });
    expect(recorded.gaps).toEqual([]);
  });

  it('pages until there is no more, in order and before live events', async () => {
    context.server.pageSize = 3;
    append('a.b', 1, 7);
    let pages = 0;
    context.server.beforeAnswer = () => {
      pages += 1;
      // Live right after the last page was read: its frame follows the answer on the wire.
      if (pages === 3) setImmediate(() => context.server.append('a.b', { n: 8 }));
    };
    const recorded = context.open();
    recorded.client.subscribe({ topic: 'a.b', since: { epoch: 'e1', offset: 0 } });
    await until(() => {
      expect(numbers(recorded)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    });
    const [first, second, third] = context.server.sent('subscribe');
    expect(first).toEqual({ topic: 'a.b', since: { epoch: 'e1', offset: 0 } });
    expect(second).toEqual({ topic: 'a.b', since: { epoch: 'e1', offset: 3 }, subscriptionId: 'srv_1' });
    expect(third).toEqual({ topic: 'a.b', since: { epoch: 'e1', offset: 6 }, subscriptionId: 'srv_1' });
    expect(recorded.subscribed).toHaveLength(1);
  });

  it('goes on where it was when the connection is lost between two pages', async () => {
    context.server.pageSize = 3;
    append('a.b', 1, 7);
    let pages = 0;
    context.server.beforeAnswer = () => {
      pages += 1;
      if (pages === 2) context.server.cut();
    };
    const recorded = context.open();
    recorded.client.subscribe({ topic: 'a.b', since: { epoch: 'e1', offset: 0 } });
    await live(recorded);
    expect(numbers(recorded)).toEqual([1, 2, 3, 4, 5, 6, 7]);
    expect(context.server.sent('subscribe')[2]).toEqual({ topic: 'a.b', since: { epoch: 'e1', offset: 3 } });
  });

  it('drops a repeated event', async () => {
    const recorded = context.open();
    recorded.client.subscribe({ topic: 'a.b' });
    await live(recorded);
    const event = context.server.append('a.b', { n: 1 });
    context.server.deliver(event);
    // Without a position (a channel's message) the id alone tells.
    const message = { ...event, id: 'evt_message', payload: { n: 2 }, metadata: { timestamp: 1 } };
    context.server.deliver(message);
    context.server.deliver(message);
    append('a.b', 3, 3);
    await until(() => {
      expect(numbers(recorded)).toEqual([1, 2, 3]);
    });
  });

  it('drops what lies before the position, whatever its id, and does not go back', async () => {
    const recorded = context.open();
    recorded.client.subscribe({ topic: 'a.b' });
    await live(recorded);
    append('a.b', 1, 3);
    const event = context.server.topic('a.b').events[1];
    if (!event) throw new Error('the event was appended above');
    context.server.deliver({ ...event, id: 'evt_other' });
    await recorded.client.publish('c.d', {});
    context.server.cut();
    await live(recorded, 2);
    expect(numbers(recorded)).toEqual([1, 2, 3]);
    expect(context.server.sent('subscribe')[1]).toMatchObject({ since: { epoch: 'e1', offset: 3 } });
  });

  it('stops where a handler unsubscribes, and keeps the position where a handler disconnects', async () => {
    append('a.b', 1, 4);
    const recorded = context.open();
    const { client } = recorded;
    client.on('event', (event) => {
      if (event.payload['n'] === 2) client.disconnect();
    });
    const id = client.subscribe({ topic: 'a.b', since: { epoch: 'e1', offset: 0 } });
    await until(() => {
      expect(client.state).toBe('disconnected');
    });
    expect(numbers(recorded)).toEqual([1, 2]);
    client.on('event', (event) => {
      if (event.payload['n'] === 3) client.unsubscribe(id);
    });
    client.connect();
    await until(() => {
      expect(context.server.sent('unsubscribe')).toHaveLength(1);
    });
    expect(numbers(recorded)).toEqual([1, 2, 3]);
  });

  it('follows a position message', async () => {
    const recorded = context.open();
    recorded.client.subscribe({ topic: 'a.b', filter: { n: 99 } });
    await live(recorded);
    append('a.b', 1, 5);
    context.server.announcePosition('a.b', { epoch: 'e1', offset: 5 });
    // An older position never takes the subscription back.
    context.server.announcePosition('a.b', { epoch: 'e1', offset: 2 });
    await recorded.client.publish('c.d', {});
    context.server.cut();
    await live(recorded, 2);
    expect(context.server.sent('subscribe')[1]).toMatchObject({ since: { epoch: 'e1', offset: 5 } });
    expect(recorded.gaps).toEqual([]);
  });
});

describe('gaps', () => {
  it('are announced where history no longer reaches back', async () => {
    const recorded = context.open();
    const id = recorded.client.subscribe({ topic: 'a.b' });
    await live(recorded);
    append('a.b', 1, 1);
    await until(() => {
      expect(numbers(recorded)).toEqual([1]);
    });
    context.server.cut();
    append('a.b', 2, 5);
    context.server.trim('a.b', 4);
    await live(recorded, 2);
    expect(recorded.gaps).toEqual([{ subscriptionId: id, topic: 'a.b', epoch: 'e1', offset: 5 }]);
    append('a.b', 6, 6);
    await until(() => {
      expect(numbers(recorded)).toEqual([1, 6]);
    });
    expect(recorded.gaps).toHaveLength(1);
  });

  it('are announced for a first subscription whose position is not known to the server', async () => {
    const recorded = context.open();
    recorded.client.subscribe({ topic: 'a.b', since: { epoch: 'e0', offset: 7 } });
    await live(recorded);
    expect(recorded.gaps).toEqual([{ subscriptionId: 'sub_1', topic: 'a.b', epoch: 'e1', offset: 0 }]);
  });

  it('are announced once when the epoch changed while away', async () => {
    const recorded = context.open();
    recorded.client.subscribe({ topic: 'a.b' });
    await live(recorded);
    context.server.cut();
    context.server.loseHistory('a.b', 'e2');
    await live(recorded, 2);
    expect(recorded.gaps).toMatchObject([{ epoch: 'e2', offset: 0 }]);
  });

  it('are announced before the first live event of a new epoch', async () => {
    const recorded = context.open();
    const order: string[] = [];
    recorded.client.on('gap', ({ epoch }) => order.push(`gap ${epoch}`));
    recorded.client.on('event', ({ id }) => order.push(id));
    recorded.client.subscribe({ topic: 'a.b' });
    await live(recorded);
    append('a.b', 1, 3);
    context.server.loseHistory('a.b', 'e2');
    append('a.b', 4, 4);
    await until(() => {
      expect(order).toEqual(['evt_a.b_e1_1', 'evt_a.b_e1_2', 'evt_a.b_e1_3', 'gap e2', 'evt_a.b_e2_1']);
    });
  });

  it('are announced when a position message says so, or changes the epoch', async () => {
    const recorded = context.open();
    recorded.client.subscribe({ topic: 'a.b' });
    await live(recorded);
    context.server.announcePosition('a.b', { epoch: 'e1', offset: 9, gap: true });
    context.server.announcePosition('a.b', { epoch: 'e2', offset: 1 });
    await until(() => {
      expect(recorded.gaps).toMatchObject([
        { epoch: 'e1', offset: 9 },
        { epoch: 'e2', offset: 1 },
      ]);
    });
  });

  it('are not announced for a fresh subscription', async () => {
    append('a.b', 1, 3);
    const recorded = context.open();
    recorded.client.subscribe({ topic: 'a.b' });
    await live(recorded);
    expect(recorded.gaps).toEqual([]);
    expect(recorded.events).toEqual([]);
  });
});
