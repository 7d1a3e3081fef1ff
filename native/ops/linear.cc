// y[i,c] = act(Σ_j x[i,j] weight[c,j] + bias[c]) + residual[i,c]
// x: [rows…, k] f32    weight: [n, k] f32, f16 or bf16    bias: [n] f32    residual, y: [rows…, n] f32, may be the same
// Quantised in blocks of 128 along k: weight [n, k] i8 with scale [n, ⌈k/128⌉] f32, or weight [n, ⌈k/128⌉·64] u8 with
// that scale and grid [n, ⌈k/128⌉·4, 2] i8, or weight in lines, [⌈n/16⌉, quant_lines, 64], with the same (see
// simd/dot_int8.h); x is rounded to int8, each block of a row by its largest
#define SIMD_FILE "ops/linear.cc"
#define SIMD_INT8
#include "ops/rows.h"
#include "simd/foreach.h"
#include "simd/vec.h"
#include "simd/math.h"
#include "simd/dot.h"
#include "ops/block.h"
#include "simd/dot_int8.h"

SIMD_BEGIN
namespace vlm::SIMD {

void linear(const Step& step, Worker& w) {
  const auto [x, weight, bias, residual, scale, grid] = step.inputs<6>();
  const auto [y] = step.outputs<1>();
  const Activation activation = static_cast<Activation>(step.attr[0].i);
  const int64_t m = row_count(x), n = y.size[y.rank - 1], k = x.size[x.rank - 1], ldw = weight.stride[0];
  const auto done = [&](int64_t i, int64_t first, int64_t count, const float* sums) {
    float* out = row(y, i) + first;
    const float* add = residual ? row(residual, i) + first : nullptr;
    for (int64_t c = 0; c < count; c += F::N) {
      const int some = static_cast<int>(count - c < F::N ? count - c : F::N);
      F v = load(sums + c, some);
      if (bias) v = v + load(bias.f32() + first + c, some);
      v = activate(activation, v);
      if (add) v = v + load(add + c, some);
      store(out + c, v, some);
    }
  };
  const auto row_of_x = [&](int64_t i) { return row(x, i); };
  if (scale) {
    const Quantised quantised{weight.as<uint8_t>(), grid.as<uint8_t>(), scale.f32(),     ldw,
                              grid.stride[0],       scale.stride[0],    weight.rank == 3};
    const auto soon = [&](int64_t i, int64_t first, int64_t count) {
      for (int64_t c = 0; c < count; c += 16) prefetch(row(y, i) + first + c);
    };
    return grid ? products_quantised<true>(w, m, n, k, row_of_x, quantised, soon, done)
                : products_quantised<false>(w, m, n, k, row_of_x, quantised, soon, done);
  }
  with_dot(weight.dtype, [&](auto dot) {
    using D = decltype(dot);
    products<D>(w, m, n, k, row_of_x, weight.as<typename D::W>(), ldw, done);
  });
}

}  // namespace vlm::SIMD
SIMD_END

#if SIMD_ONCE
namespace vlm {

size_t prepare_linear(const Step& step, int nth) {
  const auto [x, weight, bias, residual, scale, grid] = step.inputs<6>();
  const auto [y] = step.outputs<1>();
  check_given(x, "x");
  check_given(weight, "weight");
  const int64_t k = x.size[x.rank - 1], blocks = quant_blocks(k);
  const bool int8 = weight.dtype == Dtype::i8, int4 = weight.dtype == Dtype::u8, quantised = int8 || int4;
  const bool lines = quantised && weight.rank == 3;
  const int64_t n = lines ? scale.size[0] : weight.size[0];
  if (!quantised) check_weight(weight);
  if (lines) {
    check_size(weight, "weight", {ceil_div(n, kLineRows), quant_lines(int4, k), kLineBytes});
    check_contiguous(weight, "weight");
  } else {
    check_size(weight, "weight", {-1, int4 ? blocks * kPackedBlock : k});
    check_rows(weight, "weight");
  }
  CHECK(quantised == static_cast<bool>(scale), "scale goes with a weight of i8 or u8, got ", shape(weight));
  CHECK(int4 == static_cast<bool>(grid), "grid goes with a weight of u8, got ", shape(weight));
  if (quantised) {
    check_dtype(scale, "scale", Dtype::f32);
    check_size(scale, "scale", {n, blocks});
    check_rows(scale, "scale");
  }
  if (int4) {
    check_dtype(grid, "grid", Dtype::i8);
    check_size(grid, "grid", {n, blocks * 4, 2});
    check_rows(grid, "grid");
    CHECK(grid.stride[1] == 2 || grid.size[1] <= 1, "grid must be contiguous in its last two dimensions");
  }
  check_row_tensor(x, "x", x, k);
  check_row_tensor(y, "y", x, n);
  if (residual) check_row_tensor(residual, "residual", x, n);
  check_plain(bias, "bias", {n});
  return quantised ? quant_scratch(row_count(x), k, nth) : products_scratch(row_count(x), k, nth);
}

SIMD_KERNELS(linear)

}  // namespace vlm
#endif
