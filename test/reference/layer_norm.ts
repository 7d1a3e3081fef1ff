/** s = x + residual, y = (s − mean(s)) / √(var(s) + eps) · weight + bias over rows of d. Naive, float64. */
export function layerNorm(
  x: ArrayLike<number>,
  weight: ArrayLike<number>,
  eps: number,
  { bias, residual }: { bias?: ArrayLike<number>; residual?: ArrayLike<number> } = {},
): { y: Float64Array; sum: Float64Array } {
  const d = weight.length;
  const y = new Float64Array(x.length);
  const sum = Float64Array.from(x, (v, i) => v + (residual ? residual[i]! : 0));
  for (let row = 0; row < x.length; row += d) {
    let mean = 0;
    for (let j = 0; j < d; j++) mean += sum[row + j]! / d;
    let variance = 0;
    for (let j = 0; j < d; j++) variance += (sum[row + j]! - mean) ** 2 / d;
    for (let j = 0; j < d; j++)
      y[row + j] = ((sum[row + j]! - mean) / Math.sqrt(variance + eps)) * weight[j]! + (bias ? bias[j]! : 0);
  }
  return { y, sum };
}
