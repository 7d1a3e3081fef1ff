import type { Device } from '../../lib/device.ts';
import { embedding } from '../../lib/ops/embedding.ts';
import { fill, type Row, time } from '../kit.ts';

/** A chunk of a prompt through Mamba-2.8B's width; a table of 8192 rows, which no cache holds. */
export default async function* (device: Device): AsyncGenerator<Row> {
  const [v, d, l] = [8192, 2560, 256];
  const ids = Int32Array.from({ length: l }, (_, i) => (i * 2654435761) % v);
  for (const dtype of ['f32', 'bf16', 'f16'] as const) {
    const bytes = dtype === 'f32' ? 4 : 2;
    const table = dtype === 'f32' ? fill(v * d) : Uint16Array.from(fill(v * d), (x) => 0x3c00 + x * 256);
    const ms = await time(device, {
      args: { ids: { dtype: 'i32', shape: [1, l], data: ids }, weight: { dtype, shape: [v, d], data: table } },
      record: (g, t) => embedding(g, { ids: t.ids!, weight: t.weight! }),
    });
    yield { name: `embedding ${dtype} ${l}×${d}`, ms, gbps: (l * d * (4 + bytes)) / ms / 1e6 };
  }
}
