import { defineConfig } from 'tsdown';

export default defineConfig([
  {
    entry: { index: 'lib/index.ts' },
    format: ['esm', 'cjs'],
    dts: true,
    platform: 'node',
    target: 'node20',
    fixedExtension: true,
    outputOptions: { comments: false },
  },
  {
    entry: { cli: 'lib/cli.ts' },
    format: ['esm'],
    dts: false,
    clean: false,
    platform: 'node',
    target: 'node20',
    fixedExtension: true,
    outputOptions: { comments: false },
  },
]);
