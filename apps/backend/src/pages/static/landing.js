// Asks the server how it is, like any probe does.
const EVERY_MS = 5000;
const PATIENCE_MS = 4000;

async function look() {
  let state;
  try {
    const response = await fetch('/ready', { signal: AbortSignal.timeout(PATIENCE_MS), cache: 'no-store' });
    state = await response.json();
  } catch {
    state = { status: 'gone', parts: [] };
  }
  show(state);
}

function show({ status, parts = [] }) {
  const words = { ready: 'Everything is ready.', not_ready: 'Something is missing.', gone: 'The server does not answer.' };
  const summary = document.getElementById('summary');
  const text = words[status] ?? String(status);
  // Said aloud only when it changes.
  if (summary.textContent !== text) summary.textContent = text;
  summary.dataset.state = status;
  document.getElementById('parts').replaceChildren(...parts.map(part));
}

function part({ name, ok, message }) {
  const li = document.createElement('li');
  li.textContent = message ? `${name}: ${message}` : name;
  if (!ok) li.className = 'missing';
  return li;
}

async function watch() {
  for (;;) {
    if (!document.hidden) await look();
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

watch();
