import type { Device } from '../../lib/device.ts';
import { causalConv1d } from '../../lib/ops/index.ts';
import { transpose } from '../../lib/tensor.ts';
import { fill, type Row, time } from '../kit.ts';

/** Mamba-2.8B (d 5120), 4 taps and SiLU: token by token as in programs, and channel by channel as eager ops have it. */
export default async function* (device: Device): AsyncGenerator<Row> {
  const d = 5120;
  for (const [l, order] of [
    [729, 'token'],
    [729, 'channel'],
    [1, 'token'],
  ] as const) {
    const args = {
      x: { shape: order === 'token' ? [1, l, d] : [1, d, l], data: fill(l * d, 1) },
      weight: { shape: [d, 4], data: fill(d * 4, 2) },
      bias: { shape: [d], data: fill(d, 3) },
      state: { shape: [1, d, 3], data: fill(d * 3, 4) },
    };
    const ms = await time(device, {
      args,
      record: (g, { x, weight, bias, state }) =>
        causalConv1d(
          g,
          {
            x: order === 'token' ? transpose(x!, 1, 2) : x!,
            weight: weight!,
            bias,
            initialState: state,
            finalState: state,
          },
          { activation: 'silu' },
        ),
    });
    yield { name: `causal_conv1d d${d} w4 L${l} by ${order}`, ms, gbps: (4 * d * (2 * l + 11)) / ms / 1e6 };
  }
}
