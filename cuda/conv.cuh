// What the two causal convolutions share.
#pragma once

#include "exp.cuh"
#include "strided.cuh"

namespace vlm::cuda {

constexpr int kTaps = 4;  // that the fast kernels have

// The taps of V neighbouring channels: weight is [d,4] without gaps.
template <int V>
struct ChannelTaps {
  float tap[V][kTaps], bias[V];

  __device__ void load(const float* weight, const float* biases, int64_t bias_stride) {
#pragma unroll
    for (int v = 0; v < V; v++) {
      const float4 four = reinterpret_cast<const float4*>(weight)[v];
      tap[v][0] = four.x, tap[v][1] = four.y, tap[v][2] = four.z, tap[v][3] = four.w;
      bias[v] = biases ? biases[v * bias_stride] : 0.f;
    }
  }
};

// act(bias + Σ_k tap[k]·x[k]), oldest input first.
__device__ inline float convolve(const float (&tap)[kTaps], float bias, float x0, float x1, float x2, float x3,
                                 bool gated) {
  const float sum = fmaf(tap[3], x3, fmaf(tap[2], x2, fmaf(tap[1], x1, fmaf(tap[0], x0, bias))));
  return gated ? silu(sum) : sum;
}

template <class T, int N>
__device__ inline Pack<T, N> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T, N>*>(p);
}
template <class T, int N>
__device__ inline void store_pack(T* p, const float (&x)[N]) {
  Pack<T, N> packed;
#pragma unroll
  for (int i = 0; i < N; i++) packed.v[i] = from_float<T>(x[i]);
  *reinterpret_cast<Pack<T, N>*>(p) = packed;
}

// A block of kLanes x kWalkers threads has kTile steps of neighbouring channels, and those around them, in shared memory;
// a thread walks kWalk steps of kPack channels.
constexpr int kPast = kTaps - 1, kPack = 4, kLanes = 32, kWalkers = 4, kWalk = 8;
constexpr int kTile = kWalkers * kWalk, kWidth = kLanes * kPack;

// Puts rows 0 … Rows - 1 of a tile where they belong: source(row) is where the first channel is, or null for a row of
// zeros. Channels from `channels` on are left out.
template <int Rows, class T, class Source>
__device__ void load_tile(T (*tile)[kWidth], int64_t channels, Source source) {
  constexpr int V = 16 / sizeof(T), kAcross = kWidth / V, kDown = kLanes * kWalkers / kAcross;
  const int thread = threadIdx.y * kLanes + threadIdx.x, across = thread % kAcross * V;
  if (across >= channels) return;
#pragma unroll
  for (int i = 0; i < Rows; i += kDown) {
    const int row = i + thread / kAcross;
    if (i + kDown > Rows && row >= Rows) return;
    const T* from = source(row);
    if (from)
      copy_async(&tile[row][across], from + across);
    else
      *reinterpret_cast<Pack<T, V>*>(&tile[row][across]) = {};
  }
}

// kWalk steps of kPack channels from `x` on, `stride` apart; window: the inputs in front of them, oldest first.
template <class T, class Store>
__device__ void walk(const T* x, int stride, const ChannelTaps<kPack>& taps, float (&window)[kPast][kPack], bool gated,
                     Store store) {
#pragma unroll
  for (int i = 0; i < kWalk; i++) {
    const Pack<T, kPack> now = load_pack<T, kPack>(x + i * stride);
    float out[kPack];
#pragma unroll
    for (int v = 0; v < kPack; v++) {
      const float input = to_float(now.v[v]);
      out[v] = convolve(taps.tap[v], taps.bias[v], window[0][v], window[1][v], window[2][v], input, gated);
      window[0][v] = window[1][v], window[1][v] = window[2][v], window[2][v] = input;
    }
    store(i, out);
  }
}
// The inputs in front of x.
template <class T>
__device__ void load_window(const T* x, int stride, float (&window)[kPast][kPack]) {
#pragma unroll
  for (int k = 0; k < kPast; k++) {
    const Pack<T, kPack> past = load_pack<T, kPack>(x + (k - kPast) * stride);
#pragma unroll
    for (int v = 0; v < kPack; v++) window[k][v] = to_float(past.v[v]);
  }
}

// The row of a state that batch row b uses: slots[b], or b where there are no slots; -1 for a slot that does not exist.
__device__ inline int64_t slot_of(const TensorArg& slots, int64_t b, int64_t count) {
  if (!slots.data) return b;
  const int64_t slot = *at<const int32_t>(slots, b);
  return slot >= 0 && slot < count ? slot : -1;
}

// Whether states may be written, for all threads of a block together: nothing failed before, every slot of the batch
// exists and none occurs twice, which is reported. Every block looks at the whole batch, so that no state changes when
// any of its rows is wrong.
__device__ inline bool slots_fit(const TensorArg& slots, int64_t count, Fault* fault, int step) {
  if (!slots.data) return !has_fault(fault);
  constexpr int kWords = 256;
  __shared__ uint32_t taken[kWords];
  const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  const int words = static_cast<int>(min((count + 31) / 32, static_cast<int64_t>(kWords)));
  for (int i = thread; i < words; i += threads) taken[i] = 0;
  __syncthreads();
  // Slots beyond the words are looked for one by one below.
  bool wrong = count > 32 * kWords;
  for (int64_t b = thread; b < slots.size[0]; b += threads) {
    const int64_t slot = *at<const int32_t>(slots, b);
    const bool inside = slot >= 0 && slot < count && slot < 32 * kWords;
    wrong = wrong || !inside || (atomicOr(&taken[slot / 32], 1u << slot % 32) >> slot % 32 & 1);
  }
  if (!__syncthreads_or(wrong)) return !__syncthreads_or(has_fault(fault));
  wrong = has_fault(fault);
  for (int64_t b = thread; b < slots.size[0]; b += threads) {
    const int64_t slot = *at<const int32_t>(slots, b);
    bool twice = false;
    for (int64_t i = 0; i < b; i++) twice = twice || *at<const int32_t>(slots, i) == slot;
    const bool outside = slot < 0 || slot >= count;
    if (outside) report(fault, step, Trouble::slot_range, b, slot, count);
    if (twice && !outside) report(fault, step, Trouble::slot_twice, b, slot);
    wrong = wrong || twice || outside;
  }
  return !__syncthreads_or(wrong);
}

}  // namespace vlm::cuda
