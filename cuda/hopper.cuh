// Hopper's own instructions: barriers in shared memory that count arrivals and bytes, the tensor copy engine, and wgmma, the
// asynchronous product of a warpgroup (128 threads). Tiles are rows of 128 bytes, swizzled as the copy engine writes them.
#pragma once

#include "tensor_map.cuh"

namespace vlm::cuda {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

__device__ __forceinline__ void barrier_init(uint32_t barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
__device__ __forceinline__ void barrier_wait(uint32_t barrier, int parity) {
  asm volatile(
      "{\n.reg .pred done;\nagain:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
__device__ __forceinline__ void barrier_expect(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ uint32_t at_rank(uint32_t address, int rank) {
  uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}
__device__ __forceinline__ void barrier_arrive_at(uint32_t barrier, int rank) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(at_rank(barrier, rank)) : "memory");
}
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.release;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }
// The same where nothing is handed on but barriers that were set up: it does not wait for what was written before.
__device__ __forceinline__ void cluster_meet() {
  asm volatile("barrier.cluster.arrive.relaxed;\nbarrier.cluster.wait.acquire;" ::: "memory");
}
__device__ __forceinline__ int cluster_rank() {
  int rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// A box of a matrix at (column j, row i) to this place in the shared memory of the cluster's blocks in the mask.
__device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap& map, int j, int i, uint32_t barrier,
                                         int mask) {
  if ((mask & (mask - 1)) == 0)
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
            to),
        "l"(&map), "r"(j), "r"(i), "r"(barrier)
        : "memory");
  else
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
        "l"(&map), "r"(j), "r"(i), "r"(barrier), "h"(static_cast<uint16_t>(mask))
        : "memory");
}

// Rows of 128 swizzled bytes, k contiguous: the start, 1024 bytes from eight rows to the next, the swizzle's code.
__device__ __forceinline__ uint64_t descriptor(uint32_t address) {
  return static_cast<uint64_t>(address >> 4 & 0x3fff) | uint64_t{1} << 16 | uint64_t{64} << 32 | uint64_t{1} << 62;
}

#define VLM_D32                                                                                                    \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31"
#define VLM_D40 VLM_D32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define VLM_D48 VLM_D40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define VLM_D56 VLM_D48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define VLM_D64 VLM_D56 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define VLM_D72 VLM_D64 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define VLM_D80 VLM_D72 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define VLM_D88 VLM_D80 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define VLM_D96 VLM_D88 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define VLM_D104 VLM_D96 ", %96, %97, %98, %99, %100, %101, %102, %103"
#define VLM_D112 VLM_D104 ", %104, %105, %106, %107, %108, %109, %110, %111"
#define VLM_D120 VLM_D112 ", %112, %113, %114, %115, %116, %117, %118, %119"
#define VLM_D128 VLM_D120 ", %120, %121, %122, %123, %124, %125, %126, %127"
#define VLM_F4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define VLM_F8(i) VLM_F4(i), VLM_F4(i + 4)
#define VLM_F32 VLM_F8(0), VLM_F8(8), VLM_F8(16), VLM_F8(24)
#define VLM_F40 VLM_F32, VLM_F8(32)
#define VLM_F48 VLM_F40, VLM_F8(40)
#define VLM_F56 VLM_F48, VLM_F8(48)
#define VLM_F64 VLM_F56, VLM_F8(56)
#define VLM_F72 VLM_F64, VLM_F8(64)
#define VLM_F80 VLM_F72, VLM_F8(72)
#define VLM_F88 VLM_F80, VLM_F8(80)
#define VLM_F96 VLM_F88, VLM_F8(88)
#define VLM_F104 VLM_F96, VLM_F8(96)
#define VLM_F112 VLM_F104, VLM_F8(104)
#define VLM_F120 VLM_F112, VLM_F8(112)
#define VLM_F128 VLM_F120, VLM_F8(120)
#define VLM_WGMMA(type, n, sums, outputs, a_at, b_at, more_at)                                               \
  asm volatile("{\n.reg .pred more;\nsetp.ne.b32 more, " more_at                                             \
               ", 0;\n"                                                                                      \
               "wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " {" sums "}, " a_at ", " b_at \
               ", more, 1, 1, 0, 0;\n}"                                                                      \
               : outputs                                                                                     \
               : "l"(a), "l"(b), "r"(more))
#define VLM_WGMMA_OF(type)                                              \
  if constexpr (N == 64)                                                \
    VLM_WGMMA(type, "64", VLM_D32, VLM_F32, "%32", "%33", "%34");       \
  else if constexpr (N == 80)                                           \
    VLM_WGMMA(type, "80", VLM_D40, VLM_F40, "%40", "%41", "%42");       \
  else if constexpr (N == 96)                                           \
    VLM_WGMMA(type, "96", VLM_D48, VLM_F48, "%48", "%49", "%50");       \
  else if constexpr (N == 112)                                          \
    VLM_WGMMA(type, "112", VLM_D56, VLM_F56, "%56", "%57", "%58");      \
  else if constexpr (N == 128)                                          \
    VLM_WGMMA(type, "128", VLM_D64, VLM_F64, "%64", "%65", "%66");      \
  else if constexpr (N == 144)                                          \
    VLM_WGMMA(type, "144", VLM_D72, VLM_F72, "%72", "%73", "%74");      \
  else if constexpr (N == 160)                                          \
    VLM_WGMMA(type, "160", VLM_D80, VLM_F80, "%80", "%81", "%82");      \
  else if constexpr (N == 176)                                          \
    VLM_WGMMA(type, "176", VLM_D88, VLM_F88, "%88", "%89", "%90");      \
  else if constexpr (N == 192)                                          \
    VLM_WGMMA(type, "192", VLM_D96, VLM_F96, "%96", "%97", "%98");      \
  else if constexpr (N == 208)                                          \
    VLM_WGMMA(type, "208", VLM_D104, VLM_F104, "%104", "%105", "%106"); \
  else if constexpr (N == 224)                                          \
    VLM_WGMMA(type, "224", VLM_D112, VLM_F112, "%112", "%113", "%114"); \
  else if constexpr (N == 256)                                          \
    VLM_WGMMA(type, "256", VLM_D128, VLM_F128, "%128", "%129", "%130");

// d = a bᵀ + (more ? d : 0): 64 rows of a, N rows of b, 16 of k.
template <class T, int N>
__device__ __forceinline__ void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, int more) {
  static_assert(N == 256 || (N % 16 == 0 && N >= 64 && N <= 224));
  if constexpr (dtype_of<T> == Dtype::bf16) {
    VLM_WGMMA_OF("bf16");
  } else {
    VLM_WGMMA_OF("f16");
  }
}

#undef VLM_WGMMA_OF
#undef VLM_WGMMA
#undef VLM_F4
#undef VLM_F8
#undef VLM_F32
#undef VLM_D32
#undef VLM_F40
#undef VLM_D40
#undef VLM_F48
#undef VLM_D48
#undef VLM_F56
#undef VLM_D56
#undef VLM_F64
#undef VLM_D64
#undef VLM_F72
#undef VLM_D72
#undef VLM_F80
#undef VLM_D80
#undef VLM_F88
#undef VLM_D88
#undef VLM_F96
#undef VLM_D96
#undef VLM_F104
#undef VLM_D104
#undef VLM_F112
#undef VLM_D112
#undef VLM_F120
#undef VLM_D120
#undef VLM_F128
#undef VLM_D128

#endif

}  // namespace vlm::cuda
