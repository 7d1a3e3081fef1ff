// Inner products of rows, the heart of linear and patch_embed: sums[i,c] = Σ_j x[i,j] weight[c,j]. Included once for
// each pass of foreach.h, after vec.h.
//
// Registers run along j, so weights are used as they are stored. A tile keeps the sums of a few rows of x with four
// rows of weight in registers, and adds them across lanes at the end of a block of j. The rows of x of a tile are
// packed side by side in a panel. A sum's order of additions depends on the width of the rows alone, so a row gives the
// same bits alone, in a batch and on any thread.
#include <cstddef>
#include <cstdint>
#include <cstring>

#ifndef VLM_DOT
#define VLM_DOT
namespace vlm {

constexpr int kTileColumns = 4;
constexpr int kBandRows = 192, kBandColumns = 64;  // a piece of work, which a core keeps in its L2 cache
constexpr int kStreamColumns = 512;                // of a piece where there are few rows
constexpr int64_t kPackRows = 1024;                // rows of x that are packed at a time
constexpr int64_t kFewRows = 16;                   // so few that the weights set the pace
constexpr int64_t kOwnRows = 4;  // so few that each thread packs them for itself: that is shorter than a barrier

// Elements of a packed row: whole registers of every kind.
constexpr int64_t packed_width(int64_t k) { return (k + 31) / 32 * 32; }

// Scratch of products: every thread's sums, then the packed rows of x, or every thread's of its own.
constexpr int64_t sums_bytes(int nth) { return static_cast<int64_t>(sizeof(float)) * kBandRows * kBandColumns * nth; }
constexpr size_t pack_scratch(int64_t m, int64_t row_bytes, int nth) {
  const int64_t rows = m <= kOwnRows ? m * nth : m < kPackRows ? m : kPackRows;
  return static_cast<size_t>(sums_bytes(nth) + rows * row_bytes);
}
constexpr size_t products_scratch(int64_t m, int64_t k, int nth) {
  return pack_scratch(m, packed_width(k) * static_cast<int64_t>(sizeof(float)), nth);
}

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows of x that lie packed in memory: `rows` from `first` on.
struct Packed {
  std::byte* memory;
  int64_t first, rows;
};

// Packs m rows of x, as many at a time as there is room for, and multiplies: pack(packed, begin, end) fills rows begin …
// end, counted from packed.first; multiply(packed) finds all of them filled.
template <class Pack, class Multiply>
void each_pack(Worker& w, int64_t m, int64_t tile_rows, int64_t row_bytes, Pack pack, Multiply multiply) {
  if (m == 0) return;
  std::byte* memory = w.scratch + sums_bytes(w.nth);
  if (m <= kOwnRows) {
    const Packed own{memory + m * row_bytes * w.ith, 0, m};
    pack(own, 0, m);
    return multiply(own);
  }
  for (int64_t first = 0; first < m; first += kPackRows) {
    const Packed shared{memory, first, m - first < kPackRows ? m - first : kPackRows};
    if (first > 0) w.sync();
    w.each(shared.rows, tile_rows, [&](int64_t begin, int64_t end) { pack(shared, begin, end); });
    w.sync();
    multiply(shared);
  }
}

// A part of the products of packed rows: `rows` from `top` on with `wide` rows of weight from `left` on. Its sums are rows
// of `columns` floats, a multiple of the tiles' columns.
struct Piece {
  int64_t top, rows, left, wide, columns;
};

// The sums of m packed rows with n rows of weight in pieces: add(piece, sums) adds a piece's to zeros, done(i, first,
// count, sums) receives them row by row.
template <class Add, class Done>
void each_piece(Worker& w, int64_t m, int64_t n, int64_t tile_rows, int64_t tile_columns, Add add, Done done) {
  float* sums = reinterpret_cast<float*>(w.scratch + sums_bytes(1) * w.ith);
  const int64_t bands = ceil_div(m, kBandRows), height = ceil_div(ceil_div(m, bands), tile_rows) * tile_rows;
  // Narrower where there are few pieces, so that the threads end together. A few rows' weights come from memory, in the
  // longest streams that leave the threads enough pieces.
  const int64_t most = m <= kFewRows ? kStreamColumns : kBandColumns;
  int64_t columns = ceil_div(n * bands / (8 * w.nth), tile_columns) * tile_columns;
  columns = columns < tile_columns ? tile_columns : columns > most ? most : columns;
  w.runs(ceil_div(n, columns) * bands, [&](int64_t piece) {
    const int64_t top = piece % bands * height, left = piece / bands * columns;
    const Piece p{top, m - top < height ? m - top : height, left, n - left < columns ? n - left : columns, columns};
    std::memset(sums, 0, sizeof(float) * static_cast<size_t>(p.rows * columns));
    add(p, sums);
    for (int64_t i = 0; i < p.rows; i++) done(top + i, left, p.wide, sums + i * columns);
  });
}

inline void check_weight(const TensorArg& weight) {
  CHECK(weight.dtype == Dtype::f32 || weight.dtype == Dtype::f16 || weight.dtype == Dtype::bf16,
        "weight must be f32, f16 or bf16, got ", shape(weight));
}

}  // namespace vlm
#endif

