// Elements of tensors with any strides and any float type: what kernels use off their fast path.
#pragma once

#include "async_copy.cuh"

namespace vlm::cuda {

// Where the element at the given indices is; indices that are left out are 0.
template <class... Index>
__host__ __device__ inline int64_t offset(const TensorArg& t, Index... index) {
  int64_t sum = 0;
  int i = 0;
  ((sum += index * t.stride[i++]), ...);
  return sum;
}

template <class T, class... Index>
__host__ __device__ inline T* at(const TensorArg& t, Index... index) {
  return static_cast<T*>(t.data) + offset(t, index...);
}

__device__ inline float load_float(const TensorArg& t, int64_t i) {
  switch (t.dtype) {
    case Dtype::f16:
      return to_float(static_cast<const f16*>(t.data)[i]);
    case Dtype::bf16:
      return to_float(static_cast<const bf16*>(t.data)[i]);
    default:
      return static_cast<const float*>(t.data)[i];
  }
}

__device__ inline void store_float(const TensorArg& t, int64_t i, float x) {
  switch (t.dtype) {
    case Dtype::f16:
      static_cast<f16*>(t.data)[i] = from_float<f16>(x);
      break;
    case Dtype::bf16:
      static_cast<bf16*>(t.data)[i] = from_float<bf16>(x);
      break;
    default:
      static_cast<float*>(t.data)[i] = x;
  }
}

// 8 or 16 bytes from global to shared memory, while the thread goes on.
template <int Bytes = 16>
__device__ inline void copy_async(void* shared, const void* global) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  if constexpr (Bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(global), "n"(Bytes) : "memory");
}
// Waits for all groups of copies but the latest N; what was not committed is a group of its own.
template <int N = 0>
__device__ inline void wait_copies() {
  if constexpr (N == 0)
    asm volatile("cp.async.wait_all;" ::: "memory");
  else
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Blocks of a launch, all in one dimension.
inline uint32_t grid_of(int64_t blocks) {
  CHECK(blocks <= INT32_MAX, "the tensors have too many elements for one launch");
  return static_cast<uint32_t>(blocks);
}

// Whether packs of `bytes` bytes can be moved along a dimension: it is contiguous, and every row of it starts and ends
// where a pack does.
inline bool packed(const TensorArg& t, int dim, size_t bytes) {
  const int64_t n = static_cast<int64_t>(bytes) / dtype_bytes(t.dtype);
  bool fits = aligned(t.data, bytes) && t.stride[dim] == 1 && t.size[dim] % n == 0;
  for (int i = 0; i < t.rank; i++) fits = fits && (i == dim || t.size[i] == 1 || t.stride[i] % n == 0);
  return fits;
}

}  // namespace vlm::cuda
