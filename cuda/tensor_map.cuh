// Tensors as Hopper's copy engine knows them: boxes of rows, in shared memory as rows of 128 swizzled bytes.
#pragma once

#include <cuda.h>

#include "common.cuh"

namespace vlm::cuda {

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

// The driver's function that describes a tensor to the copy engine; null where the driver is too old to know it.
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

// A tensor of floats, innermost dimension first and contiguous, strides of the others in elements; zeros beyond it.
template <int kRank>
CUtensorMap tensor_map(const void* data, Dtype dtype, const int64_t (&size)[kRank], const int64_t (&stride)[kRank - 1],
                       const int (&box)[kRank], CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_128B) {
  CUtensorMap map;
  cuuint64_t sizes[kRank], strides[kRank - 1];
  cuuint32_t boxes[kRank], steps[kRank];
  for (int i = 0; i < kRank; i++) {
    sizes[i] = static_cast<cuuint64_t>(size[i]);
    boxes[i] = static_cast<cuuint32_t>(box[i]);
    steps[i] = 1;
    // The stride of a dimension of one may be anything, but the engine wants multiples of 16 bytes.
    if (i > 0) strides[i - 1] = size[i] > 1 ? static_cast<cuuint64_t>(stride[i - 1] * dtype_bytes(dtype)) : 16;
  }
  const CUtensorMapDataType type = dtype == Dtype::f32    ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                                   : dtype == Dtype::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                                          : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  const CUresult status = encode_tiled()(&map, type, kRank, const_cast<void*>(data), sizes, strides, boxes, steps,
                                         CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                         CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    throw Error("ERR_CUDA", text("cuTensorMapEncodeTiled: error ", static_cast<int>(status), " for ", size[1],
                                 " rows of ", size[0]));
  return map;
}

}  // namespace vlm::cuda
