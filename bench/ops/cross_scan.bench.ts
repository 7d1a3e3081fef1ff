import type { Device } from '../../lib/device.ts';
import { crossScan } from '../../lib/ops/cross_scan.ts';
import { fill, type Row, time } from '../kit.ts';

/** Four directions of SigLIP's 27×27 patches, 2304 channels, planes of patches. */
export default async function* (device: Device): AsyncGenerator<Row> {
  const [c, h, w] = [2304, 27, 27];
  const args = { x: { shape: [1, c, h, w], data: fill(c * h * w) } };
  const ms = await time(device, { args, record: (g, { x }) => crossScan(g, { x: x! }, { scan: 'csm' }) });
  yield { name: `cross_scan csm ${c}×${h}×${w}`, ms, gbps: (4 * 5 * c * h * w) / ms / 1e6 };
}
