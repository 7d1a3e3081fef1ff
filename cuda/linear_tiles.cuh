// y = act(x Wᵀ + bias) + residual by tiles of rows and columns: what linear and patch_embed launch for many rows.
#pragma once

#include "rows.cuh"

namespace vlm::cuda {

struct Product {
  int64_t m, n, k;
  Rows x;             // [m, k] f32, f16 or bf16
  Rows weight;        // [n, k] f32, f16 or bf16; the products are of its type, 16-bit ones on tensor cores
  const float* bias;  // [n]
  Rows residual;      // [m, n]
  Rows y;             // [m, n]
  Activation activation;
};

// A pack to global memory as the one access that it is: the compiler takes a plain assignment apart.
template <class T, int N>
__device__ __forceinline__ void store_pack(T* to, const Pack<T, N>& v) {
  const auto word = [&](int i) { return reinterpret_cast<const uint32_t*>(&v)[i]; };
  if constexpr (sizeof(v) == 16)
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(word(0)), "r"(word(1)), "r"(word(2)),
                 "r"(word(3))
                 : "memory");
  else if constexpr (sizeof(v) == 8)
    asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(to), "r"(word(0)), "r"(word(1)) : "memory");
  else
    *to = v.v[0];
}

// Elements `at` … `at + N - 1` of a tensor; with N > 1, `at` is a multiple of N and t.packs(N).
template <int N>
__device__ Pack<float, N> read(const Rows& t, int64_t at) {
  Pack<float, N> v;
  const auto as = [&](auto type) {
    using T = decltype(type);
    const auto raw = *reinterpret_cast<const Pack<T, N>*>(reinterpret_cast<const T*>(t.data) + at);
    for (int e = 0; e < N; e++) v.v[e] = to_float(raw.v[e]);
  };
  if (t.dtype == Dtype::f32)
    as(float{});
  else if (t.dtype == Dtype::f16)
    as(f16{});
  else
    as(bf16{});
  return v;
}

template <int N>
__device__ void write(const Rows& t, int64_t at, const Pack<float, N>& v) {
  const auto as = [&](auto type) {
    using T = decltype(type);
    Pack<T, N> raw;
    for (int e = 0; e < N; e++) raw.v[e] = from_float<T>(v.v[e]);
    store_pack(reinterpret_cast<T*>(t.data) + at, raw);
  };
  if (t.dtype == Dtype::f32)
    as(float{});
  else if (t.dtype == Dtype::f16)
    as(f16{});
  else
    as(bf16{});
}

size_t product_workspace(const Product&, const Card&);
void launch_product(const Product&, const Launch&);

}  // namespace vlm::cuda
