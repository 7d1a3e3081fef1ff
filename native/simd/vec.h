// F: a register of floats and what kernels do with it. Included once for each pass of foreach.h, so no include guard.
#include "half.h"

#ifndef SIMD_INLINE
#ifdef _MSC_VER
#define SIMD_INLINE static __forceinline
#define SIMD_LAMBDA
#else
#define SIMD_INLINE static inline __attribute__((always_inline))
#define SIMD_LAMBDA __attribute__((always_inline))
#endif
// In front of a loop over an array of registers: the loop is unrolled, so that the array stays in registers.
#if defined(__clang__)
#define SIMD_UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define SIMD_UNROLL _Pragma("GCC unroll 16")
#else
#define SIMD_UNROLL
#endif
#endif

SIMD_BEGIN
namespace vlm::SIMD {

// load(p, n) reads the first n < N floats and fills with zeros; store(p, v, n) writes the first n.
// sum adds in one fixed order. ldexp(p, n) is p * 2^n for a whole n. fnma(a, b, c) is c - a * b.

#if SIMD_AVX512

struct F {
  __m512 v;
  static constexpr int N = 16;
};
SIMD_INLINE __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1); }
SIMD_INLINE F set(float x) { return {_mm512_set1_ps(x)}; }
SIMD_INLINE F load(const float* p) { return {_mm512_loadu_ps(p)}; }
SIMD_INLINE F load(const float* p, int n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
SIMD_INLINE void store(float* p, F a) { _mm512_storeu_ps(p, a.v); }
SIMD_INLINE void store(float* p, F a, int n) { _mm512_mask_storeu_ps(p, first(n), a.v); }
SIMD_INLINE F operator+(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
SIMD_INLINE F operator-(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
SIMD_INLINE F operator*(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
SIMD_INLINE F operator/(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
SIMD_INLINE F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
SIMD_INLINE F fnma(F a, F b, F c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
SIMD_INLINE F max(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }
SIMD_INLINE F min(F a, F b) { return {_mm512_min_ps(a.v, b.v)}; }
SIMD_INLINE F abs(F a) { return {_mm512_abs_ps(a.v)}; }
SIMD_INLINE F round(F a) { return {_mm512_roundscale_ps(a.v, 8)}; }
SIMD_INLINE F ldexp(F p, F n) { return {_mm512_scalef_ps(p.v, n.v)}; }
SIMD_INLINE F copysign(F magnitude, F sign) {
  return {_mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_castps_si512(magnitude.v), _mm512_castps_si512(sign.v),
                                                        _mm512_set1_epi32(0x7fffffff), 0xe4))};
}
SIMD_INLINE F load_bf16(const uint16_t* p) {
  return {_mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16))};
}
SIMD_INLINE F load_f16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
SIMD_INLINE float sum(F a) {
  const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}

#elif SIMD_AVX2

struct F {
  __m256 v;
  static constexpr int N = 8;
};
SIMD_INLINE __m256i first(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
SIMD_INLINE F set(float x) { return {_mm256_set1_ps(x)}; }
SIMD_INLINE F load(const float* p) { return {_mm256_loadu_ps(p)}; }
SIMD_INLINE F load(const float* p, int n) { return {_mm256_maskload_ps(p, first(n))}; }
SIMD_INLINE void store(float* p, F a) { _mm256_storeu_ps(p, a.v); }
SIMD_INLINE void store(float* p, F a, int n) { _mm256_maskstore_ps(p, first(n), a.v); }
SIMD_INLINE F operator+(F a, F b) { return {_mm256_add_ps(a.v, b.v)}; }
SIMD_INLINE F operator-(F a, F b) { return {_mm256_sub_ps(a.v, b.v)}; }
SIMD_INLINE F operator*(F a, F b) { return {_mm256_mul_ps(a.v, b.v)}; }
SIMD_INLINE F operator/(F a, F b) { return {_mm256_div_ps(a.v, b.v)}; }
SIMD_INLINE F fma(F a, F b, F c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
SIMD_INLINE F fnma(F a, F b, F c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
SIMD_INLINE F max(F a, F b) { return {_mm256_max_ps(a.v, b.v)}; }
SIMD_INLINE F min(F a, F b) { return {_mm256_min_ps(a.v, b.v)}; }
SIMD_INLINE F abs(F a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.f), a.v)}; }
SIMD_INLINE F round(F a) { return {_mm256_round_ps(a.v, 8)}; }
// In two factors, so that a result that is subnormal or overflows comes out as such.
SIMD_INLINE F ldexp(F p, F n) {
  const __m256i whole = _mm256_cvtps_epi32(n.v), half = _mm256_srai_epi32(whole, 1), bias = _mm256_set1_epi32(127);
  const __m256i rest = _mm256_sub_epi32(whole, half);
  const __m256 a = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
  const __m256 b = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
  return {_mm256_mul_ps(_mm256_mul_ps(p.v, a), b)};
}
SIMD_INLINE F copysign(F magnitude, F sign) {
  const __m256 bit = _mm256_set1_ps(-0.f);
  return {_mm256_or_ps(_mm256_andnot_ps(bit, magnitude.v), _mm256_and_ps(bit, sign.v))};
}
SIMD_INLINE F load_bf16(const uint16_t* p) {
  return {_mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16))};
}
SIMD_INLINE F load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
SIMD_INLINE float sum(F a) {
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}

