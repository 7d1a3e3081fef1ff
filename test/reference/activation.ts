/** erf(x) = 2/√π · Σ (−1)^n x^(2n+1) / (n! (2n+1)); beyond 6 it is ±1 in float64. Naive, float64. */
function erf(x: number): number {
  if (Math.abs(x) > 6) return Math.sign(x);
  if (Math.abs(x) > 2.5) {
    // The continued fraction of erfc converges quickly here.
    let f = 0;
    for (let k = 200; k > 0; k--) f = k / 2 / (Math.abs(x) + f);
    return Math.sign(x) * (1 - Math.exp(-x * x) / Math.sqrt(Math.PI) / (Math.abs(x) + f));
  }
  let term = x;
  let sum = x;
  for (let n = 1; n < 80; n++) {
    term *= (-x * x) / n;
    sum += term / (2 * n + 1);
  }
  return (2 / Math.sqrt(Math.PI)) * sum;
}

/** The activations of Hugging Face configs, from their definitions. */
export const activations = {
  none: (x: number) => x,
  silu: (x: number) => x / (1 + Math.exp(-x)),
  gelu: (x: number) => (x / 2) * (1 + erf(x / Math.SQRT2)),
  gelu_pytorch_tanh: (x: number) => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  quick_gelu: (x: number) => x / (1 + Math.exp(-1.702 * x)),
};
