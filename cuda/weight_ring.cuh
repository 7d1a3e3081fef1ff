// A warp's weights of one product after the other, on their way through shared memory while it works on earlier ones, or
// waits for other blocks. The copy engine brings boxes of [chunks][rows][64 bytes], so that 16 bytes a lane are what
// linear_rows.cu's product wants of a chunk, from all banks.
#pragma once

#include <cuda.h>

#include "async_copy.cuh"
#include "mma.cuh"

namespace vlm::cuda {

constexpr int kWarp = 32, kChunk = 32;                     // kChunk: columns, 64 bytes of them
constexpr int kQuad = 4, kQuadBytes = kQuad * kChunk * 2;  // rows of a weight are dealt out in fours
constexpr int kMostQuads = 6;

__device__ __forceinline__ void init_barrier(uint32_t barrier) {
  asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void expect_bytes(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void wait_barrier(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n\t.reg .pred done;\n\tagain:\n\tmbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n\t@!done bra "
      "again;\n\t}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// One of the two products that go through a ring, the same in every layer.
struct RingProduct {
  int range, step;  // chunks that a warp sums, and of them, how many come at a time
  int low;          // quads of the smaller of its two boxes
};

// A warp's part of such a product.
struct RingPart {
  int quads, row, first;  // rows of the weight, and the first chunk of them
};

struct WeightRing {
  const CUtensorMap* maps;  // of the layer to be fetched next: two boxes for each product
  int layers;               // left
  RingProduct product[2];
  RingPart part[2];
  uint32_t memory, barriers;
  int stages, stage_bytes;
  int next = 0, which = 0, fetched = 0;  // the stage to be filled next, with what
  int stage = 0;                         // to be used next
  uint32_t parity = 0;

  __device__ __forceinline__ void go_on() {
    fetched = 0;
    which ^= 1;
    if (which == 0) layers--, maps += 4;
  }

  __device__ __forceinline__ void fetch() {
    while (layers > 0 && (which ? part[1] : part[0]).quads == 0) go_on();
    if (layers > 0) {
      const int quads = which ? part[1].quads : part[0].quads, row = which ? part[1].row : part[0].row;
      const int first = which ? part[1].first : part[0].first, step = which ? product[1].step : product[0].step;
      const int low = which ? product[1].low : product[0].low;
      if (threadIdx.x % kWarp == 0) {
        const uint32_t barrier = barriers + 8 * next;
        expect_bytes(barrier, quads * step * kQuadBytes);
        asm volatile(
            "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], "
            "[%5];" ::"r"(memory + next * stage_bytes),
            "l"(maps + 2 * which + (quads > low)), "r"(0), "r"(row), "r"(first + fetched), "r"(barrier)
            : "memory");
      }
      fetched += step;
      if (fetched >= (which ? product[1].range : product[0].range)) go_on();
    }
    if (++next == stages) next = 0;
  }

  // Sums of 8·R rows; x: where the lane's 16 bytes of the first chunk are.
  template <class T, int R>
  __device__ __forceinline__ void add(int i, const std::byte* x, float (&sums)[kMostQuads / 2][4]) {
    const int step = i ? product[1].step : product[0].step, range = i ? product[1].range : product[0].range;
    const int chunk_bytes = (i ? part[1].quads : part[0].quads) * kQuadBytes;
    const std::byte* const lane =
        static_cast<const std::byte*>(__cvta_shared_to_generic(memory)) + threadIdx.x % kWarp * 16;
    for (int chunk = 0; chunk < range; chunk += step) {
      wait_barrier(barriers + 8 * stage, parity);
      const std::byte* w = lane + stage * stage_bytes;
#pragma unroll 2
      for (int s = 0; s < step; s++, w += chunk_bytes, x += kChunk * 2) {
        const uint4 a = *reinterpret_cast<const uint4*>(x);
        uint4 b[R];
#pragma unroll
        for (int r = 0; r < R; r++) b[r] = *reinterpret_cast<const uint4*>(w + r * 2 * kQuadBytes);
#pragma unroll
        for (int r = 0; r < R; r++) mma<T>(sums[r], a.x, 0, a.y, 0, b[r].x, b[r].y);
#pragma unroll
        for (int r = 0; r < R; r++) mma<T>(sums[r], a.z, 0, a.w, 0, b[r].z, b[r].w);
      }
      __syncwarp();
      fetch();
      if (++stage == stages) stage = 0, parity ^= 1;
    }
  }

  // The warp's sums of product i for the one row of x, to the places of its rows.
  template <class T>
  __device__ __forceinline__ void sum(int i, const std::byte* x, float* to) {
    const int quads = i ? part[1].quads : part[0].quads, lane = threadIdx.x % kWarp;
    x += (i ? part[1].first : part[0].first) * kChunk * 2 + lane % 4 * 16;
    float sums[kMostQuads / 2][4] = {};
    if (quads > 4)
      add<T, 3>(i, x, sums);
    else if (quads > 2)
      add<T, 2>(i, x, sums);
    else if (quads > 0)
      add<T, 1>(i, x, sums);
      // All rows of the operand are the same row of x.
#pragma unroll
    for (int r = 0; r < kMostQuads / 2; r++)
      if (lane < 4 && 8 * r + 2 * lane < quads * kQuad)
        *reinterpret_cast<float2*>(to + 8 * r + 2 * lane) = make_float2(sums[r][0], sums[r][1]);
  }
};

}  // namespace vlm::cuda