#elif SIMD_NEON

struct F {
  float32x4_t v;
  static constexpr int N = 4;
};
SIMD_INLINE F set(float x) { return {vdupq_n_f32(x)}; }
SIMD_INLINE F load(const float* p) { return {vld1q_f32(p)}; }
SIMD_INLINE F load(const float* p, int n) {
  float t[4] = {};
  for (int i = 0; i < n; i++) t[i] = p[i];
  return load(t);
}
SIMD_INLINE void store(float* p, F a) { vst1q_f32(p, a.v); }
SIMD_INLINE void store(float* p, F a, int n) {
  float t[4];
  store(t, a);
  for (int i = 0; i < n; i++) p[i] = t[i];
}
SIMD_INLINE F operator+(F a, F b) { return {vaddq_f32(a.v, b.v)}; }
SIMD_INLINE F operator-(F a, F b) { return {vsubq_f32(a.v, b.v)}; }
SIMD_INLINE F operator*(F a, F b) { return {vmulq_f32(a.v, b.v)}; }
SIMD_INLINE F operator/(F a, F b) { return {vdivq_f32(a.v, b.v)}; }
SIMD_INLINE F fma(F a, F b, F c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
SIMD_INLINE F fnma(F a, F b, F c) { return {vfmsq_f32(c.v, a.v, b.v)}; }
SIMD_INLINE F max(F a, F b) { return {vmaxq_f32(a.v, b.v)}; }
SIMD_INLINE F min(F a, F b) { return {vminq_f32(a.v, b.v)}; }
SIMD_INLINE F abs(F a) { return {vabsq_f32(a.v)}; }
SIMD_INLINE F round(F a) { return {vrndnq_f32(a.v)}; }
SIMD_INLINE F ldexp(F p, F n) {
  const int32x4_t whole = vcvtnq_s32_f32(n.v), half = vshrq_n_s32(whole, 1), rest = vsubq_s32(whole, half);
  const int32x4_t bias = vdupq_n_s32(127);
  const float32x4_t a = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, bias), 23));
  const float32x4_t b = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(rest, bias), 23));
  return {vmulq_f32(vmulq_f32(p.v, a), b)};
}
SIMD_INLINE F copysign(F magnitude, F sign) { return {vbslq_f32(vdupq_n_u32(0x80000000), sign.v, magnitude.v)}; }
SIMD_INLINE F load_bf16(const uint16_t* p) { return {vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16))}; }
SIMD_INLINE F load_f16(const uint16_t* p) { return {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))}; }
SIMD_INLINE float sum(F a) { return vaddvq_f32(a.v); }

