// A Redis server of a test's own, which keeps everything that it acknowledged.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';

const START_WITHIN_MS = 20_000;

async function answers(port) {
  const socket = connect(port, '127.0.0.1');
  try {
    await once(socket, 'connect');
    socket.write('PING\r\n');
    const [answer] = await once(socket, 'data');
    return answer.toString().startsWith('+PONG');
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

/** Starts a server on `port` with its files in `directory`; answers its URL and how to end it. */
export async function startRedis(port, directory) {
  const place = ['--port', String(port), '--bind', '127.0.0.1', '--dir', directory, '--save', ''];
  const durable = ['--appendonly', 'yes', '--appendfsync', 'always'];
  const child = spawn('redis-server', [...place, ...durable], { stdio: 'ignore' });
  const exited = once(child, 'exit');
  const deadline = Date.now() + START_WITHIN_MS;
  while (!(await answers(port))) {
    if (child.exitCode !== null || Date.now() > deadline) throw new Error('redis-server does not start');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const stop = async () => {
    child.kill('SIGKILL');
    await exited;
  };
  return { url: `redis://127.0.0.1:${port}`, stop, kill: () => child.kill('SIGKILL') };
}
