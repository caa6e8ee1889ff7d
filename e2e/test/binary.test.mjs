// Binary payloads are not supported: bare clients that send them are told so, and go on.
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { io } from 'socket.io-client';
import { Platform, within } from '../lib/platform.mjs';

const SOON_MS = 10_000;

describe('a message with a Buffer', () => {
  let platform;

  before(async () => {
    platform = await Platform.start();
  });

  after(async () => platform?.stop());

  /** Sends messages with buffers over one transport; each is refused, and what follows is served. */
  async function refusedOver(transport) {
    const { url, token } = platform;
    const socket = io(url, { transports: [transport], auth: { token }, reconnection: false, forceNew: true });
    const binary = { first: Buffer.from([1, 2, 3]), second: new Uint8Array(1_000) };
    const topic = `binary.${transport}`;
    try {
      for (let n = 0; n < 4; n += 1) {
        const answer = await socket.timeout(SOON_MS).emitWithAck('publish', { topic, payload: binary });
        assert.equal(answer.ok, false);
        assert.equal(answer.error, 'ValidationError');
        assert.equal(answer.code, 'BINARY_NOT_SUPPORTED');
        assert.match(answer.message, /base64/);
      }
      const error = new Promise((resolve) => socket.once('error', resolve));
      socket.emit('publish', { topic, payload: binary });
      assert.equal((await within('the error', SOON_MS, error)).code, 'BINARY_NOT_SUPPORTED');
      const payload = { first: binary.first.toString('base64') };
      const published = await socket.timeout(SOON_MS).emitWithAck('publish', { topic, payload });
      assert.equal(published.ok, true);
      assert.equal(published.offset, 1);
    } finally {
      socket.disconnect();
    }
  }

  it('is refused over WebSocket', () => refusedOver('websocket'));

  it('is refused over long-polling', () => refusedOver('polling'));
});
