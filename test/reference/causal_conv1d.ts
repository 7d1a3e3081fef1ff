export interface CausalConv1d {
  x: ArrayLike<number>;
  weight: ArrayLike<number>;
  bias?: ArrayLike<number> | undefined;
  initialState?: ArrayLike<number> | undefined;
}

/**
 * y[b,c,t] = act(bias[c] + Σ_j weight[c,j]·x[b,c,t−w+1+j]), with the initial state in front of x, zeros without one.
 * x, y [b,d,l]; weight [d,w]; bias [d]; initialState, finalState [b,d,w−1]. Naive, float64.
 */
export function causalConv1d(
  { x, weight, bias, initialState }: CausalConv1d,
  [b, d, l, w]: readonly [number, number, number, number],
  activation: 'silu' | null,
): { y: Float64Array; finalState: Float64Array } {
  const y = new Float64Array(b * d * l);
  const finalState = new Float64Array(b * d * (w - 1));
  for (let row = 0; row < b * d; row++) {
    const c = row % d;
    const input = (t: number) => (t >= 0 ? x[row * l + t]! : (initialState?.[(row + 1) * (w - 1) + t] ?? 0));
    for (let t = 0; t < l; t++) {
      let sum = bias ? bias[c]! : 0;
      for (let j = 0; j < w; j++) sum += weight[c * w + j]! * input(t - w + 1 + j);
      y[row * l + t] = activation === 'silu' ? sum / (1 + Math.exp(-sum)) : sum;
    }
    for (let j = 0; j < w - 1; j++) finalState[row * (w - 1) + j] = input(l - (w - 1) + j);
  }
  return { y, finalState };
}
