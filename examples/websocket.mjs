// Follows a topic over a plain WebSocket. Browsers and Node.js 22 bring one; older ones need `npm install ws`.
//
//   node websocket.mjs order.updated
//
// REALTIME_URL and REALTIME_TOKEN say where and as whom. Without a token it asks a `realtime dev` on this machine.
const WebSocket = globalThis.WebSocket ?? (await import('ws')).WebSocket;
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

const address = new URL('/ws', url);
address.protocol = address.protocol.replace('http', 'ws');
// A browser cannot set headers on a WebSocket: the token travels as a subprotocol.
const socket = new WebSocket(address, ['realtime.v1', `token.${await token()}`]);

socket.addEventListener('open', () => {
  socket.send(JSON.stringify({ type: 'subscribe', topic, ref: 1 }));
});
socket.addEventListener('message', ({ data }) => {
  const frame = JSON.parse(data);
  if (frame.type === 'subscribed') console.error(`following ${topic}`);
  if (frame.type === 'event') console.log(frame.data.type, JSON.stringify(frame.data.payload));
  if (frame.type === 'error') console.error(`${frame.message} (${frame.code})`);
});
socket.addEventListener('close', ({ code, reason }) => {
  console.error(`closed: ${code} ${reason}`);
  process.exit(1);
});
