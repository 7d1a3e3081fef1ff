// Weights in int8 and int4 on the GPU; docs/quantization.md has the formats. Kernels multiply their whole numbers w as bf16,
// times 2^-14, which is exact: |w| ≤ 128. A sum of a block of 128 then is no larger than the largest x, so it is finite where
// x is, and the block's scale brings the 2^14 back.
#pragma once

#include "common.cuh"

namespace vlm::cuda {

constexpr float kQuantUnit = 16384;  // a number stands for scale · kQuantUnit times what the functions here return

// d = a · b + c for two bf16 at a time, subnormal ones too.
__device__ __forceinline__ uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

// (a & mask) | bits
__device__ __forceinline__ uint32_t and_or(uint32_t a, uint32_t mask, uint32_t bits) {
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(a), "r"(mask), "r"(bits));
  return d;
}

// The int8 in the low byte of each half of `bytes`. With the exponent of 2^-7 in front, the low seven bits say
// 2^-7 + low · 2^-14, and the sign alone 2^-7 or 2^-6: what is to be taken off.
__device__ __forceinline__ uint32_t int8_pair(uint32_t bytes) {
  constexpr uint32_t kOne = 0x3f803f80;
  return fma_bf16x2(and_or(bytes, 0x007f007f, 0x3c003c00), kOne, and_or(bytes, 0x00800080, 0xbc00bc00));
}

// Bytes 2i and 2i + 1 of a word, each in the low byte of a half; what is above them is anything.
template <int I>
__device__ __forceinline__ uint32_t spread(uint32_t word) {
  return __byte_perm(word, 0, I ? 0x4342 : 0x4140);
}

// What makes int4 of a group numbers: twice the same step and offset. Four bits are read as a subnormal bf16, q · 2^-133, so
// that one fma makes (step · q + offset) · 2^-14 of them.
struct GridPair {
  uint32_t step, offset;  // step · 2^119 and offset · 2^-14
  __device__ __forceinline__ uint32_t operator()(uint32_t bits) const {
    return fma_bf16x2(bits & 0x000f000f, step, offset);
  }
};

// Groups q / 2 and 2 + q / 2 of a block's grids, those of the low and of the high four bits of bytes 16 q … 16 q + 15.
__device__ __forceinline__ void read_grids(uint2 block, int q, GridPair (&grid)[2]) {
  const uint32_t both = __byte_perm(block.x, block.y, q < 2 ? 0x5140 : 0x7362);  // two steps, then two offsets
  const uint32_t steps = spread<0>(both), offsets = int8_pair(spread<1>(both));
  // 2^-14 each, from steps as subnormals of 2^-133: 2^126 twice and 2^0 … the exponents reach no further.
  const uint32_t large = fma_bf16x2(fma_bf16x2(steps, 0x7e807e80, 0x80008000), 0x7e807e80, 0x80008000);
  grid[0] = {__byte_perm(large, 0, 0x1010), __byte_perm(offsets, 0, 0x1010)};
  grid[1] = {__byte_perm(large, 0, 0x3232), __byte_perm(offsets, 0, 0x3232)};
}

// Unit u of 4 of a block, as a thread of four has it: the words of its piece of weights that it is in, as pairs for an mma.
template <bool Int4>
__device__ __forceinline__ void unpack(const uint4& piece, const GridPair (&grid)[2], int u, uint32_t (&pairs)[4]) {
#pragma unroll
  for (int i = 0; i < 2; i++) {
    uint32_t word = i ? (u % 2 ? piece.w : piece.y) : (u % 2 ? piece.z : piece.x);
    if (Int4 && u / 2) word >>= 4;
    pairs[2 * i] = Int4 ? grid[u / 2](spread<0>(word)) : int8_pair(spread<0>(word));
    pairs[2 * i + 1] = Int4 ? grid[u / 2](spread<1>(word)) : int8_pair(spread<1>(word));
  }
}

}  // namespace vlm::cuda
