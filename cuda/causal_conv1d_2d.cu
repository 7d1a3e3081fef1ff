// The causal convolution (see causal_conv1d.cu) along every direction of a height × width grid, each result stored
// where its patch is: y[b,k,c,p] belongs to patch p = row·width + column in the sequence of direction k
// (ops/directions.h; VL-Mamba, arXiv 2403.13600 §3.2). In front of each sequence are zeros.
// x: [b,d,l], l = height·width   y: [b,k,d,l]   f32, f16 or bf16   weight: [d,w] or [k,d,w]   bias: [d] or [k,d]   f32
// all with any strides
#include "conv.cuh"
#include "images.cuh"

namespace vlm::cuda {
namespace {

struct Grid {
  TensorArg x;       // [b,d,l]
  TensorArg weight;  // [k,d,w], k with stride 0 where the directions share it
  TensorArg bias;    // [k,d], likewise
  TensorArg y;       // [b,k,d,l]
  int height, width;
  bool gated;

  __device__ int patches() const { return height * width; }
  // Step i of the walk row by row, or column by column, is at this patch. Grids have at most 2^30 patches.
  __device__ int patch(bool columns, int i) const { return columns ? i % height * width + i / height : i; }
  __device__ int step(bool columns, int patch) const {
    return columns ? patch % width * height + patch / width : patch;
  }
  __device__ const float* taps(int64_t k, int64_t c) const { return at<const float>(weight, k, c); }
  __device__ const float* biases(int64_t k, int64_t c) const {
    return bias.data ? at<const float>(bias, k, c) : nullptr;
  }
};

constexpr int64_t kMaxGrid = 65535;  // blocks in the second and third dimension

// A thread for each element of x and direction, neighbours along the patches (`along`) or the channels.
__global__ void __launch_bounds__(kThreads) conv_any(const __grid_constant__ Grid p, bool along) {
  wait_for_inputs();
  const uint32_t channels = p.x.size[1], patches = p.patches(), directions = p.y.size[1];
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x, b = blockIdx.y / directions, k = blockIdx.y % directions;
  if (i >= channels * patches) return;
  const int64_t c = along ? i / patches : i % channels;
  const int patch = static_cast<int>(along ? i % patches : i / channels), past = static_cast<int>(p.weight.size[2]) - 1;
  const bool columns = k & 2;
  const int back = k & 1 ? 1 : -1, step = p.step(columns, patch);
  const int64_t image = offset(p.x, b, c);
  float sum = p.bias.data ? *p.biases(k, c) : 0.f;
  for (int j = 0; j <= past; j++) {
    const int from = step + back * (past - j);
    const bool inside = from >= 0 && from < p.patches();
    const float x = inside ? load_float(p.x, image + p.patch(columns, from) * p.x.stride[2]) : 0.f;
    sum = fmaf(p.taps(k, c)[j * p.weight.stride[2]], x, sum);
  }
  store_float(p.y, offset(p.y, b, k, c, patch), p.gated ? silu(sum) : sum);
}

// Channels are neighbours: along the rows or the columns, there and back, four taps wide.
template <class T>
__global__ void __launch_bounds__(kLanes* kWalkers) conv_channels(const __grid_constant__ Grid p) {
  wait_for_inputs();
  __shared__ __align__(16) T tile[kPast + kTile + kPast][kWidth];
  const uint32_t pairs = static_cast<uint32_t>(p.y.size[1]) / 2, b = blockIdx.z / pairs, k = blockIdx.z % pairs * 2;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kWidth, channels = p.x.size[1];
  const int patches = p.patches(), top = blockIdx.y * kTile, count = min(kTile, patches - top);
  const bool columns = k & 2;
  const T* x = at<const T>(p.x, b, begin);
  load_tile<kPast + kTile + kPast>(tile, channels - begin, [&](int row) {
    const int step = top - kPast + row;
    return step >= 0 && step < patches ? x + p.patch(columns, step) * p.x.stride[2] : nullptr;
  });
  wait_copies();
  __syncthreads();
  const int64_t c = begin + threadIdx.x * kPack;
  const int from = threadIdx.y * kWalk;
  if (c >= channels || from >= count) return;

#pragma unroll
  for (int back = 0; back < 2; back++) {
    ChannelTaps<kPack> taps;
    taps.load(p.taps(k + back, c), p.biases(k + back, c), p.bias.stride[1]);
    T* y = at<T>(p.y, b, k + back, c);
    const int ahead = back ? -1 : 1, start = from + (back ? kWalk - 1 : 0);
    const T* in = &tile[kPast + start][threadIdx.x * kPack];
    float window[kPast][kPack];
    load_window(in, ahead * kWidth, window);
    int patch = p.patch(columns, top + start), row = columns ? (top + start) % p.height : 0;
    walk(in, ahead * kWidth, taps, window, p.gated, [&](int i, const float(&out)[kPack]) {
      if (start + i * ahead < count) store_pack(y + patch * p.y.stride[3], out);
      patch += ahead * (columns ? p.width : 1);
      if (!columns) return;
      row += ahead;
      if (row == p.height) row = 0, patch -= patches - 1;
      if (row < 0) row = p.height - 1, patch += patches - 1;
    });
  }
}

// Patches are neighbours: the images of `group` channels are read once, and every thread makes a patch of each in every
// direction, four taps wide.
template <class T>
__global__ void __launch_bounds__(kThreads) conv_images(const __grid_constant__ Grid p, int group) {
  wait_for_inputs();
  extern __shared__ __align__(16) unsigned char shared[];
  T* images = reinterpret_cast<T*>(shared);
  const int64_t b = blockIdx.y, first = static_cast<int64_t>(blockIdx.x) * group;
  const int channels = static_cast<int>(min(static_cast<int64_t>(group), p.x.size[1] - first)), patches = p.patches();
  read_image(images, at<const T>(p.x, b, first), channels * patches);
  wait_copies();
  __syncthreads();
  for (int patch = threadIdx.x; patch < patches; patch += kThreads)
#pragma unroll
    for (int columns = 0; columns < 2; columns++) {
      if (2 * columns >= p.y.size[1]) break;
      const int step = p.step(columns, patch);
      int place[kPast + 1 + kPast];  // of the steps around it, -1 outside
#pragma unroll
      for (int i = 0; i < kPast + 1 + kPast; i++) {
        const int near = step - kPast + i;
        place[i] = near >= 0 && near < patches ? p.patch(columns, near) : -1;
      }
      for (int c = 0; c < channels; c++) {
        float x[kPast + 1 + kPast];
#pragma unroll
        for (int i = 0; i < kPast + 1 + kPast; i++)
          x[i] = place[i] < 0 ? 0.f : to_float(images[c * patches + place[i]]);
#pragma unroll
        for (int back = 0; back < 2; back++) {
          const int64_t k = 2 * columns + back;
          ChannelTaps<1> taps;
          taps.load(p.taps(k, first + c), p.biases(k, first + c), 0);
          const auto input = [&](int j) { return x[kPast + (back ? j : -j)]; };
          *at<T>(p.y, b, k, first + c, patch) =
              from_float<T>(convolve(taps.tap[0], taps.bias[0], input(3), input(2), input(1), input(0), p.gated));
        }
      }
    }
}

template <class T>
void launch_channels(const Grid& p, const Launch& on) {
  const dim3 grid(grid_of(ceil_div(p.x.size[1], kWidth)), ceil_div(p.x.size[2], kTile), p.x.size[0] * p.y.size[1] / 2);
  launch(conv_channels<T>, grid, dim3(kLanes, kWalkers), 0, on, p);
}

// What all directions share, as what each has of its own.
TensorArg each_direction(TensorArg t, int rank, int64_t directions) {
  if (!t || t.rank > rank) return t;
  for (int i = rank; i > 0; i--) t.size[i] = t.size[i - 1], t.stride[i] = t.stride[i - 1];
  t.size[0] = directions, t.stride[0] = 0, t.rank = rank + 1;
  return t;
}

}  // namespace

size_t workspace_causal_conv1d_2d(const Step& step, const Card&) {
  const auto [x, weight, bias] = step.inputs<3>();
  expect_float(x, "x");
  expect_float(step.out[0], "y");
  expect_dtype(weight, "weight", Dtype::f32);
  expect_dtype(bias, "bias", Dtype::f32);
  CHECK(x.size[0] * step.out[0].size[1] <= kMaxGrid && x.size[1] * x.size[2] <= INT32_MAX, "x is too large, got ",
        shape(x));
  return 0;
}

void launch_causal_conv1d_2d(const Step& step, const Launch& on) {
  const auto [x, weight, bias] = step.inputs<3>();
  const auto [y] = step.outputs<1>();
  const Grid p{x,
               each_direction(weight, 2, y.size[1]),
               each_direction(bias, 1, y.size[1]),
               y,
               step.attr[1].i,
               step.attr[2].i,
               step.attr[3].i != 0};
  const bool four = p.weight.size[2] == kTaps && packed(p.weight, 2, 16) && p.weight.stride[1] == kTaps;
  const size_t bytes = kPack * dtype_bytes(y.dtype);
  if (four && x.dtype == y.dtype && packed(x, 1, 16) && packed(y, 2, bytes) && x.size[2] <= kMaxGrid * kTile)
    return with_float(x, "x", [&](auto t) { launch_channels<decltype(t)>(p, on); });
  const int group = four && x.dtype == y.dtype && y.stride[3] == 1 && images_packed(x, 1, x.size[2])
                        ? group_of(x.size[1], x.size[0], x.size[2], dtype_bytes(x.dtype), 1, on.card)
                        : 0;
  if (group > 0)
    return with_float(x, "x", [&](auto t) {
      using T = decltype(t);
      const dim3 grid(grid_of(ceil_div(x.size[1], group)), x.size[0]);
      launch(conv_images<T>, grid, kThreads, group * x.size[2] * sizeof(T), on, p, group);
    });
  const dim3 grid(grid_of(ceil_div(x.size[1] * x.size[2], kThreads)), x.size[0] * y.size[1]);
  launch(conv_any, grid, kThreads, 0, on, p, x.stride[2] == 1 && x.stride[1] != 1);
}

}  // namespace vlm::cuda
