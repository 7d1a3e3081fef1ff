// Inner products with weights in int8 or int4: both sides are whole numbers in blocks of kQuantBlock along k,
// sums[i,c] = Σ_b xscale[i,b] scale[c,b] Σ_j qx[i,j] q[c,j]. The inner sums are exact, the outer one goes from the first
// block to the last, so a row gives the same bits in any tile, in a batch and on any thread. Included once for each pass
// of foreach.h, after dot.h and ops/block.h.
//
// Each lane of a register is a column: a line of 64 bytes has quads, four neighbours in int8 or eight in int4 of each of 16
// columns. Loaded weights lie so in memory (see quantize.h); those that lie row by row are turned to lines here, block by
// block. Few rows of x meet the lines as they are, many meet them in L1, where int4 has become int8.
#include <limits>
#include <type_traits>

#ifndef VLM_DOT_INT8
#define VLM_DOT_INT8
namespace vlm {

// int8: weight i8 [n,k]. int4: weight u8 [n, blocks · 64], byte j of a block holds elements j (low bits) and j + 64; q is
// step · q + offset where grid i8 [n, blocks · 4, 2] has step and offset of every kQuantGroup elements.
// scale f32 [n, blocks]. In lines: weight [⌈n/16⌉, quant_lines, 64].
struct Quantised {
  const uint8_t *weight, *grid;  // grid is null for int8
  const float* scale;
  int64_t weight_row, grid_row, scale_row;  // from a row, or a stripe of lines, to the next
  bool lines;
};

constexpr int64_t kQuads = kQuantBlock / 4, kGroups = kQuantBlock / kQuantGroup;
constexpr int64_t kPackedBlock = kQuantBlock / 2;  // bytes in int4
constexpr int64_t kGroupQuads = kQuads / kGroups;
constexpr int64_t kAhead = 16384;  // bytes between the line that is used and the one that memory is asked for

// What a row of x takes packed, with `element` bytes for each number.
constexpr int64_t quant_row(int64_t k, int64_t element) {
  return ceil_div(quant_blocks(k) * (kQuantBlock * element + 8 + 4 * kGroups), 64) * 64;
}
constexpr size_t quant_scratch(int64_t m, int64_t k, int nth) { return pack_scratch(m, quant_row(k, 2), nth); }

}  // namespace vlm
#endif

