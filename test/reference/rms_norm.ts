/** s = x + residual, y = s / √(mean(s²) + eps) · weight over rows of d. Naive, float64. */
export function rmsNorm(
  x: ArrayLike<number>,
  weight: ArrayLike<number>,
  eps: number,
  residual?: ArrayLike<number>,
): { y: Float64Array; sum: Float64Array } {
  const d = weight.length;
  const y = new Float64Array(x.length);
  const sum = Float64Array.from(x, (v, i) => v + (residual ? residual[i]! : 0));
  for (let row = 0; row < x.length; row += d) {
    let squares = 0;
    for (let j = 0; j < d; j++) squares += sum[row + j]! ** 2;
    for (let j = 0; j < d; j++) y[row + j] = (sum[row + j]! / Math.sqrt(squares / d + eps)) * weight[j]!;
  }
  return { y, sum };
}
