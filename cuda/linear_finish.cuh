// What becomes of the sums of a product: bias, activation, residual, store.
#pragma once

#include "activation.cuh"
#include "async_copy.cuh"
#include "linear_tiles.cuh"

namespace vlm::cuda {

// Where row i of a tensor starts, in elements. Rows are fewer than 2^32 here.
__device__ __forceinline__ int64_t place(const Rows& t, uint32_t i) {
  int64_t at = 0;
#pragma unroll 1
  for (int k = 0; k + 1 < t.rank; k++) {
    const uint32_t size = static_cast<uint32_t>(t.size[k]);
    at += i % size * t.stride[k];
    i /= size;
  }
  return t.rank > 0 ? at + i * t.stride[t.rank - 1] : 0;
}

struct Finish {
  int64_t m, n;
  Rows y, residual;   // [m, n]
  const float* bias;  // [n]
  Activation activation;
  bool packs;  // four columns of y, residual and bias can be moved as one

  explicit Finish(const Product& p)
      : m(p.m),
        n(p.n),
        y(p.y),
        residual(p.residual),
        bias(p.bias),
        activation(p.activation),
        packs(n % 4 == 0 && y.packs(4) && residual.packs(4) && aligned(bias, 16)) {}

  // N columns from c on, of the rows that start at y_at and residual_at.
  template <int N>
  __device__ void put(int64_t y_at, int64_t residual_at, int64_t c, Pack<float, N> v) const {
    for (int e = 0; e < N; e++) v.v[e] = activate(activation, bias ? v.v[e] + bias[c + e] : v.v[e]);
    if (residual) {
      const auto add = read<N>(residual, residual_at + c);
      for (int e = 0; e < N; e++) v.v[e] += add.v[e];
    }
    write<N>(y, y_at + c, v);
  }