SIMD_BEGIN
namespace vlm::SIMD {

// I: a register of whole numbers, one 32-bit lane for each column. In a register of quads, a lane is four int8. GCC keeps
// arrays of registers in memory unless they have the type that it computes with, a vector of int32.
#ifdef __GNUC__
#define SIMD_INT32(Register) int32_t __attribute__((vector_size(sizeof(Register))))
#else
#define SIMD_INT32(Register) Register
#endif
#if SIMD_AVX512

struct I {
  static constexpr int N = 16;
  SIMD_INT32(__m512i) v;
  I() = default;
  I(__m512i a) : v((SIMD_INT32(__m512i))a) {}
  operator __m512i() const { return (__m512i)v; }
};
SIMD_INLINE I load_i(const void* p) { return _mm512_loadu_si512(p); }
SIMD_INLINE void store_i(void* p, I a) { _mm512_storeu_si512(p, a); }
SIMD_INLINE I set_i(int32_t x) { return _mm512_set1_epi32(x); }
SIMD_INLINE F bits(I a) { return {_mm512_castsi512_ps(a)}; }
SIMD_INLINE I bits(F a) { return _mm512_castps_si512(a.v); }
SIMD_INLINE F to_float(I a) { return {_mm512_cvtepi32_ps(a)}; }
SIMD_INLINE I operator&(I a, I b) { return _mm512_and_si512(a, b); }
SIMD_INLINE I operator|(I a, I b) { return _mm512_or_si512(a, b); }
SIMD_INLINE I operator^(I a, I b) { return _mm512_xor_si512(a, b); }
template <int n>
SIMD_INLINE I left(I a) {
  return _mm512_slli_epi32(a, n);
}
template <int n>
SIMD_INLINE I right(I a) {
  return _mm512_srli_epi32(a, n);
}
template <int n>
SIMD_INLINE I signed_right(I a) {
  return _mm512_srai_epi32(a, n);
}
SIMD_INLINE I mul16(I a, I b) { return _mm512_mullo_epi16(a, b); }
SIMD_INLINE I add8(I a, I b) { return _mm512_add_epi8(a, b); }
#if !SIMD_VNNI
SIMD_INLINE I even16(I a) { return _mm512_srai_epi16(_mm512_slli_epi16(a, 8), 8); }
SIMD_INLINE I odd16(I a) { return _mm512_srai_epi16(a, 8); }
SIMD_INLINE I add_pairs(I sums, I a, I b) { return _mm512_add_epi32(sums, _mm512_madd_epi16(a, b)); }
#endif

#elif SIMD_AVX2

struct I {
  static constexpr int N = 8;
  SIMD_INT32(__m256i) v;
  I() = default;
  I(__m256i a) : v((SIMD_INT32(__m256i))a) {}
  operator __m256i() const { return (__m256i)v; }
};
SIMD_INLINE I load_i(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
SIMD_INLINE void store_i(void* p, I a) { _mm256_storeu_si256(static_cast<__m256i*>(p), a); }
SIMD_INLINE I set_i(int32_t x) { return _mm256_set1_epi32(x); }
SIMD_INLINE F bits(I a) { return {_mm256_castsi256_ps(a)}; }
SIMD_INLINE I bits(F a) { return _mm256_castps_si256(a.v); }
SIMD_INLINE F to_float(I a) { return {_mm256_cvtepi32_ps(a)}; }
SIMD_INLINE I operator&(I a, I b) { return _mm256_and_si256(a, b); }
SIMD_INLINE I operator|(I a, I b) { return _mm256_or_si256(a, b); }
SIMD_INLINE I operator^(I a, I b) { return _mm256_xor_si256(a, b); }
template <int n>
SIMD_INLINE I left(I a) {
  return _mm256_slli_epi32(a, n);
}
template <int n>
SIMD_INLINE I right(I a) {
  return _mm256_srli_epi32(a, n);
}
template <int n>
SIMD_INLINE I signed_right(I a) {
  return _mm256_srai_epi32(a, n);
}
SIMD_INLINE I mul16(I a, I b) { return _mm256_mullo_epi16(a, b); }
SIMD_INLINE I add8(I a, I b) { return _mm256_add_epi8(a, b); }
SIMD_INLINE I even16(I a) { return _mm256_srai_epi16(_mm256_slli_epi16(a, 8), 8); }
SIMD_INLINE I odd16(I a) { return _mm256_srai_epi16(a, 8); }
SIMD_INLINE I add_pairs(I sums, I a, I b) { return _mm256_add_epi32(sums, _mm256_madd_epi16(a, b)); }

#elif SIMD_NEON

struct I {
  int32x4_t v;
  static constexpr int N = 4;
};
SIMD_INLINE I load_i(const void* p) { return {vreinterpretq_s32_u8(vld1q_u8(static_cast<const uint8_t*>(p)))}; }
SIMD_INLINE void store_i(void* p, I a) { vst1q_u8(static_cast<uint8_t*>(p), vreinterpretq_u8_s32(a.v)); }
SIMD_INLINE I set_i(int32_t x) { return {vdupq_n_s32(x)}; }
SIMD_INLINE F bits(I a) { return {vreinterpretq_f32_s32(a.v)}; }
SIMD_INLINE I bits(F a) { return {vreinterpretq_s32_f32(a.v)}; }
SIMD_INLINE F to_float(I a) { return {vcvtq_f32_s32(a.v)}; }
SIMD_INLINE I operator&(I a, I b) { return {vandq_s32(a.v, b.v)}; }
SIMD_INLINE I operator|(I a, I b) { return {vorrq_s32(a.v, b.v)}; }
SIMD_INLINE I operator^(I a, I b) { return {veorq_s32(a.v, b.v)}; }
template <int n>
SIMD_INLINE I left(I a) {
  return {vshlq_n_s32(a.v, n)};
}
template <int n>
SIMD_INLINE I right(I a) {
  return {vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(a.v), n))};
}
template <int n>
SIMD_INLINE I signed_right(I a) {
  return {vshrq_n_s32(a.v, n)};
}
// Unsigned, because both may wrap and GCC's signed ones are C's.
SIMD_INLINE I mul16(I a, I b) {
  return {vreinterpretq_s32_u16(vmulq_u16(vreinterpretq_u16_s32(a.v), vreinterpretq_u16_s32(b.v)))};
}
SIMD_INLINE I add8(I a, I b) {
  return {vreinterpretq_s32_u8(vaddq_u8(vreinterpretq_u8_s32(a.v), vreinterpretq_u8_s32(b.v)))};
}

