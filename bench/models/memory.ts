/**
 * npx tsx bench/models/memory.ts [SIZES…]
 *
 * Peak resident memory of a process that loads a model with random weights from the built package, reads 300 tokens (and a
 * picture, where the model sees) and writes 16, beside the bytes of its weights: in every dtype, on the CPU.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const sizes = process.argv.slice(2);
if (sizes.length === 0) sizes.push('130m', '1.4b', 'siglip');
const scratch = mkdtempSync(join(tmpdir(), 'vl-mamba-memory-'));

const child = `
import { load } from './dist/index.mjs';
const [dir, dtype] = process.argv.slice(1);
const model = await load(dir, { device: 'cpu', dtype });
const side = model.config.vision?.imageSize;
const picture = side && { data: new Uint8Array(side * side * 3), width: side, height: side, channels: 3 };
const prompt = (picture ? '<image>' : '') + 'a b c d e '.repeat(60);
await model.generate({ prompt, images: picture ? [picture] : [], maxNewTokens: 16 });
console.log(JSON.stringify([model.weightBytes, process.resourceUsage().maxRSS * 1024]));
await model.dispose();
`;

const mb = (bytes: number) => (bytes / 1e6).toFixed(0).padStart(8);
console.log(`${'MB'.padEnd(20)} weights     peak    above`);
for (const size of sizes) {
  const dir = join(scratch, size);
  execFileSync(process.execPath, ['--import', 'tsx', 'bench/models/random_checkpoint.ts', size, dir]);
  for (const dtype of ['auto', 'f32', 'f16', 'int8', 'int4']) {
    const out = execFileSync(process.execPath, ['--input-type=module', '-e', child, dir, dtype], { encoding: 'utf8' });
    const [weights, peak] = JSON.parse(out) as [number, number];
    console.log(`${`${size} ${dtype}`.padEnd(20)}${mb(weights)} ${mb(peak)} ${mb(peak - weights)}`);
  }
  rmSync(dir, { recursive: true });
}
rmSync(scratch, { recursive: true });