SIMD_BEGIN
namespace vlm::SIMD {

#if SIMD_AVX512 || SIMD_NEON
constexpr int kTileRows = 6;
#elif SIMD_AVX2
constexpr int kTileRows = 3;
#elif SIMD_SSE2
constexpr int kTileRows = 2;
#else
constexpr int kTileRows = 1;
#endif

// out[0…3] += the sums over the lanes of a, b, c and d, each in the same order.
#if SIMD_AVX512
SIMD_INLINE void add_sums(float* out, F a, F b, F c, F d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a.v, b.v), _mm512_unpackhi_ps(a.v, b.v));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c.v, d.v), _mm512_unpackhi_ps(c.v, d.v));
  const __m512d p = _mm512_castps_pd(ab), q = _mm512_castps_pd(cd);
  const __m512 abcd =
      _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(p, q)), _mm512_castpd_ps(_mm512_unpackhi_pd(p, q)));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
  const __m128 sums = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  _mm_storeu_ps(out, _mm_add_ps(_mm_loadu_ps(out), sums));
}
#elif SIMD_AVX2
SIMD_INLINE void add_sums(float* out, F a, F b, F c, F d) {
  const __m256 abcd = _mm256_hadd_ps(_mm256_hadd_ps(a.v, b.v), _mm256_hadd_ps(c.v, d.v));
  const __m128 sums = _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1));
  _mm_storeu_ps(out, _mm_add_ps(_mm_loadu_ps(out), sums));
}
#elif SIMD_NEON
SIMD_INLINE void add_sums(float* out, F a, F b, F c, F d) {
  const float32x4_t sums = vpaddq_f32(vpaddq_f32(a.v, b.v), vpaddq_f32(c.v, d.v));
  vst1q_f32(out, vaddq_f32(vld1q_f32(out), sums));
}
#else
SIMD_INLINE void add_sums(float* out, F a, F b, F c, F d) {
  out[0] += sum(a);
  out[1] += sum(b);
  out[2] += sum(c);
  out[3] += sum(d);
}
#endif

// How a row of x meets a row of weight, kStep elements of each at a time. X is what x is packed as; a tile takes at
// most kBlock elements before it adds across lanes, so that its ten rows fit the L1 cache.
struct DotF32 {
  using X = float;
  using W = float;
  using V = F;
  static constexpr int kStep = F::N, kBlock = 768;
  static void pack(const float* x, int n, X* out) { store(out, n < F::N ? load(x, n) : load(x)); }
  static V x(const X* p) { return load(p); }
  static V w(const W* p) { return load(p); }
  static V w(const W* p, int n) { return load(p, n); }
  static F add(V x, V w, F sums) { return fma(x, w, sums); }
};

template <F (*Load)(const uint16_t*)>
struct DotHalf : DotF32 {
  using W = uint16_t;
  static V w(const W* p) { return Load(p); }
  static V w(const W* p, int n) {
    W part[F::N] = {};
    for (int i = 0; i < n; i++) part[i] = p[i];
    return Load(part);
  }
};

