// Further instances beside a platform: real `backend` processes on its database and its Redis.
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { freePort, pause, root, within } from './platform.mjs';

export const binary = process.env.BACKEND_BINARY ?? join(root, 'target/debug/backend');

const READY_WITHIN_MS = 90_000;
const STOP_WITHIN_MS = 30_000;

/** Those that run; a run that is broken off takes them along. */
const running = new Set();
process.once('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

export class Backend {
  /** An instance that is ready. `secretKey` is the platform's `REALTIME_SECRET_KEY`, `settings` are variables of its own. */
  static async start(platform, secretKey, settings = {}) {
    const backend = new Backend();
    backend.port = await freePort();
    backend.url = `http://127.0.0.1:${backend.port}`;
    backend.said = '';
    const env = {
      PATH: process.env.PATH,
      NODE_ENV: 'development',
      HOST: '127.0.0.1',
      PORT: String(backend.port),
      LOG_LEVEL: 'warn',
      DATABASE_URL: platform.place.databaseUrl,
      REALTIME_SECRET_KEY: secretKey,
      ...(platform.redis && { REDIS_URL: platform.redis.url }),
      ...settings,
    };
    const child = spawn(binary, [], { cwd: platform.folder, env, stdio: ['ignore', 'pipe', 'pipe'] });
    running.add(child);
    backend.child = child;
    backend.exited = new Promise((resolve) => child.once('exit', resolve)).finally(() => running.delete(child));
    const keep = (text) => {
      backend.said = (backend.said + text).slice(-8_000);
    };
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    await within('the backend', READY_WITHIN_MS, backend.ready());
    return backend;
  }

  async ready() {
    for (;;) {
      if (this.child.exitCode !== null) throw new Error(`the backend ended with ${this.child.exitCode}: ${this.said}`);
      const answer = await fetch(`${this.url}/ready`).catch(() => undefined);
      if (answer?.ok) return;
      await pause(50);
    }
  }

  /** `kill -9`. */
  async kill() {
    this.child.kill('SIGKILL');
    await this.exited;
  }

  /** Stops it in order, or by force. */
  async stop() {
    this.child.kill('SIGTERM');
    await within('the stop', STOP_WITHIN_MS, this.exited).catch(() => this.kill());
  }
}
