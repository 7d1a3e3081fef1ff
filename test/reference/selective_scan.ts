export interface SelectiveScan {
  u: ArrayLike<number>;
  delta: ArrayLike<number>;
  A: ArrayLike<number>;
  B: ArrayLike<number>;
  C: ArrayLike<number>;
  D?: ArrayLike<number> | undefined;
  z?: ArrayLike<number> | undefined;
  deltaBias?: ArrayLike<number> | undefined;
  initialState?: ArrayLike<number> | undefined;
}

/**
 * h_t = exp(dt_t·A)·h_{t−1} + dt_t·B_t·u_t, y_t = (C_t·h_t + D·u_t)·silu(z_t) (arXiv 2312.00752, Alg. 2).
 * u, delta, z, y [b,d,l]; A [d,n]; B, C [b,g,n,l]; D, deltaBias [d]; initialState, lastState [b,d,n]. Naive, float64.
 */
export function selectiveScan(
  { u, delta, A, B, C, D, z, deltaBias, initialState }: SelectiveScan,
  [b, d, l, n, g]: readonly [number, number, number, number, number],
  deltaSoftplus: boolean,
): { y: Float64Array; lastState: Float64Array } {
  const y = new Float64Array(b * d * l);
  const lastState = Float64Array.from({ length: b * d * n }, (_, i) => initialState?.[i] ?? 0);
  for (let row = 0; row < b; row++)
    for (let c = 0; c < d; c++)
      for (let t = 0; t < l; t++) {
        const at = (row * d + c) * l + t;
        const x = u[at]!;
        const raw = delta[at]! + (deltaBias ? deltaBias[c]! : 0);
        const dt = !deltaSoftplus ? raw : raw > 30 ? raw : Math.log1p(Math.exp(raw));
        let sum = D ? D[c]! * x : 0;
        for (let s = 0; s < n; s++) {
          const h = (row * d + c) * n + s;
          const bc = ((row * g + Math.floor(c / (d / g))) * n + s) * l + t;
          lastState[h] = Math.exp(dt * A[c * n + s]!) * lastState[h]! + dt * B[bc]! * x;
          sum += C[bc]! * lastState[h]!;
        }
        y[at] = z ? (sum * z[at]!) / (1 + Math.exp(-z[at]!)) : sum;
      }
  return { y, lastState };
}
