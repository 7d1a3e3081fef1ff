/** The i-th patch that direction k visits: 0 row by row, 1 its reverse, 2 column by column, 3 its reverse. */
const patch = (k: number, i: number, height: number, width: number): number => {
  const j = k % 2 ? height * width - 1 - i : i;
  return k < 2 ? j : (j % height) * width + Math.floor(j / height);
};

/** y[b,c,p] = Σ_k ys[b,k,c,i], p the i-th patch of direction k. ys [b,k,c,h·w]; y [b,c,h,w]. Naive, float64. */
export function crossMerge(
  ys: ArrayLike<number>,
  [b, k, c, height, width]: readonly [number, number, number, number, number],
): Float64Array {
  const l = height * width;
  const y = new Float64Array(b * c * l);
  for (let row = 0; row < b; row++)
    for (let q = 0; q < k; q++)
      for (let channel = 0; channel < c; channel++)
        for (let i = 0; i < l; i++)
          y[(row * c + channel) * l + patch(q, i, height, width)]! += ys[((row * k + q) * c + channel) * l + i]!;
  return y;
}
