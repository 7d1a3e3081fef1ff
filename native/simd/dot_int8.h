// Inner products with weights in int8 or int4: both sides are whole numbers in blocks of kQuantBlock along k,
// sums[i,c] = Σ_b xscale[i,b] scale[c,b] Σ_j qx[i,j] q[c,j]. The inner sums are exact, the outer one goes from the first
// block to the last, so a row gives the same bits in any tile, in a batch and on any thread. Included once for each pass
// of foreach.h, after dot.h and ops/block.h.
//
// Each lane of a register is a column. Weights lie row by row, so a block of some columns is first turned into quads, four
// neighbours of each column side by side; int4 becomes int8 on the way. All rows of x then meet those quads in L1.
#include <limits>

#ifndef VLM_DOT_INT8
#define VLM_DOT_INT8
namespace vlm {

// int8: weight i8 [n,k]. int4: weight u8 [n, blocks · 64], byte j of a block holds elements j (low bits) and j + 64; q is
// step · q + offset where grid i8 [n, blocks · 4, 2] has step and offset of every kQuantGroup elements.
// scale f32 [n, blocks].
struct Quantised {
  const uint8_t *weight, *grid;  // grid is null for int8
  const float* scale;
  int64_t weight_row, grid_row, scale_row;  // from a row to the next
};

constexpr int64_t kQuads = kQuantBlock / 4;
constexpr int64_t kPackedBlock = kQuantBlock / 2;  // bytes in int4

// A packed row of x: its values as `element` bytes each, then every block's scale, then what every block's sums begin
// with. An odd number of cache lines, so that rows don't meet in the same ones of L1.
constexpr int64_t quant_row(int64_t k, int64_t element) {
  return (ceil_div(quant_blocks(k) * (kQuantBlock * element + 8), 64) | 1) * 64;
}
constexpr size_t quant_scratch(int64_t m, int64_t k, int nth) { return pack_scratch(m, quant_row(k, 2), nth); }

}  // namespace vlm
#endif

