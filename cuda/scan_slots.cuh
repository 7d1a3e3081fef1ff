// The rows that batch rows have their states in.
#pragma once

#include "scan.cuh"

namespace vlm::cuda {

constexpr int kChunk = 128;  // at most the threads of a block
// Whether all slots exist and none occurs twice, for the whole block; what is wrong is reported. list: kChunk, shared.
__device__ inline bool slots_fit(const ScanProblem& p, int32_t* list) {
  if (!p.slots.data) return true;
  const int thread = threadIdx.x;
  const int64_t count = p.last.data ? p.last.count : p.initial.count;
  const auto slot_of = [&](int64_t b) { return static_cast<const int32_t*>(p.slots.data)[b * p.slots.stride[0]]; };
  bool fits = true;
  for (int64_t first = 0; first < p.batch; first += kChunk) {
    const int64_t b = first + thread;
    const bool checks = thread < kChunk && b < p.batch;
    const int32_t slot = checks ? slot_of(b) : 0;
    bool good = !checks || (slot >= 0 && slot < count);
    for (int64_t base = 0; base <= first; base += kChunk) {
      __syncthreads();
      if (thread < kChunk && base + thread < p.batch) list[thread] = slot_of(base + thread);
      __syncthreads();
      const int before = checks ? static_cast<int>(min(int64_t{kChunk}, b - base)) : 0;
#pragma unroll 4
      for (int i = 0; i < before; i++) good &= list[i] != slot;
    }
    if (!good && slot >= 0 && slot < count) report(p.fault, p.step, Trouble::slot_twice, b, slot);
    if (!good && (slot < 0 || slot >= count)) report(p.fault, p.step, Trouble::slot_range, b, slot, count);
    fits &= good;
  }
  return __syncthreads_and(fits);
}
__device__ inline int64_t state_row(const ScanProblem& p, int64_t b, bool fits) {
  return !p.slots.data ? b : fits ? static_cast<const int32_t*>(p.slots.data)[b * p.slots.stride[0]] : -1;
}

}  // namespace vlm::cuda
