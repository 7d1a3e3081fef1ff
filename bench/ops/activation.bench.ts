import type { Device } from '../../lib/device.ts';
import { activation } from '../../lib/ops/activation.ts';
import { fill, type Row, time } from '../kit.ts';

/** The connector's activation for a picture of SigLIP-SO400M. */
export default async function* (device: Device): AsyncGenerator<Row> {
  const [rows, d] = [729, 1152];
  const args = { x: { shape: [rows, d], data: fill(rows * d) } };
  for (const kind of ['gelu', 'gelu_pytorch_tanh', 'quick_gelu', 'silu'] as const) {
    const ms = await time(device, { args, record: (g, t) => activation(g, { x: t.x! }, { activation: kind }) });
    yield { name: `activation ${kind} ${rows}×${d}`, ms, gbps: (rows * d * 8) / ms / 1e6 };
  }
}