#elif SIMD_SSE2

struct I {
  static constexpr int N = 4;
  SIMD_INT32(__m128i) v;
  I() = default;
  I(__m128i a) : v((SIMD_INT32(__m128i))a) {}
  operator __m128i() const { return (__m128i)v; }
};
SIMD_INLINE I load_i(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
SIMD_INLINE void store_i(void* p, I a) { _mm_storeu_si128(static_cast<__m128i*>(p), a); }
SIMD_INLINE I set_i(int32_t x) { return _mm_set1_epi32(x); }
SIMD_INLINE F bits(I a) { return {_mm_castsi128_ps(a)}; }
SIMD_INLINE I bits(F a) { return _mm_castps_si128(a.v); }
SIMD_INLINE F to_float(I a) { return {_mm_cvtepi32_ps(a)}; }
SIMD_INLINE I operator&(I a, I b) { return _mm_and_si128(a, b); }
SIMD_INLINE I operator|(I a, I b) { return _mm_or_si128(a, b); }
SIMD_INLINE I operator^(I a, I b) { return _mm_xor_si128(a, b); }
template <int n>
SIMD_INLINE I left(I a) {
  return _mm_slli_epi32(a, n);
}
template <int n>
SIMD_INLINE I right(I a) {
  return _mm_srli_epi32(a, n);
}
template <int n>
SIMD_INLINE I signed_right(I a) {
  return _mm_srai_epi32(a, n);
}
SIMD_INLINE I mul16(I a, I b) { return _mm_mullo_epi16(a, b); }
SIMD_INLINE I add8(I a, I b) { return _mm_add_epi8(a, b); }
SIMD_INLINE I even16(I a) { return _mm_srai_epi16(_mm_slli_epi16(a, 8), 8); }
SIMD_INLINE I odd16(I a) { return _mm_srai_epi16(a, 8); }
SIMD_INLINE I add_pairs(I sums, I a, I b) { return _mm_add_epi32(sums, _mm_madd_epi16(a, b)); }

#else

struct I {
  uint32_t v[8];
  static constexpr int N = 8;
};
#define SIMD_EACH(expression)                         \
  I r;                                                \
  for (int i = 0; i < I::N; i++) r.v[i] = expression; \
  return r;
SIMD_INLINE I load_i(const void* p) {
  I r;
  std::memcpy(&r, p, sizeof r);
  return r;
}
SIMD_INLINE void store_i(void* p, I a) { std::memcpy(p, &a, sizeof a); }
SIMD_INLINE I set_i(int32_t x){SIMD_EACH(static_cast<uint32_t>(x))} SIMD_INLINE F bits(I a) {
  return std::bit_cast<F>(a);
}
SIMD_INLINE I bits(F a) { return std::bit_cast<I>(a); }
SIMD_INLINE F to_float(I a) {
  F r;
  for (int i = 0; i < I::N; i++) r.v[i] = static_cast<float>(static_cast<int32_t>(a.v[i]));
  return r;
}
SIMD_INLINE I operator&(I a, I b){SIMD_EACH(a.v[i] & b.v[i])} SIMD_INLINE I operator|(I a, I b){
    SIMD_EACH(a.v[i] | b.v[i])} SIMD_INLINE I
operator^(I a, I b) {
  SIMD_EACH(a.v[i] ^ b.v[i])
}
template <int n>
SIMD_INLINE I left(I a) {
  SIMD_EACH(a.v[i] << n)
}
template <int n>
SIMD_INLINE I right(I a) {
  SIMD_EACH(a.v[i] >> n)
}
template <int n>
SIMD_INLINE I signed_right(I a){SIMD_EACH(static_cast<uint32_t>(static_cast<int32_t>(a.v[i]) >> n))} SIMD_INLINE I
    mul16(I a, I b){SIMD_EACH(((a.v[i] >> 16) * (b.v[i] >> 16) << 16) |
                              ((a.v[i] & 0xffff) * (b.v[i] & 0xffff) & 0xffff))} SIMD_INLINE I add8(I a, I b) {
  SIMD_EACH(((a.v[i] & 0x7f7f7f7f) + (b.v[i] & 0x7f7f7f7f)) ^ ((a.v[i] ^ b.v[i]) & 0x80808080))
}
#undef SIMD_EACH

#endif

// What x is packed as, and how four of its values meet the quads of some columns.
#if SIMD_VNNI
// One side is unsigned: weights + 128, and sums begin with -128 Σ x.
struct DotInt8 {
  using X = int8_t;
  using Quad = I;
  static constexpr int kRows = 6, kColumns = 4, kFew = 8, kBias = 128;
  static Quad quad(I w) { return w; }
  static I x(const X* p) {
    int32_t four;
    std::memcpy(&four, p, 4);
    return set_i(four);
  }
  static I add(I sums, Quad w, I x) { return _mm512_dpbusd_epi32(sums, w, x); }
};
#elif SIMD_AVX512 || SIMD_AVX2 || SIMD_SSE2
// Products of int16 in pairs, as products of int8 saturate: of four neighbours first the even ones, then the odd ones.
struct DotInt8 {
  using X = int16_t;
  struct Quad {
    I even, odd;
  };
  static constexpr int kRows = I::N == 16 ? 6 : 4, kColumns = 2, kFew = 4, kBias = 0;
  static Quad quad(I w) { return {even16(w), odd16(w)}; }
  static Quad x(const X* p) {
    int32_t pair[2];
    std::memcpy(pair, p, 8);
    return {set_i(pair[0]), set_i(pair[1])};
  }
  static I add(I sums, Quad w, Quad x) { return add_pairs(add_pairs(sums, w.even, x.even), w.odd, x.odd); }
};
#elif SIMD_NEON
struct DotInt8 {
  using X = int8_t;
  using Quad = int8x16_t;
  static constexpr int kRows = 6, kColumns = 2, kFew = 4, kBias = 0;
  static Quad quad(I w) { return vreinterpretq_s8_s32(w.v); }
  static Quad x(const X* p) {
    int32_t four;
    std::memcpy(&four, p, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
  }
#if SIMD_DOTPROD
  static I add(I sums, Quad w, Quad x) { return {vdotq_s32(sums.v, w, x)}; }
#else
  static I add(I sums, Quad w, Quad x) {
    const int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x)), high = vmull_high_s8(w, x);
    return {vpadalq_s16(sums.v, vpaddq_s16(low, high))};
  }
#endif
};
#else
struct DotInt8 {
  using X = int8_t;
  using Quad = I;
  static constexpr int kRows = 2, kColumns = 1, kFew = 2, kBias = 0;
  static Quad quad(I w) { return w; }
  static const X* x(const X* p) { return p; }
  static I add(I sums, Quad w, const X* x) {
    for (int i = 0; i < I::N; i++)
      for (int j = 0; j < 4; j++) sums.v[i] += static_cast<uint32_t>(static_cast<int8_t>(w.v[i] >> 8 * j) * x[j]);
    return sums;
  }
};
#endif

