// What the kernels share: element types, wide loads, launching.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <utility>

#include "op.h"

namespace vlm::cuda {

using bf16 = __nv_bfloat16;
using f16 = __half;

template <class T>
constexpr Dtype dtype_of = Dtype::f32;
template <>
constexpr Dtype dtype_of<f16> = Dtype::f16;
template <>
constexpr Dtype dtype_of<bf16> = Dtype::bf16;

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(f16 x) { return __half2float(x); }
__device__ inline float to_float(bf16 x) { return __bfloat162float(x); }
template <class T>
__device__ inline T from_float(float x) {
  if constexpr (sizeof(T) == 4)
    return x;
  else if constexpr (dtype_of<T> == Dtype::f16)
    return __float2half_rn(x);
  else
    return __float2bfloat16_rn(x);
}

// N elements that are moved as one, up to 16 bytes.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};

// Calls f(T{}) with the element type of a float tensor.
template <class F>
void with_float(const TensorArg& t, const char* name, F&& f) {
  switch (t.dtype) {
    case Dtype::f32:
      return f(float{});
    case Dtype::f16:
      return f(f16{});
    case Dtype::bf16:
      return f(bf16{});
    default:
      throw Error("ERR_OP_ARG", text(name, " must be f32, f16 or bf16, got ", shape(t)));
  }
}

// Absent tensors pass, here and below.
inline void expect_float(const TensorArg& t, const char* name) {
  if (t) with_float(t, name, [](auto) {});
}
inline void expect_dtype(const TensorArg& t, const char* name, Dtype dtype) {
  if (t) check_dtype(t, name, dtype);
}

// Not in lines of sixteen rows, which the CPU's weights of few bits may lie in (native/step.h).
inline void expect_rows(const TensorArg& weight) {
  CHECK(weight.rank == 2, "weight must be a matrix on a GPU, got ", shape(weight));
}

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline bool aligned(const void* p, size_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

// The first thing a kernel does, or the second: before it, only what no kernel writes may be read (weights), and nothing
// written. From Hopper on a kernel is started while the one in front of it still runs (programmatic dependent launch); here
// it lets the next one start in turn, and waits until all memory is as the one in front leaves it. Every thread of every
// kernel has to come by: what waits for a kernel relies on that kernel having waited.
__device__ inline void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;\n\tgriddepcontrol.wait;" ::: "memory");
#endif
}

inline cudaLaunchAttribute launched_early() {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  return attribute;
}

// kernel<<<grid, block, shared>>>(args...) on the step's stream. Grids with a dimension of 0 are nothing to do.
template <class... Params, class... Args>
void launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared, const Launch& on, Args&&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared > 48 << 10)
    VLM_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = on.stream;
  cudaLaunchAttribute early = launched_early();
  config.attrs = &early;
  config.numAttrs = on.card.arch >= 90 ? 1 : 0;
  VLM_CUDA(cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...));
}

// Notes what is wrong with the numbers; only the first note of a run is kept.
__device__ inline void report(Fault* fault, int step, Trouble trouble, int64_t a = 0, int64_t b = 0, int64_t c = 0,
                              float value = 0) {
  if (atomicCAS(reinterpret_cast<int*>(&fault->trouble), 0, static_cast<int>(trouble)) != 0) return;
  fault->step = step;
  fault->where[0] = a;
  fault->where[1] = b;
  fault->where[2] = c;
  fault->value = value;
}
__device__ inline bool has_fault(const Fault* fault) {
  return *reinterpret_cast<const volatile int*>(&fault->trouble) != 0;
}

}  // namespace vlm::cuda
