/** y[i] = Σ_j softmax_j(scale q[i]·k[j]) v[j] for one head: q [l, d], k and v [m, d]. Naive, float64. */
export function attention(
  q: ArrayLike<number>,
  k: ArrayLike<number>,
  v: ArrayLike<number>,
  d: number,
  scale: number,
): Float64Array {
  const m = k.length / d;
  const y = new Float64Array(q.length);
  const p = new Float64Array(m);
  for (let i = 0; i < q.length / d; i++) {
    for (let j = 0; j < m; j++) {
      let dot = 0;
      for (let c = 0; c < d; c++) dot += q[i * d + c]! * k[j * d + c]!;
      p[j] = scale * dot;
    }
    let top = Number.NEGATIVE_INFINITY;
    for (const score of p) top = Math.max(top, score);
    let total = 0;
    for (let j = 0; j < m; j++) total += p[j] = Math.exp(p[j]! - top);
    for (let j = 0; j < m; j++) for (let c = 0; c < d; c++) y[i * d + c]! += (p[j]! / total) * v[j * d + c]!;
  }
  return y;
}