// out = the whole numbers nearest to x · inverse, n <= F::N of them; returns their sum.
SIMD_INLINE float quantise(const float* x, int n, float inverse, DotInt8::X* out) {
  const F rounded = round((n < F::N ? load(x, n) : load(x)) * inverse);
  float all[F::N];
  store(all, rounded);
  // Where products are made in pairs, the even ones of four go before the odd ones.
  constexpr int swap = sizeof(DotInt8::X) - 1;
  for (int i = 0; i < n; i++) out[(i % 4 == 1 || i % 4 == 2) && swap ? i ^ 3 : i] = static_cast<DotInt8::X>(all[i]);
  return sum(rounded);
}

// Rows of x packed block by block, so that what meets the quads of a block lies in one piece: values [blocks, rows,
// kQuantBlock], scale [blocks, rows], what the whole sums of a block begin with [blocks, rows], and the sums of the groups
// [blocks, rows, kGroups].
struct QuantRows {
  DotInt8::X* values;
  float *scale, *groups;
  int32_t* start;
  int64_t rows;
  QuantRows(std::byte* memory, int64_t rows, int64_t k)
      : values(reinterpret_cast<DotInt8::X*>(memory)),
        scale(reinterpret_cast<float*>(values + quant_blocks(k) * rows * kQuantBlock)),
        groups(scale + quant_blocks(k) * rows),
        start(reinterpret_cast<int32_t*>(groups + quant_blocks(k) * rows * kGroups)),
        rows(rows) {}
  // From row `at` on of all blocks' rows.
  QuantRows from(int64_t at) const {
    QuantRows some = *this;
    some.values += at * kQuantBlock;
    some.scale += at;
    some.groups += at * kGroups;
    some.start += at;
    return some;
  }
};

