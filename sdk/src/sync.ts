/** Documents: the client's `sync`. Knows only REST; changes are followed by subscribing to `sync.<service>.*`. */

import { CLIENT_ERROR_CODES, RealtimeError } from './errors';
import { path, type RestAnswer, type RestClient, type RestRequest } from './rest';
import type { JsonDiff } from './types';
import { isRecord, protocolError } from './wire';

/** A document. */
export interface SyncDocument<Data = Record<string, unknown>> {
  /** Namespace, e.g. `session`. */
  service: string;
  id: string;
  /** 1 for the first; grows by 1 with every write. */
  revision: number;
  data: Data;
  /** Unix milliseconds. */
  createdAt: number;
  /** Unix milliseconds. */
  updatedAt: number;
  /** When it is deleted by itself, in Unix milliseconds. */
  expiresAt?: number;
  /** True in the answer to its deletion, which says what it said last. */
  deleted?: boolean;
}

/** One operation of `mutate`; `path` is a JSON pointer, e.g. `/items/0/count`. */
export type SyncMutation =
  | { op: 'set' | 'increment' | 'push' | 'pull' | 'merge'; path: string; value: unknown }
  | { op: 'unset'; path: string };

/** Operations, or an object whose members are set at the top. All apply or none. */
export type SyncMutations = readonly SyncMutation[] | Record<string, unknown>;

/** `committed`: the write is answered once it is committed in the database, not only in the cache before it. */
export type SyncDurability = 'acknowledged' | 'committed';

/** What any write may ask for. */
export interface SyncWriteOptions {
  /** The write fails with `REVISION_CONFLICT` where the document is at another revision. */
  expectedRevision?: number | undefined;
  /** The server's `SYNC_WRITE_MODE` where absent. */
  durability?: SyncDurability | undefined;
}

/** What `replace` and `merge` may ask for. */
export interface SyncUpdateOptions extends SyncWriteOptions {
  /** When the document is deleted by itself, in Unix milliseconds; null for never. As before where absent. */
  expiresAt?: number | null | undefined;
}

/** What `create` may ask for. */
export interface SyncCreateOptions {
  durability?: SyncDurability | undefined;
  /** When the document is deleted by itself, in Unix milliseconds. */
  expiresAt?: number | undefined;
  /** Creating again with the same key within 24 hours answers the first result and creates nothing. */
  idempotencyKey?: string | undefined;
}

/** Which documents `list` answers. */
export interface SyncListOptions {
  /** Those whose id begins so. */
  prefix?: string | undefined;
  /** 1 to 500; the server's default is 50. */
  limit?: number | undefined;
  /** `cursor` of the page before. */
  cursor?: string | undefined;
}

/** Which revisions `revisions` answers. */
export interface SyncRevisionOptions {
  /** 1 to 500; the server's default is 50. */
  limit?: number | undefined;
  /** `cursor` of the page before. */
  cursor?: string | undefined;
}

/** A page of documents, by id. */
export interface SyncDocumentPage<Data = Record<string, unknown>> {
  documents: SyncDocument<Data>[];
  /** Where the next page begins; absent on the last one. */
  cursor?: string;
}

/** What one revision changed. */
export interface SyncRevision {
  revision: number;
  operation: 'created' | 'updated' | 'deleted';
  diff: JsonDiff;
  /** The id of its event. */
  eventId: string;
  /** Unix milliseconds. */
  timestamp: number;
}

/** A page of revisions, newest first. */
export interface SyncRevisionPage {
  revisions: SyncRevision[];
  /** Where the next page begins; absent on the last one. */
  cursor?: string;
}

/**
 * Creates, reads and writes documents.
 *
 * Every call throws a RealtimeError: with the server's code (`NOT_FOUND`, `REVISION_CONFLICT`, …), or `TIMEOUT` and
 * `CONNECTION_LOST`, after which it is unknown whether a write happened.
 */
export class SyncClient {
  constructor(private readonly rest: RestClient) {}

  /** Creates a document; without `id` the server makes one, e.g. `doc_01jd…`. */
  async create<Data extends object = Record<string, unknown>>(
    service: string,
    data: Data,
    id?: string,
    options: SyncCreateOptions = {},
  ): Promise<SyncDocument<Data>> {
    const { expiresAt, durability, idempotencyKey } = options;
    return this.write({
      method: 'POST',
      path: path`/api/sync/${named('service', service)}/documents`,
      headers: { ...asking(durability), 'idempotency-key': idempotencyKey },
      body: { id, data, expiresAt },
    });
  }

  /** The document as it stands; `NOT_FOUND` where there is none. */
  async get<Data = Record<string, unknown>>(service: string, id: string): Promise<SyncDocument<Data>> {
    return this.write({ method: 'GET', path: place(service, id) });
  }

  /** Replaces all data. */
  async replace<Data extends object = Record<string, unknown>>(
    service: string,
    id: string,
    data: Data,
    options?: number | SyncUpdateOptions,
  ): Promise<SyncDocument<Data>> {
    const { expectedRevision, expiresAt, durability } = read(options);
    const body = { data, expectedRevision, expiresAt };
    return this.write({ method: 'PUT', path: place(service, id), headers: asking(durability), body });
  }

