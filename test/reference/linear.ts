/** y[i,c] = act(Σ_j x[i,j] weight[c,j] + bias[c]) + residual[i,c] for rows of k and n rows of weight. Naive, float64. */
export function linear(
  x: ArrayLike<number>,
  weight: ArrayLike<number>,
  k: number,
  n: number,
  {
    bias,
    residual,
    act = (v) => v,
  }: { bias?: ArrayLike<number>; residual?: ArrayLike<number>; act?: (v: number) => number } = {},
): Float64Array {
  const m = k === 0 ? (residual?.length ?? 0) / n : x.length / k;
  const y = new Float64Array(m * n);
  for (let i = 0; i < m; i++)
    for (let c = 0; c < n; c++) {
      let sum = bias ? bias[c]! : 0;
      for (let j = 0; j < k; j++) sum += x[i * k + j]! * weight[c * k + j]!;
      y[i * n + c] = act(sum) + (residual ? residual[i * n + c]! : 0);
    }
  return y;
}
