import type { Device } from '../../lib/device.ts';
import { attention } from '../../lib/ops/index.ts';
import { index, reshape } from '../../lib/tensor.ts';
import { fill, type Row, time } from '../kit.ts';
import { peak } from '../peak.ts';

/** One block of SigLIP-SO400M/14-384 and of CLIP-L/14-336, from one qkv tensor, with products in f32 and in bf16. */
export default async function* (device: Device): AsyncGenerator<Row> {
  yield* peak(device.threads).filter(({ name }) => !name.includes('memory'));
  for (const [l, h, d] of [
    [729, 16, 72],
    [577, 16, 64],
  ] as const)
    for (const products of ['f32', 'bf16'] as const) {
      const args = { qkv: { shape: [1, l, 3 * h * d], data: fill(l * 3 * h * d) } };
      const ms = await time(device, {
        args,
        record: (g, t) => {
          const part = (i: number) => index(reshape(t.qkv!, [1, l, 3, h, d]), 2, i);
          return attention(g, { q: part(0), k: part(1), v: part(2) }, { products });
        },
      });
      const name = `attention ${l} rows, ${h} heads of ${d}, products ${products}`;
      yield { name, ms, gflops: (4 * l * l * h * d) / ms / 1e6 };
    }
}
