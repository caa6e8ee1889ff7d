import { defineConfig } from 'tsup';

// Both builds run side by side into one folder, so the script empties it beforehand.
export default defineConfig([
  {
    // For bundlers and Node.js: socket.io-client stays an import.
    entry: { index: 'src/index.ts' },
    format: ['esm', 'cjs'],
    dts: true,
    target: 'es2020',
    platform: 'neutral',
    sourcemap: true,
  },
  {
    // For a page without a bundler: one ES module with everything inside.
    entry: { 'realtime.browser': 'src/index.ts' },
    format: ['esm'],
    dts: false,
    target: 'es2020',
    platform: 'browser',
    noExternal: [/.*/],
    minify: true,
    banner: {
      js: '/*! @smarterservices/realtime, Apache-2.0. Contains socket.io-client and its parts, MIT: see THIRD-PARTY-NOTICES.md of the package. */',
    },
    sourcemap: true,
    splitting: false,
  },
]);
