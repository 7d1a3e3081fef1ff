import type { Device } from '../../lib/device.ts';
import { selectiveScan2d } from '../../lib/ops/index.ts';
import { transpose } from '../../lib/tensor.ts';
import { fill, type Row, time } from '../kit.ts';

/** The connector over SigLIP's 27×27 patches (d 2304, n 16), memory ordered by patch. */
export default async function* (device: Device): AsyncGenerator<Row> {
  const [d, n, height, width] = [2304, 16, 27, 27];
  const l = height * width;
  for (const [scan, k] of [
    ['bsm', 2],
    ['csm', 4],
  ] as const) {
    const args = {
      u: { shape: [1, k, l, d], data: fill(k * l * d, 1) },
      delta: { shape: [1, k, l, d], data: fill(k * l * d, 2) },
      B: { shape: [1, k, l, n], data: fill(k * l * n, 3) },
      C: { shape: [1, k, l, n], data: fill(k * l * n, 4) },
      z: { shape: [1, l, d], data: fill(l * d, 5) },
      A: { shape: [d, n], data: fill(d * n, 6).map((x) => -4 - 3 * x) },
      D: { shape: [d], data: fill(d, 7) },
    };
    const ms = await time(device, {
      args,
      record: (g, t) =>
        selectiveScan2d(
          g,
          {
            u: transpose(t.u!, 2, 3),
            delta: transpose(t.delta!, 2, 3),
            B: transpose(t.B!, 2, 3),
            C: transpose(t.C!, 2, 3),
            z: transpose(t.z!, 1, 2),
            A: t.A!,
            D: t.D!,
          },
          { scan, height, width, deltaSoftplus: true },
        ),
    });
    const bytes = 4 * (l * (k * (2 * d + 2 * n) + 2 * d) + d * n);
    yield { name: `selective_scan_2d ${scan} d${d} n${n} ${height}×${width}`, ms, gbps: bytes / ms / 1e6 };
  }
}
