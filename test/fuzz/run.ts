/**
 * npm run fuzz [-- --seconds 60] [--parsers]: libFuzzer over program words and kernels under AddressSanitizer, then mutants for
 * the parsers written in TypeScript, each for its time. `--parsers` leaves libFuzzer, which needs clang, out. A failing input is
 * printed and kept in build-native/.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { build, must } from '../native/build.ts';
import { mutator } from './mutate.ts';
import { targets } from './parsers.ts';

const { values } = parseArgs({
  options: { seconds: { type: 'string', default: '60' }, parsers: { type: 'boolean', default: false } },
});
const seconds = Number(values.seconds);
if (!(seconds > 0)) throw new RangeError(`--seconds must be a positive number, got ${values.seconds}`);
mkdirSync('build-native', { recursive: true });

if (!values.parsers) {
  const grown = join('build-native', 'corpus');
  mkdirSync(grown, { recursive: true });
  const limits = [`-max_total_time=${seconds}`, '-max_len=512', '-timeout=60', '-print_final_stats=1', '-verbosity=0'];
  must(join(build('address'), 'fuzz_program'), [
    ...limits,
    '-artifact_prefix=build-native/',
    grown,
    'test/fuzz/corpus/program',
  ]);
}

const bytes = (list: readonly (string | Uint8Array)[]) => list.map((item) => Buffer.from(item as string));
const seed = Date.now() % 2 ** 32;
for (const { name, seeds, words, check } of targets) {
  const mutant = mutator(bytes(seeds), bytes(words), seed);
  const until = performance.now() + seconds * 1000;
  let runs = 0;
  while (performance.now() < until)
    for (let i = 0; i < 500; i++, runs++) {
      const input = mutant();
      try {
        await check(input);
      } catch (error) {
        const file = join('build-native', `crash-${name.replaceAll(' ', '-')}`);
        writeFileSync(file, input);
        throw new Error(`${name}, seed ${seed}, run ${runs}: ${file}`, { cause: error });
      }
    }
  console.log(`${name}: ${runs} runs in ${seconds} s, seed ${seed}`);
}
