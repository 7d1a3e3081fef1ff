// y[b,i,o] = Σ_{c,r,s} image[b,c,p·u+r,p·v+s] weight[o,c,r,s] + bias[o] + position[i,o]   patch i = u·⌊W/p⌋ + v
// (Dosovitskiy et al. 2021, eq. 1): a convolution with stride p as one product; pixels beyond the last whole patch are not read
// image: [b, c, H, W] f32    weight: [d, c, p, p] f32, f16 or bf16    bias, class_embedding: [d]    position: [rows, d]
// y: [b, rows, d], rows = ⌊H/p⌋·⌊W/p⌋, and one more in front where there is a class_embedding
// The pixels are gathered into rows of the weight's type, which take the way of linear.
#include <algorithm>

#include "linear_tiles.cuh"

namespace vlm::cuda {
namespace {

struct PatchParams {
  const float* image;  // [b, channels, height, width]
  const void* weight;  // [d, k] T
  // [patches, ld], [d, ld] T: of the image, and of the weight where its own rows don't start at 16 bytes
  void *pixels = nullptr, *rows = nullptr;
  int64_t patches, d, k, ld, height, width;
  int channels, size, across, count;        // count: patches of a picture
  const float *class_embedding, *position;  // [d], [rows, d]
  Rows front;                               // [b, d]: the first row of each picture
  int64_t batch;
};

// Row i of the pixels, of the weight's rows, or of y's rows in front, 16 bytes a thread.
template <class T>
__global__ void gather_kernel(const __grid_constant__ PatchParams p) {
  wait_for_inputs();
  constexpr int N = 16 / sizeof(T);
  const int64_t j = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * N;
  int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  Pack<T, N> out;
  if (i < p.patches) {
    if (j >= p.ld) return;
    const int64_t b = i / p.count, patch = i % p.count;
    const int64_t top = patch / p.across * p.size, left = patch % p.across * p.size;
    const int area = p.size * p.size;
    int c = static_cast<int>(j / area), r = static_cast<int>(j % area) / p.size, s = static_cast<int>(j % p.size);
#pragma unroll
    for (int e = 0; e < N; e++) {
      const bool inside = c < p.channels;
      const float* from = p.image + ((b * p.channels + c) * p.height + top + r) * p.width + left + s;
      out.v[e] = from_float<T>(inside ? *from : 0.f);
      if (++s == p.size) s = 0, r++;
      if (r == p.size) r = 0, c++;
    }
    store_pack(static_cast<T*>(p.pixels) + i * p.ld + j, out);
    return;
  }
  i -= p.patches;
  if (p.rows && i < p.d) {
    if (j >= p.ld) return;
#pragma unroll
    for (int e = 0; e < N; e++)
      out.v[e] = j + e < p.k ? static_cast<const T*>(p.weight)[i * p.k + j + e] : from_float<T>(0.f);
    store_pack(static_cast<T*>(p.rows) + i * p.ld + j, out);
    return;
  }
  i -= p.rows ? p.d : 0;
  if (!p.class_embedding || i >= p.batch) return;
  const int64_t at = p.front.row(i), step = static_cast<int64_t>(gridDim.y) * blockDim.x;
  for (int64_t o = j / N; o < p.d; o += step)
    write<1>(p.front, at + o, {p.class_embedding[o] + (p.position ? p.position[o] : 0.f)});
}

struct Plan {
  PatchParams patches;
  Product product;  // of the gathered pixels
  size_t pixel_bytes, weight_bytes;

  explicit Plan(const Step& step) {
    const auto [image, weight, bias, position, class_embedding] = step.inputs<5>();
    TensorArg y = step.out[0];
    expect_dtype(image, "image", Dtype::f32);
    expect_float(weight, "weight");
    expect_float(y, "y");
    const int64_t batch = image.size[0], p = weight.size[2], across = image.size[3] / p,
                  count = image.size[2] / p * across, d = weight.size[0], k = image.size[1] * p * p,
                  element = dtype_bytes(weight.dtype),
                  ld = std::max<int64_t>(ceil_div(k * element, 16), 1) * 16 / element;
    const auto bytes = [&](int64_t rows) { return static_cast<size_t>(ceil_div(rows * ld * element, 256) * 256); };
    pixel_bytes = bytes(batch * count);
    weight_bytes = ld != k || !aligned(weight.data, 16) ? bytes(d) : 0;
    TensorArg front = y;
    front.size[1] = 1;
    patches = {.image = image.f32(),
               .weight = weight.data,
               .patches = batch * count,
               .d = d,
               .k = k,
               .ld = ld,
               .height = image.size[2],
               .width = image.size[3],
               .channels = static_cast<int>(image.size[1]),
               .size = static_cast<int>(p),
               .across = static_cast<int>(across),
               .count = static_cast<int>(count),
               .class_embedding = class_embedding.f32(),
               .position = position.f32(),
               .front = rows_of(front),
               .batch = batch};
    const int64_t skip = class_embedding ? 1 : 0;
    y.size[1] = count;
    y.data = y.as<std::byte>() + skip * y.stride[1] * dtype_bytes(y.dtype);
    TensorArg added = y;
    added.data = position ? position.f32() + skip * d : nullptr;
    added.dtype = Dtype::f32;
    added.stride = {0, d, 1};
    product = {.m = batch * count,
               .n = d,
               .k = k,
               .x = {.dtype = weight.dtype, .rank = 1, .size = {batch * count}, .stride = {ld}},
               .weight = {weight.as<std::byte>(), weight.dtype, 1, {d}, {ld}},
               .bias = bias.f32(),
               .residual = rows_of(added),
               .y = rows_of(y),
               .activation = Activation::none};
  }
};

}  // namespace

size_t workspace_patch_embed(const Step& step, const Card&) {
  const Plan plan(step);
  return plan.pixel_bytes + plan.weight_bytes;
}

void launch_patch_embed(const Step& step, const Launch& on) {
  Plan plan(step);
  PatchParams& p = plan.patches;
  p.pixels = on.workspace;
  p.rows = plan.weight_bytes ? on.workspace + plan.pixel_bytes : nullptr;
  plan.product.x.data = on.workspace;
  if (p.rows) plan.product.weight.data = static_cast<std::byte*>(p.rows);
  with_float({.dtype = plan.product.weight.dtype}, "weight", [&](auto type) {
    using T = decltype(type);
    const int64_t rows = p.patches + (p.rows ? p.d : 0) + (p.class_embedding ? p.batch : 0);
    const int64_t chunks = p.ld * static_cast<int64_t>(sizeof(T)) / 16;
    launch(gather_kernel<T>,
           dim3(static_cast<unsigned>(ceil_div(rows, 8)), static_cast<unsigned>(ceil_div(chunks, 32))), dim3(32, 8), 0,
           on, p);
  });
  Launch product = on;
  product.fixed_weight &= !p.rows;
  launch_product(plan.product, product);
}

}  // namespace vlm::cuda
