// Follows a topic with nothing but socket.io-client.
//
//   npm install socket.io-client
//   node socketio.mjs order.updated
//
// REALTIME_URL and REALTIME_TOKEN say where and as whom. Without a token it asks a `realtime dev` on this machine.
import { io } from 'socket.io-client';

const url = process.env.REALTIME_URL ?? 'http://localhost:3000';
const topic = process.argv[2] ?? 'order.updated';

async function token() {
  if (process.env.REALTIME_TOKEN) return process.env.REALTIME_TOKEN;
  const response = await fetch(new URL('/auth/token', url), {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ applicationId: 'app_default', environment: 'development', permissions: ['client'] }),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(`${answer.message} (${answer.code})`);
  return answer.token;
}

const socket = io(url, { transports: ['websocket'], auth: { token: await token() } });
let position; // where we are in the topic: what a reconnection goes on from

socket.on('connect', async () => {
  const answer = await socket.emitWithAck('subscribe', { topic, since: position });
  if (!answer.ok) {
    console.error(`${answer.message} (${answer.code})`);
    process.exit(1);
  }
  console.error(`following ${topic}`);
  if (position && !answer.recovered) console.error('some events were lost');
  answer.events.forEach(show);
  position = { epoch: answer.epoch, offset: answer.offset };
});
socket.on('event', show);
socket.on('position', ({ epoch, offset }) => {
  position = { epoch, offset };
});
socket.on('connect_error', (error) => console.error(error.message));
socket.on('error', (error) => console.error(`${error.message} (${error.code})`));

function show(event) {
  console.log(event.type, JSON.stringify(event.payload));
  position = { epoch: event.metadata.epoch, offset: event.metadata.offset };
}
