import { describe, expect, it } from 'vitest';
import { live, numbers, until, useServer } from './support';

const context = useServer();

describe('subscribing', () => {
  it('delivers events to the general and to the topic handler', async () => {
    const recorded = context.open();
    const topical: unknown[] = [];
    const other: unknown[] = [];
    recorded.client.on('event:order.updated', (event) => topical.push(event.payload['n']));
    recorded.client.on('event:order.deleted', (event) => other.push(event.payload['n']));
    expect(recorded.client.subscribe({ topic: 'order.updated' })).toBe('sub_1');
    await live(recorded);
    expect(recorded.subscribed).toEqual([
      { subscriptionId: 'sub_1', topic: 'order.updated', epoch: 'e1', offset: 0, recovered: false },
    ]);
    context.server.append('order.updated', { n: 1 });
    context.server.append('order.updated', { n: 2 });
    await until(() => {
      expect(numbers(recorded)).toEqual([1, 2]);
    });
    expect(topical).toEqual([1, 2]);
    expect(other).toEqual([]);
    expect(recorded.contexts[0]).toEqual({ subscriptionIds: ['sub_1'], recovered: false });
    expect(recorded.gaps).toEqual([]);
  });

  it('passes filter and return mode on', async () => {
    const recorded = context.open();
    const filter = { campusId: 12, status: { in: ['pending', 'active'] } };
    recorded.client.subscribe({ topic: 'session.status', filter, returnMode: 'diff' });
    await live(recorded);
    expect(context.server.sent('subscribe')).toEqual([{ topic: 'session.status', filter, returnMode: 'diff' }]);
  });

  it('says a refusal by an error that names the subscription, and asks again on the next session', async () => {
    context.server.refuse = (name) =>
      name === 'subscribe' ? { error: 'ForbiddenError', code: 'FORBIDDEN', message: 'no' } : undefined;
    const recorded = context.open();
    const id = recorded.client.subscribe({ topic: 'secret.topic' });
    await until(() => {
      expect(recorded.errors).toHaveLength(1);
    });
    expect(recorded.errors[0]).toMatchObject({
      code: 'FORBIDDEN',
      errorClass: 'ForbiddenError',
      subscriptionId: id,
      topic: 'secret.topic',
    });
    context.server.refuse = () => undefined;
    context.server.cut();
    await live(recorded);
    expect(recorded.subscribed[0]?.subscriptionId).toBe(id);
  });

  it('repeats a subscribe that failed for a passing reason', async () => {
    let refusals = 0;
    context.server.refuse = () =>
      refusals++ === 0 ? { error: 'RateLimitError', code: 'LIMIT_EXCEEDED', message: 'slow down' } : undefined;
    const recorded = context.open();
    recorded.client.subscribe({ topic: 'a.b' });
    await live(recorded);
    expect(context.server.sent('subscribe')).toHaveLength(2);
    expect(recorded.errors.map(({ code }) => code)).toEqual(['LIMIT_EXCEEDED']);
  });

  it('spreads many subscriptions over time, below the limit of messages', async () => {
    const recorded = context.open();
    for (let n = 0; n < 130; n += 1) recorded.client.subscribe({ topic: `topic.${n}` });
    await live(recorded, 100);
    expect(context.server.sent('subscribe').length).toBeLessThan(130);
    await live(recorded, 130);
  });
});

describe('unsubscribing', () => {
  it('tells the server its own id and drops what still comes', async () => {
    const recorded = context.open();
    const id = recorded.client.subscribe({ topic: 'a.b' });
    await live(recorded);
    const serverId = context.server.live[0]?.id;
    recorded.client.unsubscribe(id);
    context.server.append('a.b', { n: 1 });
    await until(() => {
      expect(context.server.sent('unsubscribe')).toEqual([{ subscriptionId: serverId }]);
    });
    expect(context.server.live).toEqual([]);
    await recorded.client.publish('other.topic', {});
    expect(recorded.events).toEqual([]);
  });

  it('before the answer came still ends it on the server', async () => {
    const recorded = context.open();
    await until(() => {
      expect(recorded.client.connected).toBe(true);
    });
    const id = recorded.client.subscribe({ topic: 'a.b' });
    recorded.client.unsubscribe(id);
    await until(() => {
      expect(context.server.sent('unsubscribe')).toHaveLength(1);
    });
    expect(context.server.live).toEqual([]);
    expect(recorded.subscribed).toEqual([]);
  });

  it('ignores an unknown id', () => {
    expect(() => {
      context.open().client.unsubscribe('sub_99');
    }).not.toThrow();
  });
});

describe('several subscriptions on one topic', () => {
  it('fire the handlers once for an event and say whom it is for', async () => {
    const recorded = context.open();
    recorded.client.subscribe({ topic: 'a.b' });
    recorded.client.subscribe({ topic: 'a.b', filter: { n: 2 } });
    await live(recorded, 2);
    context.server.append('a.b', { n: 1 });
    context.server.append('a.b', { n: 2 });
    await until(() => {
      expect(numbers(recorded)).toEqual([1, 2]);
    });
    expect(recorded.contexts.map(({ subscriptionIds }) => subscriptionIds)).toEqual([['sub_1'], ['sub_1', 'sub_2']]);
  });

  it('recover without a second delivery of the same event', async () => {
    const recorded = context.open();
    recorded.client.subscribe({ topic: 'a.b' });
    recorded.client.subscribe({ topic: 'a.b', filter: { n: 2 } });
    await live(recorded, 2);
    context.server.cut();
    context.server.append('a.b', { n: 1 });
    context.server.append('a.b', { n: 2 });
    await live(recorded, 4);
    context.server.append('a.b', { n: 3 });
    await until(() => {
      expect(numbers(recorded)).toEqual([1, 2, 3]);
    });
  });

  it('get a sync event in each of their return modes', async () => {
    const recorded = context.open();
    recorded.client.subscribe({ topic: 'sync.note.updated' });
    recorded.client.subscribe({ topic: 'sync.note.updated', returnMode: 'diff' });
    await live(recorded, 2);
    context.server.append('sync.note.updated', {}, { source: 'sync' });
    await until(() => {
      expect(recorded.events.map(({ payload }) => payload['mode'])).toEqual(['full', 'diff']);
    });
    expect(recorded.contexts.map(({ subscriptionIds }) => subscriptionIds)).toEqual([['sub_1'], ['sub_2']]);
  });
});
