// Clients without any of our code: what the protocol promises to everybody. Each connects once and calls `onEvent`
// for every event, recovered ones first; `closed` resolves when the connection is over.
import { io } from 'socket.io-client';
import { WebSocket } from 'ws';

const OPEN_WITHIN_MS = 10_000;

/** A bare socket.io-client over one transport, or over several, of which it begins with the first. */
export function socketio(...transports) {
  return async ({ url, token, topic, since, returnMode, onEvent }) => {
    const socket = io(url, { transports, auth: { token }, reconnection: false, forceNew: true });
    const closed = new Promise((resolve) => socket.once('disconnect', resolve));
    socket.on('event', onEvent);
    try {
      await new Promise((resolve, reject) => {
        socket.once('connect', resolve);
        socket.once('connect_error', reject);
      });
      const { engine } = socket.io;
      if (engine.transport.name !== transports.at(-1)) {
        await new Promise((resolve) => engine.once('upgrade', resolve));
      }
      let answer = {};
      do {
        const place = answer.more ? { epoch: answer.epoch, offset: answer.offset } : since;
        const request = { topic, returnMode, since: place, subscriptionId: answer.subscriptionId };
        answer = await socket.timeout(OPEN_WITHIN_MS).emitWithAck('subscribe', request);
        if (!answer.ok) throw new Error(JSON.stringify(answer));
        answer.events.forEach(onEvent);
      } while (answer.more);
      return { recovered: answer.recovered, closed, close: () => socket.disconnect() };
    } catch (error) {
      socket.disconnect();
      throw error;
    }
  };
}

/** A plain WebSocket. */
export async function websocket({ url, token, topic, since, returnMode, onEvent }) {
  const socket = new WebSocket(`${url.replace('http', 'ws')}/ws`, ['realtime.v1', `token.${token}`]);
  const closed = new Promise((resolve) => socket.once('close', resolve));
  socket.on('error', () => {});
  const subscribe = (fields) => socket.send(JSON.stringify({ type: 'subscribe', topic, returnMode, ref: 1, ...fields }));
  return new Promise((resolve, reject) => {
    closed.then((code) => reject(new Error(`closed with ${code}`)));
    socket.on('open', () => subscribe({ since }));
    socket.on('message', (text) => {
      const frame = JSON.parse(text);
      if (frame.type === 'event') onEvent(frame.data);
      if (frame.type === 'error') reject(new Error(JSON.stringify(frame)));
      if (frame.type !== 'subscribed') return;
      frame.events.forEach(onEvent);
      const { epoch, offset, subscriptionId } = frame;
      if (frame.more) subscribe({ since: { epoch, offset }, subscriptionId });
      else resolve({ recovered: frame.recovered, closed, close: () => socket.close() });
    });
  });
}

/** `fetch` of the stream of server-sent events. `since` is the id of the last event, which `onEvent` gets too. */
export async function stream({ url, token, topic, since, returnMode, onEvent }) {
  const ending = new AbortController();
  const headers = { authorization: `Bearer ${token}`, ...(since && { 'last-event-id': since }) };
  const mode = returnMode ? `&returnMode=${returnMode}` : '';
  const response = await fetch(`${url}/api/stream?topic=${topic}${mode}`, { headers, signal: ending.signal });
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
  let subscribed;
  const began = new Promise((resolve) => (subscribed = resolve));
  const read = async () => {
    let text = '';
    for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
      text += piece;
      const messages = text.split('\n\n');
      text = messages.pop();
      for (const message of messages) {
        const fields = Object.fromEntries(
          message.split('\n').map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 2)]),
        );
        const data = JSON.parse(fields.data);
        if (fields.event === 'subscribed') subscribed(data.subscriptions[0].recovered);
        if (fields.event === 'event') onEvent(data, fields.id);
      }
    }
  };
  const closed = read().catch(() => {});
  const recovered = await Promise.race([began, closed.then(() => Promise.reject(new Error('the stream ended')))]);
  return { recovered, closed, close: () => ending.abort() };
}