// Packs a row in blocks, the first at `to` and the next to.rows farther on: scale = max |x| / 127 and the nearest whole
// numbers of scales. A block that holds a NaN or an infinity has NaN as its scale, so the row's products are NaN.
SIMD_INLINE void pack_row(const float* x, int64_t k, QuantRows to) {
  for (; k > 0; k -= kQuantBlock, x += kQuantBlock, to = to.from(to.rows)) {
    const int64_t n = k < kQuantBlock ? k : kQuantBlock;
    F most = zero(), strange = zero();  // strange: 0 · x is NaN where x isn't finite
    for (int64_t j = 0; j < n; j += F::N) {
      const F v = load_some(x + j, n - j);
      most = max(most, abs(v));
      strange = fma(v, zero(), strange);
    }
    const float scale = max_of(most) / 127;
    const bool finite = sum(strange) == 0, some = finite && scale >= std::numeric_limits<float>::min();
    *to.scale = !finite ? std::numeric_limits<float>::quiet_NaN() : some ? scale : 0;
    if (n < kQuantBlock || !some) std::memset(to.values, 0, kQuantBlock * sizeof *to.values);
    float total = 0;
    for (int64_t g = 0; g < kGroups; g++) {
      to.groups[g] = 0;
      for (int64_t j = g * kQuantGroup; some && j < n && j < (g + 1) * kQuantGroup; j += F::N)
        to.groups[g] += quantise(x + j, static_cast<int>(n - j < F::N ? n - j : F::N), 1 / scale, to.values + j);
      total += to.groups[g];
    }
    *to.start = -DotInt8::kBias * static_cast<int32_t>(total);
  }
}

// f(constant 0) … f(constant N - 1), as the compiler's own loops keep such registers in memory.
template <int N, class Call>
SIMD_INLINE void each_of(Call f) {
  if constexpr (N > 1) each_of<N - 1>(f);
  f(std::integral_constant<int, N - 1>());
}

// I::N dwords of each of I::N rows, by columns: use(j, lane i = dword j of row i) for every j. Of the tensor there are
// `columns` rows from here on and `bytes` of the last of them; nothing beyond is read. What isn't of these rows is anything.
template <class Use>
SIMD_INLINE void columns_of(const uint8_t* rows, int64_t row_bytes, int64_t columns, int64_t bytes, Use use) {
  alignas(64) uint8_t part[I::N][4 * I::N];
  if ((I::N - 1) * row_bytes + 4 * I::N > (columns - 1) * row_bytes + bytes) {
    std::memset(part, 0, sizeof part);
    for (int64_t i = 0; i < I::N && i < columns && bytes > 0; i++)
      std::memcpy(part[i], rows + i * row_bytes, static_cast<size_t>(bytes < 4 * I::N ? bytes : 4 * I::N));
    rows = part[0];
    row_bytes = sizeof part[0];
  }
  F r[I::N];
  SIMD_UNROLL
  for (int i = 0; i < I::N; i++) r[i] = bits(load_i(rows + i * row_bytes));
  transpose(r);
  each_of<I::N>([&](auto j) SIMD_LAMBDA { use(j, bits(r[j])); });
}

constexpr int32_t kSigns = DotInt8::kBias ? static_cast<int32_t>(0x80808080) : 0;

// The scales and grids of some columns in kChunk blocks, by columns.
constexpr int64_t kChunk = 16;
struct Chunk {
  alignas(64) float scale[kChunk][kBandColumns];
  alignas(64) uint32_t grid[2 * kChunk][kBandColumns];  // step, offset, step, offset of two groups

  // Columns first … first + count of the weight are c … c + count of the chunk, a multiple of I::N.
  void read(const Quantised& q, int64_t n, int64_t k, int64_t first, int64_t block, int64_t count) {
    const int64_t blocks = quant_blocks(k) - block;
    const auto turn = [&](const void* from, int64_t row_bytes, int64_t c, int64_t bytes, int64_t dwords, void* to) {
      for (int64_t j = 0; j < dwords && 4 * j < bytes; j += I::N)
        columns_of(static_cast<const uint8_t*>(from) + (first + c) * row_bytes + 4 * j, row_bytes, n - first - c,
                   bytes - 4 * j, [&](auto i, I column) {
                     if (j + i < dwords) store_i(static_cast<uint32_t*>(to) + (j + i) * kBandColumns + c, column);
                   });
    };
    for (int64_t c = 0; c < count; c++) {
      const int64_t next = first + c + kLineRows;
      prefetch(q.scale + next * q.scale_row + block);
      if (q.grid)
        prefetch(q.grid + next * q.grid_row + 8 * block), prefetch(q.grid + next * q.grid_row + 8 * block + 64);
    }
    for (int64_t c = 0; c < count; c += I::N) {
      turn(q.scale + block, 4 * q.scale_row, c, 4 * blocks, kChunk, scale);
      if (q.grid) turn(q.grid + 8 * block, q.grid_row, c, 8 * blocks, 2 * kChunk, grid);
    }
  }
};

