// Tensors read as rows: [rows…, d] of f32, f16 or bf16, any strides in front of a contiguous last dimension. The element
// type of each tensor is known at run time only, which costs a uniform branch and spares kernels for all combinations.
#pragma once

#include "common.cuh"

namespace vlm::cuda {

struct Rows {
  std::byte* data = nullptr;  // null: an optional argument that was not given
  Dtype dtype = Dtype::f32;
  int32_t rank = 0;              // of what is in front of the last dimension, merged as far as memory lets
  int64_t size[kMaxRank - 1];    // innermost first
  int64_t stride[kMaxRank - 1];  // in elements

  __host__ __device__ explicit operator bool() const { return data != nullptr; }
  // Where row i starts, in elements.
  __device__ int64_t row(int64_t i) const {
    int64_t at = 0;
    for (int k = 0; k + 1 < rank; k++) {
      at += i % size[k] * stride[k];
      i /= size[k];
    }
    return rank > 0 ? at + i * stride[rank - 1] : 0;
  }
  // Every row starts where n elements can be moved as one. Absent tensors do.
  bool packs(int n) const {
    bool all = aligned(data, n * dtype_bytes(dtype));
    for (int k = 0; k < rank; k++) all = all && (stride[k] % n == 0 || size[k] <= 1);
    return all;
  }
};

inline Rows rows_of(const TensorArg& t) {
  Rows r;
  r.data = t.as<std::byte>();
  r.dtype = t.dtype;
  for (int k = t.rank - 2; k >= 0; k--) {
    if (t.size[k] == 1) continue;
    if (r.rank > 0 && t.stride[k] == r.size[r.rank - 1] * r.stride[r.rank - 1]) {
      r.size[r.rank - 1] *= t.size[k];
    } else {
      r.size[r.rank] = t.size[k];
      r.stride[r.rank++] = t.stride[k];
    }
  }
  return r;
}

inline int64_t row_count(const TensorArg& t) {
  int64_t n = 1;
  for (int i = 0; i < t.rank - 1; i++) n *= t.size[i];
  return n;
}

// N columns as they lie in memory: f32 fills the words, 16-bit types their first half. Loads that stay raw until all of them
// are under way don't wait for each other.
template <int N>
using Raw = Pack<uint32_t, N>;

// K packs of N columns of a row, from column j on and `step` columns apart, as far as they are in front of d; j, step and
// d are multiples of N.
template <int N, int K>
__device__ void load_raw(const Rows& t, int64_t row, int j, int step, int d, Raw<N> (&raw)[K]) {
  const auto as = [&](auto type) {
    using T = decltype(type);
    const T* const from = reinterpret_cast<const T*>(t.data) + row;
#pragma unroll
    for (int k = 0; k < K; k++)
      if (j + k * step < d)
        *reinterpret_cast<Pack<T, N>*>(&raw[k]) = *reinterpret_cast<const Pack<T, N>*>(from + j + k * step);
  };
  if (t.dtype == Dtype::f32)
    as(uint32_t{});
  else
    as(uint16_t{});
}

template <int N, int K>
__device__ void to_floats(const Raw<N> (&raw)[K], Dtype dtype, Pack<float, N> (&v)[K]) {
  const auto as = [&](auto type) {
#pragma unroll
    for (int k = 0; k < K; k++)
      for (int i = 0; i < N; i++) v[k].v[i] = to_float(reinterpret_cast<const decltype(type)*>(&raw[k])[i]);
  };
  if (dtype == Dtype::f32)
    as(float{});
  else if (dtype == Dtype::f16)
    as(f16{});
  else
    as(bf16{});
}

template <int N, int K>
__device__ void load(const Rows& t, int64_t row, int j, int step, int d, Pack<float, N> (&v)[K]) {
  Raw<N> raw[K] = {};
  load_raw<N>(t, row, j, step, d, raw);
  to_floats<N>(raw, t.dtype, v);
}

template <int N, int K>
__device__ void store(const Rows& t, int64_t row, int j, int step, int d, const Pack<float, N> (&v)[K]) {
  const auto as = [&](auto type) {
    using T = decltype(type);
    T* const to = reinterpret_cast<T*>(t.data) + row;
#pragma unroll
    for (int k = 0; k < K; k++) {
      Pack<T, N> out;
      for (int i = 0; i < N; i++) out.v[i] = from_float<T>(v[k].v[i]);
      if (j + k * step < d) *reinterpret_cast<Pack<T, N>*>(to + j + k * step) = out;
    }
  };
  if (t.dtype == Dtype::f32)
    as(float{});
  else if (t.dtype == Dtype::f16)
    as(f16{});
  else
    as(bf16{});
}

}  // namespace vlm::cuda
