import type { Device } from '../../lib/device.ts';
import { linear } from '../../lib/ops/index.ts';
import { fill, half, type Row, time } from '../kit.ts';
import { peak } from '../peak.ts';

/**
 * The machine's limits, then one token and a few through Mamba-2.8B's and 130M's widest products (bytes of weights a second),
 * a chunk of a prompt, and SigLIP-SO400M's two products of a block.
 */
export default async function* (device: Device): AsyncGenerator<Row> {
  yield* peak(device.threads);
  for (const [m, n, k, dtypes] of [
    [1, 10240, 2560, ['bf16', 'f32']],
    [1, 2560, 5120, ['bf16']],
    [1, 50280, 768, ['bf16']],
    [8, 10240, 2560, ['bf16']],
    [512, 8192, 2048, ['bf16', 'f32']],
    [729, 4304, 1152, ['bf16', 'f32']],
    [729, 1152, 4304, ['bf16']],
  ] as const) {
    const x = { shape: [m, k], data: fill(m * k, 2) };
    const values = fill(n * k);
    for (const dtype of dtypes) {
      const weight = { dtype, shape: [n, k], data: dtype === 'f32' ? values : half(values) };
      const ms = await time(device, {
        args: { x, weight },
        record: (g, t) => linear(g, { x: t.x!, weight: t.weight! }),
      });
      const name = `linear ${m}×${k} by ${n}×${k} ${dtype}`;
      yield { name, ms, gbps: weight.data.byteLength / ms / 1e6, gflops: (2 * m * n * k) / ms / 1e6 };
    }
  }
}
