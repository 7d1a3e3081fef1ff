// What layer_norm and rms_norm share: s = x + residual, then each row scaled by its own statistics and by `weight`.
// A row is a block's, and the order of its sums depends on d alone.
#pragma once

#include "async_copy.cuh"
#include "rows.cuh"

namespace vlm::cuda {

struct NormArgs {
  Rows x, residual;     // [rows…, d]; the residual may be absent
  Rows y, sum;          // [rows…, d]; sum, which receives s, may be absent
  const float* weight;  // [d]
  const float* bias;    // [d], or null
  int d;
  float share;  // 1 / d
  float eps;
  int64_t rows;
};

constexpr int kMaxWarps = 16;
constexpr int kResidentThreads = 640;  // of a multiprocessor, with the registers that a row takes

// The sum over the block of each of N numbers, in every thread.
template <int N>
__device__ void block_sum(float (&v)[N], float (&partial)[kMaxWarps][N]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  for (int step = 16; step > 0; step /= 2)
    for (float& x : v) x += __shfl_xor_sync(~0u, x, step);
  for (int i = 0; i < N; i++)
    if (lane == 0) partial[warp][i] = v[i];
  __syncthreads();
  for (int i = 0; i < N; i++) v[i] = lane < warps ? partial[lane][i] : 0.f;
  for (int step = kMaxWarps / 2; step > 0; step /= 2)
    for (float& x : v) x += __shfl_xor_sync(~0u, x, step);
  for (float& x : v) x = __shfl_sync(~0u, x, 0);
}

// What a row is shifted and scaled by. The next row uses the other half of the shared memory.
template <bool kCentred>
struct Statistics {
  float mean = 0, scale;

  // each(f) calls f with every number of the row that this thread has.
  template <class Each>
  __device__ Statistics(const NormArgs& p, bool odd_row, Each each) {
    __shared__ float totals[kMaxWarps][1], moments[2][kMaxWarps][kCentred ? 2 : 1];
    if constexpr (kCentred) {
      float total[1] = {};
      each([&](float v) { total[0] += v; });
      block_sum(total, totals);
      mean = total[0] * p.share;
    }
    float moment[kCentred ? 2 : 1] = {};
    each([&](float v) {
      moment[0] = fmaf(v - mean, v - mean, moment[0]);
      if constexpr (kCentred) moment[1] += v - mean;
    });
    block_sum(moment, moments[odd_row]);
    float variance = moment[0] * p.share;
    if constexpr (kCentred) {
      // What is left of the mean after the first sum's rounding comes out of the deviations themselves (Chan, Golub &
      // LeVeque 1983, eq. 1.7): rows far from zero keep their digits.
      const float left = moment[1] * p.share;
      variance = fmaxf(fmaf(-left, left, variance), 0.f);
      rest = left;
    }
    scale = rsqrtf(variance + p.eps);
  }
  __device__ float operator()(float v, float weight, float bias) const {
    return fmaf((v - mean - rest) * scale, weight, bias);
  }

 private:
  float rest = 0;
};

// Rows of up to kMaxWarps · 32 · kPacks · 4 columns lie in registers. While one is summed, the block's next one is loaded.
constexpr int kPacks = 4;

template <bool kCentred>
__global__ void __maxnreg__(96) norm_held(const __grid_constant__ NormArgs p) {
  wait_for_inputs();
  using Packs = Pack<float, 4>[kPacks];
  const int d = p.d, first = threadIdx.x * 4, step = blockDim.x * 4;
  Raw<4> raw[kPacks] = {}, added[kPacks] = {};
  const auto fetch = [&](int64_t row) {
    load_raw<4>(p.x, p.x.row(row), first, step, d, raw);
    if (p.residual) load_raw<4>(p.residual, p.residual.row(row), first, step, d, added);
  };
  fetch(blockIdx.x);
  // A thread keeps its part of weight and bias in shared memory, which takes no registers and nobody to wait for.
  extern __shared__ __align__(16) std::byte shared[];
  Pack<float, 4>* const weight = reinterpret_cast<Pack<float, 4>*>(shared) + threadIdx.x;
  Pack<float, 4>* const bias = weight + kPacks * blockDim.x;
  for (int k = 0; k < kPacks; k++) {
    const int j = first + k * step;
    copy_async16<true>(shared_address(weight + k * blockDim.x), p.weight + (j < d ? j : 0), j < d);
    if (p.bias) copy_async16<true>(shared_address(bias + k * blockDim.x), p.bias + (j < d ? j : 0), j < d);
  }
  copies_commit();
  bool odd = false;
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x, odd = !odd) {
    Packs s;
    to_floats<4>(raw, p.x.dtype, s);
    if (p.residual) {
      Packs r;
      to_floats<4>(added, p.residual.dtype, r);
      for (int k = 0; k < kPacks; k++)
        for (int i = 0; i < 4; i++) s[k].v[i] += r[k].v[i];
    }
    if (row + gridDim.x < p.rows) fetch(row + gridDim.x);
    const Statistics<kCentred> normal(p, odd, [&](auto f) {
      for (int k = 0; k < kPacks; k++)
        if (first + k * step < d)
          for (float v : s[k].v) f(v);
    });
    if (p.sum) store<4>(p.sum, p.sum.row(row), first, step, d, s);
    copies_wait<0>();
    for (int k = 0; k < kPacks; k++) {
      const Pack<float, 4> w = weight[k * blockDim.x], b = p.bias ? bias[k * blockDim.x] : Pack<float, 4>{};
      for (int i = 0; i < 4; i++) s[k].v[i] = normal(s[k].v[i], w.v[i], b.v[i]);
    }
    store<4>(p.y, p.y.row(row), first, step, d, s);
  }
}

