// Two instances on one database: what clients say to each other, and who is there, when one of them is killed.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Backend } from '../lib/backend.mjs';
import { Platform, pause, root, within } from '../lib/platform.mjs';
import { Proxy } from '../lib/proxy.mjs';

const ROOM = 'chat:room1';
const SOON_MS = 30_000;

/** A client of the SDK and all that it was told. */
class Person {
  constructor(RealtimeClient, name, url, token) {
    const client = new RealtimeClient({ url, token, reconnectionDelay: 100, reconnectionAttempts: 100 });
    Object.assign(this, { name, client, messages: [], presence: [], joined: [], entered: [], errors: [] });
    for (const event of ['joined', 'entered', 'presence']) client.on(event, (notice) => this[event].push(notice));
    client.on('message', (message) => this.messages.push(message));
    client.on('error', (error) => this.errors.push(error));
  }

  get socket() {
    return this.client.socketClient;
  }

  async until(what, done) {
    const wait = async () => {
      while (!done(this)) await pause(20);
    };
    const said = () => JSON.stringify({ ...this, client: this.client.state });
    await within(`${this.name}: ${what}`, SOON_MS, wait()).catch((error) => {
      throw new Error(`${error.message}; ${said()}`);
    });
  }

  async join() {
    this.socket.joinChannel(ROOM);
    await this.until('joins', ({ joined }) => joined.length === 1);
  }
}

describe('two instances', () => {
  let platform, here, there, proxy, alice, bob;

  before(async () => {
    // One key for all instances: they read each other's signing keys.
    const secretKey = randomBytes(32).toString('base64');
    process.env.REALTIME_SECRET_KEY = secretKey;
    platform = await Platform.start();
    [here, there] = await Promise.all([Backend.start(platform, secretKey), Backend.start(platform, secretKey)]);
    proxy = await Proxy.to(there);
    const { RealtimeClient } = await import(join(root, 'sdk/dist/index.js'));
    const person = async (sub, url) => {
      const asked = { applicationId: 'app_default', sub, permissions: ['service'] };
      const { token } = await platform.rest('POST', '/auth/token', asked);
      return new Person(RealtimeClient, sub, url, token);
    };
    alice = await person('alice', here.url);
    bob = await person('bob', proxy.url);
    await Promise.all([alice.join(), bob.join()]);
  });

  after(async () => {
    for (const person of [alice, bob]) person?.client.destroy();
    await proxy?.stop();
    await Promise.all([here, there].map((backend) => backend?.stop()));
    await platform?.stop();
  });

  it('carry a message from one to the other', async () => {
    const typing = [];
    bob.socket.on('typing', (data, context) => typing.push([data, context.from.clientId]));
    alice.socket.publish(ROOM, 'typing', { is: true });
    await bob.until('hears alice', () => typing.length > 0);
    assert.deepEqual(typing, [[{ is: true }, 'alice']]);
    const [message] = bob.messages;
    assert.equal(message.channel, ROOM);
    assert.equal(typeof message.from.socketId, 'string');
    assert.equal(alice.messages.length, 0, 'who says it does not hear it');
  });

  it('carry a direct message, and say where there is nobody', async () => {
    const target = bob.messages[0].from.socketId;
    bob.socket.directMessage(target, 'answer', [1, null]);
    await alice.until('hears bob', ({ messages }) => messages.length > 0);
    assert.equal(alice.messages[0].event, 'answer');
    assert.deepEqual(alice.messages[0].data, [1, null]);
    assert.equal(alice.messages[0].channel, undefined);
    assert.deepEqual([alice.errors, bob.errors], [[], []]);
    bob.socket.directMessage(`${target}x`, 'answer', 1);
    await bob.until('is told', ({ errors }) => errors.length > 0);
    assert.equal(bob.errors.pop().code, 'NOT_DELIVERED');
  });

  it('say who comes, changes and goes', async () => {
    for (const place of [{ channel: ROOM }, { document: { service: 'notes', id: '1' } }]) {
      await alice.socket.presence.enter(place);
      const seen = alice.presence.length;
      const members = await bob.socket.presence.enter(place, { status: 'here' });
      assert.deepEqual(members.map(({ clientId }) => clientId).sort(), ['alice', 'bob']);
      await bob.socket.presence.update(place, { status: 'away' });
      await bob.socket.presence.leave(place);
      await alice.until('sees bob go', ({ presence }) => presence.length === seen + 3);
      const changes = alice.presence.slice(seen);
      assert.deepEqual(changes.map(({ action }) => action), ['enter', 'update', 'leave']);
      assert.deepEqual(changes.map(({ member }) => member.data), [
        { status: 'here' },
        { status: 'away' },
        { status: 'away' },
      ]);
      const [who] = await bob.socket.presence.get(place);
      assert.equal(who.clientId, 'alice');
    }
  });

  it('take each other’s clients when one is killed', async () => {
    const place = { channel: ROOM };
    await bob.socket.presence.enter(place, 'still bob');
    const before = { joined: bob.joined.length, entered: bob.entered.length, seen: alice.presence.length };
    proxy.target = here;
    await there.kill();
    await bob.until('comes back', ({ joined, entered }) => joined.length > before.joined && entered.length > before.entered);

    const heard = bob.messages.length;
    alice.socket.publish(ROOM, 'welcome', 'back');
    await bob.until('hears alice again', ({ messages }) => messages.length > heard);
    assert.equal(bob.messages.at(-1).data, 'back');

    const isBob = ({ clientId, data }) => clientId === 'bob' && data === 'still bob';
    await alice.until('sees bob again', ({ presence }) => presence.slice(before.seen).some(({ member }) => isBob(member)));
    const changes = alice.presence.slice(before.seen).filter(({ channel }) => channel === ROOM);
    assert.equal(changes.at(-1).action, 'update', 'bob was never away');
    const members = await alice.socket.presence.get(place);
    assert.equal(members.filter(isBob).length, 1, 'the killed instance left nobody behind');
  });
});
