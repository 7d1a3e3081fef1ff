/** Numbers of a row that share a scale. */
export const BLOCK = 128;
/** Numbers of a row in int4 that share a step and an offset. */
export const GROUP = 32;

export const blocksOf = (k: number): number => Math.ceil(k / BLOCK);

/** The whole numbers that int4 stands for, [n, k]: step · bits + offset. */
export function unpackInt4(weight: Uint8Array, grid: Int8Array, n: number, k: number): Int8Array {
  const blocks = blocksOf(k);
  return Int8Array.from({ length: n * k }, (_, i) => {
    const [row, j] = [Math.floor(i / k), i % k];
    const [block, place] = [Math.floor(j / BLOCK), j % BLOCK];
    const byte = weight[(row * blocks + block) * (BLOCK / 2) + (place % (BLOCK / 2))]!;
    const bits = place < BLOCK / 2 ? byte & 15 : byte >> 4;
    const at = 2 * (row * blocks * (BLOCK / GROUP) + Math.floor(j / GROUP));
    return grid[at]! * bits + grid[at + 1]!;
  });
}

const roundEven = (x: number): number => {
  const down = Math.floor(x);
  const up = x - down > 0.5 || (x - down === 0.5 && down % 2 !== 0);
  return up ? down + 1 : down;
};

/**
 * A row in blocks of whole numbers, as a product rounds it: scale = max |x| / 127, nearest whole numbers of scales, ties to
 * even, in f32. A block of numbers too small for a scale is zeros, one with a NaN or an infinity has NaN for a scale.
 */
export function quantiseRow(x: ArrayLike<number>): { values: Int8Array; scale: Float32Array } {
  const values = new Int8Array(x.length);
  const scale = Float32Array.from({ length: blocksOf(x.length) }, (_, b) => {
    const block = Array.from({ length: Math.min(BLOCK, x.length - b * BLOCK) }, (_, j) => x[b * BLOCK + j]!);
    if (!block.every(Number.isFinite)) return Number.NaN;
    const scale = Math.fround(Math.max(...block.map(Math.abs)) / 127);
    if (scale < 2 ** -126) return 0;
    const inverse = Math.fround(1 / scale);
    block.forEach((v, j) => {
      values[b * BLOCK + j] = roundEven(Math.fround(v * inverse));
    });
    return scale;
  });
  return { values, scale };
}

/** The numbers that whole numbers and their scales stand for, [n, k], in f32. */
export function dequantised(weight: Int8Array, scale: Float32Array, k: number): Float32Array {
  const blocks = blocksOf(k);
  return Float32Array.from(weight, (q, i) => q * scale[Math.floor(i / k) * blocks + Math.floor((i % k) / BLOCK)]!);
}

/** Σ_j x[i,j] weight[c,j] for rows of k, x rounded to int8 and weight whole numbers with their scales. Naive, float64. */
export function products(
  x: ArrayLike<number>,
  weight: Int8Array,
  scale: Float32Array,
  k: number,
  n: number,
): Float64Array {
  const blocks = blocksOf(k);
  const m = x.length / k;
  const y = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    const row = quantiseRow(Array.prototype.slice.call(x, i * k, (i + 1) * k));
    for (let c = 0; c < n; c++)
      for (let b = 0; b < blocks; b++) {
        let sum = 0;
        for (let j = b * BLOCK; j < Math.min(k, (b + 1) * BLOCK); j++) sum += row.values[j]! * weight[c * k + j]!;
        y[i * n + c]! += row.scale[b]! * scale[c * blocks + b]! * sum;
      }
  }
  return y;
}