SIMD_BEGIN
namespace vlm::SIMD {

// I: a register of whole numbers, one 32-bit lane for each column. In a register of quads, a lane is four int8.
#if SIMD_AVX512

struct I {
  __m512i v;
  static constexpr int N = 16;
};
SIMD_INLINE I load_i(const void* p) { return {_mm512_loadu_si512(p)}; }
SIMD_INLINE void store_i(void* p, I a) { _mm512_storeu_si512(p, a.v); }
SIMD_INLINE I set_i(int32_t x) { return {_mm512_set1_epi32(x)}; }
SIMD_INLINE F bits(I a) { return {_mm512_castsi512_ps(a.v)}; }
SIMD_INLINE I bits(F a) { return {_mm512_castps_si512(a.v)}; }
SIMD_INLINE F to_float(I a) { return {_mm512_cvtepi32_ps(a.v)}; }
SIMD_INLINE I operator&(I a, I b) { return {_mm512_and_si512(a.v, b.v)}; }
SIMD_INLINE I operator|(I a, I b) { return {_mm512_or_si512(a.v, b.v)}; }
SIMD_INLINE I operator^(I a, I b) { return {_mm512_xor_si512(a.v, b.v)}; }
template <int n>
SIMD_INLINE I left(I a) {
  return {_mm512_slli_epi32(a.v, n)};
}
template <int n>
SIMD_INLINE I right(I a) {
  return {_mm512_srli_epi32(a.v, n)};
}
SIMD_INLINE I mul16(I a, I b) { return {_mm512_mullo_epi16(a.v, b.v)}; }
SIMD_INLINE I add8(I a, I b) { return {_mm512_add_epi8(a.v, b.v)}; }
#if !SIMD_VNNI
SIMD_INLINE I even16(I a) { return {_mm512_srai_epi16(_mm512_slli_epi16(a.v, 8), 8)}; }
SIMD_INLINE I odd16(I a) { return {_mm512_srai_epi16(a.v, 8)}; }
SIMD_INLINE I add_pairs(I sums, I a, I b) { return {_mm512_add_epi32(sums.v, _mm512_madd_epi16(a.v, b.v))}; }
#endif

#elif SIMD_AVX2

struct I {
  __m256i v;
  static constexpr int N = 8;
};
SIMD_INLINE I load_i(const void* p) { return {_mm256_loadu_si256(static_cast<const __m256i*>(p))}; }
SIMD_INLINE void store_i(void* p, I a) { _mm256_storeu_si256(static_cast<__m256i*>(p), a.v); }
SIMD_INLINE I set_i(int32_t x) { return {_mm256_set1_epi32(x)}; }
SIMD_INLINE F bits(I a) { return {_mm256_castsi256_ps(a.v)}; }
SIMD_INLINE I bits(F a) { return {_mm256_castps_si256(a.v)}; }
SIMD_INLINE F to_float(I a) { return {_mm256_cvtepi32_ps(a.v)}; }
SIMD_INLINE I operator&(I a, I b) { return {_mm256_and_si256(a.v, b.v)}; }
SIMD_INLINE I operator|(I a, I b) { return {_mm256_or_si256(a.v, b.v)}; }
SIMD_INLINE I operator^(I a, I b) { return {_mm256_xor_si256(a.v, b.v)}; }
template <int n>
SIMD_INLINE I left(I a) {
  return {_mm256_slli_epi32(a.v, n)};
}
template <int n>
SIMD_INLINE I right(I a) {
  return {_mm256_srli_epi32(a.v, n)};
}
SIMD_INLINE I mul16(I a, I b) { return {_mm256_mullo_epi16(a.v, b.v)}; }
SIMD_INLINE I add8(I a, I b) { return {_mm256_add_epi8(a.v, b.v)}; }
SIMD_INLINE I even16(I a) { return {_mm256_srai_epi16(_mm256_slli_epi16(a.v, 8), 8)}; }
SIMD_INLINE I odd16(I a) { return {_mm256_srai_epi16(a.v, 8)}; }
SIMD_INLINE I add_pairs(I sums, I a, I b) { return {_mm256_add_epi32(sums.v, _mm256_madd_epi16(a.v, b.v))}; }

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
SIMD_INLINE I mul16(I a, I b) {
  return {vreinterpretq_s32_s16(vmulq_s16(vreinterpretq_s16_s32(a.v), vreinterpretq_s16_s32(b.v)))};
}
SIMD_INLINE I add8(I a, I b) {
  return {vreinterpretq_s32_s8(vaddq_s8(vreinterpretq_s8_s32(a.v), vreinterpretq_s8_s32(b.v)))};
}

#elif SIMD_SSE2

struct I {
  __m128i v;
  static constexpr int N = 4;
};
SIMD_INLINE I load_i(const void* p) { return {_mm_loadu_si128(static_cast<const __m128i*>(p))}; }
SIMD_INLINE void store_i(void* p, I a) { _mm_storeu_si128(static_cast<__m128i*>(p), a.v); }
SIMD_INLINE I set_i(int32_t x) { return {_mm_set1_epi32(x)}; }
SIMD_INLINE F bits(I a) { return {_mm_castsi128_ps(a.v)}; }
SIMD_INLINE I bits(F a) { return {_mm_castps_si128(a.v)}; }
SIMD_INLINE F to_float(I a) { return {_mm_cvtepi32_ps(a.v)}; }
SIMD_INLINE I operator&(I a, I b) { return {_mm_and_si128(a.v, b.v)}; }
SIMD_INLINE I operator|(I a, I b) { return {_mm_or_si128(a.v, b.v)}; }
SIMD_INLINE I operator^(I a, I b) { return {_mm_xor_si128(a.v, b.v)}; }
template <int n>
SIMD_INLINE I left(I a) {
  return {_mm_slli_epi32(a.v, n)};
}
template <int n>
SIMD_INLINE I right(I a) {
  return {_mm_srli_epi32(a.v, n)};
}
SIMD_INLINE I mul16(I a, I b) { return {_mm_mullo_epi16(a.v, b.v)}; }
SIMD_INLINE I add8(I a, I b) { return {_mm_add_epi8(a.v, b.v)}; }
SIMD_INLINE I even16(I a) { return {_mm_srai_epi16(_mm_slli_epi16(a.v, 8), 8)}; }
SIMD_INLINE I odd16(I a) { return {_mm_srai_epi16(a.v, 8)}; }
SIMD_INLINE I add_pairs(I sums, I a, I b) { return {_mm_add_epi32(sums.v, _mm_madd_epi16(a.v, b.v))}; }

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
SIMD_INLINE I right(I a){SIMD_EACH(a.v[i] >> n)} SIMD_INLINE I mul16(I a, I b){
    SIMD_EACH(((a.v[i] >> 16) * (b.v[i] >> 16) << 16) | ((a.v[i] & 0xffff) * (b.v[i] & 0xffff) & 0xffff))} SIMD_INLINE I
    add8(I a, I b) {
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
  static constexpr int kRows = 6, kColumns = 4, kBias = 128;
  static Quad quad(I w) { return w; }
  static I x(const X* p) {
    int32_t four;
    std::memcpy(&four, p, 4);
    return set_i(four);
  }
  static I add(I sums, Quad w, I x) { return {_mm512_dpbusd_epi32(sums.v, w.v, x.v)}; }
};
#elif SIMD_AVX512 || SIMD_AVX2 || SIMD_SSE2
// Products of int16 in pairs, as products of int8 saturate: of four neighbours first the even ones, then the odd ones.
struct DotInt8 {
  using X = int16_t;
  struct Quad {
    I even, odd;
  };
  static constexpr int kRows = I::N == 16 ? 6 : 4, kColumns = 2, kBias = 0;
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
  static constexpr int kRows = 6, kColumns = 2, kBias = 0;
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
  static constexpr int kRows = 2, kColumns = 1, kBias = 0;
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

// Packs one row of x: block by block, scale = max |x| / 127 and the nearest whole numbers of scales. A block that holds a
// NaN or an infinity has NaN as its scale, so the row's products are NaN.
SIMD_INLINE void pack_row(const float* x, int64_t k, std::byte* row) {
  using X = DotInt8::X;
  const int64_t blocks = quant_blocks(k);
  X* out = reinterpret_cast<X*>(row);
  float* scales = reinterpret_cast<float*>(out + blocks * kQuantBlock);
  int32_t* starts = reinterpret_cast<int32_t*>(scales + blocks);
  for (int64_t b = 0; b < blocks; b++, x += kQuantBlock, out += kQuantBlock) {
    const int64_t n = k - b * kQuantBlock < kQuantBlock ? k - b * kQuantBlock : kQuantBlock;
    F most = zero(), strange = zero();  // strange: 0 · x is NaN where x isn't finite
    for (int64_t j = 0; j < n; j += F::N) {
      const F v = load_some(x + j, n - j);
      most = max(most, abs(v));
      strange = fma(v, zero(), strange);
    }
    const float scale = max_of(most) / 127;
    const bool finite = sum(strange) == 0, some = scale >= std::numeric_limits<float>::min();
    scales[b] = !finite ? std::numeric_limits<float>::quiet_NaN() : some ? scale : 0;
    float total = 0;
    if (n < kQuantBlock || !finite || !some) std::memset(out, 0, kQuantBlock * sizeof(X));
    if (finite && some)
      for (int64_t j = 0; j < n; j += F::N)
        total += quantise(x + j, static_cast<int>(n - j < F::N ? n - j : F::N), 1 / scale, out + j);
    starts[b] = -DotInt8::kBias * static_cast<int32_t>(total);
  }
}

// N neighbouring dwords of each of N rows become registers of quads: to[j · width + i] is dword j of row i.
template <class Store>
SIMD_INLINE void columns_of(const uint8_t* rows, int64_t row_bytes, Store store_quad) {
  F r[I::N];
  SIMD_UNROLL
  for (int i = 0; i < I::N; i++) r[i] = bits(load_i(rows + i * row_bytes));
  transpose(r);
  SIMD_UNROLL
  for (int j = 0; j < I::N; j++) store_quad(j, bits(r[j]));
}

constexpr int32_t kSigns = DotInt8::kBias ? static_cast<int32_t>(0x80808080) : 0;

// Block b of I::N columns from `first` on as quads, `width` bytes from one to the next, and their scales. Columns from n on
// have scale 0; elements from k on are anything, as x is 0 there.
SIMD_INLINE void expand(const Quantised& q, int64_t n, int64_t k, int64_t first, int64_t b, uint8_t* quads,
                        int64_t width, float* scales) {
  const int64_t whole = q.grid ? kPackedBlock : kQuantBlock, columns = n - first < I::N ? n - first : I::N;
  const int64_t left_over = k - b * kQuantBlock, bytes = q.grid || left_over > whole ? whole : left_over;
  const uint8_t* rows = q.weight + first * q.weight_row + b * whole;
  int64_t row_bytes = q.weight_row;
  alignas(64) uint8_t part[I::N * kQuantBlock];
  if (columns < I::N || bytes < whole) {  // never beyond the last row's end
    std::memset(part, 0, sizeof part);
    for (int64_t i = 0; i < columns; i++)
      std::memcpy(part + i * whole, rows + i * row_bytes, static_cast<size_t>(bytes));
    rows = part;
    row_bytes = whole;
  }
  for (int64_t i = 0; i < I::N; i++) scales[i] = i < columns ? q.scale[(first + i) * q.scale_row + b] : 0;
  if (!q.grid) {
    for (int64_t j = 0; j < kQuads; j += I::N)
      columns_of(rows + 4 * j, row_bytes,
                 [&](int64_t i, I quad) { store_i(quads + (j + i) * width, quad ^ set_i(kSigns)); });
    return;
  }
  // A dword of grid is step, offset, step, offset of two groups. A step as two int16 multiplies two q of four at a time:
  // step · q <= 255.
  alignas(64) uint32_t grid[2][I::N] = {};
  for (int64_t i = 0; i < columns; i++)
    for (int64_t g = 0; g < 2; g++) std::memcpy(&grid[g][i], q.grid + (first + i) * q.grid_row + b * 8 + g * 4, 4);
  const auto on_grid = [&](int64_t quad, I q4) {
    const int64_t group = quad / 8;
    I two = load_i(grid[group / 2]);
    two = group % 2 ? right<16>(two) : two & set_i(0xffff);
    const I step = two & set_i(0xff), offset = right<8>(two);
    const I offsets = offset | left<8>(offset);
    const I value = add8(mul16(q4, step | left<16>(step)), (offsets | left<16>(offsets)) ^ set_i(kSigns));
    store_i(quads + quad * width, value);
  };
  const I low = set_i(0x0f0f0f0f);
  for (int64_t j = 0; j < kQuads / 2; j += I::N)
    columns_of(rows + 4 * j, row_bytes, [&](int64_t i, I two) {
      on_grid(j + i, two & low);
      on_grid(j + i + kQuads / 2, right<4>(two) & low);
    });
}

// out[r · stride + c] += xscale[r] scales[c] Σ_j x[r,j] w[c,j] over block b of R packed rows and C registers of columns.
template <int R, int C>
void tile_block(const std::byte* rows, int64_t row_bytes, int64_t blocks, int64_t b, const uint8_t* quads,
                int64_t width, const float* scales, float* out, int64_t stride) {
  using D = DotInt8;
  const auto* x = reinterpret_cast<const D::X*>(rows) + b * kQuantBlock;
  const int64_t ldx = row_bytes / static_cast<int64_t>(sizeof(D::X));
  const auto* xscale = reinterpret_cast<const float*>(reinterpret_cast<const D::X*>(rows) + blocks * kQuantBlock) + b;
  const auto* start = reinterpret_cast<const int32_t*>(xscale + blocks);
  const int64_t ld = row_bytes / 4;
  I sums[R][C];
  SIMD_UNROLL
  for (int r = 0; r < R; r++) {
    SIMD_UNROLL
    for (int c = 0; c < C; c++) sums[r][c] = set_i(D::kBias ? start[r * ld] : 0);
  }
  for (int64_t j = 0; j < kQuads; j++) {
    D::Quad w[C];
    SIMD_UNROLL
    for (int c = 0; c < C; c++) w[c] = D::quad(load_i(quads + j * width + c * 4 * I::N));
    SIMD_UNROLL
    for (int r = 0; r < R; r++) {
      const auto four = D::x(x + r * ldx + 4 * j);
      SIMD_UNROLL
      for (int c = 0; c < C; c++) sums[r][c] = D::add(sums[r][c], w[c], four);
    }
  }
  SIMD_UNROLL
  for (int r = 0; r < R; r++) {
    SIMD_UNROLL
    for (int c = 0; c < C; c++) {
      float* to = out + r * stride + c * F::N;
      store(to, fma(to_float(sums[r][c]), load(scales + c * F::N) * xscale[r * ld], load(to)));
    }
  }
}

template <int C, int R = DotInt8::kRows>
SIMD_INLINE void tile_block_of(int64_t rows, const std::byte* x, int64_t row_bytes, int64_t blocks, int64_t b,
                               const uint8_t* quads, int64_t width, const float* scales, float* out, int64_t stride) {
  if constexpr (R > 1)
    if (rows < R) return tile_block_of<C, R - 1>(rows, x, row_bytes, blocks, b, quads, width, scales, out, stride);
  tile_block<R, C>(x, row_bytes, blocks, b, quads, width, scales, out, stride);
}

// products() of dot.h for quantised weights. Needs quant_scratch().
template <class Row, class Done>
void products_int8(Worker& w, int64_t m, int64_t n, int64_t k, Row x, const Quantised& weight, Done done) {
  using D = DotInt8;
  const int64_t row_bytes = quant_row(k, sizeof(D::X)), blocks = quant_blocks(k);
  const auto pack = [&](const Packed& p, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) pack_row(x(p.first + i), k, p.memory + i * row_bytes);
  };
  each_pack(w, m, D::kRows, row_bytes, pack, [&](const Packed& packed) {
    const auto add = [&](const Piece& p, float* sums) {
      alignas(64) uint8_t quads[kBandColumns * kQuantBlock];
      alignas(64) float scales[kBandColumns];
      // Few rows read few rows of weight from end to end, many rows all of the piece's for each block.
      const int64_t group = p.rows <= 2 * D::kRows ? I::N : p.columns;
      for (int64_t g = 0; g < p.wide; g += group)
        for (int64_t b = 0; b < blocks; b++) {
          const int64_t wide = ceil_div(p.wide - g < group ? p.wide - g : group, I::N) * I::N;
          for (int64_t c = 0; c < wide; c += I::N)
            expand(weight, n, k, p.left + g + c, b, quads + 4 * c, 4 * group, scales + c);
          for (int64_t i = 0; i < p.rows; i += D::kRows) {
            const std::byte* rows = packed.memory + (p.top + i) * row_bytes;
            for (int64_t c = 0; c < wide;) {
              float* out = sums + i * p.columns + g + c;
              if (c + D::kColumns * I::N <= wide) {
                tile_block_of<D::kColumns>(p.rows - i, rows, row_bytes, blocks, b, quads + 4 * c, 4 * group, scales + c,
                                           out, p.columns);
                c += D::kColumns * I::N;
              } else {
                tile_block_of<1>(p.rows - i, rows, row_bytes, blocks, b, quads + 4 * c, 4 * group, scales + c, out,
                                 p.columns);
                c += I::N;
              }
            }
          }
        }
    };
    each_piece(w, packed.rows, n, D::kRows, I::N, add,
               [&](int64_t i, int64_t c, int64_t count, const float* sums) { done(packed.first + i, c, count, sums); });
  });
}

}  // namespace vlm::SIMD
SIMD_END
