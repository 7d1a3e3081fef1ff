// The selective scan (see selective_scan.cc) along every direction of a height × width grid, merged where the patches
// are: y[p] = (Σ_k y_k[p], or its mean)·silu(z[p]), y_k the recurrence in the order of direction k (ops/directions.h;
// VL-Mamba, arXiv 2403.13600 §3.2). Everything is stored in patch order p = row·width + column, l = height·width.
// u, delta: [b,k,d,l]   A: [d,n] or [k,d,n]   B, C: [b,k,n,l]   D, delta_bias: [d] or [k,d]   z, y: [b,d,l]
// all f32 with any strides
#define SIMD_FILE "ops/selective_scan_2d.cc"
#include "ops/directions.h"
#include "simd/foreach.h"
#include "simd/vec.h"
#include "simd/math.h"
#include "ops/block.h"
#include "ops/scan_block.h"

SIMD_BEGIN
namespace vlm::SIMD {

// One thread holds all patches of its channels, so that no direction needs them in another order.
void selective_scan_2d(const Step& step, Worker& w) {
  const auto [u, delta, A, B, C, D, z, delta_bias] = step.inputs<8>();
  const auto [y] = step.outputs<1>();
  const int64_t height = step.attr[1].i, width = step.attr[2].i;
  const bool mean = step.attr[3].i != 0, positive = step.attr[4].i != 0;
  const int64_t batch = u.size[0], channels = u.size[2], patch_count = u.size[3], n = B.size[2];
  const int directions = static_cast<int>(u.size[1]);
  const int64_t blocks = (channels + F::N - 1) / F::N;
  std::byte* scratch = w.scratch + scan_scratch(patch_count, n) * w.ith;
  w.each(batch * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t b = i / blocks, c = i % blocks * F::N;
      ScanBlock block(scratch, patch_count, n, channels - c);
      const Rows gate = rows_at(z, b, c), out = rows_at(y, b, c);
      for (int k = 0; k < directions; k++) {
        block.set_rates(rows_at(of_direction(A, 2, k), c));
        block.set_state({});
        block.set_channels(rows_at(of_direction(delta_bias, 1, k), c), rows_at(of_direction(D, 1, k), c));
        block.enter(rows_at(delta, b, k, c), rows_at(u, b, k, c), patch_count, positive, k > 0);
        block.set_projections(rows_at(B, b, k), rows_at(C, b, k), patch_count);
        const Walk order = patches(k, height, width);
        if (k + 1 < directions)
          block.advance(order, {rows_at(delta, b, k + 1, c), rows_at(u, b, k + 1, c)});
        else
          block.advance(order, {gate, out});
      }
      block.leave(gate, mean ? 1.f / directions : 1.f, out, patch_count);
    }
  });
}

}  // namespace vlm::SIMD
SIMD_END

#if SIMD_ONCE
namespace vlm {

size_t prepare_selective_scan_2d(const Step& step, int nth) {
  const auto [u, delta, A, B, C, D, z, delta_bias] = step.inputs<8>();
  const auto [y] = step.outputs<1>();
  const int64_t directions = scan_directions(static_cast<Scan>(step.attr[0].i));
  check_floats(u, "u", {-1, directions, -1, -1});
  const int64_t batch = u.size[0], channels = u.size[2], patch_count = u.size[3];
  check_grid(step.attr[1].i, step.attr[2].i, patch_count);
  check_floats(delta, "delta", {batch, directions, channels, patch_count});
  check_directions(A, "A", directions, {channels, -1});
  const int64_t n = A.size[A.rank - 1];
  CHECK(n >= 1 && n <= 256, "A must have 1 to 256 states, got ", n);
  check_floats(B, "B", {batch, directions, n, patch_count});
  check_floats(C, "C", {batch, directions, n, patch_count});
  if (D) check_directions(D, "D", directions, {channels});
  if (z) check_floats(z, "z", {batch, channels, patch_count});
  if (delta_bias) check_directions(delta_bias, "delta_bias", directions, {channels});
  check_floats(y, "y", {batch, channels, patch_count});
  return scan_scratch(patch_count, n) * nth;
}

SIMD_KERNELS(selective_scan_2d)

}  // namespace vlm
#endif