#if SIMD_BF16
// Both sides bf16, two products a lane: x is rounded once, where it is packed.
struct DotPairs {
  using X = uint16_t;
  using W = uint16_t;
  using V = __m512i;
  static constexpr int kStep = 32, kBlock = 1536;
  static void pack(const float* x, int n, X* out) {
    const int low = n < F::N ? n : F::N;
    const __m512bh rounded = _mm512_cvtne2ps_pbh(load(x + low, n - low).v, load(x, low).v);
    std::memcpy(out, &rounded, sizeof rounded);
  }
  static V x(const X* p) { return _mm512_loadu_si512(p); }
  static V w(const W* p) { return _mm512_loadu_si512(p); }
  static V w(const W* p, int n) { return _mm512_maskz_loadu_epi16((1u << n) - 1, p); }
  static F add(V x, V w, F sums) {
    __m512bh a, b;
    std::memcpy(&a, &x, sizeof a);
    std::memcpy(&b, &w, sizeof b);
    return {_mm512_dpbf16_ps(sums.v, a, b)};
  }
};
#endif

// f(D) for the D that multiplies with weights of this dtype.
template <class Call>
SIMD_INLINE void with_dot(Dtype weight, Call f) {
  if (weight == Dtype::f32) return f(DotF32());
  if (weight == Dtype::f16) return f(DotHalf<load_f16>());
#if SIMD_BF16
  f(DotPairs());
#else
  f(DotHalf<load_bf16>());
#endif
}

template <class D, int R>
SIMD_INLINE void add_column(const typename D::V* x, typename D::V w, F (*sums)[kTileColumns], int c) {
  SIMD_UNROLL
  for (int r = 0; r < R; r++) sums[r][c] = D::add(x[r], w, sums[r][c]);
}

// sum += the products of a row of x with a row of weight.
template <class D>
SIMD_INLINE void add_row(const typename D::X* x, const typename D::W* w, int64_t k, F& sum) {
  int64_t j = 0;
  for (; j + D::kStep <= k; j += D::kStep) sum = D::add(D::x(x + j), D::w(w + j), sum);
  if (j < k) sum = D::add(D::x(x + j), D::w(w + j, static_cast<int>(k - j)), sum);
}

// The sums of R rows of x with four rows of weight at a time: each register of x is read once for all four.
template <class D, int R>
SIMD_INLINE void add_rows(const typename D::X* x, const typename D::W* const (&w)[kTileColumns], int64_t next,
                          int64_t k, F (*sums)[kTileColumns]) {
  typename D::V a[R];
  const auto load_x = [&] {
    SIMD_UNROLL
    for (int r = 0; r < R; r++) a[r] = D::x(x + r * D::kStep);
  };
  int64_t j = 0;
  for (; j + D::kStep <= k; j += D::kStep, x += R * D::kStep) {
    SIMD_UNROLL
    for (int c = 0; c < kTileColumns; c++)
      prefetch(w[c] + next + j);  // the next four rows, which come from memory meanwhile
    load_x();
    SIMD_UNROLL
    for (int c = 0; c < kTileColumns; c++) add_column<D, R>(a, D::w(w[c] + j), sums, c);
  }
  if (j == k) return;
  load_x();
  SIMD_UNROLL
  for (int c = 0; c < kTileColumns; c++) add_column<D, R>(a, D::w(w[c] + j, static_cast<int>(k - j)), sums, c);
}

