#define SIMD_FILE "quantize.cc"
#include "quantize.h"

#include <bit>
#include <cstring>
#include <limits>

#include "simd/foreach.h"
#include "simd/vec.h"

SIMD_BEGIN
namespace vlm::SIMD {

SIMD_INLINE void widen(const void* row, Dtype from, int64_t k, float* to) {
  const auto* halves = static_cast<const uint16_t*>(row);
  const int64_t whole = k / F::N * F::N;
  if (from == Dtype::f32) {
    std::memcpy(to, row, static_cast<size_t>(k) * sizeof(float));
  } else if (from == Dtype::bf16) {
    for (int64_t i = 0; i < whole; i += F::N) store(to + i, load_bf16(halves + i));
    for (int64_t i = whole; i < k; i++) to[i] = bf16_to_f32(halves[i]);
  } else {
    for (int64_t i = 0; i < whole; i += F::N) store(to + i, load_f16(halves + i));
    for (int64_t i = whole; i < k; i++) to[i] = f16_to_f32(halves[i]);
  }
}

// The largest magnitude, found among the bits: a NaN is larger than infinity, and that larger than any number.
SIMD_INLINE float largest(const float* x, int64_t n) {
  int32_t top = 0;
  for (int64_t i = 0; i < n; i++) {
    const int32_t magnitude = std::bit_cast<int32_t>(x[i]) & 0x7fffffff;
    top = top > magnitude ? top : magnitude;
  }
  return std::bit_cast<float>(top);
}

// As many as are left of `most`.
SIMD_INLINE int64_t at_most(int64_t most, int64_t left) { return left < 0 ? 0 : left < most ? left : most; }

struct Scale {
  float scale, inverse;
};
// Numbers that are all next to nothing become 0: nothing here may be subnormal, which some threads take for 0.
SIMD_INLINE Scale scale_of(float top) { return top < 1e-30f ? Scale{0, 0} : Scale{top / 127, 127 / top}; }

SIMD_INLINE bool is_finite(float x) { return x <= std::numeric_limits<float>::max(); }

bool quantize_int8(const void* row, Dtype from, int64_t k, float* x, int8_t* weight, float* scale) {
  widen(row, from, k, x);
  for (int64_t begin = 0; begin < k; begin += kQuantBlock) {
    const int64_t end = begin + at_most(kQuantBlock, k - begin);
    const float top = largest(x + begin, end - begin);
    if (!is_finite(top)) return false;
    const auto [s, inverse] = scale_of(top);
    *scale++ = s;
    // Adding 1.5 · 2²³ leaves the nearest whole number in the lowest bits, ties to even.
    for (int64_t i = begin; i < end; i++)
      weight[i] = static_cast<int8_t>(std::bit_cast<int32_t>(x[i] * inverse + 12582912.f) - 0x4b400000);
  }
  return true;
}

// The grids of F::N groups of 32, one in each lane, so that no sum crosses lanes and every processor adds in one order.
struct Grids {
  float step[F::N], offset[F::N], error[F::N];
};

SIMD_INLINE F nearest(F v, F offset, F inverse) { return min(max(round((v - offset) * inverse), zero()), set(15.f)); }

// Takes a grid for the groups where its squared error is the least so far; returns the mean of what is left over.
SIMD_INLINE F try_grid(const float* y, F step, F offset, Grids& best) {
  const F inverse = set(1.f) / step;
  F error = zero(), rest = zero();
  for (int i = 0; i < kQuantGroup; i++) {
    const F v = load(y + i * F::N);
    // The product is a small whole number, so that fusing it with the subtraction changes nothing.
    const F left = fnma(nearest(v, offset, inverse), step, v) - offset;
    error = error + left * left;
    rest = rest + left;
  }
  float s[F::N], o[F::N], e[F::N];
  store(s, step);
  store(o, offset);
  store(e, error);
  for (int lane = 0; lane < F::N; lane++) {
    const bool better = e[lane] < best.error[lane];
    best.step[lane] = better ? s[lane] : best.step[lane];
    best.offset[lane] = better ? o[lane] : best.offset[lane];
    best.error[lane] = better ? e[lane] : best.error[lane];
  }
  return rest * (1.f / kQuantGroup);
}

// y: [32][F::N], in units of the scale. Steps up to three below the one that spans a group, three offsets for each, and
// each offset once more where the mean error puts it: within 2 % of the best of all grids on normal numbers.
SIMD_INLINE void find_grids(const float* y, Grids& best) {
  F low = load(y), high = low;
  for (int i = 1; i < kQuantGroup; i++) {
    const F v = load(y + i * F::N);
    low = min(low, v);
    high = max(high, v);
  }
  for (float& error : best.error) error = std::numeric_limits<float>::max();
  const F span = (high - low) * (1.f / 15), middle = (low + high) * .5f;
  for (int smaller = 3; smaller >= 0; smaller--) {
    const F step = min(max(round(span - set(static_cast<float>(smaller))), set(1.f)), set(float{kMaxGridStep}));
    // No grid leaves −127 … 127, not even where nothing uses its end.
    const F last = set(127.f) - step * 15.f;
    for (float shift = -4; shift <= 4; shift += 4) {
      F offset = round(middle - step * 7.5f + set(shift));
      for (int pass = 0; pass < 2; pass++) {
        offset = min(max(offset, set(-127.f)), last);
        offset = round(offset + try_grid(y, step, offset, best));
      }
    }
  }
}

bool quantize_int4(const void* row, Dtype from, int64_t k, float* x, uint8_t* weight, float* scale, int8_t* grid) {
  widen(row, from, k, x);
  constexpr int64_t kGroups = kQuantBlock / kQuantGroup;
  constexpr int64_t kBlocks = F::N / kGroups;  // that are worked on together
  for (int64_t begin = 0; begin < k; begin += F::N * kQuantGroup) {
    float y[kQuantGroup * F::N];
    int64_t have[F::N];  // of a group's numbers
    for (int64_t b = 0; b < kBlocks; b++) {
      const int64_t first = begin + b * kQuantBlock;
      const int64_t n = at_most(kQuantBlock, k - first);
      const float top = largest(x + first, n);
      if (!is_finite(top)) return false;
      const auto [s, inverse] = scale_of(top);
      if (n) *scale++ = s;
      for (int64_t g = 0; g < kGroups; g++) {
        const int64_t lane = b * kGroups + g, at = first + g * kQuantGroup;
        have[lane] = at_most(kQuantGroup, k - at);
        // A row's last group has its own numbers again where there are no more.
        for (int64_t i = 0; i < kQuantGroup; i++)
          y[i * F::N + lane] = have[lane] ? x[at + i % have[lane]] * inverse : 0.f;
      }
    }
    Grids best;
    find_grids(y, best);
    uint8_t q[F::N * kQuantGroup] = {};
    const F offset = load(best.offset), inverse = set(1.f) / load(best.step);
    for (int64_t i = 0; i < kQuantGroup; i++) {
      float whole[F::N];
      store(whole, nearest(load(y + i * F::N), offset, inverse));
      for (int64_t lane = 0; lane < F::N; lane++)
        if (i < have[lane]) q[lane * kQuantGroup + i] = static_cast<uint8_t>(whole[lane]);
    }
    for (int64_t b = 0; b < kBlocks && have[b * kGroups]; b++) {
      for (int64_t lane = b * kGroups; lane < (b + 1) * kGroups; lane++) {
        *grid++ = have[lane] ? static_cast<int8_t>(best.step[lane]) : int8_t{1};
        *grid++ = have[lane] ? static_cast<int8_t>(best.offset[lane]) : int8_t{0};
      }
      for (int64_t j = 0; j < kQuantBlock / 2; j++) {
        const uint8_t* low = q + b * kQuantBlock + j;
        *weight++ = static_cast<uint8_t>(low[0] | low[kQuantBlock / 2] << 4);
      }
    }
  }
  return true;
}

}  // namespace vlm::SIMD
SIMD_END

