// Quantised weights as bf16, for products of many rows that read a weight from memory more often than once. As many rows
// of it at a time as the L2 cache can hold, so that the device memory is asked for the few bits only.
#pragma once

#include "linear_tiles.cuh"
#include "quantised.cuh"

namespace vlm::cuda {

struct DequantiseParams {
  const std::byte *weight, *scale, *grid;
  int64_t ld_weight, ld_scale, ld_grid;  // bytes
  bf16* to;                              // [rows, ld]
  int64_t rows, k, ld;
  bool wide;  // 8 bytes of weight can be read as one, and so can a block's grids
};

// 8 bytes of a row, or those that are left of it.
template <bool Wide>
__device__ uint2 load_bytes(const std::byte* from, int64_t left) {
  if (Wide && left >= 8) return *reinterpret_cast<const uint2*>(from);
  uint2 word = {};
  for (int i = 0; i < 8 && i < left; i++) reinterpret_cast<std::byte*>(&word)[i] = from[i];
  return word;
}

// A thread makes 8 bytes of weight 8 or 16 numbers. The product with the scale is rounded to bf16.
template <bool Int4, bool Wide>
__global__ void dequantise_kernel(const __grid_constant__ DequantiseParams p) {
  wait_for_inputs();
  constexpr int64_t kBytes = Int4 ? kQuantBlock / 2 : kQuantBlock;  // of a block
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  const int64_t at = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * 8;
  const int64_t block = at / kBytes, first = block * kQuantBlock + at % kBytes;
  if (row >= p.rows || first >= p.ld) return;
  const uint2 bytes = load_bytes<Wide>(p.weight + row * p.ld_weight + at, Int4 ? 8 : p.k - at);
  const float scale = reinterpret_cast<const float*>(p.scale + row * p.ld_scale)[block] * kQuantUnit;
  const auto put = [&](int64_t j, auto&& pair_of) {
    Pack<bf16, 8> out;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const uint32_t word = i < 2 ? bytes.x : bytes.y;
      const uint32_t pair = pair_of(i % 2 ? word >> 16 : word);
      const float low = __uint_as_float(pair << 16), high = __uint_as_float(pair & 0xffff0000);
      out.v[2 * i] = from_float<bf16>(j + 2 * i < p.k ? low * scale : 0.f);
      out.v[2 * i + 1] = from_float<bf16>(j + 2 * i + 1 < p.k ? high * scale : 0.f);
    }
    if (j < p.ld) store_pack(p.to + row * p.ld + j, out);
  };
  if constexpr (Int4) {
    GridPair grid[2];
    read_grids(load_bytes<Wide>(p.grid + row * p.ld_grid + block * 8, 8), static_cast<int>(at % kBytes / 16), grid);
    put(first, [&](uint32_t two) { return grid[0](spread<0>(two)); });
    put(first + 64, [&](uint32_t two) { return grid[1](spread<0>(two >> 4)); });
  } else {
    put(first, [&](uint32_t two) { return int8_pair(spread<0>(two)); });
  }
}

// The pieces that a weight is taken in: its size alone says which, so a row of x has the same bits among any others.
struct Panels {
  int64_t rows;  // of weight

  explicit Panels(const Step& step)
      : weight_(step.in[1]), scale_(step.in[4]), grid_(step.in[5]), k_(step.in[0].size[step.in[0].rank - 1]) {
    const int64_t n = std::max<int64_t>(weight_.size[0], 1), most = std::max<int64_t>(kBytes / (2 * ld()), 256);
    rows = ceil_div(ceil_div(n, ceil_div(n, most)), 256) * 256;
  }

  size_t bytes() const { return static_cast<size_t>(std::min(rows, weight_.size[0]) * ld() * 2 + 255) / 256 * 256; }

  // Rows `first`, … as bf16 in `memory`.
  void dequantise(int64_t first, void* memory, const Launch& on) const {
    const int64_t left = std::min(rows, weight_.size[0] - first);
    DequantiseParams p{weight_.as<std::byte>(),
                       scale_.as<std::byte>(),
                       grid_.as<std::byte>(),
                       weight_.stride[0],
                       scale_.stride[0] * 4,
                       grid_.stride[0],
                       static_cast<bf16*>(memory),
                       left,
                       k_,
                       ld()};
    p.weight += first * p.ld_weight;
    p.scale += first * p.ld_scale;
    p.wide = aligned(p.weight, 8) && p.ld_weight % 8 == 0;
    if (grid_) {
      p.grid += first * p.ld_grid;
      p.wide = p.wide && aligned(p.grid, 8) && p.ld_grid % 8 == 0;
    }
    const dim3 block(32, 8);
    const dim3 grid(static_cast<unsigned>(ceil_div(left, 8)), static_cast<unsigned>(ceil_div(weight_.size[1], 256)));
    if (grid_)
      launch(p.wide ? dequantise_kernel<true, true> : dequantise_kernel<true, false>, grid, block, 0, on, p);
    else
      launch(p.wide ? dequantise_kernel<false, true> : dequantise_kernel<false, false>, grid, block, 0, on, p);
  }

  // What it made.
  Rows weight(void* memory) const {
    Rows r;
    r.data = static_cast<std::byte*>(memory);
    r.dtype = Dtype::bf16;
    r.rank = 1;
    r.size[0] = rows;
    r.stride[0] = ld();
    return r;
  }

 private:
  static constexpr int64_t kBytes = 64 << 20;
  int64_t ld() const { return ceil_div(k_, 8) * 8; }
  const TensorArg weight_, scale_, grid_;
  const int64_t k_;
};

}  // namespace vlm::cuda
