export type Half = 'f16' | 'bf16';

const word = new Float32Array(1);
const bits = new Uint32Array(word.buffer);

/** The bits of the nearest 16-bit number, ties to even; numbers below the normal ones of f16 become 0. */
export function toHalf(x: number, dtype: Half): number {
  word[0] = x;
  if (dtype === 'bf16') return (bits[0]! + 0x7fff + ((bits[0]! >>> 16) & 1)) >>> 16;
  const rounded = bits[0]! + 0xfff + ((bits[0]! >>> 13) & 1);
  const exponent = ((rounded >>> 23) & 0xff) - 112;
  if (exponent <= 0) return (rounded >>> 16) & 0x8000;
  return ((rounded >>> 16) & 0x8000) | (exponent << 10) | ((rounded >>> 13) & 0x3ff);
}

/** The number that such bits are. */
export function fromHalf(half: number, dtype: Half): number {
  if (dtype === 'bf16') bits[0] = half << 16;
  else if ((half & 0x7fff) === 0) bits[0] = half << 16;
  else bits[0] = ((half & 0x8000) << 16) | (((half & 0x7fff) << 13) + 0x38000000);
  return word[0]!;
}
