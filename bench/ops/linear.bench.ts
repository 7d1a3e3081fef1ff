import type { Device } from '../../lib/device.ts';
import { linear } from '../../lib/ops/index.ts';
import { inLines, QUANT_BLOCK, QUANT_GROUP, quantBlocks } from '../../lib/ops/quantised.ts';
import { numel } from '../../lib/tensor.ts';
import { type Case, fill, half, type Row, time } from '../kit.ts';
import { peak } from '../peak.ts';

type Kind = 'f32' | 'bf16' | 'int8' | 'int4';

/** Random weights of [n, k] as they lie in memory. */
function weights(kind: Kind, n: number, k: number): Case['args'] {
  const values = kind === 'f32' || kind === 'bf16' ? fill(n * k) : fill(0);
  if (kind === 'f32') return { weight: { shape: [n, k], data: values } };
  if (kind === 'bf16') return { weight: { dtype: 'bf16', shape: [n, k], data: half(values) } };
  const blocks = quantBlocks(k);
  const scale = { shape: [n, blocks], data: fill(n * blocks, 3) };
  if (kind === 'int8') {
    const shape = inLines(false, n, k);
    const data = Int8Array.from({ length: numel(shape) }, (_, i) => (i * 2654435761) >>> 24);
    return { weight: { dtype: 'i8', shape, data }, scale };
  }
  const shape = inLines(true, n, k);
  const data = Uint8Array.from({ length: numel(shape) }, (_, i) => (i * 2654435761) >>> 24);
  const groups = (blocks * QUANT_BLOCK) / QUANT_GROUP;
  const grid = Int8Array.from({ length: n * groups * 2 }, (_, i) => (i % 2 ? -60 : 8));
  return {
    weight: { dtype: 'u8', shape, data },
    scale,
    grid: { dtype: 'i8', shape: [n, groups, 2], data: grid },
  };
}

const bytesOf = (args: Case['args']): number => Object.values(args).reduce((sum, { data }) => sum + data.byteLength, 0);

/** What few rows read has to come from memory: so many bytes of weights lie in no cache. */
const UNCACHED = 128e6;

/**
 * The machine's limits; then one token and a few through products of Mamba-2.8B, 1.4B and 130M (bytes of weights a second),
 * a chunk of a prompt, and SigLIP-SO400M's and CLIP-L's widest products of a block.
 */
export default async function* (device: Device): AsyncGenerator<Row> {
  yield* peak(device.threads);
  const all: readonly Kind[] = ['bf16', 'int8', 'int4'];
  for (const [m, n, k, kinds] of [
    [1, 10240, 2560, ['f32', ...all]],
    [1, 2560, 5120, all],
    [1, 192, 5120, all],
    [1, 8192, 2048, all],
    [1, 3072, 768, all],
    [1, 50280, 768, all],
    [8, 10240, 2560, all],
    [512, 10240, 2560, all],
    [512, 8192, 2048, ['f32', ...all]],
    [512, 3072, 768, all],
    [729, 3456, 1152, all],
    [729, 4304, 1152, ['f32', ...all]],
    [729, 1152, 4304, all],
    [577, 4096, 1024, all],
  ] as [number, number, number, Kind[]][]) {
    for (const kind of kinds) {
      const one = weights(kind, n, k);
      const bytes = bytesOf(one);
      const copies = m > 8 ? 1 : Math.ceil(UNCACHED / bytes);
      const args: Case['args'] = { x: { shape: [m, k], data: fill(m * k, 2) } };
      for (let i = 0; i < copies; i++) for (const [name, arg] of Object.entries(one)) args[`${name} ${i}`] = arg;
      const total = await time(device, {
        args,
        record: (g, t) => {
          for (let i = 0; i < copies; i++)
            linear(g, { x: t.x!, weight: t[`weight ${i}`]!, scale: t[`scale ${i}`], grid: t[`grid ${i}`] });
          return {};
        },
      });
      const ms = total / copies;
      const name = `linear ${m}×${k} by ${n}×${k} ${kind}`;
      yield { name, ms, gbps: bytes / ms / 1e6, gflops: (2 * m * n * k) / ms / 1e6 };
    }
  }
}
