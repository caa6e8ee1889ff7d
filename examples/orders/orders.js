// Shows orders as they change. What it needs to know of the platform is in `start` and `show`; the rest is a table.
import { RealtimeClient } from '/sdk/realtime.browser.js';

const TOPICS = ['order.created', 'order.updated'];
const SHOWN = 25;
const SAMPLES = 100;

const orders = new Map(); // order id → { payload, at, latency }
const latencies = [];
let events = 0;
let recovered = 0;
const element = (id) => document.getElementById(id);

// `realtime dev` gives a token to pages on its own machine. Elsewhere this is a route of your server, which asks
// with its API key for the person who is signed in.
async function getToken() {
  const response = await fetch('/auth/token', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ applicationId: 'app_default', environment: 'development', sub: 'demo-page', permissions: ['client'] }),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(`${answer.message} (${answer.code})`);
  return answer.token;
}

async function start() {
  const client = new RealtimeClient({ url: location.origin, getToken });
  client.on('connection', ({ state }) => {
    element('connection').textContent = state;
    element('connection').dataset.state = state;
  });
  client.on('error', (error) => notice(error.message));
  const followed = new Set();
  client.on('subscribed', ({ topic }) => element('orders').setAttribute('aria-busy', followed.add(topic).size < TOPICS.length));
  client.on('event', (event, { recovered: late }) => show(event, late ? 'recovered' : 'live'));
  client.on('gap', ({ topic }) => {
    notice(`Some changes of ${topic} were lost; showing what is kept.`);
    load(client, topic).catch((error) => notice(error.message));
  });
  // The page keeps nothing: after a reload it shows what is kept, and goes on exactly behind it.
  for (const topic of TOPICS) {
    const since = await load(client, topic);
    client.subscribe({ topic, since });
  }
}

async function load(client, topic) {
  const { events: kept, epoch, offset } = await client.history(topic, { limit: SHOWN });
  for (const event of kept) show(event, 'history');
  return { epoch, offset };
}

function show(event, how) {
  const { orderId } = event.payload;
  const at = event.metadata.timestamp; // when the change was committed
  const latency = how === 'live' ? Math.max(0, Date.now() - at) : undefined;
  if (how === 'recovered') recovered += 1;
  if (how !== 'history') events += 1;
  if (latency !== undefined) {
    latencies.push(latency);
    if (latencies.length > SAMPLES) latencies.shift();
  }
  const known = orders.get(orderId);
  // Order holds within a topic, and these are two.
  if (!known || at >= known.at) {
    orders.delete(orderId);
    orders.set(orderId, { payload: event.payload, at, latency });
  }
  if (orders.size > SHOWN) orders.delete(orders.keys().next().value);
  render(how === 'live' ? orderId : undefined);
}

function render(changed) {
  const newest = [...orders.entries()].sort(([, a], [, b]) => b.at - a.at);
  element('orders').replaceChildren(...newest.map(([id, order]) => row(id, order, id === changed)));
  element('empty').hidden = orders.size > 0;
  element('count').textContent = String(events);
  element('recovered').textContent = String(recovered);
  if (latencies.length > 0) {
    element('last').textContent = `${latencies.at(-1)} ms`;
    const sorted = [...latencies].sort((a, b) => a - b);
    element('median').textContent = `${sorted[Math.floor(sorted.length / 2)]} ms`;
  }
}

function row(id, { payload, latency }, changed) {
  const tr = document.createElement('tr');
  tr.dataset.order = String(id);
  if (changed) tr.className = 'changed';
  const cell = (text, className) => {
    const td = document.createElement('td');
    td.textContent = text;
    if (className) td.className = className;
    tr.append(td);
    return td;
  };
  cell(`#${id}`);
  cell(payload.customer);
  cell(payload.status, 'status').dataset.status = payload.status;
  cell(Number(payload.total).toFixed(2), 'number');
  cell(latency === undefined ? '–' : `${latency} ms`, 'number');
  return tr;
}

function notice(text) {
  element('notice').textContent = text;
  element('notice').hidden = false;
}

start().catch((error) => notice(error.message));
