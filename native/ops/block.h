// Blocks of channels: pieces of strided tensors copied into [row][lane] buffers and back, a register-sized square at a
// time where rows become columns. Included once for each pass of foreach.h, after simd/vec.h.
#include "ops/at.h"

SIMD_BEGIN
namespace vlm::SIMD {

// Lane j of r[i] changes places with lane i of r[j].
#if SIMD_AVX512

SIMD_INLINE void transpose(F (&r)[16]) {
  __m512 a[16], b[16];
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_ps(r[i].v, r[i + 1].v);
    a[i + 1] = _mm512_unpackhi_ps(r[i].v, r[i + 1].v);
  }
  // b[4q + c]: in each 128-bit quarter k, column 4k + c of rows 4q … 4q + 3.
  for (int i = 0; i < 16; i += 4) {
    b[i] = _mm512_shuffle_ps(a[i], a[i + 2], 0x44);
    b[i + 1] = _mm512_shuffle_ps(a[i], a[i + 2], 0xee);
    b[i + 2] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    b[i + 3] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0xee);
  }
  for (int c = 0; c < 4; c++) {
    const __m512 low = _mm512_shuffle_f32x4(b[c], b[c + 4], 0x88),
                 high = _mm512_shuffle_f32x4(b[c + 8], b[c + 12], 0x88);
    const __m512 low_odd = _mm512_shuffle_f32x4(b[c], b[c + 4], 0xdd);
    const __m512 high_odd = _mm512_shuffle_f32x4(b[c + 8], b[c + 12], 0xdd);
    r[c].v = _mm512_shuffle_f32x4(low, high, 0x88);
    r[c + 8].v = _mm512_shuffle_f32x4(low, high, 0xdd);
    r[c + 4].v = _mm512_shuffle_f32x4(low_odd, high_odd, 0x88);
    r[c + 12].v = _mm512_shuffle_f32x4(low_odd, high_odd, 0xdd);
  }
}

#elif SIMD_AVX2

SIMD_INLINE void transpose(F (&r)[8]) {
  __m256 a[8], b[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_ps(r[i].v, r[i + 1].v);
    a[i + 1] = _mm256_unpackhi_ps(r[i].v, r[i + 1].v);
  }
  for (int i = 0; i < 8; i += 4) {
    b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
    b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
    b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
  }
  for (int c = 0; c < 4; c++) {
    r[c].v = _mm256_permute2f128_ps(b[c], b[c + 4], 0x20);
    r[c + 4].v = _mm256_permute2f128_ps(b[c], b[c + 4], 0x31);
  }
}

#elif SIMD_NEON

SIMD_INLINE void transpose(F (&r)[4]) {
  const float32x4x2_t a = vzipq_f32(r[0].v, r[2].v), b = vzipq_f32(r[1].v, r[3].v);
  const float32x4x2_t low = vzipq_f32(a.val[0], b.val[0]), high = vzipq_f32(a.val[1], b.val[1]);
  r[0].v = low.val[0];
  r[1].v = low.val[1];
  r[2].v = high.val[0];
  r[3].v = high.val[1];
}

#elif SIMD_SSE2

SIMD_INLINE void transpose(F (&r)[4]) { _MM_TRANSPOSE4_PS(r[0].v, r[1].v, r[2].v, r[3].v); }

#else

SIMD_INLINE void transpose(F (&r)[8]) {
  for (int i = 0; i < 8; i++)
    for (int j = 0; j < i; j++) {
      const float t = r[i].v[j];
      r[i].v[j] = r[j].v[i];
      r[j].v[i] = t;
    }
}

#endif

// The first n of up to N lanes.
SIMD_INLINE F load_some(const float* p, int64_t n) { return n < F::N ? load(p, static_cast<int>(n)) : load(p); }
SIMD_INLINE void store_some(float* p, F a, int64_t n) { n < F::N ? store(p, a, static_cast<int>(n)) : store(p, a); }

// dst[i·di + j·dj] = src[i·si + j·sj] for i < ni, j < nj.
static inline void copy_2d(float* dst, int64_t di, int64_t dj, const float* src, int64_t si, int64_t sj, int64_t ni,
                           int64_t nj) {
  if (di != 1 && dj == 1) {
    const int64_t d = di, s = si, n = ni;
    di = dj, si = sj, ni = nj;
    dj = d, sj = s, nj = n;
  }
  if (di == 1 && si == 1) {
    for (int64_t j = 0; j < nj; j++)
      for (int64_t i = 0; i < ni; i += F::N) store_some(dst + j * dj + i, load_some(src + j * sj + i, ni - i), ni - i);
  } else if (di == 1 && sj == 1) {
    for (int64_t j = 0; j < nj; j += F::N)
      for (int64_t i = 0; i < ni; i += F::N) {
        const int64_t rows = ni - i < F::N ? ni - i : F::N, columns = nj - j < F::N ? nj - j : F::N;
        const float* from = src + i * si + j;
        float* to = dst + j * dj + i;
        F r[F::N];
        for (int k = 0; k < F::N; k++) r[k] = k < rows ? load_some(from + k * si, columns) : zero();
        transpose(r);
        for (int k = 0; k < columns; k++) store_some(to + k * dj, r[k], rows);
      }
  } else {
    for (int64_t j = 0; j < nj; j++)
      for (int64_t i = 0; i < ni; i++) dst[i * di + j * dj] = src[i * si + j * sj];
  }
}

// Buffers whose rows start `width` apart.
SIMD_INLINE void load_rows(float* to, int64_t width, Rows from, int64_t lanes, int64_t rows) {
  copy_2d(to, 1, width, from.data, from.lane, from.row, lanes, rows);
}
SIMD_INLINE void store_rows(Rows to, const float* from, int64_t width, int64_t lanes, int64_t rows) {
  copy_2d(to.data, to.lane, to.row, from, 1, width, lanes, rows);
}

// Asks for a part of rows that are needed soon: row i, or where a lane's rows are neighbours a register of them, so that
// all i of a block of whole registers ask for all of it.
SIMD_INLINE void prefetch(Rows rows, int64_t i) {
  if (!rows.data) return;
  const float* p = rows.data + (rows.lane == 1 ? i * rows.row : i % F::N * rows.lane + i / F::N * F::N * rows.row);
#if defined(_MSC_VER) && !defined(__clang__)
#if SIMD_NEON
  __prefetch(p);
#else
  _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0);
#endif
#else
  __builtin_prefetch(p);
#endif
}

}  // namespace vlm::SIMD
SIMD_END