// out[r * stride + c] += Σ_j x[r,j] w[c * ldw + j] for a panel of R rows of x, `columns` <= 4 rows of weight, k
// elements.
template <class D, int R>
void tile(const typename D::X* x, const typename D::W* w, int64_t ldw, int columns, int64_t k, float* out,
          int64_t stride) {
  F sums[R][kTileColumns];
  SIMD_UNROLL
  for (int r = 0; r < R; r++) {
    SIMD_UNROLL
    for (int c = 0; c < kTileColumns; c++) sums[r][c] = zero();
  }
  // A weight row that doesn't exist is read as the one before it; nobody reads its sums.
  const typename D::W* rows[kTileColumns] = {w};
  for (int c = 1; c < kTileColumns; c++) rows[c] = columns > c ? rows[c - 1] + ldw : rows[c - 1];
  if (R == 1 && k == ldw) {
    // Memory sets the pace: rows that follow one another come nearly twice as fast one by one as four side by side. Parts of
    // longer rows don't.
    SIMD_UNROLL
    for (int c = 0; c < kTileColumns; c++) add_row<D>(x, rows[c], k, sums[0][c]);
  } else {
    add_rows<D, R>(x, rows, kTileColumns * ldw, k, sums);
  }
  SIMD_UNROLL
  for (int r = 0; r < R; r++) add_sums(out + r * stride, sums[r][0], sums[r][1], sums[r][2], sums[r][3]);
}

template <class D, int R = kTileRows>
SIMD_INLINE void tile_of(int rows, const typename D::X* x, const typename D::W* w, int64_t ldw, int columns, int64_t k,
                         float* out, int64_t stride) {
  if constexpr (R > 1)
    if (rows < R) return tile_of<D, R - 1>(rows, x, w, ldw, columns, k, out, stride);
  tile<D, R>(x, w, ldw, columns, k, out, stride);
}

// The sums of m packed rows of x with n rows of weight, piece by piece.
template <class D, class Done>
void multiply(Worker& w, int64_t m, int64_t n, int64_t k, const typename D::X* panels, const typename D::W* weight,
              int64_t ldw, Done done) {
  const int64_t width = packed_width(k);
  const int64_t block = k > 0 ? ceil_div(ceil_div(k, ceil_div(k, D::kBlock)), D::kStep) * D::kStep : 1;
  const auto add = [&](const Piece& p, float* sums) {
    // A few rows of x: four rows of weight from end to end are the longest streams, and stay in L1 for the next panel.
    const int64_t group = p.rows <= 2 * kTileRows ? kTileColumns : p.wide;
    for (int64_t g = 0; g < p.wide; g += group)
      for (int64_t j = 0; j < k; j += block)
        for (int64_t i = 0; i < p.rows; i += kTileRows) {
          const int some = static_cast<int>(p.rows - i < kTileRows ? p.rows - i : kTileRows);
          const auto* x = panels + (p.top + i) * width + j * some;
          for (int64_t c = g; c < g + group && c < p.wide; c += kTileColumns)
            tile_of<D>(some, x, weight + (p.left + c) * ldw + j, ldw, static_cast<int>(p.wide - c),
                       k - j < block ? k - j : block, sums + i * p.columns + c, p.columns);
        }
  };
  each_piece(w, m, n, kTileRows, kTileColumns, add, done);
}

// x(i) is row i of m, k floats; weight has n rows, ldw elements apart. done(i, first, count, sums) receives the sums of
// row i with the weight rows first … first + count, every one once. Needs products_scratch().
template <class D, class Row, class Done>
void products(Worker& w, int64_t m, int64_t n, int64_t k, Row x, const typename D::W* weight, int64_t ldw, Done done) {
  using X = typename D::X;
  const int64_t width = packed_width(k);
  const auto pack = [&](const Packed& p, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t top = i / kTileRows * kTileRows, high = p.rows - top < kTileRows ? p.rows - top : kTileRows;
      const float* from = x(p.first + i);
      X* to = reinterpret_cast<X*>(p.memory) + top * width + (i - top) * D::kStep;
      for (int64_t j = 0; j < k; j += D::kStep)
        D::pack(from + j, static_cast<int>(k - j < D::kStep ? k - j : D::kStep), to + j * high);
    }
  };
  each_pack(w, m, kTileRows, width * sizeof(X), pack, [&](const Packed& p) {
    multiply<D>(w, p.rows, n, k, reinterpret_cast<const X*>(p.memory), weight, ldw,
                [&](int64_t i, int64_t c, int64_t count, const float* sums) { done(p.first + i, c, count, sums); });
  });
}

}  // namespace vlm::SIMD
SIMD_END