// The step (two int16 of each lane) and the offset (in all four bytes) of a group, out of the dword of grid that has it.
SIMD_INLINE I step_of(I two, int64_t group) {
  const I step = (group % 2 ? right<16>(two) : two) & set_i(0xff);
  return step | left<16>(step);
}
SIMD_INLINE I offset_of(I two, int64_t group) {
  const I byte = right<24>(group % 2 ? two : left<16>(two)), bytes = byte | left<8>(byte);
  return bytes | left<16>(bytes);
}

// The lines of block b of 16 columns from `first` on: where they are, or `room` with the rows of the weight turned to lines.
// There are `count` of them; elements from k on are anything, as x is 0 there.
template <bool Int4>
SIMD_INLINE const uint8_t* block_lines(const Quantised& q, int64_t n, int64_t k, int64_t first, int64_t b,
                                       int64_t count, uint8_t (*room)[kLineBytes]) {
  constexpr int kLines = Int4 ? kQuads / 2 : kQuads;
  if (q.lines) return q.weight + first / kLineRows * q.weight_row + b * kLines * kLineBytes;
  constexpr int kBytes = 4 * kLines;
  const int64_t bytes = Int4 ? kBytes : k - b * kBytes;
  for (int64_t c = 0; c < kLineRows; c += I::N) {
    const uint8_t* rows = q.weight + (first + c) * q.weight_row + b * kBytes;
    for (int64_t i = 0; i < I::N; i++)
      for (int64_t j = 0; j < kBytes; j += 64) prefetch(rows + (i + kLineRows) * q.weight_row + j);
    for (int64_t j = 0; j < count; j += I::N)
      columns_of(rows + 4 * j, q.weight_row, n - first - c, bytes - 4 * j,
                 [&](auto i, I quad) SIMD_LAMBDA { store_i(room[j + i] + 4 * c, quad); });
  }
  return room[0];
}

// quads[…][c …] = the numbers of a register of columns from `count` lines, as tile_block() takes them.
template <bool Int4>
SIMD_INLINE void expand(const uint8_t* line, int64_t count, const uint32_t (*grid)[kBandColumns], int64_t c,
                        uint8_t (*quads)[4 * kBandColumns]) {
  const auto keep = [&](int64_t j, I quad) SIMD_LAMBDA { store_i(quads[j] + 4 * c, quad ^ set_i(kSigns)); };
  if constexpr (Int4) {
    const I mask = set_i(0x0f0f0f0f);
    for (int64_t g = 0; g < kGroups / 2; g++) {
      const I two = load_i(grid[0] + c), others = load_i(grid[1] + c);
      const I step = step_of(two, g), offset = offset_of(two, g);
      const I other_step = step_of(others, g), other_offset = offset_of(others, g);
      for (int64_t j = g * kGroupQuads; j < (g + 1) * kGroupQuads; j++) {
        const I both = load_i(line + j * kLineBytes);
        keep(j, add8(mul16(both & mask, step), offset));
        keep(j + kQuads / 2, add8(mul16(right<4>(both) & mask, other_step), other_offset));
      }
    }
  } else {
    for (int64_t j = 0; j < count; j++) keep(j, load_i(line + j * kLineBytes));
  }
}

