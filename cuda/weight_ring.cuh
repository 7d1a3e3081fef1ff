// A warp's weights of one product after the other, on their way through shared memory while it works on earlier ones, or
// waits for other blocks. The copy engine brings boxes of [chunks][rows][64 bytes], so that 16 bytes a lane are what
// decode_products.cuh wants of a chunk, from all banks.
//
// Other warps start the copies, a lane for each ring: whenever there is room, but with few of them under way. Requests that
// queue for the memory would hold up the words that blocks send each other (exchange.cuh).
#pragma once

#include <cuda.h>

#include "async_copy.cuh"
#include "decode_products.cuh"

namespace vlm::cuda {

constexpr int kWarp = 32, kChunkBytes = 64;
constexpr int kQuad = 4, kQuadBytes = kQuad * kChunkBytes;  // rows of a weight are dealt out in fours
constexpr int kMostQuads = 4;                               // of a warp

__device__ __forceinline__ void init_barrier(uint32_t barrier) {
  asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void expect_bytes(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void wait_barrier(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n\t.reg .pred done;\n\tagain:\n\tmbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n\t@!done bra "
      "again;\n\t}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// What goes through the rings of a layer: in_proj's rows of x, those of z, and out_proj.
enum RingProduct { kX, kZ, kOut, kRingProducts };

// What is the same for all warps.
struct RingWeight {
  int range, step;  // chunks that a warp sums, and of them, how many come at a time
  int low;          // quads of the smaller of its two boxes
};
struct RingShape {
  RingWeight weight[2];  // in_proj, out_proj
  int stages, stage_bytes;
  int ahead;  // copies of a warp's that may be under way

  // Two barriers a stage: that it is full, and that it is empty.
  __host__ __device__ int barrier_bytes() const { return stages * 16; }
  __host__ __device__ int bytes() const { return stages * stage_bytes; }
};

// A warp's part of a product.
struct RingPart {
  int quads, row, first;  // rows of the weight, and the first chunk of them
};

// A place in a ring, and how often that has been around it.
struct RingPlace {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void go_on(int stages) {
    if (++stage == stages) stage = 0, parity ^= 1;
  }
};

// Brings the weights of all layers, whose maps are two boxes of in_proj and two of out_proj each. Every warp gets as many
// boxes, if empty ones: a lane that waits for its warp, which waits for another warp, may wait for that one's lane.
__device__ __forceinline__ void feed(const RingShape& shape, const CUtensorMap* maps, int layers,
                                     const RingPart (&part)[kRingProducts], uint32_t memory, uint32_t barriers) {
  RingPlace place, under_way;
  int filled = 0;
#pragma unroll 1
  for (int i = 0; i < layers * kRingProducts; i++) {
    const int product = i % kRingProducts, out = product == kOut;
    const RingPart mine = product == kX ? part[kX] : product == kZ ? part[kZ] : part[kOut];
    const CUtensorMap* map = maps + i / kRingProducts * 4 + out * 2 + (mine.quads > shape.weight[out].low);
    const int step = shape.weight[out].step;
#pragma unroll 1
    for (int chunk = 0; chunk < shape.weight[out].range; chunk += step) {
      const uint32_t full = barriers + 8 * place.stage;
      wait_barrier(full + 8 * shape.stages, place.parity ^ 1);
      if (filled++ >= shape.ahead) {
        wait_barrier(barriers + 8 * under_way.stage, under_way.parity);
        under_way.go_on(shape.stages);
      }
      expect_bytes(full, mine.quads * step * kQuadBytes);
      if (mine.quads > 0)
        asm volatile(
            "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], "
            "[%5];" ::"r"(memory + place.stage * shape.stage_bytes),
            "l"(map), "r"(0), "r"(mine.row), "r"(mine.first + chunk), "r"(full)
            : "memory");
      place.go_on(shape.stages);
    }
  }
}

// A warp's side of its ring.
struct WeightRing {
  const RingShape& shape;
  uint32_t barriers;
  const std::byte* memory;
  RingPlace place;

  // Adds the next `chunks` of the warp's, `step` of which come at a time, to the sums; x and the scales: the first of them.
  template <class W, int R>
  __device__ __forceinline__ void add(int quads, int step, int chunks, const std::byte* x, RowScales (&with)[2],
                                      float (&sums)[4]) {
    for (int chunk = 0; chunk < chunks; chunk += step) {
      wait_barrier(barriers + 8 * place.stage, place.parity);
      const std::byte* w = memory + place.stage * shape.stage_bytes + threadIdx.x % kWarp * 16;
#pragma unroll(W::kScaled ? 1 : 4)
      for (int s = 0; s < step; s += W::kPieces, x += W::kColumns * 2) {
        uint4 b[R][W::kPieces];
#pragma unroll
        for (int i = 0; i < W::kPieces; i++, w += quads * kQuadBytes)
#pragma unroll
          for (int r = 0; r < R; r++) b[r][i] = *reinterpret_cast<const uint4*>(w + r * 2 * kQuadBytes);
        W::add(b, x, with, sums);
        if constexpr (W::kScaled)
#pragma unroll
          for (int r = 0; r < R; r++) with[r].scale++, with[r].grid++;
      }
      __syncwarp();
      if (threadIdx.x % kWarp == 0) arrive(barriers + 8 * (shape.stages + place.stage));
      place.go_on(shape.stages);
    }
  }
  template <class W>
  __device__ __forceinline__ void sum(int quads, int step, int chunks, const std::byte* x, RowScales (&with)[2],
                                      float (&sums)[4]) {
    if (quads > 2)
      add<W, 2>(quads, step, chunks, x, with, sums);
    else
      add<W, 1>(quads, step, chunks, x, with, sums);
  }
};

}  // namespace vlm::cuda
