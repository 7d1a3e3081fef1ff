// s = x + residual,  y = s / sqrt(mean(s²) + eps) * weight, over the last dimension (Zhang & Sennrich 2019, eq. 4)
// x, residual, y, sum: [rows…, d] f32    weight: [d] f32    sum receives s when it is asked for
#define SIMD_FILE "ops/rms_norm.cc"
#include "ops/rows.h"
#include "simd/foreach.h"
#include "simd/vec.h"

SIMD_BEGIN
namespace vlm::SIMD {

void rms_norm(const Step& step, Worker& w) {
  const auto [x, weight, residual] = step.inputs<3>();
  const auto [y, sum_out] = step.outputs<2>();
  const float eps = step.attr[0].f, *gain = weight.f32();
  const int64_t d = weight.size[0];
  w.each(row_count(x), 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const float* s = row(x, i);
      float* out = row(y, i);
      if (residual) {
        const float* r = row(residual, i);
        float* added = sum_out ? row(sum_out, i) : out;
        for (int64_t j = 0; j < d; j += F::N) {
          const int n = static_cast<int>(d - j < F::N ? d - j : F::N);
          store(added + j, load(s + j, n) + load(r + j, n), n);
        }
        s = added;
      }
      F squares = zero();
      int64_t j = 0;
      for (; j + F::N <= d; j += F::N) {
        const F v = load(s + j);
        squares = fma(v, v, squares);
      }
      if (j < d) {
        const F v = load(s + j, static_cast<int>(d - j));
        squares = fma(v, v, squares);
      }
      const F scale = set(1.f / std::sqrt(sum(squares) / static_cast<float>(d) + eps));
      for (j = 0; j + F::N <= d; j += F::N) store(out + j, load(s + j) * scale * load(gain + j));
      if (j < d) {
        const int n = static_cast<int>(d - j);
        store(out + j, load(s + j, n) * scale * load(gain + j, n), n);
      }
    }
  });
}

}  // namespace vlm::SIMD
SIMD_END

#if SIMD_ONCE
namespace vlm {

size_t prepare_rms_norm(const Step& step, int) {
  const auto [x, weight, residual] = step.inputs<3>();
  const auto [y, sum] = step.outputs<2>();
  check_given(weight, "weight");
  check_plain(weight, "weight", {-1});
  check_row_tensor(x, "x", x, weight.size[0]);
  check_row_tensor(y, "y", x, weight.size[0]);
  if (residual) check_row_tensor(residual, "residual", x, weight.size[0]);
  if (sum) check_row_tensor(sum, "sum", x, weight.size[0]);
  CHECK(!sum || residual, "sum is x + residual: it needs a residual");
  CHECK(step.attr[0].f > 0, "eps must be positive, got ", step.attr[0].f);
  return 0;
}

SIMD_KERNELS(rms_norm)

}  // namespace vlm
#endif
