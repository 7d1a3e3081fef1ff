import type { Device } from '../../lib/device.ts';
import { layerNorm } from '../../lib/ops/layer_norm.ts';
import { fill, type Row, time } from '../kit.ts';

/** Rows of CLIP-L/14-336 and SigLIP-SO400M/14-384: one picture, with the residual added on the way. */
export default async function* (device: Device): AsyncGenerator<Row> {
  for (const [rows, d] of [
    [577, 1024],
    [729, 1152],
  ] as const) {
    const args = {
      x: { shape: [rows, d], data: fill(rows * d) },
      residual: { shape: [rows, d], data: fill(rows * d, 2) },
      weight: { shape: [d], data: fill(d, 3) },
      bias: { shape: [d], data: fill(d, 4) },
    };
    const ms = await time(device, {
      args,
      record: (g, t) => layerNorm(g, { x: t.x!, weight: t.weight!, bias: t.bias!, residual: t.residual! }),
    });
    yield { name: `layer_norm + residual ${rows}×${d}`, ms, gbps: (rows * d * 16) / ms / 1e6 };
  }
}
