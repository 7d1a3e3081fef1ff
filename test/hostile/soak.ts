/**
 * npm run test:soak [-- --long] [--device cuda]: generations, loads and aborts by the thousand; at the end memory, descriptors, threads and
 * listeners are what they were after the warm-up, and the same text gave the same tokens, states and logits every time. The
 * short form is for CI; the long one takes up to half an hour.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { load } from '../../lib/index.ts';
import { tinyConfig, tinyPreprocessor, writeCheckpoint } from '../models/checkpoint.ts';
import { determinism } from './determinism.ts';

const { values } = parseArgs({
  options: { long: { type: 'boolean', default: false }, device: { type: 'string', default: 'cpu' } },
});
const device = values.device === 'cuda' ? 'cuda' : 'cpu';
const counts = values.long
  ? { generations: 100_000, loads: 10_000, aborts: 10_000, runs: 100 }
  : { generations: 3000, loads: 150, aborts: 300, runs: device === 'cuda' ? 100 : 5 };
// Here nothing but the package may take memory: under tsx another thread keeps garbage of its own, where no gc() reaches it. More
// arenas and a young generation that comes and goes hold on to memory by chance, and hide what leaks.
if (!process.env.MALLOC_ARENA_MAX) {
  const outfile = join('build-soak', 'soak.mjs');
  const tsx = createRequire(import.meta.url).resolve('tsx');
  const { buildSync } = createRequire(tsx)('esbuild') as { buildSync(options: object): void };
  const entryPoints = [fileURLToPath(import.meta.url)];
  const target = `node${process.versions.node}`;
  buildSync({ entryPoints, outfile, bundle: true, packages: 'external', platform: 'node', format: 'esm', target });
  const flags = ['--expose-gc', '--max-semi-space-size=1', outfile];
  const { status } = spawnSync(process.execPath, [...flags, ...process.argv.slice(2)], {
    stdio: 'inherit',
    env: { ...process.env, MALLOC_ARENA_MAX: '2' },
  });
  process.exit(status ?? 1);
}
const { gc } = globalThis as unknown as { gc: () => void };

const dir = mkdtempSync(join(tmpdir(), 'vl-mamba-soak-'));
process.once('exit', () => rmSync(dir, { recursive: true, force: true }));
const text = { hidden_size: 32, num_hidden_layers: 2, time_step_rank: 2, state_size: 4 };
await writeCheckpoint(dir, { config: tinyConfig({ text }), preprocessor: tinyPreprocessor('siglip') });
const picture = { data: new Uint8Array(48).map((_, i) => i * 5), width: 4, height: 4, channels: 3 as const };

let failed = false;
function report(what: string, ok: boolean, figure: string): void {
  failed ||= !ok;
  console.log(`${ok ? 'ok  ' : 'FAIL'} ${what}: ${figure}`);
}

interface Footprint {
  /** Bytes. */
  rss: number;
  files: number;
  threads: number;
  /** MiB of the GPU's memory in use. */
  gpu: number;
}

/** By the driver's own account, which knows what a process holds without knowing it. */
function gpuMemory(): number {
  if (device === 'cpu') return 0;
  const first = process.env.CUDA_VISIBLE_DEVICES?.split(',')[0] || '0';
  const query = ['--query-gpu=memory.used', '--format=csv,noheader,nounits', `--id=${first}`];
  return Number(spawnSync('nvidia-smi', query, { encoding: 'utf8' }).stdout);
}

async function footprint(): Promise<Footprint> {
  for (let i = 0; i < 4; i++) {
    gc();
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  const linux = process.platform === 'linux';
  const status = linux ? readFileSync('/proc/self/status', 'utf8') : '';
  return {
    rss: linux ? Number(/VmRSS:\s+(\d+)/.exec(status)![1]) * 1024 : process.memoryUsage().rss,
    files: linux ? readdirSync('/proc/self/fd').length : 0,
    threads: linux ? readdirSync('/proc/self/task').length : 0,
    gpu: gpuMemory(),
  };
}

/** The median of the slopes between all pairs (Theil–Sen), times the number of samples: growth over the run. */
function growth(samples: number[]): number {
  const slopes: number[] = [];
  for (let i = 0; i < samples.length; i++)
    for (let j = i + 1; j < samples.length; j++) slopes.push((samples[j]! - samples[i]!) / (j - i));
  slopes.sort((a, b) => a - b);
  return (slopes[slopes.length >> 1] ?? 0) * samples.length;
}

/** Does something `count` times; the first half warms up, the second is measured. */
async function soak(what: string, count: number, once: (i: number) => PromiseLike<unknown>): Promise<void> {
  const start = performance.now();
  const samples: number[] = [];
  const every = Math.max(1, Math.floor(count / 100));
  let before: Footprint | undefined;
  for (let i = 0; i < count; i++) {
    await once(i);
    if (i === count >> 1) before = await footprint();
    if (i > count >> 1 && i % every === 0) samples.push((await footprint()).rss);
  }
  const after = await footprint();
  const grown = growth(samples);
  const seconds = ((performance.now() - start) / 1000).toFixed(0);
  const mib = (n: number) => (n / 2 ** 20).toFixed(2);
  report(
    `${count} ${what}`,
    grown < 4 * 2 ** 20 && after.files <= before!.files && after.threads <= before!.threads && after.gpu <= before!.gpu,
    `RSS ${mib(after.rss)} MiB, grown ${mib(grown)} MiB (${((100 * grown) / after.rss).toFixed(1)} %), ` +
      `descriptors ${before!.files} → ${after.files}, threads ${before!.threads} → ${after.threads}, ` +
      `${device === 'cpu' ? '' : `GPU ${before!.gpu} → ${after.gpu} MiB, `}${seconds} s`,
  );
}

const model = await load(dir, { device, threads: 2 });
await soak('generations', counts.generations, (i) =>
  model.generate({ prompt: `text ${i % 7}`, maxNewTokens: 3, temperature: i % 2, seed: i }),
);
await soak('generations about a picture', counts.generations / 10, (i) =>
  model.generate({ prompt: `<image> ${i % 7}`, images: [picture], maxNewTokens: 2 }),
);
const controllers = { listeners: 0 };
await soak('aborts', counts.aborts, async (i) => {
  const controller = new AbortController();
  const { signal } = controller;
  const add = signal.addEventListener.bind(signal);
  const remove = signal.removeEventListener.bind(signal);
  signal.addEventListener = ((...args: Parameters<typeof add>) => {
    controllers.listeners++;
    add(...args);
  }) as typeof add;
  signal.removeEventListener = ((...args: Parameters<typeof remove>) => {
    controllers.listeners--;
    remove(...args);
  }) as typeof remove;
  const generation = model.generate({ prompt: 'a b c', maxNewTokens: 1000, temperature: 1, seed: i, signal });
  setTimeout(() => controller.abort(), i % 4);
  await generation.catch(() => {});
});
report('listeners', controllers.listeners <= 0, String(controllers.listeners));
await model.dispose();
await soak('loads and disposes', counts.loads, async (i) => {
  const one = await load(dir, { device, threads: 1 + (i % 2) });
  if (i % 3 === 0) void one.generate({ prompt: 'a', maxNewTokens: 100, temperature: 1, seed: i });
  await one.dispose();
});

const { runs, results } = await determinism(dir, counts.runs, device);
report(
  `${runs} runs ${device === 'cpu' ? 'on 1 and 2 threads, whole and in pieces' : 'on a GPU'}, alone and with 63 neighbours`,
  results === 1,
  `${results} result`,
);
process.exitCode = failed ? 1 : 0;
