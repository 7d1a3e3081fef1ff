/**
 * npm run test:hostile [-- --asan]: what is hostile in the tests: files, pictures, texts, calls, states, ends. With --asan the
 * addon is built with AddressSanitizer and UndefinedBehaviorSanitizer, and the suites that reach it run over that build.
 */
import { spawnSync } from 'node:child_process';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { must } from '../native/build.ts';

const { values } = parseArgs({ options: { asan: { type: 'boolean', default: false } } });
if (!values.asan) {
  must(process.execPath, [
    '--import',
    'tsx',
    'test/run.ts',
    'hostile',
    'fuzz',
    'checkpoint',
    'text',
    'image',
    'lifetime',
  ]);
} else {
  const out = join('build-native', 'addon');
  must('npx', ['cmake-js', 'build', '--out', join(out, 'build'), '--CDVL_MAMBA_ASAN=ON']);
  const library = (name: string) => spawnSync('g++', [`-print-file-name=${name}`], { encoding: 'utf8' }).stdout.trim();
  for (const file of [
    'hostile/native',
    'hostile/ops',
    'hostile/api',
    'fuzz/parsers',
    'lifetime/lifetime',
    'sessions/batching',
  ])
    must(process.execPath, ['--expose-gc', '--import', 'tsx', join('test', `${file}.test.ts`)], {
      VL_MAMBA_PREBUILD: resolve(out),
      LD_PRELOAD: `${library('libasan.so')} ${library('libubsan.so')}`,
      // Node itself leaves memory behind when it ends; leaks are what test:native looks for.
      ASAN_OPTIONS: 'detect_leaks=0,abort_on_error=1',
      UBSAN_OPTIONS: 'print_stacktrace=1',
    });
}
