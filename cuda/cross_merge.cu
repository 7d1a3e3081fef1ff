// y[b,c,p] = Σ_k ys[b,k,c,i], p the i-th patch that direction k visits (ops/directions.h), summed in the order of k:
// takes the sequences of cross_scan back to the grid
// ys: [b,k,c,h·w]   y: [b,c,h,w]   f32, f16 or bf16, any strides
#include "cross.cuh"

namespace vlm::cuda {
namespace {

__global__ void __launch_bounds__(kThreads) merge_any(const __grid_constant__ Cross p, bool along) {
  wait_for_inputs();
  const Cell cell(p, 1, along);
  if (!cell.mine) return;
  float sum = load_float(p.sequences, cell.in_sequence(p, 0));
  for (int k = 1; k < p.sequences.size[1]; k++) sum += load_float(p.sequences, cell.in_sequence(p, k));
  store_float(p.grid, cell.in_grid(p), sum);
}

// Channels are neighbours: 16 bytes of them for each thread.
template <class T>
__global__ void __launch_bounds__(kThreads) merge_channels(const __grid_constant__ Cross p) {
  wait_for_inputs();
  constexpr int V = 16 / sizeof(T);
  const Cell cell(p, V, false);
  if (!cell.mine) return;
  Pack<T, V> ys[4];
#pragma unroll
  for (int k = 0; k < 4; k++)
    if (k < p.sequences.size[1])
      ys[k] = *reinterpret_cast<const Pack<T, V>*>(static_cast<const T*>(p.sequences.data) + cell.in_sequence(p, k));
  Pack<T, V> y;
#pragma unroll
  for (int v = 0; v < V; v++) {
    float sum = to_float(ys[0].v[v]);
#pragma unroll
    for (int k = 1; k < 4; k++)
      if (k < p.sequences.size[1]) sum += to_float(ys[k].v[v]);
    y.v[v] = from_float<T>(sum);
  }
  *reinterpret_cast<Pack<T, V>*>(static_cast<T*>(p.grid.data) + cell.in_grid(p)) = y;
}

// Images are contiguous: they are added up in shared memory, `group` channels at a time.
template <class T>
__global__ void __launch_bounds__(kThreads) merge_images(const __grid_constant__ Cross p, int group) {
  wait_for_inputs();
  extern __shared__ __align__(16) unsigned char shared[];
  const int64_t b = blockIdx.y, c = static_cast<int64_t>(blockIdx.x) * group;
  const int channels = static_cast<int>(min(static_cast<int64_t>(group), p.grid.size[1] - c));
  const int directions = static_cast<int>(p.sequences.size[1]), image = group * p.patches();
  T* images = reinterpret_cast<T*>(shared);
  for (int k = 0; k < directions; k++)
    read_image(images + k * image, at<const T>(p.sequences, b, k, c), channels * p.patches());
  wait_copies();
  __syncthreads();
  // The first direction's place is the patch's, which nobody else reads.
  each_patch(p, channels, [&](int i, const int* place) {
    float sum = to_float(images[i]);
#pragma unroll
    for (int k = 1; k < 4; k++)
      if (k < directions) sum += to_float(images[k * image + place[k]]);
    images[i] = from_float<T>(sum);
  });
  __syncthreads();
  write_image(at<T>(p.grid, b, c), images, channels * p.patches());
}

}  // namespace

size_t workspace_cross_merge(const Step& step, const Card&) {
  check_cells({step.out[0], step.in[0]}, "y");
  return 0;
}

void launch_cross_merge(const Step& step, const Launch& on) {
  const Cross p{step.out[0], step.in[0]};
  const int64_t bytes = dtype_bytes(p.grid.dtype), directions = p.sequences.size[1];
  const int group = group_of(p, on.card);
  const bool packs = p.grid.dtype == p.sequences.dtype && packed(p.grid, 1, 16) && packed(p.sequences, 2, 16);
  if (!group && !packs) return launch(merge_any, cells(p, 1), kThreads, 0, on, p, p.grid.stride[1] != 1);
  with_float(p.grid, "y", [&](auto t) {
    using T = decltype(t);
    if (!group) return launch(merge_channels<T>, cells(p, 16 / bytes), kThreads, 0, on, p);
    const dim3 grid(ceil_div(p.grid.size[1], group), p.grid.size[0]);
    launch(merge_images<T>, grid, kThreads, group * p.sequences.size[3] * directions * bytes, on, p, group);
  });
}

}  // namespace vlm::cuda
