import { native } from '../../lib/binding.ts';
import { floats } from '../kit.ts';
import { bf16, f16 } from '../reference/embedding.ts';

export const weightDtypes = ['f32', 'f16', 'bf16'] as const;
export type WeightDtype = (typeof weightDtypes)[number];

/** The nearest bf16, ties to even. */
function roundToBf16(x: number): number {
  const bits = new Uint32Array(Float32Array.of(x).buffer)[0]!;
  return bf16((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16);
}

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

/** What products with such weights see of x: processors that multiply bf16 round it to bf16. */
export const seen = (x: Float32Array, dtype: WeightDtype): Float32Array =>
  dtype === 'bf16' && native().machine().isa === 'avx512bf16' ? x.map(roundToBf16) : x;
