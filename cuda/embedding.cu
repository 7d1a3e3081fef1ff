// y[b,l,:] = weight[id,:] where id = ids[b,l] >= 0, and rows[-1-id,:] where it is negative
// ids: [b,l] i32    weight: [v,d] f32 | f16 | bf16 | i8    y: [b,l,d] f32 | f16 | bf16
// scale: [v,⌈d/128⌉] f32, with weights of i8: what a whole number of each 128 of a row stands for
// rows: [r,d] f32 | f16 | bf16, vectors that stand for no word: a picture's
#include "rows.cuh"

namespace vlm::cuda {
namespace {

struct Args {
  const int32_t* ids;  // [b,l]
  int64_t id_stride[2];
  unsigned length;     // l
  Rows weight, rows;   // [v,d] and [r,d]
  const float* scale;  // [v,⌈d/128⌉]
  int64_t scale_stride;
  int64_t words, extra;  // v and r
  Rows y;                // [b,l,d]
  int d;
  Fault* fault;
  int step;
};

constexpr int kMaxThreads = 256, kPacks = 4;

// The same columns of a row as load() takes, of a quantised one.
template <int N, int K>
__device__ void load_quantised(const Args& p, int64_t id, int j, int step, Pack<float, N> (&v)[K]) {
  const auto* const from = reinterpret_cast<const int8_t*>(p.weight.data) + p.weight.row(id);
  const float* const scale = p.scale + id * p.scale_stride;
  Pack<int8_t, N> raw[K] = {};
#pragma unroll
  for (int k = 0; k < K; k++)
    if (j + k * step < p.d) raw[k] = *reinterpret_cast<const Pack<int8_t, N>*>(from + j + k * step);
#pragma unroll
  for (int k = 0; k < K; k++)
    if (j + k * step < p.d)
      for (int i = 0; i < N; i++)
        v[k].v[i] = static_cast<float>(raw[k].v[i]) * scale[(j + k * step) / static_cast<int>(kQuantBlock)];
}

// A block is a row of y. An id without a row is reported, and zeros stand for it.
template <int N>
__global__ void __launch_bounds__(kMaxThreads) gather(const __grid_constant__ Args p) {
  wait_for_inputs();
  const unsigned b = blockIdx.x / p.length, l = blockIdx.x % p.length;
  const int64_t id = p.ids[b * p.id_stride[0] + l * p.id_stride[1]], y = p.y.row(blockIdx.x);
  const bool exists = id < p.words && -1 - id < p.extra;
  if (!exists && threadIdx.x == 0) report(p.fault, p.step, Trouble::id_range, b, l, id);
  const Rows& from = id < 0 ? p.rows : p.weight;
  const int64_t row = exists ? from.row(id < 0 ? -1 - id : id) : 0;
  const int step = blockDim.x * N;
  for (int j = threadIdx.x * N; j < p.d; j += step * kPacks) {
    Pack<float, N> v[kPacks] = {};
    if (exists && id >= 0 && p.scale)
      load_quantised<N>(p, id, j, step, v);
    else if (exists)
      load<N>(from, row, j, step, p.d, v);
    store<N>(p.y, y, j, step, p.d, v);
  }
}

}  // namespace

size_t workspace_embedding(const Step& step, const Card&) {
  const auto [ids, weight, rows, scale] = step.inputs<4>();
  expect_dtype(ids, "ids", Dtype::i32);
  expect_rows(weight);
  if (!scale) expect_float(weight, "weight");
  expect_float(rows, "rows");
  expect_float(step.out[0], "y");
  CHECK(weight.size[1] <= INT32_MAX, "too many columns: ", shape(weight));
  return 0;
}

void launch_embedding(const Step& step, const Launch& on) {
  const auto [ids, weight, rows, scale] = step.inputs<4>();
  if (step.out[0].numel() == 0) return;
  const Args p{ids.as<int32_t>(),
               {ids.stride[0], ids.stride[1]},
               static_cast<unsigned>(ids.size[1]),
               rows_of(weight),
               rows_of(rows),
               scale.f32(),
               scale.stride[0],
               weight.size[0],
               rows ? rows.size[0] : 0,
               rows_of(step.out[0]),
               static_cast<int>(weight.size[1]),
               on.fault,
               on.step};
  const bool wide = p.d % 4 == 0 && p.weight.packs(4) && p.rows.packs(4) && p.y.packs(4);
  const int64_t packs = p.d / (wide ? 4 : 1), threads = packs < kMaxThreads ? ceil_div(packs, 32) * 32 : kMaxThreads;
  launch(wide ? gather<4> : gather<1>, static_cast<unsigned>(ids.numel()), static_cast<unsigned>(threads), 0, on, p);
}

}  // namespace vlm::cuda
