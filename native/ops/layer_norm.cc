// s = x + residual,  y = (s - mean(s)) / sqrt(var(s) + eps) * weight + bias, over the last dimension
// (Ba et al. 2016, eq. 3)
// x, residual, y, sum: [rows…, d] f32    weight, bias: [d] f32    sum receives s when it is asked for
#define SIMD_FILE "ops/layer_norm.cc"
#include "ops/rows.h"
#include "simd/foreach.h"
#include "simd/vec.h"

SIMD_BEGIN
namespace vlm::SIMD {

// f(j, n) for each vector of [0, d): columns j to j + n.
template <class Body>
SIMD_INLINE void columns(int64_t d, Body body) {
  int64_t j = 0;
  for (; j + F::N <= d; j += F::N) body(j, F::N);
  if (j < d) body(j, static_cast<int>(d - j));
}

SIMD_INLINE F read(const float* p, int n) { return n == F::N ? load(p) : load(p, n); }
SIMD_INLINE void write(float* p, F v, int n) { n == F::N ? store(p, v) : store(p, v, n); }
SIMD_INLINE F keep(F v, int n) {
  if (n == F::N) return v;
  float lanes[F::N];
  store(lanes, v);
  return load(lanes, n);
}

void layer_norm(const Step& step, Worker& w) {
  const auto [x, weight, bias, residual] = step.inputs<4>();
  const auto [y, sum_out] = step.outputs<2>();
  const float eps = step.attr[0].f, *gain = weight.f32(), *shift = bias.f32();
  const int64_t d = weight.size[0];
  const float width = static_cast<float>(d);
  w.each(row_count(x), 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const float *s = row(x, i), *r = residual ? row(residual, i) : nullptr;
      float *out = row(y, i), *added = sum_out ? row(sum_out, i) : out;
      F total = zero();
      columns(d, [&](int64_t j, int n) {
        F v = read(s + j, n);
        if (r) {
          v = v + read(r + j, n);
          write(added + j, v, n);
        }
        total = total + v;
      });
      if (r) s = added;
      const F rough = set(sum(total) / width);
      // What is left of the mean after the first sum's rounding comes out of the deviations themselves (Chan, Golub &
      // LeVeque 1983, eq. 1.7): rows far from zero keep their digits.
      F rest = zero(), squares = zero();
      columns(d, [&](int64_t j, int n) {
        const F v = keep(read(s + j, n) - rough, n);
        rest = rest + v;
        squares = fma(v, v, squares);
      });
      const float left = sum(rest) / width, variance = sum(squares) / width - left * left;
      const F scale = set(1.f / std::sqrt((variance > 0 ? variance : 0) + eps)), mean_left = set(left);
      columns(d, [&](int64_t j, int n) {
        const F v = (read(s + j, n) - rough - mean_left) * scale;
        write(out + j, shift ? fma(v, read(gain + j, n), read(shift + j, n)) : v * read(gain + j, n), n);
      });
    }
  });
}

}  // namespace vlm::SIMD
SIMD_END

#if SIMD_ONCE
namespace vlm {

size_t prepare_layer_norm(const Step& step, int) {
  const auto [x, weight, bias, residual] = step.inputs<4>();
  const auto [y, sum] = step.outputs<2>();
  check_given(weight, "weight");
  check_plain(weight, "weight", {-1});
  check_plain(bias, "bias", {weight.size[0]});
  check_row_tensor(x, "x", x, weight.size[0]);
  check_row_tensor(y, "y", x, weight.size[0]);
  if (residual) check_row_tensor(residual, "residual", x, weight.size[0]);
  if (sum) check_row_tensor(sum, "sum", x, weight.size[0]);
  CHECK(!sum || residual, "sum is x + residual: it needs a residual");
  CHECK(step.attr[0].f > 0, "eps must be positive, got ", step.attr[0].f);
  return 0;
}

SIMD_KERNELS(layer_norm)

}  // namespace vlm
#endif
