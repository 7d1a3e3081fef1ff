// A warp's products of up to 16 rows of a weight with one row of x, with the bits of linear_rows.cu. Lane 4·g + q has 16
// bytes of rows g and g + 8 in each piece of a block, the q-th of the 64.
#pragma once

#include "mma.cuh"
#include "quantised.cuh"

namespace vlm::cuda {

// What scales a row's blocks; null where the weights are as they are stored.
struct RowScales {
  const float* scale = nullptr;
  const uint2* grid = nullptr;
};

template <class T>
struct Floats {
  static constexpr int kPieces = 1, kColumns = 32;
  static constexpr bool kScaled = false, kGrids = false;

  template <int R>
  static __device__ __forceinline__ void add(const uint4 (&w)[R][1], const std::byte* x, const RowScales*,
                                             float (&sums)[4]) {
    const uint4 a = *reinterpret_cast<const uint4*>(x + threadIdx.x % 4 * 16), below = R > 1 ? w[R - 1][0] : uint4{};
    mma<T>(sums, w[0][0].x, below.x, w[0][0].y, below.y, a.x, a.y);
    mma<T>(sums, w[0][0].z, below.z, w[0][0].w, below.w, a.z, a.w);
  }
};

template <bool Int4>
struct Quants {
  static constexpr int kPieces = Int4 ? 1 : 2, kColumns = 128;
  static constexpr bool kScaled = true, kGrids = Int4;

  template <int R>
  static __device__ __forceinline__ void add(const uint4 (&w)[R][kPieces], const std::byte* x, const RowScales* with,
                                             float (&sums)[4]) {
    const int q = threadIdx.x % 4;
    GridPair grid[R][2];
    if constexpr (Int4)
#pragma unroll
      for (int r = 0; r < R; r++) read_grids(*with[r].grid, q, grid[r]);
    float block[4] = {};
#pragma unroll
    for (int u = 0; u < 4; u++) {
      uint32_t pairs[2][4] = {};
#pragma unroll
      for (int r = 0; r < R; r++) unpack<Int4>(w[r][Int4 ? 0 : u / 2], grid[r], u, pairs[r]);
      const uint4 a = *reinterpret_cast<const uint4*>(x + u / 2 * 128 + q * 32 + u % 2 * 16);
      mma<bf16>(block, pairs[0][0], pairs[1][0], pairs[0][1], pairs[1][1], a.x, a.y);
      mma<bf16>(block, pairs[0][2], pairs[1][2], pairs[0][3], pairs[1][3], a.z, a.w);
    }
#pragma unroll
    for (int r = 0; r < R; r++) sums[2 * r] = fmaf(*with[r].scale * kQuantUnit, block[2 * r], sums[2 * r]);
  }
};

// The sums of the first `rows` rows. All columns of the operand are the same row of x.
__device__ __forceinline__ void put_sums(const float (&sums)[4], int rows, float* to) {
  const int lane = threadIdx.x % 32, g = lane / 4;
  if (lane % 4 > 0) return;
  if (g < rows) to[g] = sums[0];
  if (g + 8 < rows) to[g + 8] = sums[2];
}

}  // namespace vlm::cuda
