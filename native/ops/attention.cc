// y[i] = Σ_j softmax_j(scale q[i]·k[j]) v[j] for each head, without a mask (Vaswani et al. 2017, eq. 1)
// q, y: [b, l, h, d] f32    k, v: [b, m, h, d] f32    the last dimension contiguous, the others anywhere
//
// Lanes are queries. A block of queries is turned to columns once; then keys and values are read as they lie, one broadcast
// number at a time, no sum crosses lanes, and a query's bits don't depend on its block. Keys pass in chunks with a running
// maximum (Milakov & Gimelshein 2018, alg. 3), so the memory does not grow with m. With products in bf16, on processors
// that have them, a number is a pair of neighbours along the sum, q, k, v and the softmax's numerators rounded to bf16.
#define SIMD_FILE "ops/attention.cc"
#include <array>
#include <cstring>
#include <limits>

#include "simd/foreach.h"
#include "simd/vec.h"
#include "simd/math.h"
#include "simd/dot.h"

#ifndef VLM_ATTENTION
#define VLM_ATTENTION
namespace vlm {

constexpr int64_t kMaxQueries = 48;  // of a block, in every instruction set
constexpr int64_t kKeys = 64;        // of a chunk
constexpr int64_t kMaxTile = 8;      // rows of a tile: the last one may reach beyond the keys or the head

// A chunk's keys in pairs along d, and its values in pairs along the keys.
constexpr int64_t key_pairs(int64_t d) { return (d + 31) / 32 * 16; }
constexpr int64_t value_pairs(int64_t d) { return (d + kMaxTile + 15) / 16 * 16; }

// One thread's: the queries as columns, a chunk's scores, the outputs, and the pairs.
constexpr int64_t attention_floats(int64_t d) {
  return kMaxQueries * ((d + 1) + (kKeys + kMaxTile) + (d + kMaxTile)) + kKeys * key_pairs(d) +
         kKeys / 2 * value_pairs(d);
}

}  // namespace vlm
#endif

SIMD_BEGIN
namespace vlm::SIMD {

// A tile: kTile broadcast numbers times kVectors registers of queries.
#if SIMD_AVX512
constexpr int kTile = 8, kVectors = 3;
#elif SIMD_AVX2
constexpr int kTile = 6, kVectors = 2;
#elif SIMD_NEON
constexpr int kTile = 6, kVectors = 4;
#elif SIMD_SSE2
constexpr int kTile = 4, kVectors = 2;
#else
constexpr int kTile = 2, kVectors = 1;
#endif
static_assert(kTile <= kMaxTile && kVectors * F::N <= kMaxQueries);

// What is multiplied: numbers, or pairs of them.
struct Numbers {
  using N = float;
  using V = F;
  static V all(N x) { return set(x); }
  static V column(const N* p) { return load(p); }
  static F add(V x, V column, F sums) { return fma(x, column, sums); }
};

#if SIMD_BF16
struct Pairs {
  using N = uint32_t;
  using V = __m512i;
  static V all(N x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  static V column(const N* p) { return _mm512_loadu_si512(p); }
  static F add(V x, V column, F sums) { return DotPairs::add(x, column, sums); }
  // Lane by lane, `first` being the earlier of the two.
  static void join(F first, F second, N* out) {
    static constexpr auto kOrder = [] {
      std::array<uint16_t, 32> order{};
      for (uint16_t i = 0; i < 16; i++) order[2 * i] = i, order[2 * i + 1] = 16 + i;
      return order;
    }();
    const __m512bh rounded = _mm512_cvtne2ps_pbh(second.v, first.v);
    V bits;
    std::memcpy(&bits, &rounded, sizeof bits);
    _mm512_storeu_si512(out, _mm512_permutexvar_epi16(_mm512_loadu_si512(kOrder.data()), bits));
  }
};
#endif

// out[r,:] += Σ_t a[r][t * step] b[t,:] for kTile rows of Q registers.
template <class P, int Q>
void add_products(const typename P::N* const* a, int64_t step, int64_t n, const typename P::N* b, float* out) {
  F sums[kTile][Q];
  SIMD_UNROLL
  for (int r = 0; r < kTile; r++) {
    SIMD_UNROLL
    for (int v = 0; v < Q; v++) sums[r][v] = load(out + (r * Q + v) * F::N);
  }
  int64_t at = 0;
  for (int64_t t = 0; t < n; t++, at += step, b += Q * F::N) {
    typename P::V column[Q];
    SIMD_UNROLL
    for (int v = 0; v < Q; v++) column[v] = P::column(b + v * F::N);
    SIMD_UNROLL
    for (int r = 0; r < kTile; r++) {
      const auto x = P::all(a[r][at]);
      SIMD_UNROLL
      for (int v = 0; v < Q; v++) sums[r][v] = P::add(x, column[v], sums[r][v]);
    }
  }
  SIMD_UNROLL
  for (int r = 0; r < kTile; r++) {
    SIMD_UNROLL
    for (int v = 0; v < Q; v++) store(out + (r * Q + v) * F::N, sums[r][v]);
  }
}

// One head's tensors, from the first of the block's queries on; strides in elements between rows.
struct Head {
  const float *q, *k, *v;
  float* y;
  int64_t q_row, k_row, v_row, y_row, queries, keys, d;
};

// The operands of a chunk's two products as they lie in memory.
template <int Q>
struct InNumbers {
  using P = Numbers;
  const float *k, *v, *columns, *powers;
  int64_t k_row, v_row, terms, keys;

