/**
 * npm run test:churn [-- --long] [--device cuda] [terminations|exits|kills…]: workers that are terminated, processes that exit and processes that are killed, each at a
 * random place of its work, over the package as it is built. Nothing crashes or hangs; what was being written is there whole or
 * not at all. The short form is for CI.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { parseArgs } from 'node:util';
import { Worker } from 'node:worker_threads';
import { writeParts } from '../convert/kit.ts';
import { FakeHub } from '../hub/server.ts';
import { random } from '../kit.ts';
import { slowCheckpoint } from './model.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { long: { type: 'boolean', default: false }, device: { type: 'string', default: 'cpu' } },
});
const { device } = values;
const counts = values.long
  ? { terminations: 1000, exits: 200, kills: 200 }
  : { terminations: 60, exits: 15, kills: 15 };
const KINDS = ['loading', 'reading', 'looking', 'writing', 'writing several'];
/** Between being told to end and having ended: a hang, not a machine that is busy otherwise. */
const LIMIT_MS = 5000;

const { dir, remove } = await slowCheckpoint();
const place = mkdtempSync(join(tmpdir(), 'vl-mamba-churn-'));
process.once('exit', () => {
  remove();
  rmSync(place, { recursive: true, force: true });
});
const next = random(Date.now());
const wait = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const child = new URL('churn_child.mjs', import.meta.url);

function check(ok: boolean, what: string): void {
  if (!ok) throw new Error(what);
}

const entries = (folder: string) => (process.platform === 'linux' ? readdirSync(`/proc/self/${folder}`).length : 0);

/** Threads and descriptors of this process; what is about to end has a second to do so. */
async function footprint(most = 0): Promise<{ threads: number; descriptors: number }> {
  for (let i = 0; i < 100 && entries('task') > most; i++) await wait(10);
  return { threads: entries('task'), descriptors: entries('fd') };
}

async function terminate(what: string): Promise<number> {
  const worker = new Worker(child, { workerData: { dir, what, device } });
  await once(worker, 'message');
  await wait(next() * 40);
  const start = performance.now();
  await worker.terminate();
  return performance.now() - start;
}

async function terminations(): Promise<void> {
  const took: number[] = [];
  // A driver keeps its threads and descriptors from the first device on.
  await terminate('writing');
  for (const what of KINDS) {
    await terminate(what);
    const before = await footprint();
    for (let i = 0; i < counts.terminations / KINDS.length; i++) took.push(await terminate(what));
    const after = await footprint(before.threads);
    const grown = `${what}: ${JSON.stringify(before)}, afterwards ${JSON.stringify(after)}`;
    check(after.threads <= before.threads, grown);
    // Node itself loses the descriptor of a file that is just being opened when its worker is terminated.
    if (what !== 'loading') check(after.descriptors <= before.descriptors, grown);
  }
  took.sort((a, b) => a - b);
  const ms = (i: number) => took.at(i)!.toFixed(0);
  console.log(
    `${took.length} workers terminated in mid-work: median ${ms(took.length >> 1)} ms, 99th percentile ` +
      `${ms(Math.floor(took.length * 0.99))}, longest ${ms(-1)}; threads and descriptors as before`,
  );
  check(took.at(-1)! < LIMIT_MS, 'a worker took too long to end');
}

async function exits(): Promise<void> {
  let longest = 0;
  for (let i = 0; i < counts.exits; i++) {
    const exitAfter = next() * 40;
    const what = KINDS[i % KINDS.length];
    const one = spawn(process.execPath, [child.pathname, JSON.stringify({ dir, what, device, exitAfter })], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const closed = once(one, 'close');
    await once(one.stdout, 'data');
    const start = performance.now();
    const [status, signal] = (await closed) as [number | null, string | null];
    longest = Math.max(longest, performance.now() - start - exitAfter);
    check(status === 7, `process.exit(7) while ${what}: status ${status}, signal ${signal}`);
  }
  console.log(`${counts.exits} processes exited in mid-work: all with their status, longest ${longest.toFixed(0)} ms`);
  check(longest < LIMIT_MS, 'a process took too long to end');
}

/** Files under a folder by their path in it, those that are being written apart. */
function listing(folder: string): { whole: string[]; parts: string[] } {
  const all = existsSync(folder) ? (readdirSync(folder, { recursive: true }) as string[]) : [];
  const found = all.filter((file) => statSync(join(folder, file)).isFile()).sort();
  const part = (file: string) => /\.(partial|incomplete|tmp|lock)(\/|$)/.test(file);
  return { whole: found.filter((file) => !part(file)), parts: found.filter(part) };
}

/** Something that writes: its arguments for a place to write to, and what may be there afterwards. */
interface Writer {
  args: (out: string) => string[];
  env: (out: string) => NodeJS.ProcessEnv;
  /** Files that must be there all or not at all. */
  together: boolean;
}

function writers(hub: FakeHub, parts: Awaited<ReturnType<typeof writeParts>>): Record<string, Writer> {
  const pictures = join(place, 'pictures');
  mkdirSync(pictures);
  for (let i = 0; i < 8; i++) copyFileSync(join('models', 'demo', 'pictures', 'ring.png'), join(pictures, `${i}.png`));
  const { whole: _, ...flags } = parts;
  const convert = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, value]);
  return {
    convert: {
      args: (out) => ['convert', ...convert, '--shard-size', '50KB', join(out, 'model')],
      env: () => process.env,
      together: true,
    },
    pull: { args: () => ['pull', 'org/model'], env: (out) => hub.env(out), together: false },
    index: {
      args: (out) => ['index', pictures, '-m', join('models', 'demo'), '-o', join(out, 'library')],
      env: () => process.env,
      together: false,
    },
  };
}

