// The activations of Hugging Face configs: silu(x) = x·sigmoid(x) (Elfwing et al. 2017), gelu(x) = x·Φ(x) (Hendrycks &
// Gimpel 2016) by erf, and its tanh and sigmoid approximations.
#pragma once

#include "common.cuh"

namespace vlm::cuda {

// x / (1 + e^(-k)): x·sigmoid(k), to about 3 units in the last place near zero.
__device__ __forceinline__ float times_sigmoid(float x, float k) { return __fdividef(x, 1.f + __expf(-k)); }

__device__ __forceinline__ float silu(float x) { return times_sigmoid(x, x); }
__device__ __forceinline__ float gelu(float x) { return 0.5f * x * (1.f + erff(0.707106781f * x)); }
// (1 + tanh(y)) / 2 = sigmoid(2y), y = √(2/π)·(x + 0.044715·x³)
__device__ __forceinline__ float gelu_pytorch_tanh(float x) {
  return times_sigmoid(x, x * fmaf(0.0713548163f, x * x, 1.59576912f));
}
__device__ __forceinline__ float quick_gelu(float x) { return times_sigmoid(x, 1.702f * x); }

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
