// What the scans share: the problem as the kernel of selective_scan.cu sees it, and the arithmetic of one step.
#pragma once

#include <type_traits>

#include "common.cuh"
#include "exp.cuh"
#include "ops/directions.h"

namespace vlm::cuda {

// Strides in elements; groups are the directions of a 2-D scan, or the groups of B and C of a plain one.
struct Sequence {
  void* data = nullptr;  // null: absent
  Dtype dtype = Dtype::f32;
  int64_t row = 0, group = 0, channel = 0, step = 0;
};
struct Weight {
  const float* data = nullptr;
  int64_t group = 0, channel = 0, state = 0;
};
struct State {
  float* data = nullptr;
  int64_t row = 0, channel = 0, count = 0;  // count: of the rows
};

struct ScanProblem {
  Sequence u, delta, z, y;  // [b,k,d,l], a step of the sequence at the place that the walk gives it
  Sequence B, C;            // [b,k,n,l], a state where the others have a channel
  Sequence carry;           // [b,k,d,l] f32: added to the sums
  Weight A, D, delta_bias;  // [k,d,n], [k,d], [k,d]
  State initial, last;      // [b or slots,k·d,n]
  TensorArg slots;          // [b]
  int64_t batch, groups, d, n, length;
  bool positive;  // delta_softplus
  Walk walk[4];   // of each direction; one for all groups where `walks` is 1
  int walks = 1;
  Fault* fault;
  int step;
};

// Bytes of workspace and the launches of a scan with any n. `walk`, `fault` and `step` matter to the launch only.
size_t workspace_scan(const ScanProblem&);
void launch_scan(ScanProblem, const Launch&);

// max(x, 0) + log1p(e), e = exp(−|x|) in [0,1]; log1p(e)/e is a polynomial with a relative error of 3e-8, so that a small
// dt keeps its digits.
__device__ inline float softplus(float x) {
  constexpr float c[] = {0.99999997f,   -0.499994931f, 0.333190962f,   -0.248429775f, 0.191059885f,
                         -0.136632069f, 0.0782254935f, -0.0295049573f, 0.00523262402f};
  const float e = exp2_fast(-fabsf(x) * kLog2e);
  float sum = c[8];
#pragma unroll
  for (int i = 7; i >= 0; i--) sum = fmaf(sum, e, c[i]);
  return fmaf(sum, e, fmaxf(x, 0.f));
}

// An element of type E, or of the tensor's type where E is Any.
struct Any {};
template <class E>
__device__ inline float load_as(const Sequence& s, int64_t at) {
  if constexpr (!std::is_same_v<E, Any>)
    return to_float(static_cast<const E*>(s.data)[at]);
  else if (s.dtype == Dtype::f32)
    return static_cast<const float*>(s.data)[at];
  else if (s.dtype == Dtype::bf16)
    return to_float(static_cast<const bf16*>(s.data)[at]);
  else
    return to_float(static_cast<const f16*>(s.data)[at]);
}
template <class E>
__device__ inline void store_as(const Sequence& s, int64_t at, float value) {
  if constexpr (!std::is_same_v<E, Any>)
    static_cast<E*>(s.data)[at] = from_float<E>(value);
  else if (s.dtype == Dtype::f32)
    static_cast<float*>(s.data)[at] = value;
  else if (s.dtype == Dtype::bf16)
    static_cast<bf16*>(s.data)[at] = from_float<bf16>(value);
  else
    static_cast<f16*>(s.data)[at] = from_float<f16>(value);
}

__host__ __device__ inline int element_bytes(const Sequence& s) { return s.dtype == Dtype::f32 ? 4 : 2; }
__device__ inline void* advance(const Sequence& s, int64_t elements) {
  return static_cast<std::byte*>(s.data) + elements * element_bytes(s);
}

// Σ c·h in the order that every kernel keeps: neighbours first.
template <int S>
__device__ inline float dot(const float (&c)[S], const float (&h)[S]) {
  if constexpr (S == 1)
    return c[0] * h[0];
  else {
    float sum[S / 2];
#pragma unroll
    for (int i = 0; i < S / 2; i++) sum[i] = fmaf(c[2 * i + 1], h[2 * i + 1], c[2 * i] * h[2 * i]);
    if constexpr (S == 4) sum[0] += sum[1];
    static_assert(S <= 4);
    return sum[0];
  }
}

}  // namespace vlm::cuda
