// What the kernel of the decode layers is told, and who does what (mamba_decode.cuh).
#pragma once

#include "conv.cuh"
#include "exchange.cuh"
#include "weight_ring.cuh"

namespace vlm::cuda {

constexpr int kWarps = 16, kThreads = kWarps * kWarp;            // that work
constexpr int kFeeders = 4, kRingsOfFeeder = kWarps / kFeeders;  // warps that feed the others' rings
constexpr int kAllThreads = kThreads + kFeeders * kWarp;
constexpr int kStates = 16;
constexpr int kNormPacks = 4;  // of four columns, that a thread of the norm has: norm.cuh

struct LayerArgs {
  const void *x_proj, *dt_proj;
  const float *norm, *conv_weight, *conv_bias, *A, *D, *delta_bias;
  float *conv_state, *ssm_state;
  // Of quantised weights.
  const float *in_scale, *x_scale, *dt_scale, *out_scale;
  const uint2 *in_grid, *out_grid;
};

// Where things are in a block's shared memory.
struct Layout {
  int ring, ring_barriers, barriers, x_proj, dt_proj, norm, conv_weight, conv_bias, A, D, delta_bias, conv_state,
      ssm_state;
  int in_scale[2], in_grid[2], out_scale, out_grid, x_scale, dt_scale;  // in: of x's rows, and of z's
  int x, wide, rank, B_C, x_sums, z_sums, sums, squares, u, h, layers, end;
};

struct DecodeParams {
  const LayerArgs* layers;
  const CUtensorMap* maps;  // [layers][in_proj, out_proj][low, high]
  Word *h_words, *u_words, *projected_words, *y_words;
  uint32_t* round;  // counts the tokens
  int count, d, e, rank, projected;
  RingShape ring;
  int half;                                // of a warp's chunks of z: what it sums while u is on its way
  int in_ranges, out_ranges, x_ranges;     // into how many sums products are divided
  int x_range, x_blocks;                   // of x_proj: blocks in a range, and in a row
  int in_blocks, out_blocks, rank_blocks;  // in rows of d, e and rank numbers, where those are quantised
  int channels, rows;                      // at most a block's
  const float* h;
  float* y;
  TensorArg slots;
  int64_t conv_slot, ssm_slot, slot_count;  // a slot's floats, and how many there are
  int norm_threads;
  float share, eps;
  Fault* fault;
  int conv_step;  // that reports what is wrong with the slots
  Layout at;
};

enum Small { kNormWeight, kConvWeights, kXWeight, kDtWeight, kInScales, kScanWeights, kOutScales, kSmalls };

__device__ constexpr int part_of(int n, int i, int parts) {
  return static_cast<int>(static_cast<int64_t>(n) * i / parts);
}
// Part i of n when the first parts get more.
__device__ constexpr int early_part(int n, int i, int parts) { return n - part_of(n, parts - i, parts); }

extern __shared__ __align__(128) std::byte decode_memory[];

template <class T>
__device__ __forceinline__ T* at(int offset) {
  return reinterpret_cast<T*>(decode_memory + offset);
}

// What a block has of a layer.
struct Mine {
  int c0, channels, x0, x_rows, o0, rows;

  __device__ explicit Mine(const DecodeParams& p) {
    const int i = blockIdx.x, blocks = gridDim.x;
    c0 = part_of(p.e / kQuad, i, blocks) * kQuad, channels = part_of(p.e / kQuad, i + 1, blocks) * kQuad - c0;
    x0 = part_of(p.projected, i, blocks), x_rows = part_of(p.projected, i + 1, blocks) - x0;
    o0 = part_of(p.d / kQuad, i, blocks) * kQuad, rows = part_of(p.d / kQuad, i + 1, blocks) * kQuad - o0;
  }
};

// A warp's part of the products that go through its ring.
__device__ inline RingPart ring_part(const DecodeParams& p, const Mine& mine, int product, int warp) {
  if (product == kOut) {
    const int pieces = kWarps / p.out_ranges, piece = warp / p.out_ranges;
    const int first = part_of(mine.rows / kQuad, piece, pieces);
    return {part_of(mine.rows / kQuad, piece + 1, pieces) - first, mine.o0 + first * kQuad,
            warp % p.out_ranges * p.ring.weight[1].range};
  }
  const int pieces = kWarps / p.in_ranges, piece = warp / p.in_ranges;
  const int first = early_part(mine.channels / kQuad, piece, pieces);
  return {early_part(mine.channels / kQuad, piece + 1, pieces) - first, product * p.e + mine.c0 + first * kQuad,
          warp % p.in_ranges * p.ring.weight[0].range};
}

}  // namespace vlm::cuda
