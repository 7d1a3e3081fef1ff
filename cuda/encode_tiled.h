// Describing tensors to the copy engine.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

namespace vlm::cuda {

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

// The driver's function that describes a matrix to the copy engine; null where the driver is too old to know it.
inline EncodeTiled encode_tiled() {
  static const EncodeTiled encode = [] {
    void* f = nullptr;
    cudaDriverEntryPointQueryResult found;
    const cudaError_t status =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found);
    return status == cudaSuccess && found == cudaDriverEntryPointSuccess ? reinterpret_cast<EncodeTiled>(f) : nullptr;
  }();
  return encode;
}

}  // namespace vlm::cuda
