import type { Device } from '../../lib/device.ts';
import { causalConv1d2d } from '../../lib/ops/index.ts';
import { transpose } from '../../lib/tensor.ts';
import { fill, type Row, time } from '../kit.ts';

/** The connector over SigLIP's 27×27 patches (d 2304), 4 taps and SiLU, memory ordered by patch. */
export default async function* (device: Device): AsyncGenerator<Row> {
  const [d, height, width] = [2304, 27, 27];
  const l = height * width;
  const args = {
    x: { shape: [1, l, d], data: fill(l * d, 1) },
    weight: { shape: [d, 4], data: fill(d * 4, 2) },
    bias: { shape: [d], data: fill(d, 3) },
  };
  for (const [scan, k] of [
    ['bsm', 2],
    ['csm', 4],
  ] as const) {
    const ms = await time(device, {
      args,
      record: (g, { x, weight, bias }) =>
        causalConv1d2d(
          g,
          { x: transpose(x!, 1, 2), weight: weight!, bias },
          { scan, height, width, activation: 'silu' },
        ),
    });
    const bytes = 4 * (l * d * (1 + k) + 5 * d);
    yield { name: `causal_conv1d_2d ${scan} d${d} w4 ${height}×${width}`, ms, gbps: bytes / ms / 1e6 };
  }
}
