// The weights of a layer that are not worth a ring, and its states, on their way to shared memory a layer ahead.
#pragma once

#include "decode_params.cuh"

namespace vlm::cuda {

// Where a block's states of a layer are.
__device__ __forceinline__ float* conv_state_of(const DecodeParams& p, const Mine& mine, int l, int32_t slot) {
  return at<const LayerArgs>(p.at.layers)[l].conv_state + slot * p.conv_slot + mine.c0 * kPast;
}
__device__ __forceinline__ float* ssm_state_of(const DecodeParams& p, const Mine& mine, int l, int32_t slot) {
  return at<const LayerArgs>(p.at.layers)[l].ssm_state + slot * p.ssm_slot + mine.c0 * kStates;
}

// That a layer's are there.
__device__ __forceinline__ uint32_t small_barrier(const DecodeParams& p, int what) {
  return shared_address(at<uint64_t>(p.at.barriers) + what);
}

// What one thread does. W: the weights of in_proj and out_proj, V: those of x_proj and dt_proj.
template <class W, class V>
struct SmallWeights {
  static constexpr int kBytes = V::kScaled ? 1 : 2;  // of a number of V
  const DecodeParams& p;
  const Mine& mine;
  const int32_t slot;

  // Starts the copies. What they replace nobody may read any more.
  __device__ __forceinline__ void bring(Small what, int l) const {
    const LayerArgs& y = at<const LayerArgs>(p.at.layers)[l];
    const uint32_t barrier = small_barrier(p, what);
    const auto copy = [&](int to, const void* from, int bytes) {
      asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                       shared_address(decode_memory + to)),
                   "l"(from), "r"(bytes), "r"(barrier)
                   : "memory");
    };
    const int c = mine.channels, c0 = mine.c0;
    switch (what) {
      case kNormWeight:
        expect_bytes(barrier, p.d * 4);
        return copy(p.at.norm, y.norm, p.d * 4);
      case kConvWeights:
        expect_bytes(barrier, c * (kTaps + 1 + kPast) * 4);
        copy(p.at.conv_weight, y.conv_weight + c0 * kTaps, c * kTaps * 4);
        copy(p.at.conv_bias, y.conv_bias + c0, c * 4);
        return copy(p.at.conv_state, conv_state_of(p, mine, l, slot), c * kPast * 4);
      case kInScales:
        if constexpr (W::kScaled) {
          const int row = p.in_blocks * 4, grid = W::kGrids ? p.in_blocks * 8 : 0;
          expect_bytes(barrier, 2 * c * (row + grid));
          for (int z = 0; z < 2; z++) {
            copy(p.at.in_scale[z], y.in_scale + static_cast<int64_t>(z * p.e + c0) * p.in_blocks, c * row);
            if (grid) copy(p.at.in_grid[z], y.in_grid + static_cast<int64_t>(z * p.e + c0) * p.in_blocks, c * grid);
          }
        }
        return;
      case kOutScales:
        if constexpr (W::kScaled) {
          const int row = p.out_blocks * 4, grid = W::kGrids ? p.out_blocks * 8 : 0;
          expect_bytes(barrier, mine.rows * (row + grid));
          copy(p.at.out_scale, y.out_scale + static_cast<int64_t>(mine.o0) * p.out_blocks, mine.rows * row);
          if (grid) copy(p.at.out_grid, y.out_grid + static_cast<int64_t>(mine.o0) * p.out_blocks, mine.rows * grid);
        }
        return;
      case kXWeight: {
        const int row = p.e * kBytes, scale = V::kScaled ? p.out_blocks * 4 : 0;
        expect_bytes(barrier, mine.x_rows * (row + scale));
        if (mine.x_rows == 0) return;
        copy(p.at.x_proj, static_cast<const std::byte*>(y.x_proj) + static_cast<int64_t>(mine.x0) * row,
             mine.x_rows * row);
        if (scale) copy(p.at.x_scale, y.x_scale + static_cast<int64_t>(mine.x0) * p.out_blocks, mine.x_rows * scale);
        return;
      }
      case kDtWeight: {
        const int row = p.rank * kBytes, scale = V::kScaled ? p.rank_blocks * 4 : 0;
        expect_bytes(barrier, c * (row + scale));
        copy(p.at.dt_proj, static_cast<const std::byte*>(y.dt_proj) + static_cast<int64_t>(c0) * row, c * row);
        if (scale) copy(p.at.dt_scale, y.dt_scale + static_cast<int64_t>(c0) * p.rank_blocks, c * scale);
        return;
      }
      default:
        expect_bytes(barrier, c * (2 * kStates + 2) * 4);
        copy(p.at.A, y.A + c0 * kStates, c * kStates * 4);
        copy(p.at.D, y.D + c0, c * 4);
        copy(p.at.delta_bias, y.delta_bias + c0, c * 4);
        return copy(p.at.ssm_state, ssm_state_of(p, mine, l, slot), c * kStates * 4);
    }
  }
};

}  // namespace vlm::cuda