// out[r · stride + c] += xscale[r] scales[c] Σ_j x[r,j] w[c,j] over a block of R packed rows and C registers of columns.
template <int R, int C>
void tile_block(const DotInt8::X* x, const float* xscale, const int32_t* start, const uint8_t* quads, int64_t width,
                int64_t count, const float* scales, float* out, int64_t stride) {
  using D = DotInt8;
  I sums[R][C];
  each_of<R>([&](auto r) SIMD_LAMBDA {
    const I first = set_i(D::kBias ? start[r] : 0);
    each_of<C>([&](auto c) SIMD_LAMBDA {
      sums[r][c] = first;
      prefetch_written(out + r * stride + c * F::N);
    });
  });
  for (int64_t j = 0; j < count; j++, quads += width, x += 4) {
    D::Quad w[C];
    each_of<C>([&](auto c) SIMD_LAMBDA { w[c] = D::quad(load_i(quads + c * 4 * I::N)); });
    each_of<R>([&](auto r) SIMD_LAMBDA {
      const auto four = D::x(x + r * kQuantBlock);
      each_of<C>([&](auto c) SIMD_LAMBDA { sums[r][c] = D::add(sums[r][c], w[c], four); });
    });
  }
  each_of<R>([&](auto r) SIMD_LAMBDA {
    each_of<C>([&](auto c) SIMD_LAMBDA {
      float* to = out + r * stride + c * F::N;
      store(to, fma(to_float(sums[r][c]), load(scales + c * F::N) * xscale[r], load(to)));
    });
  });
}

template <int C, int R = DotInt8::kRows>
SIMD_INLINE void tile_block_of(int64_t rows, const QuantRows& x, const uint8_t* quads, int64_t width, int64_t count,
                               const float* scales, float* out, int64_t stride) {
  if constexpr (R > 1)
    if (rows < R) return tile_block_of<C, R - 1>(rows, x, quads, width, count, scales, out, stride);
  tile_block<R, C>(x.values, x.scale, x.start, quads, width, count, scales, out, stride);
}

// The sums of one group of R rows with one register of columns become those of x · q by step and offset: whole numbers below
// 2^24, which floats hold.
template <int R>
SIMD_INLINE void add_group(const I (&sums)[R], const uint32_t* grid, const QuantRows& x, int64_t group, F (&total)[R]) {
  const I two = load_i(grid), pair = group % 2 ? two : left<16>(two);
  const F step = to_float(right<24>(left<8>(pair))), offset = to_float(signed_right<24>(pair));
  each_of<R>([&](auto r) SIMD_LAMBDA {
    total[r] = fma(to_float(sums[r]), step, fma(offset, set(x.groups[r * kGroups + group]), total[r]));
  });
}

// out[r · stride + c] += a block's products of R packed rows with one register of columns, straight from `count` lines.
template <int R, bool Int4>
void few_block(const uint8_t* line, int64_t count, const QuantRows& x, const uint32_t (*grid)[kBandColumns], int64_t c,
               const float* scales, float* out, int64_t stride) {
  using D = DotInt8;
  F total[R];
  const DotInt8::X* four = x.values;
  if constexpr (Int4) {
    each_of<R>([&](auto r) SIMD_LAMBDA { total[r] = zero(); });
    for (int64_t g = 0; g < kGroups / 2; g++) {
      I low[R], high[R];
      each_of<R>([&](auto r) SIMD_LAMBDA { low[r] = high[r] = set_i(0); });
      each_of<kGroupQuads>([&](auto) SIMD_LAMBDA {
        prefetch(line + kAhead);
        const I both = load_i(line), mask = set_i(0x0f0f0f0f);
        const auto a = D::quad(both & mask), b = D::quad(right<4>(both) & mask);
        each_of<R>([&](auto r) SIMD_LAMBDA {
          low[r] = D::add(low[r], a, D::x(four + r * kQuantBlock));
          high[r] = D::add(high[r], b, D::x(four + r * kQuantBlock + kPackedBlock));
        });
        line += kLineBytes;
        four += 4;
      });
      add_group(low, grid[0] + c, x, g, total);
      add_group(high, grid[1] + c, x, g + kGroups / 2, total);
    }
  } else {
    I sums[R];
    each_of<R>([&](auto r) SIMD_LAMBDA { sums[r] = set_i(D::kBias ? x.start[r] : 0); });
    const auto add_line = [&]() SIMD_LAMBDA {
      prefetch(line + kAhead);
      const auto w = D::quad(load_i(line) ^ set_i(kSigns));
      each_of<R>([&](auto r) SIMD_LAMBDA { sums[r] = D::add(sums[r], w, D::x(four + r * kQuantBlock)); });
      line += kLineBytes;
      four += 4;
    };
    for (; count >= kGroupQuads; count -= kGroupQuads) each_of<kGroupQuads>([&](auto) SIMD_LAMBDA { add_line(); });
    for (; count > 0; count--) add_line();
    each_of<R>([&](auto r) SIMD_LAMBDA { total[r] = to_float(sums[r]); });
  }
  each_of<R>([&](auto r) SIMD_LAMBDA {
    float* to = out + r * stride;
    store(to, fma(total[r], load(scales) * x.scale[r], load(to)));
  });
}

