// y = act(x), element by element: silu(x) = x·sigmoid(x), gelu(x) = x·Φ(x) (Hendrycks & Gimpel 2016), its tanh and
// sigmoid approximations
// x, y: [rows…, d] f32
#define SIMD_FILE "ops/activation.cc"
#include "ops/rows.h"
#include "simd/foreach.h"
#include "simd/vec.h"
#include "simd/math.h"

SIMD_BEGIN
namespace vlm::SIMD {

void activation(const Step& step, Worker& w) {
  const TensorArg &x = step.in[0], &y = step.out[0];
  const auto kind = static_cast<Activation>(step.attr[0].i);
  const int64_t d = x.size[x.rank - 1];
  w.each(row_count(x), 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const float* in = row(x, i);
      float* out = row(y, i);
      int64_t j = 0;
      for (; j + F::N <= d; j += F::N) store(out + j, activate(kind, load(in + j)));
      if (j < d) {
        const int n = static_cast<int>(d - j);
        store(out + j, activate(kind, load(in + j, n)), n);
      }
    }
  });
}

}  // namespace vlm::SIMD
SIMD_END

#if SIMD_ONCE
namespace vlm {

size_t prepare_activation(const Step& step, int) {
  const TensorArg &x = step.in[0], &y = step.out[0];
  check_given(x, "x");
  CHECK(x.rank > 0, "x must have a dimension");
  check_row_tensor(x, "x", x, x.size[x.rank - 1]);
  check_row_tensor(y, "y", x, x.size[x.rank - 1]);
  CHECK(step.attr[0].i >= 0 && step.attr[0].i <= 4, "no activation ", step.attr[0].i);
  return 0;
}

SIMD_KERNELS(activation)

}  // namespace vlm
#endif
