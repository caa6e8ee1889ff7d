// The real `realtime dev` in a folder of its own, started, killed and stopped.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { startRedis } from './redis.mjs';

export const root = fileURLToPath(new URL('../..', import.meta.url));
export const binary = process.env.REALTIME_BINARY ?? join(root, 'target/debug/realtime');

const START_WITHIN_MS = 90_000;
const STOP_WITHIN_MS = 30_000;

/** Fails with what was awaited where it takes longer than `limit` ms. */
export async function within(what, limit, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took longer than ${limit} ms`)), limit);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

/** Those that run; a run that is broken off takes them along. */
const running = new Set();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.once(signal, () => {
    for (const platform of running) {
      platform.child?.kill('SIGKILL');
      platform.killPostgres();
      platform.redis?.kill();
    }
    process.exit(1);
  });
}

export class Platform {
  /** A platform in a new folder, started with these options beside its own. */
  static async start(...options) {
    const folder = await mkdtemp(join(tmpdir(), 'realtime-e2e-'));
    // The private PostgreSQL may run as another user, who must get to its data.
    await chmod(folder, 0o755);
    const platform = new Platform();
    Object.assign(platform, { folder, options, port: await freePort(), said: '' });
    running.add(platform);
    try {
      // The same tests hold wherever the event log is.
      if (process.env.REALTIME_TEST_LOG === 'redis') {
        platform.redis = await startRedis(await freePort(), folder);
        platform.options = [...options, '--redis-url', platform.redis.url];
      }
      await platform.up();
    } catch (error) {
      await platform.stop();
      throw error;
    }
    return platform;
  }

  /** Starts the process and reads where everything is. */
  async up() {
    const place = ['--port', String(this.port), '--data-dir', join(this.folder, 'data')];
    const args = ['dev', '--json', ...place, ...this.options];
    const child = spawn(binary, args, { cwd: this.folder, stdio: ['ignore', 'pipe', 'pipe'] });
    this.child = child;
    this.exited = new Promise((resolve) => child.once('exit', resolve));
    child.stderr.on('data', (text) => {
      this.said = (this.said + text).slice(-8_000);
    });
    const lines = createInterface({ input: child.stdout });
    const ended = this.exited.then((code) => {
      throw new Error(`realtime dev ended with ${code}: ${this.said}`);
    });
    const [line] = await within('the start', START_WITHIN_MS, Promise.race([once(lines, 'line'), ended]));
    ended.catch(() => {});
    this.place = JSON.parse(line);
  }

  get url() {
    return this.place.url;
  }

  get token() {
    return this.place.token;
  }

  /** `kill -9`. */
  async kill() {
    this.child.kill('SIGKILL');
    await this.exited;
  }

  /** Stops everything as Ctrl-C does, and whatever is left by force. */
  async stop() {
    if (this.child && this.child.exitCode === null && this.child.signalCode === null) {
      this.child.kill('SIGINT');
      await within('the stop', STOP_WITHIN_MS, this.exited).catch(() => this.kill());
    }
    this.killPostgres();
    await this.redis?.stop();
    running.delete(this);
    await rm(this.folder, { recursive: true, force: true });
  }

  /** Ends the private PostgreSQL, where the process that looked after it could not. */
  killPostgres() {
    try {
      const file = readFileSync(join(this.folder, 'data/postgres/cluster/postmaster.pid'), 'utf8');
      process.kill(Number(file.split('\n')[0]), 'SIGQUIT');
    } catch (error) {
      if (!['ENOENT', 'ESRCH'].includes(error.code)) throw error;
    }
  }

  /** Sets the installation up; answers the first person's session, who may do everything. */
  async setUp() {
    const person = { name: 'Ada', email: 'ada@example.com', password: 'a password for a test' };
    const { sessionToken } = await this.rest('POST', '/api/auth/setup', person);
    return sessionToken;
  }

  /** A REST call as administrator, or with another token; answers the body. */
  async rest(method, path, body, token = this.token) {
    const response = await fetch(this.url + path, {
      method,
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      body: body && JSON.stringify(body),
    });
    const answer = await response.json();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${JSON.stringify(answer)}`);
    return answer;
  }

  /** Where a topic stands. */
  async position(topic) {
    const { epoch, offset } = await this.rest('GET', `/api/topics/${topic}/history?limit=1`);
    return { epoch, offset };
  }

  /** Runs a command of the program against this platform; answers its exit code and output. */
  command(...args) {
    return this.program(...args, '--url', this.url, '--token', this.token);
  }

  /** Runs the program with exactly these arguments; answers its exit code and output. */
  async program(...args) {
    const child = spawn(binary, args, {
      cwd: this.folder,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let [output, errors] = ['', ''];
    child.stdout.on('data', (text) => (output += text));
    child.stderr.on('data', (text) => (errors += text));
    try {
      const [code] = await within(args.join(' '), 60_000, once(child, 'close'));
      return { code, output, errors };
    } finally {
      child.kill('SIGKILL');
    }
  }
}
