/**
 * npx tsx bench/models/table.ts [--device cpu|cuda] [SIZES…]
 *
 * Whole models with random weights at public sizes (npm run random-checkpoint), by the device's own clock: a step of writing
 * for 1, 8 and 64 texts, reading a prompt, encoding a picture, the first token after a picture and a question, loading.
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

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { device: { type: 'string', default: 'cuda' } },
});
const sizes = positionals.length > 0 ? positionals : ['130m', '1.4b', 'siglip', 'clip', 'vl-2.8b'];
/** In memory where there is room: what is measured is not a disk. */
const scratch = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'vl-mamba-bench-'));

const median = (list: number[]) => list.sort((a, b) => a - b)[list.length >> 1]!;
const line = (name: string, ms: number, more = '') =>
  console.log(`${name.padEnd(44)}${ms.toFixed(3).padStart(10)}  ${more}`);

async function language(model: Model, bandwidth: number): Promise<void> {
  const vision = model.config.vision ? await model.profile('picture') : undefined;
  const read = (steps: { ms: number; gbps: number }[]) => steps.reduce((sum, { ms, gbps }) => sum + ms * gbps * 1e6, 0);
  for (const batch of [1, 8, 64]) {
    const { ms, steps } = await model.profile(1, { batch, rounds: 20 });
    const one = median(ms);
    const least = (1000 * Math.min(read(steps), model.weightBytes)) / bandwidth;
    const note = vision ? '' : `, ${((100 * least) / one).toFixed(0)} % of the limit ${least.toFixed(3)}`;
    line(`  decode, batch ${batch}`, one, `${((1000 * batch) / one).toFixed(0)} tokens a second${note}`);
  }
  for (const length of [800, 2048]) {
    const one = median((await model.profile(length, { rounds: 5 })).ms);
    line(`  read ${length} positions`, one, `${((1000 * length) / one).toFixed(0)} tokens a second`);
  }
}

/** From the call to the first token, and the JavaScript thread's share of a token. */
async function conversation(model: Model): Promise<void> {
  const side = model.config.vision!.imageSize;
  const image = { data: new Uint8Array(side * side * 3).fill(100), width: side, height: side, channels: 3 as const };
  const ask = (maxNewTokens: number) =>
    model.generate({
      prompt: `<image>\n${'a b c d '.repeat(16)}`,
      images: [image],
      maxNewTokens,
      ignoreEos: true,
    } as never);
  for (let i = 0; i < 3; i++) await ask(4);
  const first: number[] = [];
  for (let i = 0; i < 9; i++) first.push((await ask(1)).timings.firstToken);
  line('  picture and question to first token', median(first));
  const before = process.cpuUsage();
  const thread = performance.eventLoopUtilization();
  const { tokens, timings } = await ask(256);
  const { active } = performance.eventLoopUtilization(thread);
  const cpu = process.cpuUsage(before);
  const share = (1000 * active) / tokens.length;
  line(
    '  writing, as a caller sees it',
    timings.decode / Math.max(1, tokens.length - 1),
    `ms a token; JavaScript thread ${share.toFixed(0)} µs, all threads ${((cpu.user + cpu.system) / tokens.length).toFixed(0)} µs a token`,
  );
}

const probe = await openDevice(values.device as 'cuda');
console.log(`# ${machine(probe)}\n`);
const bandwidth = probe.cuda ? await copyBandwidth(probe) : Number.NaN;
await probe.dispose();
console.log(`copies move ${(bandwidth / 1e9).toFixed(0)} GB/s\n${''.padEnd(44)}${'ms'.padStart(10)}`);
for (const size of sizes) {
  const dir = join(scratch, size);
  execFileSync(process.execPath, ['--import', 'tsx', 'bench/models/random_checkpoint.ts', size, dir]);
  const start = performance.now();
  const model = await load(dir, { device: values.device });
  line(size, performance.now() - start, `to load ${(model.weightBytes / 2 ** 20).toFixed(0)} MiB`);
  if (model.config.vision) line('  a picture', median((await model.profile('picture', { rounds: 20 })).ms));
  if (!['siglip', 'clip'].includes(size)) await language(model, bandwidth);
  if (size.startsWith('vl-')) await conversation(model);
  await model.dispose();
  rmSync(dir, { recursive: true });
}
rmSync(scratch, { recursive: true });
