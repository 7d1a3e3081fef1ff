// What attention needs of Hopper beside hopper.cuh: products of 64 rows that a warpgroup has in its registers.
#pragma once

#include "hopper.cuh"

namespace vlm::cuda {

// A tile as what a product sums over its rows, 16 at a time; columns past the 64th lie in a second part, so many bytes on.
__device__ inline uint64_t rows_summed(uint32_t address, uint32_t part_bytes) {
  return address >> 4 | static_cast<uint64_t>(part_bytes >> 4) << 16 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}

__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Keeps uses of `c` below a wait …
template <int kN>
__device__ void pin(float (&c)[kN][4]) {
#pragma unroll
  for (int n = 0; n < kN; n++) asm volatile("" : "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])::"memory");
}
// … and what leads to a number that is never negative above it: ptxas moves waits up, but not across a branch. (A trap in
// the branch would keep it from using the registers that setmaxnreg brings.)
__device__ inline void stay_above(float total) {
  if (total < 0) asm volatile("nanosleep.u32 0;");
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
// A box of [batch, rows, heads, columns] to shared memory, where it starts at (b, row, head, column).
__device__ inline void copy_rows(uint32_t to, const CUtensorMap& map, int column, int head, int row, int b,
                                 uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], "
      "[%6];" ::"r"(to),
      "l"(&map), "r"(column), "r"(head), "r"(row), "r"(b), "r"(barrier)
      : "memory");
}
#endif

// Moves registers between the warpgroups of a block.
template <int kCount>
__device__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}

// c[64,N] = a[64,16] b[16,N] (+ c where `add`); kRowsSummed: which kind of descriptor b is.
template <class T, int kRowsSummed, int kN>
__device__ void wgmma(float (&c)[kN][4], const uint32_t (&a)[4], uint64_t b, bool add) {
#define VLM_C(i) "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
#define VLM_C8 VLM_C(0), VLM_C(1), VLM_C(2), VLM_C(3), VLM_C(4), VLM_C(5), VLM_C(6), VLM_C(7)
#define VLM_C8_NAMES                                                                                               \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31"
#define VLM_AB "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)), "n"(kRowsSummed)
#define VLM_N64(type)                                                                                             \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %37, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type \
               " {" VLM_C8_NAMES "}, {%32, %33, %34, %35}, %36, p, 1, 1, %38; }"                                  \
               : VLM_C8                                                                                           \
               : VLM_AB)
#define VLM_N72(type)                                                                                             \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %41, 0; wgmma.mma_async.sync.aligned.m64n72k16.f32." type "." type \
               " {" VLM_C8_NAMES ", %32, %33, %34, %35}, {%36, %37, %38, %39}, %40, p, 1, 1, %42; }"              \
               : VLM_C8, VLM_C(8)                                                                                 \
               : VLM_AB)
  static_assert(kN == 8 || kN == 9);
#if __CUDA_ARCH_FEAT_SM90_ALL
  if constexpr (kN == 8 && dtype_of<T> == Dtype::f16) VLM_N64("f16");
  if constexpr (kN == 8 && dtype_of<T> == Dtype::bf16) VLM_N64("bf16");
  if constexpr (kN == 9 && dtype_of<T> == Dtype::f16) VLM_N72("f16");
  if constexpr (kN == 9 && dtype_of<T> == Dtype::bf16) VLM_N72("bf16");
#endif
#undef VLM_N72
#undef VLM_N64
#undef VLM_AB
#undef VLM_C8_NAMES
#undef VLM_C8
#undef VLM_C
}

}  // namespace vlm::cuda
