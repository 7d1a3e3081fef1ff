// The activations of Hugging Face configs: silu(x) = x·sigmoid(x) (Elfwing et al. 2017), gelu(x) = x·Φ(x) (Hendrycks &
// Gimpel 2016) by erf, and its tanh and sigmoid approximations.
#pragma once

#include "common.cuh"
#include "exp.cuh"

namespace vlm::cuda {

// x·sigmoid(x·(linear + cubic·x²)), which all of them but the first form of gelu are; the numbers are times -log₂e here.
struct Gate {
  float linear, cubic;

  __device__ __forceinline__ float operator()(float x) const {
    const float k = cubic == 0 ? linear : fmaf(cubic, x * x, linear);
    return x * reciprocal_fast(1.f + exp2_fast(x * k));
  }
};
__device__ __forceinline__ Gate gate_of(Activation a) {
  // (1 + tanh(y)) / 2 = sigmoid(2y), y = √(2/π)·(x + 0.044715·x³)
  if (a == Activation::gelu_pytorch_tanh) return {-kLog2e * 1.59576912f, -kLog2e * 0.0713548163f};
  return {a == Activation::quick_gelu ? -kLog2e * 1.702f : -kLog2e, 0};
}

__device__ __forceinline__ float gelu(float x) { return 0.5f * x * (1.f + erff(0.707106781f * x)); }
__device__ __forceinline__ float gelu_pytorch_tanh(float x) { return gate_of(Activation::gelu_pytorch_tanh)(x); }
__device__ __forceinline__ float quick_gelu(float x) { return gate_of(Activation::quick_gelu)(x); }

// A constant `a` costs nothing; one known at run time costs a uniform branch.
__device__ __forceinline__ float activate(Activation a, float x) {
  switch (a) {
    case Activation::silu:
      return silu(x);
    case Activation::gelu:
      return gelu(x);
    case Activation::gelu_pytorch_tanh:
      return gelu_pytorch_tanh(x);
    case Activation::quick_gelu:
      return quick_gelu(x);
    default:
      return x;
  }
}

}  // namespace vlm::cuda
