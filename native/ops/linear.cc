// y[i,c] = act(Σ_j x[i,j] weight[c,j] + bias[c]) + residual[i,c]
// x: [rows…, k] f32    weight: [n, k] f32, f16 or bf16    bias: [n] f32    residual, y: [rows…, n] f32, may be the same
#define SIMD_FILE "ops/linear.cc"
#include "ops/rows.h"
#include "simd/foreach.h"
#include "simd/vec.h"
#include "simd/math.h"
#include "simd/dot.h"

SIMD_BEGIN
namespace vlm::SIMD {

void linear(const Step& step, Worker& w) {
  const auto [x, weight, bias, residual] = step.inputs<4>();
  const auto [y] = step.outputs<1>();
  const Activation activation = static_cast<Activation>(step.attr[0].i);
  const int64_t m = row_count(x), n = weight.size[0], k = weight.size[1], ldw = weight.stride[0];
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
  with_dot(weight.dtype, [&](auto dot) {
    using D = decltype(dot);
    products<D>(
        w, m, n, k, [&](int64_t i) { return row(x, i); }, weight.as<typename D::W>(), ldw, done);
  });
}

}  // namespace vlm::SIMD
SIMD_END

#if SIMD_ONCE
namespace vlm {

size_t prepare_linear(const Step& step, int nth) {
  const auto [x, weight, bias, residual] = step.inputs<4>();
  const auto [y] = step.outputs<1>();
  check_given(weight, "weight");
  check_size(weight, "weight", {-1, -1});
  check_rows(weight, "weight");
  check_weight(weight);
  const int64_t n = weight.size[0], k = weight.size[1];
  check_row_tensor(x, "x", x, k);
  check_row_tensor(y, "y", x, n);
  if (residual) check_row_tensor(residual, "residual", x, n);
  check_plain(bias, "bias", {n});
  return products_scratch(row_count(x), k, nth);
}

SIMD_KERNELS(linear)

}  // namespace vlm
#endif
