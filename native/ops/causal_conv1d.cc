// y[b,c,t] = act(bias[c] + Σ_k weight[c,k]·x[b,c,t-w+1+k]), the depthwise convolution in front of a selective scan
// (Mamba, arXiv 2312.00752 §3.4), w = 2 … 4
// x, y: [b,d,l]   weight: [d,w]   bias: [d]   all f32 with any strides; y is not x
// initial_state: [b,d,w-1] f32, the inputs before the first, oldest first, zeros without it; final_state: the last w-1
// inputs; both w-1 contiguous; with slots, i32 [b], they are [slots,d,w-1] and row b is row slots[b]. They may be the
// same memory.
#define SIMD_FILE "ops/causal_conv1d.cc"
#include "ops/at.h"
#include "ops/directions.h"
#include "ops/slots.h"
#include "simd/foreach.h"
#include "simd/vec.h"
#include "simd/math.h"
#include "ops/block.h"
#include "ops/conv_rows.h"

SIMD_BEGIN
namespace vlm::SIMD {

constexpr int64_t kStrip = 256;  // channels that a thread takes at a time

struct Conv {
  const TensorArg x, weight, bias, initial, slots, y, last;
  bool gated;

  Rows state(const TensorArg& t, int64_t b, int64_t c) const { return t ? rows_at(t, state_row(slots, b), c) : Rows{}; }
};

// Lanes are channels: where channels are neighbours in memory, and where nothing is.
// Columns of a contiguous [lanes, N] and back. N is known, so that a compiler makes shuffles of it: with a text of one step
// there is little else to do.
template <int N>
void load_columns(float* to, Rows from, int64_t lanes) {
  if (from.lane != N || from.row != 1) return load_rows(to, kStrip, from, lanes, N);
  for (int64_t i = 0; i < lanes; i++)
    for (int k = 0; k < N; k++) to[k * kStrip + i] = from.data[i * N + k];
}
template <int N>
void store_columns(Rows to, const float* from, int64_t lanes) {
  if (to.lane != N || to.row != 1) return store_rows(to, from, kStrip, lanes, N);
  for (int64_t i = 0; i < lanes; i++)
    for (int k = 0; k < N; k++) to.data[i * N + k] = from[k * kStrip + i];
}

template <int W>
void convolve_channels(const Conv& t, int64_t b, int64_t c, int64_t lanes) {
  constexpr int64_t kTile = 8;
  float buffer[kTile * kStrip], taps[W * kStrip], biases[kStrip] = {}, past[(W - 1) * kStrip] = {};
  load_columns<W>(taps, rows_at(t.weight, c), lanes);
  if (t.bias) copy_2d(biases, 1, 0, at(t.bias, c), t.bias.stride[0], 0, lanes, 1);
  if (t.initial) load_columns<W - 1>(past, t.state(t.initial, b, c), lanes);
  const int64_t length = t.x.size[2];
  for (int64_t from = 0; from < length; from += kTile) {
    const int64_t rows = length - from < kTile ? length - from : kTile;
    const Rows x = rows_at(t.x, b, c, from), y = rows_at(t.y, b, c, from);
    // Whole registers of neighbours need no copy.
    const bool in_place = x.lane == 1 && y.lane == 1 && lanes % F::N == 0;
    if (!in_place) load_rows(buffer, kStrip, x, lanes, rows);
    const Rows in = in_place ? x : Rows{buffer, 1, kStrip}, out = in_place ? y : in;
    for (int64_t i = 0; i < lanes; i += F::N) {
      F tap[W], before[W - 1];
      for (int k = 0; k < W; k++) tap[k] = load(taps + k * kStrip + i);
      for (int k = 0; k + 1 < W; k++) before[k] = load(past + k * kStrip + i);
      convolve<W>(steps(rows), in.data + i, in.row, out.data + i, out.row, tap, load(biases + i), before, t.gated);
      for (int k = 0; k + 1 < W; k++) store(past + k * kStrip + i, before[k]);
    }
    if (!in_place) store_rows(y, buffer, kStrip, lanes, rows);
  }
  if (t.last) store_columns<W - 1>(t.state(t.last, b, c), past, lanes);
}

// Lanes are steps: where steps are neighbours in memory.
template <int W>
void convolve_steps(const Conv& t, int64_t b, int64_t c) {
  const int64_t length = t.x.size[2];
  const float *x = at(t.x, b, c), *weight = at(t.weight, c);
  const float* before = t.state(t.initial, b, c).data;
  float *y = at(t.y, b, c), *after = t.state(t.last, b, c).data;
  const F bias = set(t.bias ? *at(t.bias, c) : 0.f);
  F tap[W];
  for (int k = 0; k < W; k++) tap[k] = set(weight[k * t.weight.stride[1]]);
  float head[W - 1 + F::N] = {};  // the inputs before the first, and the first ones
  for (int k = 0; before && k + 1 < W; k++) head[k] = before[k];
  for (int64_t i = 0; i < length && i < F::N; i++) head[W - 1 + i] = x[i];
  for (int64_t i = 0; i < length; i += F::N) {
    const float* oldest = i ? x + i - (W - 1) : head;
    F sum = bias;
    for (int k = 0; k < W; k++) sum = fma(tap[k], load_some(oldest + k, length - i), sum);
    store_some(y + i, t.gated ? silu(sum) : sum, length - i);
  }
  for (int64_t k = 0; after && k + 1 < W; k++)
    after[k] = length + k < W - 1 ? head[length + k] : x[length + k - (W - 1)];
}

template <int W>
void convolve_all(const Conv& t, Worker& w) {
  const int64_t channels = t.x.size[1], strips = (channels + kStrip - 1) / kStrip;
  const bool along = t.x.stride[2] == 1 && t.y.stride[2] == 1 && t.x.stride[1] != 1;
  w.runs(t.x.size[0] * strips, [&](int64_t i) {
    const int64_t b = i / strips, c = i % strips * kStrip, lanes = channels - c < kStrip ? channels - c : kStrip;
    if (!along) convolve_channels<W>(t, b, c, lanes);
    for (int64_t j = 0; along && j < lanes; j++) convolve_steps<W>(t, b, c + j);
  });
}

void causal_conv1d(const Step& step, Worker& w) {
  const auto [x, weight, bias, initial, slots] = step.inputs<5>();
  const auto [y, last] = step.outputs<2>();
  const Conv t{x, weight, bias, initial, slots, y, last, step.attr[0].i != 0};
  if (!slots_fit(slots, initial, last, w, w.scratch)) return;
  switch (weight.size[1]) {
    case 2:
      return convolve_all<2>(t, w);
    case 3:
      return convolve_all<3>(t, w);
    default:
      return convolve_all<4>(t, w);
  }
}

}  // namespace vlm::SIMD
SIMD_END

#if SIMD_ONCE
namespace vlm {

size_t prepare_causal_conv1d(const Step& step, int nth) {
  const auto [x, weight, bias, initial, slots] = step.inputs<5>();
  const auto [y, last] = step.outputs<2>();
  check_floats(x, "x", {-1, -1, -1});
  const int64_t batch = x.size[0], channels = x.size[1];
  check_floats(weight, "weight", {channels, -1});
  const int64_t width = weight.size[1];
  CHECK(width >= 2 && width <= 4, "weight must have 2 to 4 taps, got ", width);
  if (bias) check_floats(bias, "bias", {channels});
  check_state(initial, "initial_state", last, "final_state", slots, batch, channels, width - 1);
  check_floats(y, "y", {batch, channels, x.size[2]});
  check_apart(slots, "slots", y, "y");
  return slot_scratch(slots, initial, last, nth);
}

SIMD_KERNELS(causal_conv1d)

}  // namespace vlm
#endif