/** Runs to the end, or for so many milliseconds after the first file has appeared. Returns the time from there on. */
async function run({ args, env }: Writer, out: string, until?: number): Promise<{ status: number | null; ms: number }> {
  const one = spawn(process.execPath, [join('dist', 'cli.mjs'), ...args(out)], { stdio: 'ignore', env: env(out) });
  const closed = once(one, 'close') as Promise<[number | null]>;
  while (one.exitCode === null && readdirSync(out, { recursive: true }).length === 0) await wait(1);
  const start = performance.now();
  if (until !== undefined) {
    await wait(until);
    one.kill('SIGKILL');
  }
  const [status] = await closed;
  return { status, ms: performance.now() - start };
}

async function kills(): Promise<void> {
  const hub = await new FakeHub().listen();
  const weights = Buffer.from(Uint8Array.from({ length: 2_000_000 }, () => next() * 256));
  hub.add('org/model', { 'config.json': '{}', 'tokenizer.json': '{}', 'model.safetensors': weights });
  hub.trick = ({ at, range }, response) => {
    if (at !== 'store' || range) return false;
    response.writeHead(200, { 'content-length': weights.length });
    const send = async () => {
      for (let sent = 0; sent < weights.length && !response.destroyed; sent += 50_000, await wait(3))
        response.write(weights.subarray(sent, sent + 50_000));
      response.end();
    };
    void send();
    return true;
  };
  const all = Object.entries(writers(hub, await writeParts(join(place, 'parts'))));
  const whole = new Map<string, { files: string[]; out: string; ms: number }>();
  for (const [name, writer] of all) {
    const out = mkdtempSync(join(place, `${name}-`));
    const { status, ms } = await run(writer, out);
    check(status === 0, `${name} ends with ${status}`);
    whole.set(name, { files: listing(out).whole, out, ms });
  }
  const seen = { nothing: 0, 'a part': 0, everything: 0 };
  let left = 0;
  for (let i = 0; i < counts.kills; i++) {
    const [name, writer] = all[i % all.length]!;
    const { files, out: expected, ms } = whole.get(name)!;
    const out = mkdtempSync(join(place, `${name}-`));
    await run(writer, out, next() * ms * 1.1);
    const found = listing(out);
    const equal = () => {
      for (const file of listing(out).whole)
        check(
          files.includes(file) && readFileSync(join(out, file)).equals(readFileSync(join(expected, file))),
          `${name} was killed and left ${file} (${basename(out)}) with other bytes`,
        );
    };
    equal();
    if (writer.together)
      check([0, files.length].includes(found.whole.length), `${name} left ${found.whole.join(', ')}`);
    seen[found.whole.length === files.length ? 'everything' : found.parts.length ? 'a part' : 'nothing']++;
    if (found.whole.length < files.length) {
      const again = await run(writer, out);
      check(again.status === 0, `${name} after it was killed ends with ${again.status}`);
      equal();
      check(listing(out).whole.length === files.length, `${name} after it was killed writes less`);
    }
    left += new Set(listing(out).parts.map((file) => /^.*\.(partial|incomplete|tmp|lock)/.exec(file)![0])).size;
    rmSync(out, { recursive: true, force: true });
  }
  hub.close();
  console.log(
    `${counts.kills} processes killed while they converted, fetched or indexed: ${seen['a part']} in the middle of a file, ` +
      `${seen.nothing} between files, ${seen.everything} when all was written; nothing of other bytes, and the same command ` +
      `then wrote the rest; ${left} temporary files or folders stayed behind`,
  );
}

for (const part of [terminations, exits, kills])
  if (positionals.length === 0 || positionals.includes(part.name)) await part();
