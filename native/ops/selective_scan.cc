// h_t = exp(dt_t·A)·h_{t-1} + dt_t·B_t·u_t,  y_t = (C_t·h_t + D·u_t)·silu(z_t),  dt = softplus(delta + delta_bias)
// (Mamba, arXiv 2312.00752 §3, Alg. 2). Without delta_softplus dt = delta + delta_bias; channel c reads group c /
// (d/g). u, delta, z, y: [b,d,l]   A: [d,n]   B, C: [b,g,n,l]   D, delta_bias: [d]   all f32 with any strides
// initial_state, last_state: [b,d,n] f32, n contiguous; with slots, i32 [b], they are [slots,d,n] and row b is row
// slots[b]. They may be the same memory. Without an initial state h starts at 0.
#define SIMD_FILE "ops/selective_scan.cc"
#include "ops/directions.h"
#include "ops/slots.h"
#include "simd/foreach.h"
#include "simd/vec.h"
#include "simd/math.h"
#include "ops/block.h"
#include "ops/scan_block.h"

SIMD_BEGIN
namespace vlm::SIMD {

void selective_scan(const Step& step, Worker& w) {
  const auto [u, delta, A, B, C, D, z, delta_bias, initial, slots] = step.inputs<10>();
  const auto [y, last] = step.outputs<2>();
  const bool positive = step.attr[0].i != 0;
  const int64_t batch = u.size[0], length = u.size[2], n = A.size[1];
  const int64_t groups = B.size[1], width = u.size[1] / groups, blocks = (width + F::N - 1) / F::N;
  const bool once = length == 1 && A.stride[1] == 1 && B.stride[2] == 1 && C.stride[2] == 1;
  const size_t bytes = scan_scratch(kScanTile, n);
  if (!slots_fit(slots, initial, last, w, w.scratch + bytes * w.nth)) return;
  w.runs(batch * groups * blocks, [&](int64_t i) {
    const int64_t b = i / (groups * blocks), g = i / blocks % groups, lane = i % blocks * F::N, c = g * width + lane;
    ScanBlock block(w.scratch + bytes * w.ith, kScanTile, n, width - lane);
    const Rows before = initial ? rows_at(initial, state_row(slots, b), c) : Rows{};
    const Rows after = last ? rows_at(last, state_row(slots, b), c) : Rows{};
    block.set_channels(rows_at(delta_bias, c), rows_at(D, c));
    if (once) {
      block.enter(rows_at(delta, b, c), rows_at(u, b, c), 1, positive, false);
      block.advance_once(rows_at(A, c), before, after, at(B, b, g), at(C, b, g));
      block.leave(rows_at(z, b, c), 1.f, rows_at(y, b, c), 1);
      return;
    }
    block.set_rates(rows_at(A, c));
    block.set_state(before);
    for (int64_t t = 0; t < length; t += kScanTile) {
      const int64_t rows = length - t < kScanTile ? length - t : kScanTile, next = t + rows < length ? t + rows : t;
      block.enter(rows_at(delta, b, c, t), rows_at(u, b, c, t), rows, positive, false);
      block.set_projections(rows_at(B, b, g, 0, t), rows_at(C, b, g, 0, t), rows);
      const Rows gate = rows_at(z, b, c, t), out = rows_at(y, b, c, t);
      block.advance(steps(rows), {gate, out, rows_at(delta, b, c, next), rows_at(u, b, c, next)});
      block.leave(gate, 1.f, out, rows);
    }
    if (last) block.get_state(after);
  });
}

}  // namespace vlm::SIMD
SIMD_END

#if SIMD_ONCE
namespace vlm {

size_t prepare_selective_scan(const Step& step, int nth) {
  const auto [u, delta, A, B, C, D, z, delta_bias, initial, slots] = step.inputs<10>();
  const auto [y, last] = step.outputs<2>();
  check_floats(u, "u", {-1, -1, -1});
  const int64_t batch = u.size[0], channels = u.size[1], length = u.size[2];
  check_floats(delta, "delta", {batch, channels, length});
  check_floats(A, "A", {channels, -1});
  const int64_t n = A.size[1];
  CHECK(n >= 1 && n <= 256, "A must have 1 to 256 states, got ", n);
  check_floats(B, "B", {batch, -1, n, length});
  const int64_t groups = B.size[1];
  check_floats(C, "C", {batch, groups, n, length});
  CHECK(groups >= 1 && channels % groups == 0, "the groups of B must divide the ", channels, " channels, got ", groups);
  if (D) check_floats(D, "D", {channels});
  if (z) check_floats(z, "z", {batch, channels, length});
  if (delta_bias) check_floats(delta_bias, "delta_bias", {channels});
  check_state(initial, "initial_state", last, "last_state", slots, batch, channels, n);
  check_floats(y, "y", {batch, channels, length});
  check_apart(slots, "slots", y, "y");
  return scan_scratch(kScanTile, n) * nth + slot_scratch(slots, initial, last, nth);
}

SIMD_KERNELS(selective_scan)

}  // namespace vlm
#endif
