import type { Device } from '../../lib/device.ts';
import { patchEmbed } from '../../lib/ops/index.ts';
import { fill, type Row, time } from '../kit.ts';

/** SigLIP-SO400M/14-384 and CLIP-L/14-336. */
export default async function* (device: Device): AsyncGenerator<Row> {
  for (const [pixels, d] of [
    [384, 1152],
    [336, 1024],
  ] as const) {
    const patches = Math.floor(pixels / 14) ** 2;
    const args = {
      image: { shape: [1, 3, pixels, pixels], data: fill(3 * pixels * pixels) },
      weight: { shape: [d, 3, 14, 14], data: fill(d * 588) },
      bias: { shape: [d], data: fill(d, 2) },
    };
    const ms = await time(device, {
      args,
      record: (g, t) => patchEmbed(g, { image: t.image!, weight: t.weight!, bias: t.bias! }),
    });
    yield { name: `patch_embed ${pixels}×${pixels} to ${d}`, ms, gflops: (2 * patches * d * 588) / ms / 1e6 };
  }
}