#elif SIMD_SSE2

struct F {
  __m128 v;
  static constexpr int N = 4;
};
SIMD_INLINE F set(float x) { return {_mm_set1_ps(x)}; }
SIMD_INLINE F load(const float* p) { return {_mm_loadu_ps(p)}; }
SIMD_INLINE F load(const float* p, int n) {
  float t[4] = {};
  for (int i = 0; i < n; i++) t[i] = p[i];
  return load(t);
}
SIMD_INLINE void store(float* p, F a) { _mm_storeu_ps(p, a.v); }
SIMD_INLINE void store(float* p, F a, int n) {
  float t[4];
  store(t, a);
  for (int i = 0; i < n; i++) p[i] = t[i];
}
SIMD_INLINE F operator+(F a, F b) { return {_mm_add_ps(a.v, b.v)}; }
SIMD_INLINE F operator-(F a, F b) { return {_mm_sub_ps(a.v, b.v)}; }
SIMD_INLINE F operator*(F a, F b) { return {_mm_mul_ps(a.v, b.v)}; }
SIMD_INLINE F operator/(F a, F b) { return {_mm_div_ps(a.v, b.v)}; }
SIMD_INLINE F fma(F a, F b, F c) { return a * b + c; }
SIMD_INLINE F fnma(F a, F b, F c) { return c - a * b; }
SIMD_INLINE F max(F a, F b) { return {_mm_max_ps(a.v, b.v)}; }
SIMD_INLINE F min(F a, F b) { return {_mm_min_ps(a.v, b.v)}; }
SIMD_INLINE F abs(F a) { return {_mm_andnot_ps(_mm_set1_ps(-0.f), a.v)}; }
// For |a| < 2^31, which is all that kernels need; NaN stays none, so a NaN has to reach the result some other way.
SIMD_INLINE F round(F a) { return {_mm_cvtepi32_ps(_mm_cvtps_epi32(a.v))}; }
SIMD_INLINE F ldexp(F p, F n) {
  const __m128i whole = _mm_cvtps_epi32(n.v), half = _mm_srai_epi32(whole, 1), bias = _mm_set1_epi32(127);
  const __m128i rest = _mm_sub_epi32(whole, half);
  const __m128 a = _mm_castsi128_ps(_mm_slli_epi32(_mm_add_epi32(half, bias), 23));
  const __m128 b = _mm_castsi128_ps(_mm_slli_epi32(_mm_add_epi32(rest, bias), 23));
  return {_mm_mul_ps(_mm_mul_ps(p.v, a), b)};
}
SIMD_INLINE F copysign(F magnitude, F sign) {
  const __m128 bit = _mm_set1_ps(-0.f);
  return {_mm_or_ps(_mm_andnot_ps(bit, magnitude.v), _mm_and_ps(bit, sign.v))};
}
SIMD_INLINE F load_bf16(const uint16_t* p) {
  const __m128i halves = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return {_mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), halves))};
}
SIMD_INLINE F load_f16(const uint16_t* p) {
  return {_mm_setr_ps(f16_to_f32(p[0]), f16_to_f32(p[1]), f16_to_f32(p[2]), f16_to_f32(p[3]))};
}
SIMD_INLINE float sum(F a) {
  const __m128 q = _mm_add_ps(a.v, _mm_movehl_ps(a.v, a.v));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}

#else

// Plain loops over eight floats: what any compiler turns into its baseline's vectors.
struct F {
  float v[8];
  static constexpr int N = 8;
};
#define SIMD_EACH(expression)                         \
  F r;                                                \
  for (int i = 0; i < F::N; i++) r.v[i] = expression; \
  return r;
