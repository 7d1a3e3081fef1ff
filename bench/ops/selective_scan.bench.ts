import type { Device } from '../../lib/device.ts';
import { selectiveScan } from '../../lib/ops/index.ts';
import { type Tensor, transpose, unsqueeze } from '../../lib/tensor.ts';
import { fill, type Row, time } from '../kit.ts';

/** Mamba-130m (d 1536) and 2.8B (d 5120), n 16: token by token as in programs, and channel by channel as eager ops have it. */
export default async function* (device: Device): AsyncGenerator<Row> {
  const n = 16;
  for (const [b, d, l, order] of [
    [1, 1536, 2048, 'token'],
    [1, 1536, 2048, 'channel'],
    [1, 5120, 729, 'token'],
    [1, 1536, 1, 'token'],
    [1, 5120, 1, 'token'],
    [64, 5120, 1, 'token'],
  ] as const) {
    const wide = (width: number, seed: number) => ({
      shape: order === 'token' ? [b, l, width] : [b, width, l],
      data: fill(b * l * width, seed),
    });
    const args = {
      u: wide(d, 1),
      delta: wide(d, 2),
      B: wide(n, 3),
      C: wide(n, 4),
      z: wide(d, 5),
      A: { shape: [d, n], data: fill(d * n, 6).map((x) => -4 - 3 * x) },
      D: { shape: [d], data: fill(d, 7) },
      deltaBias: { shape: [d], data: fill(d, 8) },
      state: { shape: [b, d, n], data: fill(b * d * n, 9) },
    };
    const record = (g: Parameters<typeof selectiveScan>[0], t: Record<string, Tensor>) => {
      const turn = (x: Tensor) => (order === 'token' ? transpose(x, 1, 2) : x);
      const { A, D, deltaBias, state } = t as Record<keyof typeof args, Tensor>;
      return selectiveScan(
        g,
        {
          u: turn(t.u!),
          delta: turn(t.delta!),
          z: turn(t.z!),
          B: unsqueeze(turn(t.B!), 1),
          C: unsqueeze(turn(t.C!), 1),
          A,
          D,
          deltaBias,
          initialState: state,
          lastState: state,
        },
        { deltaSoftplus: true },
      );
    };
    const ms = await time(device, { args, record });
    const bytes = 4 * (b * l * (4 * d + 2 * n) + d * n + 2 * b * d * n);
    yield { name: `selective_scan b${b} d${d} n${n} L${l} by ${order}`, ms, gbps: bytes / ms / 1e6 };
  }
}
