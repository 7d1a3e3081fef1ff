import type { Device } from '../../lib/device.ts';
import { resizeBicubic } from '../../lib/ops/resize_bicubic.ts';
import { type Row, time } from '../kit.ts';

/** Photographs of a phone and of a screen, to what SigLIP-SO400M reads. */
export default async function* (device: Device): AsyncGenerator<Row> {
  for (const [width, height] of [
    [4032, 3024],
    [1920, 1080],
  ] as const) {
    const data = Uint8Array.from({ length: width * height * 3 }, (_, i) => (i * 2654435761) >>> 24);
    const args = { image: { dtype: 'u8' as const, shape: [height, width, 3], data } };
    const to = { width: 384, height: 384 };
    const how = { canvas: { width, height }, fill: [0, 0, 0] as [number, number, number], resized: to, window: to };
    const ms = await time(device, { args, record: (g, t) => resizeBicubic(g, { image: t.image! }, how) });
    yield { name: `resize_bicubic ${width}×${height} to 384×384`, ms, gbps: (width * height * 3) / ms / 1e6 };
  }
}
