/** The i-th patch that direction k visits: 0 row by row, 1 its reverse, 2 column by column, 3 its reverse. */
const patch = (k: number, i: number, height: number, width: number): number => {
  const j = k % 2 ? height * width - 1 - i : i;
  return k < 2 ? j : (j % height) * width + Math.floor(j / height);
};

export interface CausalConv1d2d {
  x: ArrayLike<number>;
  weight: ArrayLike<number>;
  bias?: ArrayLike<number> | undefined;
}

/**
 * The causal convolution in the order of each direction, zeros in front, each result at its patch.
 * x [b,d,l]; weight [d,w] or [k,d,w]; bias [d] or [k,d]; y [b,k,d,l], patches row by row. Naive, float64.
 */
export function causalConv1d2d(
  { x, weight, bias }: CausalConv1d2d,
  { b, k, d, w, height, width }: { b: number; k: number; d: number; w: number; height: number; width: number },
  activation: 'silu' | null,
): Float64Array {
  const l = height * width;
  const y = new Float64Array(b * k * d * l);
  for (let row = 0; row < b; row++)
    for (let q = 0; q < k; q++)
      for (let c = 0; c < d; c++)
        for (let i = 0; i < l; i++) {
          let sum = bias ? bias[(bias.length === d ? 0 : q * d) + c]! : 0;
          for (let j = Math.max(0, w - 1 - i); j < w; j++) {
            const tap = weight[((weight.length === d * w ? 0 : q * d) + c) * w + j]!;
            sum += tap * x[(row * d + c) * l + patch(q, i - w + 1 + j, height, width)]!;
          }
          const at = ((row * k + q) * d + c) * l + patch(q, i, height, width);
          y[at] = activation === 'silu' ? sum / (1 + Math.exp(-sum)) : sum;
        }
  return y;
}