// Rows of any width and place: read again for each pass.
template <bool kCentred>
__global__ void __launch_bounds__(kMaxWarps * 32) norm_any(const __grid_constant__ NormArgs p) {
  wait_for_inputs();
  const int64_t row = blockIdx.x, x = p.x.row(row), residual = p.residual.row(row), y = p.y.row(row),
                sum = p.sum.row(row);
  using One = Pack<float, 1>[1];
  const auto each_column = [&](auto f) {
    for (int j = threadIdx.x; j < p.d; j += blockDim.x) {
      One s, r = {};
      load<1>(p.x, x, j, 1, p.d, s);
      if (p.residual) load<1>(p.residual, residual, j, 1, p.d, r);
      f(j, s[0].v[0] + r[0].v[0]);
    }
  };
  const Statistics<kCentred> normal(p, false, [&](auto f) { each_column([&](int, float v) { f(v); }); });
  each_column([&](int j, float v) {
    if (p.sum) store<1>(p.sum, sum, j, 1, p.d, One{v});
    store<1>(p.y, y, j, 1, p.d, One{normal(v, p.weight[j], p.bias ? p.bias[j] : 0.f)});
  });
}

inline void check_norm(const TensorArg& x, const TensorArg& weight, const TensorArg& bias, const TensorArg& residual,
                       const TensorArg& y, const TensorArg& sum) {
  expect_dtype(weight, "weight", Dtype::f32);
  expect_dtype(bias, "bias", Dtype::f32);
  expect_float(x, "x");
  expect_float(residual, "residual");
  expect_float(y, "y");
  expect_float(sum, "sum");
  CHECK(weight.size[0] <= INT32_MAX, "too many columns: ", shape(weight));
}

template <bool kCentred>
void launch_norm(const TensorArg& x, const TensorArg& weight, const TensorArg& bias, const TensorArg& residual,
                 const TensorArg& y, const TensorArg& sum, float eps, const Launch& on) {
  const int64_t rows = row_count(x), d = weight.size[0];
  if (rows * d == 0) return;
  const NormArgs p{rows_of(x),          rows_of(residual),           rows_of(y), rows_of(sum), weight.f32(), bias.f32(),
                   static_cast<int>(d), 1.f / static_cast<float>(d), eps,        rows};
  const bool wide = d % 4 == 0 && p.x.packs(4) && p.residual.packs(4) && p.y.packs(4) && p.sum.packs(4) &&
                    aligned(p.weight, 16) && aligned(p.bias, 16);
  const auto whole_warps = [](int64_t threads) { return static_cast<unsigned>(ceil_div(threads, 32) * 32); };
  if (wide && d <= kMaxWarps * 32 * kPacks * 4) {
    const unsigned threads = whole_warps(ceil_div(d, kPacks * 4));
    const int64_t resident = on.card.multiprocessors * (kResidentThreads / threads);
    launch(norm_held<kCentred>, static_cast<unsigned>(rows < resident ? rows : resident), threads,
           2 * kPacks * threads * sizeof(Pack<float, 4>), on, p);
  } else {
    launch(norm_any<kCentred>, static_cast<unsigned>(rows), d < kMaxWarps * 32 ? whole_warps(d) : kMaxWarps * 32, 0, on,
           p);
  }
}

}  // namespace vlm::cuda
