import type { Device } from '../../lib/device.ts';
import { sample } from '../../lib/ops/sample.ts';
import { fill, type Row, time } from '../kit.ts';

/** One row of Mamba's 50,280 logits, spread as a model spreads them. Columns as in samplingColumns. */
const settings: Record<string, number[]> = {
  greedy: [0, 0, 1, 0, 1, 0],
  'greedy, penalty': [0, 0, 1, 0, 1.2, 0],
  'temperature 1': [1, 0, 1, 0, 1, 0],
  'top-k 40': [1, 40, 1, 0, 1, 0],
  'top-p 0.9': [1, 0, 0.9, 0, 1, 0],
  'top-p 0.999': [1, 0, 0.999, 0, 1, 0],
  'min-p 0.05': [1, 0, 1, 0.05, 1, 0],
};

export default async function* (device: Device): AsyncGenerator<Row> {
  const v = 50280;
  const [a, b, c] = [fill(v), fill(v, 2), fill(v, 3)];
  const logits = a.map((x, i) => 3 * (x + b[i]! + c[i]!));
  const seen = new Uint8Array(v).fill(1, 1000, 1300);
  for (const [name, params] of Object.entries(settings)) {
    const args = {
      logits: { shape: [1, v], data: logits },
      params: { shape: [1, 6], data: Float32Array.from(params) },
      seed: { dtype: 'i32' as const, shape: [1, 2], data: Int32Array.of(1, 2) },
      position: { dtype: 'i32' as const, shape: [1], data: Int32Array.of(7) },
      seen: { dtype: 'u8' as const, shape: [1, v], data: seen },
    };
    const ms = await time(device, {
      args,
      record: (g, t) =>
        sample(g, { logits: t.logits!, params: t.params!, seed: t.seed!, position: t.position!, seen: t.seen! }),
    });
    yield { name: `sample ${v}, ${name}`, ms };
  }
}
