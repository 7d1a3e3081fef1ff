/** The i-th patch that direction k visits: 0 row by row, 1 its reverse, 2 column by column, 3 its reverse. */
const patch = (k: number, i: number, height: number, width: number): number => {
  const j = k % 2 ? height * width - 1 - i : i;
  return k < 2 ? j : (j % height) * width + Math.floor(j / height);
};

export interface SelectiveScan2d {
  u: ArrayLike<number>;
  delta: ArrayLike<number>;
  A: ArrayLike<number>;
  B: ArrayLike<number>;
  C: ArrayLike<number>;
  D?: ArrayLike<number> | undefined;
  z?: ArrayLike<number> | undefined;
  deltaBias?: ArrayLike<number> | undefined;
}

export interface Grid2d {
  b: number;
  k: number;
  d: number;
  n: number;
  height: number;
  width: number;
}

/**
 * y[p] = (Σ_k y_k[p])·scale·silu(z[p]), y_k the selective scan in the order of direction k, dt always through the softplus
 * (arXiv 2403.13600 §3.2). u, delta [b,k,d,l]; A [d,n] or [k,d,n]; B, C [b,k,n,l]; D, deltaBias [d] or [k,d]; z, y [b,d,l],
 * patches row by row. Naive, float64.
 */
export function selectiveScan2d(
  { u, delta, A, B, C, D, z, deltaBias }: SelectiveScan2d,
  { b, k, d, n, height, width }: Grid2d,
  merge: 'sum' | 'mean',
): Float64Array {
  const l = height * width;
  const y = new Float64Array(b * d * l);
  const own = (weight: ArrayLike<number>, size: number, direction: number) =>
    weight.length === size ? 0 : direction * size;
  for (let row = 0; row < b; row++)
    for (let c = 0; c < d; c++) {
      for (let q = 0; q < k; q++) {
        const h = new Float64Array(n);
        for (let i = 0; i < l; i++) {
          const p = patch(q, i, height, width);
          const at = ((row * k + q) * d + c) * l + p;
          const dt = Math.log1p(Math.exp(delta[at]! + (deltaBias ? deltaBias[own(deltaBias, d, q) + c]! : 0)));
          let sum = D ? D[own(D, d, q) + c]! * u[at]! : 0;
          for (let s = 0; s < n; s++) {
            const bc = ((row * k + q) * n + s) * l + p;
            h[s] = Math.exp(dt * A[own(A, d * n, q) + c * n + s]!) * h[s]! + dt * B[bc]! * u[at]!;
            sum += C[bc]! * h[s]!;
          }
          y[(row * d + c) * l + p]! += merge === 'mean' ? sum / k : sum;
        }
      }
      for (let i = (row * d + c) * l; z && i < (row * d + c + 1) * l; i++) y[i]! *= z[i]! / (1 + Math.exp(-z[i]!));
    }
  return y;
}
