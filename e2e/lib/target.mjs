// The database whose changes are followed, and the mapping that makes events of them.
import pg from 'pg';
import { pause } from './platform.mjs';

const LIVE_WITHIN_MS = 60_000;

export class Target {
  constructor(platform) {
    this.platform = platform;
  }

  /** Runs one statement on a connection of its own. */
  async sql(text, values) {
    const client = new pg.Client({ connectionString: this.platform.place.targetUrl, connectionTimeoutMillis: 5_000 });
    client.on('error', () => {});
    await client.connect();
    try {
      return (await client.query(text, values)).rows;
    } finally {
      await client.end();
    }
  }

  /** A table `id, title, n` and a mapping of its changes to `topic`, which is live when this resolves. */
  async follow(table, topic) {
    await this.sql(`create table ${table} (id bigint primary key, title text not null, n int not null)`);
    const mapping = await this.platform.rest('POST', '/api/database/mappings', {
      table,
      topic,
      events: ['insert', 'update', 'delete'],
      payload: { id: '$row.id', title: '$row.title', n: '$row.n' },
    });
    const until = Date.now() + LIVE_WITHIN_MS;
    for (;;) {
      const status = JSON.stringify(await this.platform.rest('GET', '/api/database/cdc/status'));
      const found = new RegExp(`"[a-zA-Z]*":"${mapping.id}"[^{}]*"state":"live"`).test(status);
      if (found) return;
      if (Date.now() > until) throw new Error(`the mapping does not become live: ${status}`);
      await pause(100);
    }
  }
}
