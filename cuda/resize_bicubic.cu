// y = the middle of resize(canvas); the canvas has the colour `fill`, and the image in its middle (Pillow's bicubic)
// image: [h,w,3] u8    y: [oh,ow,3] u8    canvas_height >= h, canvas_width >= w, height >= oh, width >= ow
// fill: 0xRRGGBB
// First the weights, in double as on the CPU (compiled without contraction), then across, then down.
#include "common.cuh"
#include "ops/resize_bicubic.h"

namespace vlm::cuda {
namespace {

constexpr int kThreads = 256;

struct Resize {
  const uint8_t* image;  // [h,w,3]
  uint8_t* y;            // [oh,ow,3]
  ResizePlan plan;
  ResizeScratch scratch;

  __device__ int64_t row_bytes() const { return 3 * static_cast<int64_t>(plan.x.window); }
};

__device__ uint8_t clip8(int32_t sum) { return static_cast<uint8_t>(max(0, min(255, sum >> kBicubicBits))); }

// Σ weight · input, where inputs are `step` bytes apart.
__device__ uint8_t combine(const uint8_t* in, int64_t step, const int32_t* k, const Taps& taps, int32_t fill) {
  int32_t sum = kBicubicHalf + fill * taps.outside;
  for (int32_t j = 0; j < taps.count; j++) sum += in[j * step] * k[j];
  return clip8(sum);
}

__global__ void __launch_bounds__(kThreads) weigh(const __grid_constant__ Resize p) {
  wait_for_inputs();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const BicubicAxis &x = p.plan.x, &y = p.plan.y;
  if (i < x.window)
    p.scratch.x[i] = x.taps(static_cast<int32_t>(i), p.scratch.kx + i * x.most());
  else if (i < int64_t{x.window} + y.window)
    p.scratch.y[i - x.window] = y.taps(static_cast<int32_t>(i - x.window), p.scratch.ky + (i - x.window) * y.most());
}

// A thread for each byte of the rows that y needs.
__global__ void __launch_bounds__(kThreads) across(const __grid_constant__ Resize p, int64_t count, int64_t row_in) {
  wait_for_inputs();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, bytes = p.row_bytes();
  if (i >= count) return;
  const int64_t row = i / bytes, x = i % bytes / 3, colour = i % 3;
  const Taps taps = p.scratch.x[x];
  p.scratch.rows[i] = combine(p.image + (p.plan.y_begin + row) * row_in + 3 * taps.first + colour, 3,
                              p.scratch.kx + x * p.plan.x.most(), taps, p.plan.fill[colour]);
}

// A thread for each byte of y.
__global__ void __launch_bounds__(kThreads) down(const __grid_constant__ Resize p, int64_t count) {
  wait_for_inputs();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, bytes = p.row_bytes();
  if (i >= count) return;
  const int64_t y = i / bytes;
  const Taps taps = p.scratch.y[y];
  p.y[i] = combine(p.scratch.rows + (taps.first - p.plan.y_begin) * bytes + i % bytes, bytes,
                   p.scratch.ky + y * p.plan.y.most(), taps, p.plan.fill[i % 3]);
}

}  // namespace

size_t workspace_resize_bicubic(const Step& step, const Card&) { return ResizePlan(step).bytes(0); }

void launch_resize_bicubic(const Step& step, const Launch& on) {
  const ResizePlan plan(step);
  const Resize p{step.in[0].as<const uint8_t>(), step.out[0].as<uint8_t>(), plan, plan.layout(on.workspace)};
  const auto each = [&](auto kernel, int64_t count, auto... more) {
    const int64_t blocks = ceil_div(count, kThreads);
    CHECK(blocks <= INT32_MAX, "y must be smaller, got ", shape(step.out[0]));
    launch(kernel, static_cast<uint32_t>(blocks), kThreads, 0, on, p, more...);
  };
  const int64_t across_bytes = (plan.y_end - plan.y_begin) * plan.row_bytes(),
                y_bytes = plan.y.window * plan.row_bytes();
  each(weigh, int64_t{plan.x.window} + plan.y.window);
  each(across, across_bytes, across_bytes, 3 * step.in[0].size[1]);
  each(down, y_bytes, y_bytes);
}

}  // namespace vlm::cuda