SIMD_INLINE F set(float x){SIMD_EACH(x)} SIMD_INLINE F load(const float* p){SIMD_EACH(p[i])} SIMD_INLINE F
    load(const float* p, int n){SIMD_EACH(i < n ? p[i] : 0.f)} SIMD_INLINE void store(float* p, F a) {
  for (int i = 0; i < F::N; i++) p[i] = a.v[i];
}
SIMD_INLINE void store(float* p, F a, int n) {
  for (int i = 0; i < n; i++) p[i] = a.v[i];
}
SIMD_INLINE F operator+(F a, F b){SIMD_EACH(a.v[i] + b.v[i])} SIMD_INLINE F operator-(F a, F b){
    SIMD_EACH(a.v[i] - b.v[i])} SIMD_INLINE F
operator*(F a, F b){SIMD_EACH(a.v[i] * b.v[i])} SIMD_INLINE F
operator/(F a, F b){SIMD_EACH(a.v[i] / b.v[i])} SIMD_INLINE F
    fma(F a, F b, F c){SIMD_EACH(a.v[i] * b.v[i] + c.v[i])} SIMD_INLINE F
    fnma(F a, F b, F c){SIMD_EACH(c.v[i] - a.v[i] * b.v[i])} SIMD_INLINE F
    max(F a, F b){SIMD_EACH(a.v[i] > b.v[i] ? a.v[i] : b.v[i])} SIMD_INLINE F
    min(F a, F b){SIMD_EACH(a.v[i] < b.v[i] ? a.v[i] : b.v[i])} SIMD_INLINE F
    abs(F a){SIMD_EACH(a.v[i] < 0 ? -a.v[i] : a.v[i])}
// Adding and taking away 1.5 * 2^23 leaves the nearest whole number; for |a| < 2^22, which is all that kernels need.
SIMD_INLINE F round(F a){SIMD_EACH((a.v[i] + 12582912.f) - 12582912.f)} SIMD_INLINE float pow2(int n) {
  return std::bit_cast<float>(static_cast<uint32_t>(n + 127) << 23);
}
SIMD_INLINE F ldexp(F p, F n) {
  F r;
  for (int i = 0; i < F::N; i++) {
    const int whole = n.v[i] == n.v[i] ? static_cast<int>(n.v[i]) : 0, half = whole >> 1;
    r.v[i] = p.v[i] * pow2(half) * pow2(whole - half);
  }
  return r;
}
SIMD_INLINE F copysign(F magnitude, F sign){
    SIMD_EACH(std::bit_cast<float>((std::bit_cast<uint32_t>(magnitude.v[i]) & 0x7fffffff) |
                                   (std::bit_cast<uint32_t>(sign.v[i]) & 0x80000000)))} SIMD_INLINE F
    load_bf16(const uint16_t* p){SIMD_EACH(bf16_to_f32(p[i]))} SIMD_INLINE F
    load_f16(const uint16_t* p){SIMD_EACH(f16_to_f32(p[i]))} SIMD_INLINE float sum(F a) {
  return ((a.v[0] + a.v[4]) + (a.v[2] + a.v[6])) + ((a.v[1] + a.v[5]) + (a.v[3] + a.v[7]));
}
#undef SIMD_EACH

#endif

// Starts to bring the cache line at p into L2; p may be outside of everything.
SIMD_INLINE void prefetch(const void* p) {
#if defined(__GNUC__)
  __builtin_prefetch(p, 0, 2);
#else
  (void)p;
#endif
}

// The same into L1, for what is written soon.
SIMD_INLINE void prefetch_written(const void* p) {
#if defined(__GNUC__)
  __builtin_prefetch(p, 1, 3);
#else
  (void)p;
#endif
}

SIMD_INLINE F zero() { return set(0.f); }
SIMD_INLINE F operator*(F a, float b) { return a * set(b); }
SIMD_INLINE float max_of(F a) {
  float t[F::N];
  store(t, a);
  float m = t[0];
  for (int i = 1; i < F::N; i++) m = m > t[i] ? m : t[i];
  return m;
}

}  // namespace vlm::SIMD
SIMD_END
