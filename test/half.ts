export type Half = 'f16' | 'bf16';

const word = new Float32Array(1);
const bits = new Uint32Array(word.buffer);

/** The bits of the nearest 16-bit number, ties to even. */
export function toHalf(x: number, dtype: Half): number {
  word[0] = x;
  if (dtype === 'bf16') return (bits[0]! + 0x7fff + ((bits[0]! >>> 16) & 1)) >>> 16;
  const rounded = bits[0]! + 0xfff + ((bits[0]! >>> 13) & 1);
  const exponent = ((rounded >>> 23) & 0xff) - 112;
  if (exponent <= 0) {
    // Below the normal numbers of f16 lie the multiples of 2^-24; adding 1.5 · 2^23 rounds to whole ones.
    const steps = Math.fround(Math.abs(x) * 2 ** 24 + 1.5 * 2 ** 23) - 1.5 * 2 ** 23;
    return ((bits[0]! >>> 16) & 0x8000) | steps;
  }
  return ((rounded >>> 16) & 0x8000) | (exponent << 10) | ((rounded >>> 13) & 0x3ff);
}

/** The number that such bits are. */
export function fromHalf(half: number, dtype: Half): number {
  if (dtype === 'bf16') bits[0] = half << 16;
  else if ((half & 0x7c00) === 0) return (half & 0x8000 ? -1 : 1) * (half & 0x3ff) * 2 ** -24;
  else bits[0] = ((half & 0x8000) << 16) | (((half & 0x7fff) << 13) + 0x38000000);
  return word[0]!;
}
