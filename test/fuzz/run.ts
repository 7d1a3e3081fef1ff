/**
 * npm run fuzz [-- --seconds 60] [--parsers]: libFuzzer over the words of programs and over programs that run, under AddressSanitizer
 * and UndefinedBehaviorSanitizer, and mutants for the parsers written in TypeScript, each for its time, two at once. `--parsers`
 * leaves libFuzzer, which needs clang, out. A failing input is printed and kept in build-native/.
 */
import { spawn } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { build } from '../native/build.ts';
import { mutator } from './mutate.ts';
import { targets } from './parsers.ts';

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '60' },
    parsers: { type: 'boolean', default: false },
    target: { type: 'string' },
  },
});
const seconds = Number(values.seconds);
if (!(seconds > 0)) throw new RangeError(`--seconds must be a positive number, got ${values.seconds}`);
mkdirSync('build-native', { recursive: true });

/** Gives mutants to one parser, in this process. */
async function mutants(name: string): Promise<void> {
  const { seeds, words, check } = targets.find((target) => target.name === name)!;
  const bytes = (list: readonly (string | Uint8Array)[]) => list.map((item) => Buffer.from(item as string));
  const seed = Date.now() % 2 ** 32;
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
  console.log(`executed_units: ${runs}`);
}

interface Job {
  name: string;
  command: string;
  args: string[];
}

function native(name: string, longest: number): Job {
  const grown = join('build-native', 'corpus', name);
  mkdirSync(grown, { recursive: true });
  const limits = [`-max_total_time=${seconds}`, `-max_len=${longest}`, '-timeout=60', '-print_final_stats=1'];
  // Entropic schedules cost half of the time here, where a run takes some microseconds.
  const pace = ['-verbosity=0', '-entropic=0', `-artifact_prefix=build-native/${name}-`];
  const corpora = [grown, join('test', 'fuzz', 'corpus', name)];
  return {
    name,
    command: join('build-native', 'address', `fuzz_${name}`),
    args: [...limits, ...pace, ...corpora],
  };
}

const parser = ({ name }: { name: string }): Job => ({
  name,
  command: process.execPath,
  args: [...process.execArgv, fileURLToPath(import.meta.url), '--seconds', String(seconds), '--target', name],
});

function run({ name, command, args }: Job): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    child.stdout.on('data', (data) => (output += data));
    child.stderr.on('data', (data) => (output += data));
    child.on('error', reject);
    child.on('close', (status, signal) => {
      const runs = /executed_units: (\d+)/.exec(output)?.[1];
      if (status === 0 && runs) console.log(`${name}: ${runs} runs in ${seconds} s`);
      else console.error(output);
      if (status === 0 && runs) resolve();
      else reject(new Error(`${name} ended with ${signal ?? `status ${status}`}`));
    });
  });
}

if (values.target) {
  await mutants(values.target);
} else {
  const jobs = targets.map(parser);
  if (!values.parsers) {
    build('address');
    jobs.unshift(native('program', 512), native('words', 4096));
  }
  const lane = async () => {
    for (let job = jobs.shift(); job; job = jobs.shift()) await run(job);
  };
  await Promise.all([lane(), lane()]);
}