template <bool Int4, int R = DotInt8::kFew, class... Rest>
SIMD_INLINE void few_block_of(int64_t rows, Rest... rest) {
  if constexpr (R > 1)
    if (rows < R) return few_block_of<Int4, R - 1>(rows, rest...);
  few_block<R, Int4>(rest...);
}

// products() of dot.h for quantised weights; soon(i, first, count) goes before the last of the work on those sums. Needs
// quant_scratch().
template <bool Int4, class Row, class Soon, class Done>
void products_quantised(Worker& w, int64_t m, int64_t n, int64_t k, Row x, const Quantised& weight, Soon soon,
                        Done done) {
  using D = DotInt8;
  const int64_t blocks = quant_blocks(k);
  const auto pack = [&](const Packed& p, int64_t begin, int64_t end) {
    const QuantRows to(p.memory, p.rows, k);
    for (int64_t i = begin; i < end; i++) pack_row(x(p.first + i), k, to.from(i));
  };
  each_pack(w, m, D::kRows, quant_row(k, sizeof(D::X)), pack, [&](const Packed& packed) {
    const QuantRows rows(packed.memory, packed.rows, k);
    const auto add = [&](const Piece& p, float* sums) {
      Chunk chunk;
      alignas(64) uint8_t quads[kQuads][4 * kBandColumns], room[kQuads][kLineBytes];
      const bool few = p.rows <= 2 * D::kFew;
      const int64_t group = few ? kLineRows : p.columns < kBandColumns ? p.columns : kBandColumns;
      const int64_t some = ceil_div(p.rows, ceil_div(p.rows, D::kFew));
      for (int64_t g = 0; g < p.wide; g += group) {
        const int64_t first = p.left + g, left = p.wide - g < group ? p.wide - g : group;
        const int64_t wide = ceil_div(left, kLineRows) * kLineRows;
        for (int64_t b = 0; b < blocks; b++) {
          if (b % kChunk == 0) chunk.read(weight, n, k, first, b, wide);
          const float* scales = chunk.scale[b % kChunk];
          const auto* grid = chunk.grid + b % kChunk * 2;
          const int64_t used = Int4 || b + 1 < blocks ? kQuads : quant_lines(false, k - b * kQuantBlock);
          const int64_t count = Int4 ? kQuads / 2 : used;
          for (int64_t c = 0; c < wide; c += kLineRows) {
            const uint8_t* lines = block_lines<Int4>(weight, n, k, first + c, b, count, room);
            for (int64_t h = 0; h < kLineRows; h += I::N, lines += 4 * I::N) {
              for (int64_t i = 0; few && i < p.rows; i += some)
                few_block_of<Int4>(p.rows - i < some ? p.rows - i : some, lines, count,
                                   rows.from(b * rows.rows + p.top + i), grid, h, scales + h,
                                   sums + i * p.columns + g + h, p.columns);
              if (!few) expand<Int4>(lines, count, grid, c + h, quads);
            }
          }
          if (few) continue;
          for (int64_t i = 0; i < p.rows; i += D::kRows) {
            const QuantRows x = rows.from(b * rows.rows + p.top + i);
            if (b + 1 == blocks)
              for (int64_t r = i; r < i + D::kRows && r < p.rows; r++) soon(packed.first + p.top + r, first, wide);
            int64_t c = 0;
            float* out = sums + i * p.columns + g;
            for (; c + D::kColumns * I::N <= wide; c += D::kColumns * I::N)
              tile_block_of<D::kColumns>(p.rows - i, x, quads[0] + 4 * c, sizeof quads[0], used, scales + c, out + c,
                                         p.columns);
            for (; c < wide; c += I::N)
              tile_block_of<1>(p.rows - i, x, quads[0] + 4 * c, sizeof quads[0], used, scales + c, out + c, p.columns);
          }
        }
      }
    };
    each_piece(w, packed.rows, n, D::kRows, kLineRows, add,
               [&](int64_t i, int64_t c, int64_t count, const float* sums) { done(packed.first + i, c, count, sums); });
  });
}

}  // namespace vlm::SIMD
SIMD_END
