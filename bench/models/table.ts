/**
 * npx tsx bench/models/table.ts [--device cpu|cuda] [--dtype auto,int8,int4] [--llama FOLDER] [--keep FOLDER] [SIZES…]
 *
 * Whole models with random weights at public sizes (npm run random-checkpoint), by the device's own clock: a step of writing
 * for 1, 8 and 64 texts, reading a prompt, encoding a picture, the first token after a picture and a question, loading. The
 * limits beside them are measured just before. With --llama, llama.cpp runs the same sizes on the same CPU: FOLDER is one in
 * which `npm install node-llama-cpp` was run. With --keep, checkpoints stay in that folder and are taken from there.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { openDevice } from '../../lib/devices.ts';
import { load, type Model } from '../../lib/model.ts';
import { copyBandwidth } from '../cuda/kit.ts';
import { machine } from '../kit.ts';
import { peak } from '../peak.ts';
import { timeLlamaCpp } from './llama_cpp.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    device: { type: 'string', default: 'cuda' },
    dtype: { type: 'string', default: 'auto' },
    llama: { type: 'string' },
    keep: { type: 'string' },
  },
});
const sizes = positionals.length > 0 ? positionals : ['130m', '1.4b', 'siglip', 'clip', 'vl-2.8b'];
/** In memory where there is room: what is measured is not a disk. */
const scratch = values.keep ?? mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'vl-mamba-bench-'));

const median = (list: number[]) => list.sort((a, b) => a - b)[list.length >> 1]!;
const line = (name: string, ms: number, more = '') =>
  console.log(`${name.padEnd(44)}${ms.toFixed(3).padStart(10)}  ${more}`);

/** What the machine allows: bytes read and operations of products a second, in bf16 (or f32 where there is none) and in int8. */
interface Limits {
  read: number;
  multiply: number;
  int8: number;
}

/** Operations a second that an H200's tensor cores reach in bf16. */
const H200_MULTIPLY = 790e12;
/** Seconds of a scan for each channel, state and position on a CPU's two threads: our aim of 20 ms for 1536 · 16 · 2048. */
const CPU_SCAN = 0.02 / (1536 * 16 * 2048);

async function limitsOf(device: string): Promise<Limits> {
  const probe = await openDevice(device as 'cpu');
  try {
    if (probe.cuda) return { read: await copyBandwidth(probe), multiply: H200_MULTIPLY, int8: Number.NaN };
    const rows = peak(probe.threads);
    const rate = (what: string) => {
      const row = rows.find(({ name }) => name.includes(what));
      return 1e9 * (row?.gbps ?? row?.gflops ?? 0);
    };
    const multiply = rate('bf16') || rate('f32');
    return { read: rate('read'), multiply, int8: rate('int8') || multiply };
  } finally {
    await probe.dispose();
  }
}

/** The least seconds for reading `length` positions: products at full speed, and on a CPU the scans at their aim. */
function leastToRead({ config, device }: Model, length: number, multiply: number): number {
  const { numHiddenLayers, hiddenSize: d, intermediateSize: e, stateSize: n, timeStepRank: r, vocabSize } = config.text;
  const products = numHiddenLayers * (3 * d * e + e * (2 * r + 2 * n)) * length + d * vocabSize;
  const scans = device.name === 'cpu' ? numHiddenLayers * e * n * length * CPU_SCAN : 0;
  return (2 * products) / multiply + scans;
}

async function language(model: Model, { read: bandwidth }: Limits, multiply: number): Promise<void> {
  const vision = model.config.vision ? await model.profile('picture') : undefined;
  const read = (steps: { ms: number; gbps: number }[]) => steps.reduce((sum, { ms, gbps }) => sum + ms * gbps * 1e6, 0);
  const share = (least: number, ms: number) =>
    vision ? '' : `, ${((1e5 * least) / ms).toFixed(0)} % of the limit ${(1000 * least).toFixed(2)}`;
  for (const batch of [1, 8, 64]) {
    const { ms, steps } = await model.profile(1, { batch, rounds: 20 });
    const one = median(ms);
    const least = Math.min(read(steps), model.weightBytes) / bandwidth;
    line(`  decode, batch ${batch}`, one, `${((1000 * batch) / one).toFixed(0)} tokens a second${share(least, one)}`);
  }
  for (const length of model.device.name === 'cpu' ? [512] : [800, 2048]) {
    const one = median((await model.profile(length, { rounds: 5 })).ms);
    const speed = ((1000 * length) / one).toFixed(0);
    line(
      `  read ${length} positions`,
      one,
      `${speed} tokens a second${share(leastToRead(model, length, multiply), one)}`,
    );
  }
}