  InNumbers(const Head& a, const float* columns, float*) : columns(columns), terms(a.d) {}
  void chunk(const Head& a, int64_t first, int64_t count) {
    k = a.k + first * a.k_row, v = a.v + first * a.v_row;
    k_row = a.k_row, v_row = a.v_row, keys = count;
  }
  void take(const float* scores) { powers = scores; }
};

#if SIMD_BF16
// The same, rounded and paired: the queries once, keys and values chunk by chunk, the numerators after the exponential.
template <int Q>
struct InPairs {
  using P = Pairs;
  static constexpr int64_t kWidth = Q * F::N;
  uint32_t *k, *v, *columns, *powers;
  int64_t k_row, v_row, terms, keys;

  InPairs(const Head& a, float* from, float* room)
      : k(reinterpret_cast<uint32_t*>(room)),
        v(k + kKeys * key_pairs(a.d)),
        columns(reinterpret_cast<uint32_t*>(from)),
        k_row(key_pairs(a.d)),
        v_row(value_pairs(a.d)),
        terms((a.d + 1) / 2) {
    for (int64_t c = 0; c < a.d; c += 2)
      for (int64_t i = 0; i < kWidth; i += F::N)
        P::join(load(from + c * kWidth + i), c + 1 < a.d ? load(from + (c + 1) * kWidth + i) : zero(),
                columns + c / 2 * kWidth + i);
  }
  void chunk(const Head& a, int64_t first, int64_t count) {
    keys = (count + 1) / 2;
    for (int64_t j = 0; j < count; j++)
      for (int64_t c = 0; c < a.d; c += 32)
        DotPairs::pack(a.k + (first + j) * a.k_row + c, static_cast<int>(a.d - c < 32 ? a.d - c : 32),
                       reinterpret_cast<uint16_t*>(k + j * k_row + c / 2));
    for (int64_t j = 0; j < count; j += 2) {
      const float *even = a.v + (first + j) * a.v_row, *odd = even + a.v_row;
      for (int64_t c = 0; c < a.d; c += F::N) {
        const int some = static_cast<int>(a.d - c < F::N ? a.d - c : F::N);
        P::join(load(even + c, some), j + 1 < count ? load(odd + c, some) : zero(), v + j / 2 * v_row + c);
      }
    }
  }
  // A pair takes the place of its first row, or of one before it.
  void take(float* scores) {
    powers = reinterpret_cast<uint32_t*>(scores);
    for (int64_t j = 0; j < keys; j++)
      for (int64_t i = 0; i < kWidth; i += F::N)
        P::join(load(scores + 2 * j * kWidth + i), load(scores + (2 * j + 1) * kWidth + i), powers + j * kWidth + i);
  }
};
#endif

// `queries` <= Q * F::N.
template <template <int> class In, int Q>
void attend(const Head& a, float scale, float* scratch) {
  constexpr int64_t kWidth = Q * F::N;
  float* columns = scratch;
  float* scores = columns + (a.d + 1) * kWidth;
  float* outputs = scores + (kKeys + kMaxTile) * kWidth;
  const float scale2 = scale * 1.44269504f;  // powers of 2 are cheaper than those of e
  for (int64_t i = 0; i < a.queries; i++)
    for (int64_t c = 0; c < a.d; c += 16) prefetch(a.q + i * a.q_row + c);
  for (int64_t c = 0; c < a.d; c++)
    for (int64_t i = 0; i < kWidth; i++) columns[c * kWidth + i] = i < a.queries ? a.q[i * a.q_row + c] * scale2 : 0.f;
  std::memset(outputs, 0, sizeof(float) * static_cast<size_t>((a.d + kTile) * kWidth));
  In<Q> in(a, columns, outputs + (a.d + kMaxTile) * kWidth);
  using P = typename In<Q>::P;
  F top[Q], total[Q];
  SIMD_UNROLL
  for (int i = 0; i < Q; i++) {
    top[i] = set(-std::numeric_limits<float>::infinity());
    total[i] = zero();
  }

  for (int64_t first = 0; first < a.keys; first += kKeys) {
    const int64_t keys = a.keys - first < kKeys ? a.keys - first : kKeys;
    const typename P::N* rows[kTile];
    in.chunk(a, first, keys);
    // Rows of a tile beyond the last are computed as the last and not looked at.
    std::memset(scores, 0, sizeof(float) * static_cast<size_t>((keys + kTile) * kWidth));
    for (int64_t j = 0; j < keys; j += kTile) {
      for (int64_t r = 0; r < kTile; r++) rows[r] = in.k + (j + r < keys ? j + r : keys - 1) * in.k_row;
      add_products<P, Q>(rows, 1, in.terms, in.columns, scores + j * kWidth);
    }

    F before[Q];
    SIMD_UNROLL
    for (int i = 0; i < Q; i++) before[i] = top[i];
    for (int64_t j = 0; j < keys; j++) {
      SIMD_UNROLL
      for (int i = 0; i < Q; i++) top[i] = max(top[i], load(scores + j * kWidth + i * F::N));
    }
    SIMD_UNROLL
    for (int i = 0; i < Q; i++) {
      before[i] = exp2(before[i] - top[i]);
      total[i] = total[i] * before[i];
    }
    for (int64_t j = 0; j < keys; j++) {
      SIMD_UNROLL
      for (int i = 0; i < Q; i++) {
        float* score = scores + j * kWidth + i * F::N;
        const F power = exp2(load(score) - top[i]);
        total[i] = total[i] + power;
        store(score, power);
      }
    }
    for (int64_t c = 0; c < a.d; c++) {
      SIMD_UNROLL
      for (int i = 0; i < Q; i++) {
        float* out = outputs + c * kWidth + i * F::N;
        store(out, load(out) * before[i]);
      }
    }
    // The row behind the last key is half of a pair: nothing.
    std::memset(scores + keys * kWidth, 0, sizeof(float) * kWidth);
    in.take(scores);
    for (int64_t c = 0; c < a.d; c += kTile) {
      for (int64_t r = 0; r < kTile; r++) rows[r] = in.v + (c + r < a.d ? c + r : a.d - 1);
      add_products<P, Q>(rows, in.v_row, in.keys, in.powers, outputs + c * kWidth);
    }
  }

  for (int64_t c = 0; c < a.d; c++) {
    SIMD_UNROLL
    for (int i = 0; i < Q; i++) {
      float* out = outputs + c * kWidth + i * F::N;
      store(out, load(out) / total[i]);
    }
  }
  for (int64_t i = 0; i < a.queries; i++)
    for (int64_t c = 0; c < a.d; c++) a.y[i * a.y_row + c] = outputs[c * kWidth + i];
}

template <template <int> class In, int Q = kVectors>
SIMD_INLINE void attend_some(const Head& a, float scale, float* scratch) {
  if constexpr (Q > 1)
    if (a.queries <= (Q - 1) * F::N) return attend_some<In, Q - 1>(a, scale, scratch);
  attend<In, Q>(a, scale, scratch);
}

void attention(const Step& step, Worker& w) {
  const auto [q, k, v] = step.inputs<3>();
  const auto [y] = step.outputs<1>();
  const int64_t batch = q.size[0], l = q.size[1], heads = q.size[2], d = q.size[3];
  constexpr int64_t kWidth = kVectors * F::N;
  const int64_t blocks = (l + kWidth - 1) / kWidth;
  float* scratch = reinterpret_cast<float*>(w.scratch) + attention_floats(d) * w.ith;
  w.each(batch * heads * blocks, 1, [&](int64_t piece, int64_t) {
    const int64_t i = piece % blocks * kWidth, h = piece / blocks % heads, b = piece / blocks / heads;
    const auto at = [&](const TensorArg& t, int64_t row) {
      return t.f32() + b * t.stride[0] + row * t.stride[1] + h * t.stride[2];
    };
    const int64_t queries = l - i < kWidth ? l - i : kWidth;
    const Head head{at(q, i),    at(k, 0), at(v, 0),  at(y, i), q.stride[1], k.stride[1], v.stride[1],
                    y.stride[1], queries,  k.size[1], d};
#if SIMD_BF16
    if (step.attr[1].i != 0) return attend_some<InPairs>(head, step.attr[0].f, scratch);
#endif
    attend_some<InNumbers>(head, step.attr[0].f, scratch);
  });
}

}  // namespace vlm::SIMD
SIMD_END

#if SIMD_ONCE
namespace vlm {

size_t prepare_attention(const Step& step, int nth) {
  const auto [q, k, v] = step.inputs<3>();
  const auto [y] = step.outputs<1>();
  const auto check = [&](const TensorArg& t, const char* name, std::initializer_list<int64_t> size) {
    check_given(t, name);
    check_dtype(t, name, Dtype::f32);
    check_size(t, name, size);
    check_rows(t, name);
  };
  check(q, "q", {-1, -1, -1, -1});
  check(k, "k", {q.size[0], -1, q.size[2], q.size[3]});
  check(v, "v", {q.size[0], k.size[1], q.size[2], q.size[3]});
  check(y, "y", {q.size[0], q.size[1], q.size[2], q.size[3]});
  CHECK(k.size[1] > 0 || y.numel() == 0, "k and v must have at least one row, got ", shape(k));
  return sizeof(float) * static_cast<size_t>(attention_floats(q.size[3])) * static_cast<size_t>(nth);
}

SIMD_KERNELS(attention)

}  // namespace vlm
#endif
