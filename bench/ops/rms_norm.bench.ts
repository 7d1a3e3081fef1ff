import type { Device } from '../../lib/device.ts';
import { rmsNorm } from '../../lib/ops/index.ts';
import { fill, type Row, time } from '../kit.ts';

/** Rows of Mamba-2.8B: one token, and a chunk of a prompt. */
export default async function* (device: Device): AsyncGenerator<Row> {
  for (const [rows, d] of [
    [1, 2560],
    [256, 2560],
  ] as const) {
    const args = { x: { shape: [rows, d], data: fill(rows * d) }, weight: { shape: [d], data: fill(d) } };
    const ms = await time(device, { args, record: (g, t) => rmsNorm(g, { x: t.x!, weight: t.weight! }) });
    yield { name: `rms_norm ${rows}×${d}`, ms, gbps: (rows * d * 8) / ms / 1e6 };
  }
}
