import { native } from '../../lib/binding.ts';
import { fromHalf, type Half, toHalf } from '../half.ts';
import { floats, onCuda } from '../kit.ts';
import { bf16, f16 } from '../reference/embedding.ts';

export const weightDtypes = ['f32', 'f16', 'bf16'] as const;
export type WeightDtype = (typeof weightDtypes)[number];

/** Random weights below 2 as an op takes them, and their values. */
export function weights(dtype: WeightDtype, seed: number, shape: number[]) {
  const n = shape.reduce((a, b) => a * b, 1);
  const random = floats(seed, n);
  if (dtype === 'f32') return { argument: { shape, data: random }, values: random };
  // f16: any bits whose highest exponent bit is 0, subnormals among them; bf16: the upper halves.
  const bits = new Uint32Array(random.buffer);
  const data = Uint16Array.from(bits, (u) => (dtype === 'f16' ? (u >>> 8) & 0xbfff : u >>> 16));
  return { argument: { shape, data, dtype }, values: Float32Array.from(data, dtype === 'f16' ? f16 : bf16) };
}

/** What products with such weights see of x: a GPU, and processors that multiply bf16, round it to what they multiply. */
export function seen(x: Float32Array, dtype: WeightDtype): Float32Array {
  const rounds = onCuda ? dtype !== 'f32' : dtype === 'bf16' && native().machine().isa === 'avx512bf16';
  return rounds ? x.map((v) => fromHalf(toHalf(v, dtype as Half), dtype as Half)) : x;
}
