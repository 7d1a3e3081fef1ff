// xs[b,k,c,i] = x[b,c,p], p the i-th patch that direction k visits (ops/directions.h; VMamba, arXiv 2401.10166, has the
// same four in another order)
// x: [b,c,h,w]   xs: [b,k,c,h·w]   f32, f16 or bf16, any strides
#include "cross.cuh"

namespace vlm::cuda {
namespace {

__global__ void __launch_bounds__(kThreads) scan_any(const __grid_constant__ Cross p, bool along) {
  wait_for_inputs();
  const Cell cell(p, 1, along);
  if (!cell.mine) return;
  const float x = load_float(p.grid, cell.in_grid(p));
  for (int k = 0; k < p.sequences.size[1]; k++) store_float(p.sequences, cell.in_sequence(p, k), x);
}

// Channels are neighbours: 16 bytes of them for each thread.
template <class T>
__global__ void __launch_bounds__(kThreads) scan_channels(const __grid_constant__ Cross p) {
  wait_for_inputs();
  constexpr int V = 16 / sizeof(T);
  const Cell cell(p, V, false);
  if (!cell.mine) return;
  const auto x = *reinterpret_cast<const Pack<T, V>*>(static_cast<const T*>(p.grid.data) + cell.in_grid(p));
  for (int k = 0; k < p.sequences.size[1]; k++)
    *reinterpret_cast<Pack<T, V>*>(static_cast<T*>(p.sequences.data) + cell.in_sequence(p, k)) = x;
}

// Images are contiguous: they are put in order in shared memory, `group` channels at a time. T has the size of an element.
template <class T>
__global__ void __launch_bounds__(kThreads) scan_images(const __grid_constant__ Cross p, int group) {
  wait_for_inputs();
  extern __shared__ __align__(16) unsigned char shared[];
  const int64_t b = blockIdx.y, c = static_cast<int64_t>(blockIdx.x) * group;
  const int channels = static_cast<int>(min(static_cast<int64_t>(group), p.grid.size[1] - c));
  const int directions = static_cast<int>(p.sequences.size[1]), image = group * p.patches();
  T* images = reinterpret_cast<T*>(shared);  // the first direction's is the grid's
  read_image(images, at<const T>(p.grid, b, c), channels * p.patches());
  wait_copies();
  __syncthreads();
  each_patch(p, channels, [&](int i, const int* place) {
    const T x = images[i];
#pragma unroll
    for (int k = 1; k < 4; k++)
      if (k < directions) images[k * image + place[k]] = x;
  });
  __syncthreads();
  for (int k = 0; k < directions; k++)
    write_image(at<T>(p.sequences, b, k, c), images + k * image, channels * p.patches());
}

}  // namespace

size_t workspace_cross_scan(const Step& step, const Card&) {
  check_cells({step.in[0], step.out[0]}, "x");
  return 0;
}

void launch_cross_scan(const Step& step, const Launch& on) {
  const Cross p{step.in[0], step.out[0]};
  const int64_t bytes = dtype_bytes(p.grid.dtype), directions = p.sequences.size[1];
  const bool wide = bytes == 4;
  if (const int group = group_of(p, on.card)) {
    const dim3 grid(ceil_div(p.grid.size[1], group), p.grid.size[0]);
    return launch(wide ? scan_images<uint32_t> : scan_images<uint16_t>, grid, kThreads,
                  group * p.sequences.size[3] * directions * bytes, on, p, group);
  }
  if (p.grid.dtype == p.sequences.dtype && packed(p.grid, 1, 16) && packed(p.sequences, 2, 16))
    return launch(wide ? scan_channels<uint32_t> : scan_channels<uint16_t>, cells(p, 16 / bytes), kThreads, 0, on, p);
  launch(scan_any, cells(p, 1), kThreads, 0, on, p, p.grid.stride[1] != 1);
}

}  // namespace vlm::cuda
