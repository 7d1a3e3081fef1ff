// y[b,i,o] = Σ_{c,r,s} image[b,c,p·u+r,p·v+s] weight[o,c,r,s] + bias[o] + position[i,o]   patch i = u·⌊W/p⌋ + v
// (Dosovitskiy et al. 2021, eq. 1): a convolution with stride p as one product; pixels beyond the last whole patch are not read
// image: [b, c, H, W] f32    weight: [d, c, p, p] f32, f16 or bf16    bias, class_embedding: [d]    position: [rows, d]
// y: [b, rows, d] f32, rows = ⌊H/p⌋·⌊W/p⌋, and one more in front where there is a class_embedding
#define SIMD_FILE "ops/patch_embed.cc"
#include "ops/rows.h"
#include "simd/foreach.h"
#include "simd/vec.h"
#include "simd/dot.h"

#ifndef VLM_PATCH_EMBED
#define VLM_PATCH_EMBED
namespace vlm {

struct Patches {
  int64_t channels, height, width, size, across, count, pixels;
  Patches(const TensorArg& image, const TensorArg& weight)
      : channels(image.size[1]),
        height(image.size[2]),
        width(image.size[3]),
        size(weight.size[2]),
        across(width / size),
        count(height / size * across),
        pixels(channels * size * size) {}
};

}  // namespace vlm
#endif

SIMD_BEGIN
namespace vlm::SIMD {

// y[i,:] = sums + bias + position[i,:], of `count` columns from `first` on.
SIMD_INLINE void finish(const float* sums, const float* bias, const float* position, float* y, int64_t count) {
  for (int64_t c = 0; c < count; c += F::N) {
    const int some = static_cast<int>(count - c < F::N ? count - c : F::N);
    F v = load(sums + c, some);
    if (bias) v = v + load(bias + c, some);
    if (position) v = v + load(position + c, some);
    store(y + c, v, some);
  }
}

void patch_embed(const Step& step, Worker& w) {
  const auto [image, weight, bias, position, class_embedding] = step.inputs<5>();
  const auto [y] = step.outputs<1>();
  const Patches p(image, weight);
  const int64_t batch = image.size[0], d = weight.size[0], front = class_embedding ? 1 : 0;
  // One row of pixels for each thread, behind what products() uses.
  float* pixels = reinterpret_cast<float*>(w.scratch + products_scratch(batch * p.count, p.pixels, w.nth)) +
                  packed_width(p.pixels) * w.ith;
  const auto patch = [&](int64_t row) {
    const int64_t b = row / p.count, top = row % p.count / p.across * p.size, left = row % p.across * p.size;
    float* out = pixels;
    for (int64_t c = 0; c < p.channels; c++)
      for (int64_t r = 0; r < p.size; r++, out += p.size)
        std::memcpy(out, image.f32() + ((b * p.channels + c) * p.height + top + r) * p.width + left,
                    sizeof(float) * static_cast<size_t>(p.size));
    return static_cast<const float*>(pixels);
  };
  if (front && w.ith == 0)
    for (int64_t b = 0; b < batch; b++)
      finish(class_embedding.f32(), nullptr, position.f32(), y.f32() + b * y.stride[0], d);
  with_dot(weight.dtype, [&](auto dot) {
    using D = decltype(dot);
    products<D>(w, batch * p.count, d, p.pixels, patch, weight.as<typename D::W>(), p.pixels,
                [&](int64_t row, int64_t first, int64_t count, const float* sums) {
                  const int64_t i = front + row % p.count;
                  finish(sums, bias ? bias.f32() + first : nullptr, position ? position.f32() + i * d + first : nullptr,
                         y.f32() + row / p.count * y.stride[0] + i * y.stride[1] + first, count);
                });
  });
}

}  // namespace vlm::SIMD
SIMD_END

#if SIMD_ONCE
namespace vlm {

size_t prepare_patch_embed(const Step& step, int nth) {
  const auto [image, weight, bias, position, class_embedding] = step.inputs<5>();
  const auto [y] = step.outputs<1>();
  check_given(image, "image");
  check_plain(image, "image", {-1, -1, -1, -1});
  check_given(weight, "weight");
  check_size(weight, "weight", {-1, image.size[1], -1, -1});
  check_contiguous(weight, "weight");
  check_weight(weight);
  CHECK(weight.size[2] == weight.size[3] && weight.size[2] > 0, "weight must have square patches, got ", shape(weight));
  const Patches p(image, weight);
  const int64_t d = weight.size[0], rows = p.count + (class_embedding ? 1 : 0);
  check_plain(bias, "bias", {d});
  check_plain(position, "position", {rows, d});
  check_plain(class_embedding, "class_embedding", {d});
  check_given(y, "y");
  check_dtype(y, "y", Dtype::f32);
  check_size(y, "y", {image.size[0], rows, d});
  check_rows(y, "y");
  return products_scratch(image.size[0] * p.count, p.pixels, nth) +
         sizeof(float) * static_cast<size_t>(packed_width(p.pixels) * nth);
}

SIMD_KERNELS(patch_embed)

}  // namespace vlm
#endif
