import type { Device } from '../../lib/device.ts';
import { crossMerge } from '../../lib/ops/cross_merge.ts';
import { fill, type Row, time } from '../kit.ts';

/** Four directions of SigLIP's 27×27 patches, 2304 channels, planes of patches. */
export default async function* (device: Device): AsyncGenerator<Row> {
  const [c, height, width] = [2304, 27, 27];
  const args = { ys: { shape: [1, 4, c, height * width], data: fill(4 * c * height * width) } };
  const ms = await time(device, {
    args,
    record: (g, { ys }) => crossMerge(g, { ys: ys! }, { scan: 'csm', height, width }),
  });
  yield { name: `cross_merge csm ${c}×${height}×${width}`, ms, gbps: (4 * 5 * c * height * width) / ms / 1e6 };
}