  /**
   * Merges `partial` into the data: objects member by member, at any depth; arrays and null replace what was there.
   * Without an expected revision, merges of several writers follow one another and none is lost.
   */
  async merge<Data = Record<string, unknown>>(
    service: string,
    id: string,
    partial: object,
    options?: number | SyncUpdateOptions,
  ): Promise<SyncDocument<Data>> {
    const { expectedRevision, expiresAt, durability } = read(options);
    const body = { data: partial, expectedRevision, expiresAt };
    return this.write({ method: 'PATCH', path: `${place(service, id)}/merge`, headers: asking(durability), body });
  }

  /** Applies mutations, all or none; as `merge` where several write. */
  async mutate<Data = Record<string, unknown>>(
    service: string,
    id: string,
    mutations: SyncMutations,
    options?: number | SyncWriteOptions,
  ): Promise<SyncDocument<Data>> {
    const { expectedRevision, durability } = read(options);
    const body = { mutations, expectedRevision };
    return this.write({ method: 'POST', path: `${place(service, id)}/mutate`, headers: asking(durability), body });
  }

  /** Deletes a document; answers what it said last. Its revisions are kept for a while: `restore` brings it back. */
  async delete<Data = Record<string, unknown>>(
    service: string,
    id: string,
    options?: number | SyncWriteOptions,
  ): Promise<SyncDocument<Data>> {
    const { expectedRevision, durability } = read(options);
    const query = { expectedRevision };
    return this.write({ method: 'DELETE', path: place(service, id), query, headers: asking(durability) });
  }

  /** The documents of a service, by id, page by page. */
  async list<Data = Record<string, unknown>>(
    service: string,
    options: SyncListOptions = {},
  ): Promise<SyncDocumentPage<Data>> {
    const { prefix, limit, cursor } = options;
    const where = path`/api/sync/${named('service', service)}/documents`;
    const answer = await this.rest.send({ method: 'GET', path: where, query: { prefix, limit, cursor } });
    return { documents: readList(answer).map((item) => readDocument<Data>(item)), ...next(answer) };
  }

  /** What the last revisions changed, newest first; those of a deleted document too. */
  async revisions(service: string, id: string, options: SyncRevisionOptions = {}): Promise<SyncRevisionPage> {
    const { limit, cursor } = options;
    const where = `${place(service, id)}/revisions`;
    const answer = await this.rest.send({ method: 'GET', path: where, query: { limit, cursor } });
    return { revisions: readList(answer).map(readRevision), ...next(answer) };
  }

  /** Puts the data of a kept revision back, as a new revision; a deleted document comes back by it. */
  async restore<Data = Record<string, unknown>>(
    service: string,
    id: string,
    revision: number,
    options?: number | SyncWriteOptions,
  ): Promise<SyncDocument<Data>> {
    const { expectedRevision, durability } = read(options);
    const body = { revision, expectedRevision };
    return this.write({ method: 'POST', path: `${place(service, id)}/restore`, headers: asking(durability), body });
  }

  private async write<Data>(request: RestRequest): Promise<SyncDocument<Data>> {
    return readDocument((await this.rest.send(request)).body);
  }
}

function place(service: string, id: string): string {
  return path`/api/sync/${named('service', service)}/documents/${named('id', id)}`;
}

/** An empty part would make another path of it, and `.` and `..` are steps in a path, escaped or not. */
function named(name: string, text: unknown): string {
  if (typeof text === 'string' && !['', '.', '..'].includes(text)) return text;
  throw new RealtimeError(CLIENT_ERROR_CODES.invalidArgument, `${name} is required`);
}

function read(options: number | SyncUpdateOptions | undefined): SyncUpdateOptions {
  return typeof options === 'number' ? { expectedRevision: options } : (options ?? {});
}

function asking(durability: SyncDurability | undefined): Record<string, string | undefined> {
  return { 'x-durability': durability };
}

function next(answer: RestAnswer): { cursor?: string } {
  const cursor = answer.headers.get('x-next-cursor');
  return cursor === null ? {} : { cursor };
}

function readList(answer: RestAnswer): unknown[] {
  if (!Array.isArray(answer.body)) throw protocolError('the answer is not a list');
  return answer.body;
}

function readDocument<Data>(value: unknown): SyncDocument<Data> {
  const fits =
    isRecord(value) &&
    typeof value['service'] === 'string' &&
    typeof value['id'] === 'string' &&
    typeof value['revision'] === 'number' &&
    isRecord(value['data']);
  if (!fits) throw protocolError('the answer is not a document');
  // What the data holds is the application's to know.
  return value as unknown as SyncDocument<Data>;
}

function readRevision(value: unknown): SyncRevision {
  const fits = isRecord(value) && typeof value['revision'] === 'number' && isRecord(value['diff']);
  if (!fits) throw protocolError('the answer is not a list of revisions');
  return value as unknown as SyncRevision;
}