/** What llama.cpp calls the weights that we load as such a dtype. */
const PEERS = { auto: 'bf16', int8: 'q8_0', int4: 'q4_0' } as const;
type LoadedDtype = keyof typeof PEERS;

/** llama.cpp's times beside ours. */
async function beside(
  folder: string,
  size: string,
  { config, device: { threads } }: Model,
  dtype: LoadedDtype,
): Promise<void> {
  const type = PEERS[dtype];
  const path = join(scratch, `${size}-${type}.gguf`);
  const { token, read } = await timeLlamaCpp(folder, config.text, type, { threads, length: 512, path });
  if (!values.keep) rmSync(path);
  line(`  llama.cpp ${type}: decode, batch 1`, token, `${(1000 / token).toFixed(0)} tokens a second`);
  line(`  llama.cpp ${type}: read 512 positions`, read, `${(512_000 / read).toFixed(0)} tokens a second`);
}

/** From the call to the first token, and the JavaScript thread's share of a token. */
async function conversation(model: Model): Promise<void> {
  const side = model.config.vision!.imageSize;
  const image = { data: new Uint8Array(side * side * 3).fill(100), width: side, height: side, channels: 3 as const };
  const ask = (maxNewTokens: number) =>
    model.generate({ prompt: `<image>\n${'a b c d '.repeat(16)}`, images: [image], maxNewTokens });
  for (let i = 0; i < 3; i++) await ask(4);
  const first: number[] = [];
  for (let i = 0; i < 9; i++) first.push((await ask(1)).timings.firstToken);
  line('  picture and question to first token', median(first));
  const busy = async (maxNewTokens: number) => {
    const cpu = process.cpuUsage();
    const thread = performance.eventLoopUtilization();
    const { tokens, timings } = await ask(maxNewTokens);
    const { active } = performance.eventLoopUtilization(thread);
    const { user, system } = process.cpuUsage(cpu);
    return { active: 1000 * active, all: user + system, tokens: tokens.length, decode: timings.decode };
  };
  // Both read the picture and the question: what is left is the writing.
  const short = await busy(1);
  const long = await busy(256);
  const more = Math.max(1, long.tokens - short.tokens);
  const each = (key: 'active' | 'all') => ((long[key] - short[key]) / more).toFixed(0);
  line(
    '  writing, as a caller sees it',
    long.decode / more,
    `ms a token; JavaScript thread ${each('active')} µs, all threads ${each('all')} µs a token`,
  );
}

const probe = await openDevice(values.device as 'cuda');
console.log(`# ${machine(probe)}\n\n${''.padEnd(44)}${'ms'.padStart(10)}`);
await probe.dispose();
for (const size of sizes) {
  const dir = join(scratch, size);
  if (!existsSync(dir))
    execFileSync(process.execPath, ['--import', 'tsx', 'bench/models/random_checkpoint.ts', size, dir]);
  for (const dtype of values.dtype.split(',') as LoadedDtype[]) {
    const limits = await limitsOf(values.device);
    const multiply = dtype === 'auto' ? limits.multiply : limits.int8;
    const can = `${(limits.read / 1e9).toFixed(1)} GB/s, ${(multiply / 1e9).toFixed(0)} GFLOP/s`;
    const start = performance.now();
    const model = await load(dir, { device: values.device, dtype });
    const mib = (model.weightBytes / 2 ** 20).toFixed(0);
    line(`${size} ${dtype}`, performance.now() - start, `to load ${mib} MiB; the machine's limits: ${can}`);
    if (model.config.vision) line('  a picture', median((await model.profile('picture', { rounds: 20 })).ms));
    if (!['siglip', 'clip'].includes(size)) await language(model, limits, multiply);
    if (values.llama && !model.config.vision) await beside(values.llama, size, model, dtype);
    if (size.startsWith('vl-')) await conversation(model);
    await model.dispose();
  }
  if (!values.keep) rmSync(dir, { recursive: true });
}
if (!values.keep) rmSync(scratch, { recursive: true });
