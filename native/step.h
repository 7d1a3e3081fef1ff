// What an op sees of a program: tensors that are already addresses, and attributes. Plain data, shared with the CUDA library.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

// In front of a function that kernels call as well.
#ifdef __CUDACC__
#define VLM_HD __host__ __device__
#else
#define VLM_HD
#endif

namespace vlm {

enum class Dtype : int32_t { f32, f16, bf16, i32, u8, i8 };
constexpr int kDtypes = 6;
constexpr int64_t dtype_bytes(Dtype t) {
  return t == Dtype::u8 || t == Dtype::i8 ? 1 : t == Dtype::f16 || t == Dtype::bf16 ? 2 : 4;
}

// Weights in int8 and int4: this many neighbours of a row share a scale, and in int4 each of the groups a grid.
constexpr int64_t kQuantBlock = 128, kQuantGroup = 32;
constexpr int64_t quant_blocks(int64_t k) { return (k + kQuantBlock - 1) / kQuantBlock; }

// As a CPU keeps them, sixteen rows stand side by side in lines of 64 bytes, with four bytes of each: so many lines for
// rows of k.
constexpr int64_t kLineRows = 16, kLineBytes = 64;
constexpr int64_t quant_lines(bool int4, int64_t k) { return int4 ? quant_blocks(k) * (kQuantBlock / 8) : (k + 3) / 4; }

// The values of every `activation` attribute, in the order ops.def spells them.
enum class Activation : int32_t { none, silu, gelu, gelu_pytorch_tanh, quick_gelu };
// The values of every `scan` attribute (VL-Mamba §3.2, Fig. 3): bsm has two directions, csm four.
enum class Scan : int32_t { bsm, csm };
constexpr int scan_directions(Scan s) { return s == Scan::bsm ? 2 : 4; }

constexpr int kMaxRank = 5;
constexpr int kMaxInputs = 12;
constexpr int kMaxOutputs = 3;
constexpr int kMaxAttrs = 8;

struct TensorArg {
  void* data = nullptr;  // null: an optional argument that was not given
  Dtype dtype = Dtype::f32;
  int32_t rank = 0;
  std::array<int64_t, kMaxRank> size{};
  std::array<int64_t, kMaxRank> stride{};  // in elements

  explicit operator bool() const { return data != nullptr; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
  float* f32() const { return as<float>(); }
  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= size[i];
    return n;
  }
  // Elements from the first to the end of the last, gaps included.
  int64_t reach() const {
    if (numel() == 0) return 0;
    int64_t last = 0;
    for (int i = 0; i < rank; i++) last += (size[i] - 1) * stride[i];
    return last + 1;
  }
};

union Attr {
  int32_t i;
  float f;
};

struct Step {
  int32_t op = 0;
  std::array<TensorArg, kMaxInputs> in;
  std::array<TensorArg, kMaxOutputs> out;
  std::array<Attr, kMaxAttrs> attr{};

  // auto [x, weight, bias] = step.inputs<3>();  in the order of ops.def
  template <int N>
  std::array<TensorArg, N> inputs() const {
    return head<N>(in);
  }
  template <int N>
  std::array<TensorArg, N> outputs() const {
    return head<N>(out);
  }

 private:
  template <int N, size_t M>
  static std::array<TensorArg, N> head(const std::array<TensorArg, M>& all) {
    static_assert(N <= static_cast<int>(M));
    std::array<TensorArg, N> some;
    for (int i = 0; i < N; i++) some[i] = all[i];
    return some;
  }
};

}  // namespace vlm
