// Images of a few channels in shared memory: what kernels use where the patches of a channel are neighbours.
#pragma once

#include "strided.cuh"

namespace vlm::cuda {

constexpr int kThreads = 256;  // of a block that copies images
constexpr int kCopy = 8;       // bytes that a thread copies at a time

// n elements between shared and global memory, both at addresses of whole kCopy bytes.
template <class T>
__device__ void read_image(T* shared, const T* global, int n) {
  constexpr int V = kCopy / sizeof(T);
  const int whole = n / V * V;
  for (int i = threadIdx.x * V; i < whole; i += kThreads * V) copy_async<kCopy>(shared + i, global + i);
  for (int i = whole + threadIdx.x; i < n; i += kThreads) shared[i] = global[i];
}
template <class T>
__device__ void write_image(T* global, const T* shared, int n) {
  constexpr int V = kCopy / sizeof(T);
  const int whole = n / V * V;
  for (int i = threadIdx.x * V; i < whole; i += kThreads * V)
    *reinterpret_cast<Pack<T, V>*>(global + i) = *reinterpret_cast<const Pack<T, V>*>(shared + i);
  for (int i = whole + threadIdx.x; i < n; i += kThreads) global[i] = shared[i];
}

// How many channels a block takes, so that `images` images of each fit into its shared memory and all blocks' begin where
// kCopy bytes do; 0 where that can't be.
inline int group_of(int64_t channels, int64_t batch, int64_t patches, int64_t bytes, int64_t images, const Card& card) {
  const int64_t memory = static_cast<int64_t>(card.shared_bytes);
  if (patches == 0 || patches > memory) return 0;
  const auto size = [&](int64_t n) { return n * patches * images * bytes; };
  int group = 1;
  while (group * patches * bytes % kCopy != 0) group *= 2;
  if (size(group) > memory) return 0;
  while (size(2 * group) <= 48 << 10 && batch * ceil_div(channels, 2 * group) >= 4 * card.multiprocessors) group *= 2;
  return group;
}

// Whether images lie one after the other, and begin where kCopy bytes do in front of dimension `dim`, the channels.
inline bool images_packed(const TensorArg& t, int dim, int64_t patches) {
  bool fits = aligned(t.data, kCopy) && (t.size[dim] <= 1 || t.stride[dim] == patches);
  for (int i = 0; i < dim; i++) fits = fits && (t.size[i] == 1 || t.stride[i] * dtype_bytes(t.dtype) % kCopy == 0);
  for (int64_t i = t.rank - 1, gap = 1; i > dim; gap *= t.size[i--])
    fits = fits && (t.size[i] == 1 || t.stride[i] == gap);
  return fits;
}

}  // namespace vlm::cuda