#if SIMD_ONCE
namespace vlm {

const Quantizer& quantizer() {
#if (defined(__x86_64__) || defined(_M_X64)) && !defined(VLM_PORTABLE_ONLY)
  static const Quantizer x86[] = {{avx2::quantize_int8, avx2::quantize_int4},
                                  {avx512::quantize_int8, avx512::quantize_int4}};
  if (detect_isa() >= Isa::avx2) return x86[detect_isa() >= Isa::avx512];
#endif
  static const Quantizer plain = {baseline::quantize_int8, baseline::quantize_int4};
  return plain;
}

bool valid_weights(const int8_t* weight, int64_t count) {
  bool valid = true;
  for (int64_t i = 0; i < count; i++) valid &= weight[i] != -128;
  return valid;
}

bool valid_scales(const float* scale, int64_t count) {
  bool valid = true;
  for (int64_t i = 0; i < count; i++) valid &= scale[i] >= 0 && scale[i] <= std::numeric_limits<float>::max();
  return valid;
}

bool valid_grids(const int8_t* grid, int64_t count) {
  bool valid = true;
  for (int64_t i = 0; i + 1 < count; i += 2) {
    const int step = grid[i], offset = grid[i + 1];
    valid &= step >= 1 && step <= kMaxGridStep && offset >= -127 && offset + 15 * step <= 127;
  }
  return valid;
}

}  // namespace vlm
#endif
