/** Applying the diff of a sync event to the data that the client holds. */

import { CLIENT_ERROR_CODES, RealtimeError } from './errors';
import type { JsonDiff } from './types';
import { isRecord } from './wire';

/**
 * The data after a change, of the data before it and the change's diff. `data` is left as it is; what did not change
 * is shared with the result.
 *
 * @throws RealtimeError `INVALID_ARGUMENT` where the diff is not one of this data: read the document anew then.
 */
export function applyDiff(data: Record<string, unknown>, diff: JsonDiff): Record<string, unknown> {
  const result = { ...data };
  for (const name of diff.removed) Reflect.deleteProperty(result, name);
  for (const [path, change] of Object.entries(diff.changed)) {
    // A name of the top may hold dots; the server never lets a path mean two things.
    const parts = has(data, path) ? [path] : path.split('.');
    assign(result, parts, change);
  }
  for (const [name, value] of Object.entries(diff.added)) define(result, name, value);
  return result;
}

/** Copies the objects on the way, so that those of the data before stay as they are. */
function assign(target: Record<string, unknown>, parts: string[], change: { to?: unknown }): void {
  let at = target;
  for (const part of parts.slice(0, -1)) {
    const inner = has(at, part) ? at[part] : undefined;
    if (!isRecord(inner)) throw new RealtimeError(CLIENT_ERROR_CODES.invalidArgument, `the data has no ${parts.join('.')}`);
    const copy = { ...inner };
    define(at, part, copy);
    at = copy;
  }
  const last = parts[parts.length - 1] ?? '';
  if ('to' in change) define(at, last, change.to);
  else Reflect.deleteProperty(at, last);
}

function has(target: object, name: string): boolean {
  return Object.prototype.hasOwnProperty.call(target, name);
}

/** As an own member, whatever its name: assigning to `__proto__` would do something else. */
function define(target: Record<string, unknown>, name: string, value: unknown): void {
  Object.defineProperty(target, name, { value, writable: true, enumerable: true, configurable: true });
}
