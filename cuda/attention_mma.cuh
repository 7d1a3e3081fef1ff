// The tensor cores' instructions that attention uses, on every architecture from 8.0 on.
#pragma once

#include "async_copy.cuh"

namespace vlm::cuda {

// Four 8×8 matrices of 16-bit elements; lane 8i + r gives the address of row r of matrix i.
__device__ inline void load_matrices(uint32_t (&m)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ inline void load_matrices_transposed(uint32_t (&m)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(shared_address(row))
               : "memory");
}

// c[16,8] += a[16,16] b[16,8]
template <class T>
__device__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (dtype_of<T> == Dtype::f16)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// c[16,8] += a[16,8] b[8,8] in tf32
__device__ inline void mma_tf32(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                uint32_t b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// x = big + small to 22 bits, each of them a tf32 number (whose low 13 bits the tensor cores don't look at).
struct Split {
  uint32_t big, small;
};
__device__ inline Split split(float x, uint32_t flip = 0) {
  const uint32_t bits = __float_as_uint(x) ^ flip, big = (bits + 0x1000) & 0xffffe000;
  return {big, __float_as_uint(__uint_as_float(bits) - __uint_as_float(big))};
}
// c + rest += a b; what comes of the small parts goes to `rest`.
__device__ inline void mma_split(float (&c)[4], float (&rest)[4], const Split (&a)[4], Split b0, Split b1) {
  mma_tf32(rest, a[0].small, a[1].small, a[2].small, a[3].small, b0.big, b1.big);
  mma_tf32(rest, a[0].big, a[1].big, a[2].big, a[3].big, b0.small, b1.small);
  mma_tf32(c, a[0].big, a[1].big, a[2].big, a[3].big, b0.big, b1.big);
}

// Two floats as 16-bit numbers in a word, a in the low half.
template <class T>
__device__ uint32_t pack(float a, float b) {
  if constexpr (dtype_of<T> == Dtype::f16) {
    const __half2 two = __floats2half2_rn(a, b);
    return *reinterpret_cast<const uint32_t*>(&two);
  } else {
    const __nv_bfloat162 two = __floats2bfloat162_rn(a, b);
    return *reinterpret_cast<const uint32_t*>(&two);
  }
}

// 2^x to 2 units in the last place; below 2^-126 it is 0.
__device__ inline float power2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace vlm::cuda
