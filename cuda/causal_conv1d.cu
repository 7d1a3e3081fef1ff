// y[b,c,t] = act(bias[c] + Σ_k weight[c,k]·x[b,c,t-w+1+k]), the depthwise convolution in front of a selective scan
// (Mamba, arXiv 2312.00752 §3.4), w = 2 … 4
// x, y: [b,d,l] f32, f16 or bf16   weight: [d,w]   bias: [d]   f32; all with any strides; y is not x
// initial_state: [b,d,w-1] f32, the inputs before the first, oldest first, zeros without it; final_state: the last w-1
// inputs; both w-1 contiguous; with slots, i32 [b], they are [slots,d,w-1] and row b is row slots[b]. They may be the
// same memory.
#include <algorithm>

#include "conv.cuh"

namespace vlm::cuda {
namespace {

constexpr int kThreads = 256;

struct Conv {
  TensorArg x;        // [b,d,l]
  TensorArg weight;   // [d,w]
  TensorArg bias;     // [d]
  TensorArg initial;  // [b,d,w-1] or [slots,d,w-1]
  TensorArg slots;    // [b]
  TensorArg y;        // [b,d,l]
  TensorArg last;     // as initial
  bool gated;
  Fault* fault;
  int step;

  __device__ int64_t length() const { return x.size[2]; }
  __device__ int64_t state_rows() const { return (initial.data ? initial : last).size[0]; }
  __device__ int past() const { return static_cast<int>(weight.size[1]) - 1; }
};

constexpr int kStages = 3;  // tiles that a block of conv_channels has room for
constexpr int kStepThreads = 128;
constexpr int kUnit = 2;             // packs that a thread of conv_steps makes
constexpr int64_t kMaxGrid = 65535;  // blocks in the second and third dimension

// Input t < 0 of a channel: its initial state.
__device__ float input_before(const Conv& p, int64_t c, int64_t t, int64_t row) {
  return p.initial.data && row >= 0 ? at<const float>(p.initial, row, c)[p.past() + t] : 0.f;
}

// Writes the last inputs of a channel, after whoever else reads its initial state.
__device__ void keep_state(const Conv& p, int64_t b, int64_t c, int64_t row) {
  float kept[kTaps - 1];
#pragma unroll
  for (int k = 0; k < kTaps - 1; k++) {
    const int64_t t = p.length() - p.past() + k;
    if (k < p.past()) kept[k] = t < 0 ? input_before(p, c, t, row) : load_float(p.x, offset(p.x, b, c, t));
  }
#pragma unroll
  for (int k = 0; k < kTaps - 1; k++)
    if (k < p.past()) at<float>(p.last, row, c)[k] = kept[k];
}

// A thread for each channel.
__global__ void __launch_bounds__(kThreads) conv_state(const __grid_constant__ Conv p) {
  wait_for_inputs();
  const int64_t b = blockIdx.y, c = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t row = slot_of(p.slots, b, p.state_rows());
  if (slots_fit(p.slots, p.state_rows(), p.fault, p.step) && c < p.x.size[1]) keep_state(p, b, c, row);
}

// A thread for each element, neighbours along the steps (`along`) or the channels: any strides, types and width, and
// decoding, where there is one step, whose thread keeps the state as well.
__global__ void __launch_bounds__(kThreads) conv_any(const __grid_constant__ Conv p, bool along) {
  wait_for_inputs();
  const int64_t b = blockIdx.z, i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t c = along ? blockIdx.y : i, first = along ? i : blockIdx.y, step = along ? p.length() : gridDim.y;
  const int64_t row = slot_of(p.slots, b, p.state_rows());
  const bool keeps = p.last.data && p.length() == 1;
  float x[kTaps];
  if (c < p.x.size[1]) {
    float tap[kTaps];
    const float bias = p.bias.data ? *at<const float>(p.bias, c) : 0.f;
    const int skip = kTaps - 1 - p.past();  // taps that a narrower convolution does not have
#pragma unroll
    for (int k = 0; k < kTaps; k++) tap[k] = k >= skip ? *at<const float>(p.weight, c, k - skip) : 0.f;
    for (int64_t t = first; t < p.length(); t += step) {
      const int64_t now = offset(p.x, b, c, t);
      float sum = bias;
#pragma unroll
      for (int k = 0; k < kTaps; k++) {
        const int back = kTaps - 1 - k;
        if (k >= skip)
          x[k] = t < back ? input_before(p, c, t - back, row) : load_float(p.x, now - back * p.x.stride[2]);
      }
#pragma unroll
      for (int k = 0; k < kTaps; k++)
        if (k >= skip) sum = fmaf(tap[k], x[k], sum);
      store_float(p.y, offset(p.y, b, c, t), p.gated ? silu(sum) : sum);
    }
  }
  if (!keeps || !slots_fit(p.slots, p.state_rows(), p.fault, p.step) || c >= p.x.size[1]) return;
  float* after = at<float>(p.last, row, c);
#pragma unroll
  for (int k = 1; k < kTaps; k++)
    if (k >= kTaps - p.past()) after[k - (kTaps - p.past())] = x[k];
}

// Channels are neighbours, four taps wide: a block goes down `tiles` tiles of its channels and loads kStages - 1 ahead.
template <class T>
__global__ void __launch_bounds__(kLanes* kWalkers) conv_channels(const __grid_constant__ Conv p, int tiles) {
  wait_for_inputs();
  constexpr int kRows = kPast + kTile;
  extern __shared__ __align__(16) unsigned char shared[];
  auto* ring = reinterpret_cast<T(*)[kRows][kWidth]>(shared);
  const int64_t b = blockIdx.z, begin = static_cast<int64_t>(blockIdx.x) * kWidth, channels = p.x.size[1];
  const int64_t top = static_cast<int64_t>(blockIdx.y) * tiles * kTile;  // the block's first step
  const int count = static_cast<int>(min(static_cast<int64_t>(tiles) * kTile, p.length() - top));
  const T* x = at<const T>(p.x, b, begin, top - kPast);
  const int zeros = top == 0 ? kPast : 0;
  const auto load = [&](int n) {
    if (n * kTile < count)
      load_tile<kRows>(ring[n % kStages], channels - begin, [&](int row) {
        const int step = n * kTile + row;
        return step >= zeros && step < kPast + count ? x + step * p.x.stride[2] : nullptr;
      });
    copies_commit();
  };
#pragma unroll
  for (int n = 0; n < kStages - 1; n++) load(n);

  const int64_t c = begin + threadIdx.x * kPack;
  const bool mine = c < channels, first = mine && top == 0 && threadIdx.y == 0;
  float window[kPast][kPack];
  // The states are the business of the threads at the beginning.
  if (top == 0 && (p.initial.data || p.last.data)) {
    const int64_t row = slot_of(p.slots, b, p.state_rows());
    if (first)
#pragma unroll
      for (int v = 0; v < kPack; v++)
#pragma unroll
        for (int k = 0; k < kPast; k++) window[k][v] = input_before(p, c + v, k - kPast, row);
    if (p.last.data && slots_fit(p.slots, p.state_rows(), p.fault, p.step) && first)
#pragma unroll 1
      for (int v = 0; v < kPack; v++) keep_state(p, b, c + v, row);
  }
  ChannelTaps<kPack> taps;
  if (mine)
    taps.load(at<const float>(p.weight, c), p.bias.data ? at<const float>(p.bias, c) : nullptr, p.bias.stride[0]);
  T* y = at<T>(p.y, b, mine ? c : 0, top + threadIdx.y * kWalk);
  for (int n = 0, from = threadIdx.y * kWalk; n * kTile < count; n++, from += kTile) {
    wait_copies<kStages - 2>();
    __syncthreads();
    load(n + kStages - 1);
    if (!mine) continue;
    const T* in = &ring[n % kStages][kPast + threadIdx.y * kWalk][threadIdx.x * kPack];
    if (n > 0 || !first || !p.initial.data) load_window(in, kWidth, window);
    walk(in, kWidth, taps, window, p.gated, [&](int i, const float(&out)[kPack]) {
      if (from + i < count) store_pack(y + i * p.y.stride[2], out);
    });
    y += kTile * p.y.stride[2];
  }
}

// Decoding, with a state: the one step of kPack neighbouring channels, four taps wide.
template <class T>
__global__ void __launch_bounds__(kStepThreads) conv_step(const __grid_constant__ Conv p) {
  wait_for_inputs();
  const int64_t b = blockIdx.y, c = (static_cast<int64_t>(blockIdx.x) * kStepThreads + threadIdx.x) * kPack;
  const int64_t row = slot_of(p.slots, b, p.state_rows());
  const bool mine = c < p.x.size[1];
  alignas(16) float state[kPack * kPast] = {};  // kPast inputs of a channel, then those of the next
  auto* packs = reinterpret_cast<Pack<float, kPack>*>(state);
  if (mine) {
    const Pack<T, kPack> x = load_pack<T, kPack>(at<const T>(p.x, b, c));
    ChannelTaps<kPack> taps;
    taps.load(at<const float>(p.weight, c), p.bias.data ? at<const float>(p.bias, c) : nullptr, p.bias.stride[0]);
    if (p.initial.data && row >= 0)
#pragma unroll
      for (int i = 0; i < kPast; i++)
        packs[i] = load_pack<float, kPack>(at<const float>(p.initial, row, c) + i * kPack);
    float out[kPack];
#pragma unroll
    for (int v = 0; v < kPack; v++) {
      float* past = state + v * kPast;
      const float now = to_float(x.v[v]);
      out[v] = convolve(taps.tap[v], taps.bias[v], past[0], past[1], past[2], now, p.gated);
      past[0] = past[1], past[1] = past[2], past[2] = now;
    }
    store_pack(at<T>(p.y, b, c), out);
  }
  if (!slots_fit(p.slots, p.state_rows(), p.fault, p.step) || !mine) return;
#pragma unroll
  for (int i = 0; i < kPast; i++) reinterpret_cast<Pack<float, kPack>*>(at<float>(p.last, row, c))[i] = packs[i];
}

// Steps are neighbours: a thread makes kUnit packs of 16 bytes of y, four taps wide. Packs lie where 16 bytes do, and rows
// begin and end anywhere: what is in front of the first input is the state, and the two ends are moved by element.
template <class T>
__global__ void __launch_bounds__(kThreads) conv_steps(const __grid_constant__ Conv p, uint32_t units) {
  wait_for_inputs();
  constexpr int V = 16 / sizeof(T), N = kUnit * V;
  const int64_t b = blockIdx.y;
  const uint32_t unit = blockIdx.x * kThreads + threadIdx.x, c = unit / units;
  const int length = static_cast<int>(p.length());
  const bool mine = c < p.x.size[1];
  const T* x = at<const T>(p.x, b, mine ? c : 0);
  const int t = static_cast<int>(unit % units * N) - static_cast<int>(reinterpret_cast<uintptr_t>(x) / sizeof(T) % V);
  const bool whole = t >= 0 && t + N <= length;
  Pack<T, V> own[kUnit];
  if (mine) {
#pragma unroll
    for (int i = 0; i < kUnit; i++) {
      if (whole) {
        own[i] = load_pack<T, V>(x + t + i * V);
      } else {
#pragma unroll
        for (int v = 0; v < V; v++) {
          const int from = t + i * V + v;
          if (from >= 0 && from < length) own[i].v[v] = x[from];
        }
      }
    }
  }
  float in[kPast + N];
#pragma unroll
  for (int i = 0; i < N; i++) in[kPast + i] = to_float(own[i / V].v[i % V]);
    // What is in front is the neighbour's, unless this is the first lane or the row has just begun.
#pragma unroll
  for (int k = 0; k < kPast; k++) in[k] = __shfl_up_sync(~0u, in[N + k], 1);
  if (!mine || t >= length) return;
  if (t < kPast || threadIdx.x % 32 == 0) {
    const int64_t row = t < kPast ? slot_of(p.slots, b, p.state_rows()) : -1;
#pragma unroll
    for (int i = 0; i < kPast + V; i++) {
      const int from = t - kPast + i;
      if (from < 0 && from >= -kPast) in[i] = input_before(p, c, from, row);
      if (from >= 0 && i < kPast) in[i] = to_float(x[from]);
    }
  }
  ChannelTaps<1> taps;
  taps.load(at<const float>(p.weight, c), p.bias.data ? at<const float>(p.bias, c) : nullptr, 0);
  T* y = at<T>(p.y, b, c, t);
#pragma unroll
  for (int i = 0; i < kUnit; i++, y += V) {
    float out[V];
#pragma unroll
    for (int v = 0; v < V; v++) {
      const float* past = in + i * V + v;
      out[v] = convolve(taps.tap[0], taps.bias[0], past[0], past[1], past[2], past[3], p.gated);
    }
    if (whole) {
      store_pack(y, out);
    } else {
#pragma unroll
      for (int v = 0; v < V; v++)
        if (t + i * V + v >= 0 && t + i * V + v < length) y[v] = from_float<T>(out[v]);
    }
  }
}

// States whose channels lie one after the other, and come in whole packs.
bool packed_states(const TensorArg& t) {
  return aligned(t.data, 16) && t.size[1] % kPack == 0 && t.stride[1] == t.size[2] && t.stride[0] % kPack == 0;
}

// Rows of x and y that begin at the same place of a pack.
bool same_phase(const TensorArg& x, const TensorArg& y) {
  const auto same = [](uint64_t a, uint64_t b, uint64_t n) { return (a - b) % n == 0; };
  const uint64_t bytes = dtype_bytes(x.dtype), n = 16 / bytes;
  return same(reinterpret_cast<uintptr_t>(x.data), reinterpret_cast<uintptr_t>(y.data), 16) &&
         same(x.stride[0], y.stride[0], n) && same(x.stride[1], y.stride[1], n);
}

// Tiles of a block of conv_channels: all blocks at once on the card, and more than one each where that is possible.
int tiles_of(int64_t channels, int64_t batch, int64_t length, const Card& card) {
  const int64_t all = batch * ceil_div(channels, kWidth) * ceil_div(length, kTile);
  return static_cast<int>(std::clamp(all / (8 * card.multiprocessors), int64_t{1}, int64_t{16}));
}

template <class T>
void launch_channels(const Conv& p, const Launch& on) {
  const int64_t batch = p.x.size[0], channels = p.x.size[1], length = p.x.size[2];
  const int tiles = tiles_of(channels, batch, length, on.card);
  const dim3 grid(grid_of(ceil_div(channels, kWidth)), grid_of(ceil_div(length, tiles * kTile)), batch);
  launch(conv_channels<T>, grid, dim3(kLanes, kWalkers), kStages * (kPast + kTile) * kWidth * sizeof(T), on, p, tiles);
}

template <class T>
void launch_steps(const Conv& p, const Launch& on) {
  constexpr int V = 16 / sizeof(T);
  const int64_t units = ceil_div(p.x.size[2] + V - 1, kUnit * V);
  const dim3 grid(grid_of(ceil_div(p.x.size[1] * units, kThreads)), p.x.size[0]);
  launch(conv_steps<T>, grid, kThreads, 0, on, p, units);
}

template <class T>
void launch_step(const Conv& p, const Launch& on) {
  launch(conv_step<T>, dim3(grid_of(ceil_div(p.x.size[1], kStepThreads * kPack)), p.x.size[0]), kStepThreads, 0, on, p);
}

}  // namespace

size_t workspace_causal_conv1d(const Step& step, const Card&) {
  const auto [x, weight, bias, initial, slots] = step.inputs<5>();
  const auto [y, last] = step.outputs<2>();
  expect_float(x, "x");
  expect_float(y, "y");
  for (const auto& [t, name] : {std::pair(weight, "weight"), std::pair(bias, "bias"),
                                std::pair(initial, "initial_state"), std::pair(last, "final_state")})
    expect_dtype(t, name, Dtype::f32);
  CHECK(x.size[0] <= kMaxGrid, "x must have at most ", kMaxGrid, " rows in its batch, got ", shape(x));
  return 0;
}

void launch_causal_conv1d(const Step& step, const Launch& on) {
  const auto [x, weight, bias, initial, slots] = step.inputs<5>();
  const auto [y, last] = step.outputs<2>();
  const Conv p{x, weight, bias, initial, slots, y, last, step.attr[0].i != 0, on.fault, on.step};
  const int64_t batch = x.size[0], channels = x.size[1], length = x.size[2];
  const bool four = weight.size[1] == kTaps && packed(weight, 1, 16) && weight.stride[0] == kTaps && x.dtype == y.dtype;
  const size_t bytes = kPack * dtype_bytes(y.dtype);
  const auto typed = [&](auto launch_typed) { with_float(x, "x", launch_typed); };
  if (four && length >= kTaps && packed(x, 1, 16) && packed(y, 1, bytes) && length <= kMaxGrid * kTile)
    return typed([&](auto t) { launch_channels<decltype(t)>(p, on); });
  const bool neighbours = last && packed_states(last) && (!initial || packed_states(initial));
  if (four && length == 1 && neighbours && packed(x, 1, bytes) && packed(y, 1, bytes))
    return typed([&](auto t) { launch_step<decltype(t)>(p, on); });
  const uint32_t strips = grid_of(ceil_div(channels, kThreads));
  const bool along = x.stride[2] == 1 && length >= kTile;
  if (four && along && y.stride[2] == 1 && same_phase(x, y) && channels * (length + kTile) <= INT32_MAX) {
    typed([&](auto t) { launch_steps<decltype(t)>(p, on); });
  } else if (along && channels <= kMaxGrid) {
    launch(conv_any, dim3(grid_of(ceil_div(length, kThreads)), channels, batch), kThreads, 0, on, p, true);
  } else {
    launch(conv_any, dim3(strips, std::min(length, kMaxGrid), batch), kThreads, 0, on, p, false);
  }
  if (last && length != 1) launch(conv_state, dim3(strips, batch), kThreads, 0, on, p);
}

}  // namespace vlm::cuda
