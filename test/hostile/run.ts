/**
 * npm run test:hostile [-- --asan]: what is hostile in the tests: files, pictures, texts, calls, states, ends. With --asan the
 * suites that reach the addon run over one with AddressSanitizer and UndefinedBehaviorSanitizer, two at once.
 */
import { spawn } from 'node:child_process';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { asanRuntime, build, must } from '../native/build.ts';

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
  const env = {
    ...process.env,
    VL_MAMBA_PREBUILD: resolve(build('address')),
    LD_PRELOAD: asanRuntime(),
    // Node itself leaves memory behind when it ends; leaks are what test:native looks for.
    ASAN_OPTIONS: 'detect_leaks=0,abort_on_error=1',
    UBSAN_OPTIONS: 'print_stacktrace=1',
  };
  const suites = [
    'lifetime/lifetime',
    'hostile/native',
    'hostile/ops',
    'hostile/api',
    'fuzz/parsers',
    'sessions/batching',
    'program',
  ];
  const run = (suite: string) =>
    new Promise<void>((resolve, reject) => {
      const file = join('test', `${suite}.test.ts`);
      const child = spawn(process.execPath, ['--expose-gc', '--import', 'tsx', file], { env });
      let output = '';
      child.stdout.on('data', (data) => (output += data));
      child.stderr.on('data', (data) => (output += data));
      child.on('error', reject);
      child.on('close', (status, signal) => {
        console.log(output);
        if (status === 0) resolve();
        else reject(new Error(`${file} under AddressSanitizer ended with ${signal ?? `status ${status}`}`));
      });
    });
  const lane = async () => {
    for (let suite = suites.shift(); suite; suite = suites.shift()) await run(suite);
  };
  await Promise.all([lane(), lane()]);
}
