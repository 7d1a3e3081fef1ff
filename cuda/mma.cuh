// The tensor cores' product of few rows of x with eight of a weight.
#pragma once

#include "common.cuh"

namespace vlm::cuda {

// d[16 rows of x][8 of weight] += 16 columns of both.
template <class T>
__device__ __forceinline__ void mma(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                    uint32_t b1) {
#define VLM_MMA(type)                                                        \
  asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                 \
      ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                       \
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1))
  if constexpr (dtype_of<T> == Dtype::f16)
    VLM_MMA("f16");
  else
    VLM_MMA("bf16");
#undef VLM_MMA
}

}  // namespace vlm::cuda
