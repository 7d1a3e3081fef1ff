// Vector exp, softplus, erf and the activations, accurate to a few units in the last place of a float. Included once for
// each pass of foreach.h, after vec.h.
SIMD_BEGIN
namespace vlm::SIMD {

// 2^x. x = n + r with |r| <= 1/2; 2^r by its Taylor series to the 7th power (error 6e-9). Below 2^-150 the result is 0,
// above 2^129 infinity; NaN stays NaN because max and min return their second argument then.
SIMD_INLINE F exp2(F x) {
  x = min(set(130.f), max(set(-152.f), x));
  const F n = round(x), r = x - n;
  F p = set(1.5252733e-5f);
  p = fma(p, r, set(1.5403530e-4f));
  p = fma(p, r, set(1.3333558e-3f));
  p = fma(p, r, set(9.6181291e-3f));
  p = fma(p, r, set(5.5504109e-2f));
  p = fma(p, r, set(2.4022651e-1f));
  p = fma(p, r, set(6.9314718e-1f));
  return ldexp(fma(p, r, set(1.f)), n);
}

// e^x, with ln 2 in two parts so that the reduced argument keeps its last bits.
SIMD_INLINE F exp(F x) {
  x = min(set(90.f), max(set(-106.f), x));
  const F n = round(x * 1.44269504f);
  const F r = fnma(n, set(-2.12194440e-4f), fnma(n, set(0.693359375f), x));
  F p = set(1.9841270e-4f);
  p = fma(p, r, set(1.3888889e-3f));
  p = fma(p, r, set(8.3333333e-3f));
  p = fma(p, r, set(4.1666667e-2f));
  p = fma(p, r, set(1.6666667e-1f));
  p = fma(p, r, set(0.5f));
  p = fma(p, r, set(1.f));
  return ldexp(fma(p, r, set(1.f)), n);
}

// log(1 + e^x) = max(x, 0) + log1p(t), t = e^-|x| in (0, 1]; log1p(t) = 2 atanh(t / (2 + t)), whose argument is <= 1/3.
SIMD_INLINE F softplus(F x) {
  const F t = exp(zero() - abs(x)), s = t / (t + set(2.f)), q = s * s;
  F p = set(2.f / 15);
  p = fma(p, q, set(2.f / 13));
  p = fma(p, q, set(2.f / 11));
  p = fma(p, q, set(2.f / 9));
  p = fma(p, q, set(2.f / 7));
  p = fma(p, q, set(2.f / 5));
  p = fma(p, q, set(2.f / 3));
  p = fma(p, q, set(2.f));
  return fma(p, s, max(zero(), x));
}

SIMD_INLINE F sigmoid(F x) { return set(1.f) / (set(1.f) + exp(zero() - x)); }
SIMD_INLINE F silu(F x) { return x / (set(1.f) + exp(zero() - x)); }

// erf(x) = 1 - (a1 t + … + a5 t^5) e^(-x²), t = 1 / (1 + p|x|): Abramowitz & Stegun 7.1.26, |error| <= 1.5e-7.
SIMD_INLINE F erf(F x) {
  const F a = abs(x), t = set(1.f) / fma(a, set(0.3275911f), set(1.f));
  F p = set(1.061405429f);
  p = fma(p, t, set(-1.453152027f));
  p = fma(p, t, set(1.421413741f));
  p = fma(p, t, set(-0.284496736f));
  p = fma(p, t, set(0.254829592f));
  return copysign(fnma(p * t, exp(zero() - a * a), set(1.f)), x);
}

// The activations of HF configs: "gelu" is the exact erf form, "gelu_pytorch_tanh" its tanh approximation, written with
// 1 + tanh(y) = 2 sigmoid(2y); "quick_gelu" is x sigmoid(1.702 x).
SIMD_INLINE F gelu(F x) { return x * 0.5f * (set(1.f) + erf(x * 0.70710678f)); }
SIMD_INLINE F gelu_tanh(F x) { return x * sigmoid(fma(x * x * x, set(0.0713548163f), x * 1.59576912f)); }
SIMD_INLINE F quick_gelu(F x) { return x * sigmoid(x * 1.702f); }

SIMD_INLINE F activate(Activation a, F x) {
  switch (a) {
    case Activation::silu:
      return silu(x);
    case Activation::gelu:
      return gelu(x);
    case Activation::gelu_pytorch_tanh:
      return gelu_tanh(x);
    case Activation::quick_gelu:
      return quick_gelu(x);
    default:
      return x;
  }
}

}  // namespace vlm::SIMD
SIMD_END
