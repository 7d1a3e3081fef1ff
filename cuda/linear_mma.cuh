// Tiles through mma.sync, on every architecture: 16-bit operands as they are, f32 operands as three products of tf32 parts,
// x·w ≈ x₀w₀ + x₀w₁ + x₁w₀ with x₀ = tf32(x), x₁ = tf32(x − x₀) (Ootomo & Yokota 2022).
#pragma once

#include "linear_finish.cuh"

namespace vlm::cuda {

struct MmaParams {
  const void *x, *weight;  // [m, k], [n, k], rows at multiples of 16 bytes
  int64_t ldx, ldw, k;
  Finish finish;
};

template <class T_, int BM_, int BN_, int kWarpsM_, int kWarpsN_>
struct MmaTraits {
  using T = T_;
  static constexpr int BM = BM_, BN = BN_, kWarpsM = kWarpsM_, kWarpsN = kWarpsN_;
  static constexpr int kThreads = 32 * kWarpsM * kWarpsN;
  static constexpr int MI = BM / kWarpsM / 16, NI = BN / kWarpsN / 8;  // fragments of a warp
  static constexpr int kBlocks = sizeof(T) == 4 && BM == 128 ? 1 : 2;  // of a multiprocessor
  static constexpr int kStages = 3, kRowBytes = 128, BK = kRowBytes / sizeof(T);
  static constexpr int kStageBytes = (BM + BN) * kRowBytes, kShared = kStages * kStageBytes;
};

// 16 bytes to shared memory, of which the first `bytes` come from `from` and the rest are zeros.
__device__ __forceinline__ void copy_async(uint32_t to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

__device__ __forceinline__ void load_fragments(uint32_t (&d)[4], uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(from)
               : "memory");
}

// d += a b over 32 bytes of k: 16 elements of 16 bits, or 8 of tf32.
template <class T>
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#define VLM_MMA(form)                                                                   \
  asm("mma.sync.aligned." form " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                  \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
  if constexpr (dtype_of<T> == Dtype::bf16)
    VLM_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
  else if constexpr (dtype_of<T> == Dtype::f16)
    VLM_MMA("m16n8k16.row.col.f32.f16.f16.f32");
  else
    VLM_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
#undef VLM_MMA
}

// x → tf32(x), x − tf32(x), of which the tensor cores read the first 11 bits. Integers round at full speed; cvt does not.
__device__ __forceinline__ void split_tf32(uint32_t& big, uint32_t& small) {
  const float x = __uint_as_float(big);
  big = (big + 0x1000) & 0xffffe000;
  small = __float_as_uint(x - __uint_as_float(big));
}

template <class Traits>
__global__ __launch_bounds__(Traits::kThreads, Traits::kBlocks) void mma_kernel(const __grid_constant__ MmaParams p) {
  wait_for_inputs();
  using T = typename Traits::T;
  constexpr int BM = Traits::BM, BN = Traits::BN, MI = Traits::MI, NI = Traits::NI, BK = Traits::BK;
  constexpr bool kSplit = sizeof(T) == 4;
  extern __shared__ __align__(1024) std::byte shared[];
  const uint32_t base = shared_address(shared);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * BM, column0 = static_cast<int64_t>(blockIdx.y) * BN;
  const int wm = warp / Traits::kWarpsN * MI * 16, wn = warp % Traits::kWarpsN * NI * 8;

  // Rows of 128 bytes, x's in front of the weight's; a row's 16-byte chunks are permuted by the row's number. A thread
  // copies the same chunk of every kRows'th row.
  constexpr int kRows = Traits::kThreads / 8, N = 16 / sizeof(T);
  const int chunk = threadIdx.x % 8, r0 = threadIdx.x / 8;
  const uint32_t to = base + r0 * 128 + (chunk ^ r0 % 8) * 16;
  const T* x_from = static_cast<const T*>(p.x) + (row0 + r0) * p.ldx + chunk * N;
  const T* w_from = static_cast<const T*>(p.weight) + (column0 + r0) * p.ldw + chunk * N;
  const int64_t x_left = p.finish.m - row0 - r0, w_left = p.finish.n - column0 - r0;
  const auto fetch = [&](int64_t block, int stage) {
    const int64_t left = p.k - block * BK - chunk * N;
    const int bytes = left <= 0 ? 0 : left < N ? static_cast<int>(left * sizeof(T)) : 16;
    const auto rows = [&](const T* from, int64_t ld, int64_t rows_left, uint32_t at, auto count) {
#pragma unroll
      for (int q = 0; q < decltype(count)::value; q++) {
        const int here = q * kRows < rows_left ? bytes : 0;
        copy_async(at + q * kRows * 128, here ? from + block * BK + q * kRows * ld : p.x, here);
      }
    };
    rows(x_from, p.ldx, x_left, to + stage * Traits::kStageBytes, std::integral_constant<int, BM / kRows>{});
    rows(w_from, p.ldw, w_left, to + stage * Traits::kStageBytes + BM * 128, std::integral_constant<int, BN / kRows>{});
  };
  const auto commit = [] { asm volatile("cp.async.commit_group;" ::: "memory"); };

  const int64_t blocks = ceil_div(p.k, BK);
  for (int s = 0; s < Traits::kStages - 1; s++) {
    if (s < blocks) fetch(s, s);
    commit();
  }
  float sums[MI][NI][4] = {};
  for (int64_t block = 0; block < blocks; block++) {
    asm volatile("cp.async.wait_group %0;" ::"n"(Traits::kStages - 2) : "memory");
    __syncthreads();
    const int64_t next = block + Traits::kStages - 1;
    if (next < blocks) fetch(next, static_cast<int>(next % Traits::kStages));
    commit();
    const uint32_t x = base + static_cast<int>(block % Traits::kStages) * Traits::kStageBytes, w = x + BM * 128;
    // The tensor cores cut what they add up: with f32, they add up one block only, and the blocks are added exactly rounded.
    float part[kSplit ? MI : 1][kSplit ? NI : 1][4] = {};
#pragma unroll
    for (int step = 0; step < 4; step++) {
      uint32_t a[MI][4], b[NI / 2][4];
#pragma unroll
      for (int i = 0; i < MI; i++) {
        const int r = wm + 16 * i + lane % 16;
        load_fragments(a[i], x + r * 128 + ((2 * step + lane / 16) ^ r % 8) * 16);
      }
#pragma unroll
      for (int j = 0; j < NI / 2; j++) {
        const int r = wn + 16 * j + lane % 8 + lane / 16 * 8;
        load_fragments(b[j], w + r * 128 + ((2 * step + lane / 8 % 2) ^ r % 8) * 16);
      }
      if constexpr (kSplit) {
        uint32_t a1[MI][4], b1[NI / 2][4];
#pragma unroll
        for (int e = 0; e < 4; e++) {
#pragma unroll
          for (int i = 0; i < MI; i++) split_tf32(a[i][e], a1[i][e]);
#pragma unroll
          for (int j = 0; j < NI / 2; j++) split_tf32(b[j][e], b1[j][e]);
        }
#pragma unroll
        for (int i = 0; i < MI; i++)
#pragma unroll
          for (int j = 0; j < NI; j++) {
            const int q = j / 2, e = j % 2 * 2;
            mma<T>(part[i][j], a1[i], b[q][e], b[q][e + 1]);
            mma<T>(part[i][j], a[i], b1[q][e], b1[q][e + 1]);
            mma<T>(part[i][j], a[i], b[q][e], b[q][e + 1]);
          }
      } else {
#pragma unroll
        for (int i = 0; i < MI; i++)
#pragma unroll
          for (int j = 0; j < NI; j++) mma<T>(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
      }
    }
    if constexpr (kSplit) {
#pragma unroll
      for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NI; j++)
#pragma unroll
          for (int e = 0; e < 4; e++) sums[i][j][e] += part[i][j][e];
    }
  }
  __syncthreads();
  static_assert(NI * 8 == 32);
  Staging& staging = reinterpret_cast<Staging*>(shared)[warp];
  float bias[1];
  load_bias(p.finish, column0 + wn, bias);
  finish<MI, 16>(p.finish, staging, reinterpret_cast<float(&)[MI * NI * 4]>(sums), bias, row0 + wm, column0 + wn,
                 p.finish.n, [] {});
}

template <class Traits>
void launch_mma(const MmaParams& p, const Launch& on) {
  const dim3 grid(static_cast<unsigned>(ceil_div(p.finish.m, Traits::BM)),
                  static_cast<unsigned>(ceil_div(p.finish.n, Traits::BN)));
  launch(mma_kernel<Traits>, grid, Traits::kThreads, Traits::kShared, on, p);
}

}  // namespace vlm::cuda
