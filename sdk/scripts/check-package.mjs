/**
 * Looks at what `npm run build` made, as a user of the package would: it loads by `require` and by `import`,
 * and the browser's bundle imports nothing.
 *
 * Run by `npm run check:package` (needs `--experimental-vm-modules` to read a module's imports).
 */

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { SourceTextModule } from 'node:vm';

const name = '@smarterservices/realtime';
const expected = [
  'CLIENT_ERROR_CODES',
  'RealtimeClient',
  'RealtimeError',
  'SyncClient',
  'applyDiff',
  'decodeToken',
  'getTokenExpiresIn',
  'isTokenExpired',
  'shouldRefreshToken',
];

const required = createRequire(import.meta.url)(name);
assert.deepEqual(Object.keys(required).sort(), expected, 'require');

const imported = await import(name);
assert.deepEqual(Object.keys(imported).sort(), expected, 'import');

for (const { RealtimeClient } of [required, imported]) {
  const client = new RealtimeClient({ url: 'http://localhost', token: 'x', autoConnect: false });
  assert.equal(client.state, 'disconnected');
  client.destroy();
}

const source = await readFile(new URL('../dist/realtime.browser.js', import.meta.url), 'utf8');
const bundle = new SourceTextModule(source);
assert.deepEqual(bundle.dependencySpecifiers, [], 'imports of the browser bundle');
assert.doesNotMatch(source, /\b(?:require|import)\(\s*["'`]/, 'dynamic imports of the browser bundle');

console.log(`${name}: require, import and browser bundle (${(source.length / 1024).toFixed(0)} KiB) are in order`);