  // Columns c … c + 3 of row i.
  __device__ void operator()(int64_t i, int64_t c, const Pack<float, 4>& sums) const {
    if (i >= m || c >= n) return;
    const uint32_t row = static_cast<uint32_t>(i);
    const int64_t y_at = place(y, row), residual_at = residual ? place(residual, row) : 0;
    if (packs) {
      put<4>(y_at, residual_at, c, sums);
    } else {
#pragma unroll
      for (int e = 0; e < 4; e++)
        if (c + e < n) put<1>(y_at, residual_at, c + e, {sums.v[e]});
    }
  }
};

// One branch for all elements, which then don't wait for each other.
template <int N>
__device__ __forceinline__ void activate_all(Activation activation, float (&v)[N]) {
  const auto each = [&](auto act) {
#pragma unroll
    for (float& x : v) x = act(x);
  };
  switch (activation) {
    case Activation::silu:
      return each([](float x) { return silu(x); });
    case Activation::gelu:
      return each([](float x) { return gelu(x); });
    case Activation::gelu_pytorch_tanh:
      return each([](float x) { return gelu_pytorch_tanh(x); });
    case Activation::quick_gelu:
      return each([](float x) { return quick_gelu(x); });
    default:
      return;
  }
}

// What a warp needs to finish its sums, 16 rows and 32 columns at a time: the sums, where the rows of y and then those of
// the residual start, the bias.
struct Staging {
  float sums[16 * 32];
  int64_t places[32];
  float bias[32];
};

// Where column c of a row lies in a tile of rows of C sums: groups of eight columns are swapped about so that neither the
// accumulators' pairs nor the rows' quads meet in a bank.
template <int C>
__device__ __forceinline__ int staged(int row, int c) {
  return row * C + (c ^ (row & 3) << 3);
}

// Sums of 16 rows and C columns as mma and wgmma leave them in a warp, [C / 8][4] a lane, to a tile.
template <int C>
__device__ __forceinline__ void stage_sums(float* tile, int row, const float* sums) {
  const int r = row + threadIdx.x % 32 / 4, c = threadIdx.x % 4 * 2;
#pragma unroll
  for (int j = 0; j < C / 8; j++) {
    *reinterpret_cast<float2*>(tile + staged<C>(r, 8 * j + c)) = make_float2(sums[4 * j], sums[4 * j + 1]);
    *reinterpret_cast<float2*>(tile + staged<C>(r + 8, 8 * j + c)) = make_float2(sums[4 * j + 2], sums[4 * j + 3]);
  }
}

// The bias of the columns that a warp finishes, one a lane of every 32, loaded long before it is used.
template <int kChunks>
__device__ __forceinline__ void load_bias(const Finish& f, int64_t column, float (&bias)[kChunks]) {
#pragma unroll
  for (int j = 0; j < kChunks; j++) {
    const int64_t c = column + 32 * j + threadIdx.x % 32;
    bias[j] = f.bias && c < f.n ? f.bias[c] : 0.f;
  }
}

// A warp's sums, kChunks times 16 rows and 32 columns, through its staging tile to rows of four columns a lane. From one
// chunk to the next it is kDown rows or 32 columns, of which those before `end` count; sums may be read after wait().
template <int kChunks, int kDown, int kSums, class Wait>
__device__ __forceinline__ void finish(const Finish& f, Staging& staging, const float (&sums)[kSums],
                                       const float (&bias)[kDown > 0 ? 1 : kChunks], int64_t row, int64_t column,
                                       int64_t end, Wait&& wait) {
  constexpr int kPasses = 4;
  const int lane = threadIdx.x % 32, r0 = lane / 8, c0 = lane % 8 * 4;
  if (end > f.n) end = f.n;
  int left;
  const auto find_rows = [&] {
    left = static_cast<int>(f.m - row < 16 ? f.m - row : 16);
    const Rows& t = lane < 16 ? f.y : f.residual;
    staging.places[lane] = lane % 16 < left && t ? place(t, static_cast<uint32_t>(row + lane % 16)) : 0;
    __syncwarp();
  };
  // The residual as it lies in memory, so that nothing waits for it yet.
  Pack<uint32_t, 4> add[kPasses] = {};
  const auto load_residual = [&](int64_t c) {
    if (!f.packs || !f.residual) return;
    const bool wide = f.residual.dtype == Dtype::f32;
#pragma unroll
    for (int q = 0; q < kPasses; q++) {
      if (c >= end || r0 + 4 * q >= left) continue;
      const std::byte* from = f.residual.data + (staging.places[16 + r0 + 4 * q] + c) * (wide ? 4 : 2);
      if (wide)
        add[q] = *reinterpret_cast<const Pack<uint32_t, 4>*>(from);
      else
        *reinterpret_cast<Pack<uint32_t, 2>*>(&add[q]) = *reinterpret_cast<const Pack<uint32_t, 2>*>(from);
    }
  };
  const auto to_add = [&](int q, int e) {
    const Dtype t = f.residual.dtype;
    const uint32_t half = add[q].v[e / 2] >> e % 2 * 16;
    return t == Dtype::f32    ? __uint_as_float(add[q].v[e])
           : t == Dtype::bf16 ? __uint_as_float(half << 16)
                              : __half2float(__ushort_as_half(static_cast<unsigned short>(half)));
  };
  if constexpr (kDown == 0) {
    find_rows();
    load_residual(column + c0);
  }
  wait();
  // One copy of the code for all chunks: it runs from a cold instruction cache.
#pragma unroll 1
  for (int chunk = 0; chunk < kChunks; chunk++) {
    if constexpr (kDown > 0) {
      find_rows();
      load_residual(column + c0);
    }
    float v[16], b = 0;
#pragma unroll
    for (int j = 0; j < kChunks; j++) {
      if (j != chunk) continue;
#pragma unroll
      for (int e = 0; e < 16; e++) v[e] = 16 * j + e < kSums ? sums[16 * j + e] : 0.f;
      b = bias[kDown > 0 ? 0 : j];
    }
    staging.bias[lane] = b;
    __syncwarp();
#pragma unroll
    for (int e = 0; e < 16; e++) v[e] += staging.bias[e / 4 * 8 + lane % 4 * 2 + e % 2];
    activate_all(f.activation, v);
    stage_sums<32>(staging.sums, 0, v);
    __syncwarp();
    const int64_t c = column + c0;
    if (f.packs) {
      Pack<float, 4> out[kPasses];
#pragma unroll
      for (int q = 0; q < kPasses; q++) {
        out[q] = *reinterpret_cast<const Pack<float, 4>*>(staging.sums + staged<32>(r0 + 4 * q, c0));
        if (f.residual)
#pragma unroll
          for (int e = 0; e < 4; e++) out[q].v[e] += to_add(q, e);
      }
      if (kDown == 0 && chunk + 1 < kChunks) load_residual(c + 32);
#pragma unroll
      for (int q = 0; q < kPasses; q++)
        if (c < end && r0 + 4 * q < left) write<4>(f.y, staging.places[r0 + 4 * q] + c, out[q]);
    } else {
#pragma unroll 1
      for (int r = 0; r < left; r++) {
        const int64_t k = column + lane;
        if (k >= end) break;
        float sum = staging.sums[staged<32>(r, lane)];
        if (f.residual) sum += read<1>(f.residual, staging.places[16 + r] + k).v[0];
        write<1>(f.y, staging.places[r] + k, {sum});
      }
    }
    __syncwarp();
    if constexpr (kDown > 0)
      row += kDown;
    else
      column += 32;
  }
}

}  // namespace vlm::cuda
