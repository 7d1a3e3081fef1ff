// The causal convolution (see causal_conv1d.cc) along every direction of a height × width grid, each result stored
// where its patch is: y[b,k,c,p] belongs to patch p = row·width + column in the sequence of direction k
// (ops/directions.h; VL-Mamba, arXiv 2403.13600 §3.2). In front of each sequence are zeros. x: [b,d,l], l =
// height·width   y: [b,k,d,l]   weight: [d,w] or [k,d,w]   bias: [d] or [k,d]   all f32 with any strides
#define SIMD_FILE "ops/causal_conv1d_2d.cc"
#include "ops/at.h"
#include "ops/directions.h"
#include "simd/foreach.h"
#include "simd/vec.h"
#include "simd/math.h"
#include "ops/block.h"
#include "ops/conv_rows.h"

#ifndef VLM_CONV_SCRATCH
#define VLM_CONV_SCRATCH
namespace vlm {
// Two images of a register of channels.
inline size_t conv_scratch(int64_t patch_count) { return static_cast<size_t>(2 * 16 * patch_count) * sizeof(float); }
}  // namespace vlm
#endif

SIMD_BEGIN
namespace vlm::SIMD {

template <int W>
void convolve_grid(const Step& step, Worker& w) {
  const auto [x, weight, bias] = step.inputs<3>();
  const auto [y] = step.outputs<1>();
  const int64_t height = step.attr[1].i, width = step.attr[2].i;
  const bool gated = step.attr[3].i != 0;
  const int64_t batch = x.size[0], channels = x.size[1], patch_count = x.size[2];
  const int64_t blocks = (channels + F::N - 1) / F::N;
  float* image = reinterpret_cast<float*>(w.scratch + conv_scratch(patch_count) * w.ith);
  float* result = image + patch_count * F::N;
  w.each(batch * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t b = i / blocks, c = i % blocks * F::N, lanes = channels - c < F::N ? channels - c : F::N;
      load_rows(image, F::N, rows_at(x, b, c), lanes, patch_count);
      for (int64_t k = 0; k < y.size[1]; k++) {
        const TensorArg bias_k = of_direction(bias, 1, k);
        float taps[W * F::N], biases[F::N] = {};
        load_rows(taps, F::N, rows_at(of_direction(weight, 2, k), c), lanes, W);
        if (bias) copy_2d(biases, 1, 0, at(bias_k, c), bias_k.stride[0], 0, lanes, 1);
        F tap[W], past[W - 1];
        for (int j = 0; j < W; j++) tap[j] = load(taps + j * F::N);
        for (int j = 0; j + 1 < W; j++) past[j] = zero();
        convolve<W>(patches(static_cast<int>(k), height, width), image, F::N, result, F::N, tap, load(biases), past,
                    gated);
        store_rows(rows_at(y, b, k, c), result, F::N, lanes, patch_count);
      }
    }
  });
}

void causal_conv1d_2d(const Step& step, Worker& w) {
  const TensorArg& weight = step.in[1];
  switch (weight.size[weight.rank - 1]) {
    case 2:
      return convolve_grid<2>(step, w);
    case 3:
      return convolve_grid<3>(step, w);
    default:
      return convolve_grid<4>(step, w);
  }
}

}  // namespace vlm::SIMD
SIMD_END

#if SIMD_ONCE
namespace vlm {

size_t prepare_causal_conv1d_2d(const Step& step, int nth) {
  const auto [x, weight, bias] = step.inputs<3>();
  const auto [y] = step.outputs<1>();
  const int64_t directions = scan_directions(static_cast<Scan>(step.attr[0].i));
  check_floats(x, "x", {-1, -1, -1});
  const int64_t batch = x.size[0], channels = x.size[1], patch_count = x.size[2];
  check_grid(step.attr[1].i, step.attr[2].i, patch_count);
  check_directions(weight, "weight", directions, {channels, -1});
  const int64_t width = weight.size[weight.rank - 1];
  CHECK(width >= 2 && width <= 4, "weight must have 2 to 4 taps, got ", width);
  if (bias) check_directions(bias, "bias", directions, {channels});
  check_floats(y, "y", {batch, directions, channels, patch_count});
  return conv_scratch(patch_count) * nth;
}

SIMD_KERNELS(causal_conv1d_2d)

}  // namespace vlm
#endif
