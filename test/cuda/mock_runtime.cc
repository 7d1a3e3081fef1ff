// Stands in for the CUDA runtime under our own CUDA library: memory is the host's, kernels and graphs do nothing, and the calls
// that mock_control.h is told fail, so that what backend.cu does about them is tested without a GPU.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstring>

#include "mock_control.h"

namespace {

bool capturing = false;

cudaError_t call(cudaError_t error = cudaErrorUnknown) { return goes() ? cudaSuccess : error; }

// Something that a destroy function gives back.
template <class T>
cudaError_t make(T* handle, cudaError_t error = cudaErrorUnknown) {
  if (const cudaError_t status = call(error)) return status;
  *handle = reinterpret_cast<T>(std::calloc(1, 64));
  control().alive++;
  return cudaSuccess;
}

// What fails to be given back is gone all the same: the error is of something before it.
cudaError_t unmake(void* handle) {
  if (handle) control().alive--;
  std::free(handle);
  return call();
}

cudaError_t take(void** memory, size_t bytes) {
  if (const cudaError_t status = call(cudaErrorMemoryAllocation)) return status;
  *memory = std::calloc(1, bytes);
  control().alive++;
  return cudaSuccess;
}

CUresult encode(...) { return CUDA_SUCCESS; }

}  // namespace

extern "C" {

cudaError_t cudaSetDevice(int) { return call(); }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  switch (which) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = 132;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = 227 << 10;
      break;
    default:
      *value = 1;
  }
  return call();
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaErrorUnknown";
}
const char* cudaGetErrorString(cudaError_t) { return "told to fail"; }

cudaError_t cudaMalloc(void** memory, size_t bytes) { return take(memory, bytes); }
cudaError_t cudaFree(void* memory) { return unmake(memory); }
cudaError_t cudaMallocHost(void** memory, size_t bytes) { return take(memory, bytes); }
cudaError_t cudaFreeHost(void* memory) { return unmake(memory); }
cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
  *available = *total = size_t{1} << 34;
  return call();
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  if (!capturing) std::memmove(to, from, bytes);
  return call();
}
cudaError_t cudaMemsetAsync(void* memory, int byte, size_t bytes, cudaStream_t) {
  if (!capturing) std::memset(memory, byte, bytes);
  return call();
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return make(stream); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return unmake(stream); }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return call(); }
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  const cudaError_t status = call();
  capturing = status == cudaSuccess;
  return status;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  capturing = false;
  *graph = nullptr;
  return make(graph);
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* graph, cudaGraph_t, unsigned long long) { return make(graph); }
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return call(); }
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) { return call(); }
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return unmake(graph); }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return unmake(graph); }

cudaError_t cudaEventCreate(cudaEvent_t* event) { return make(event); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return make(event); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return unmake(event); }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return call(); }
cudaError_t cudaEventQuery(cudaEvent_t) { return call(); }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return call(); }
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) {
  *ms = 1;
  return call();
}

cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return call(); }
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t*, const void*, void**) { return call(); }
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void*, const cudaLaunchConfig_t*) {
  *clusters = 16;
  return call();
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int, size_t, unsigned) {
  *blocks = 1;
  return call();
}
cudaError_t cudaGetDriverEntryPointByVersion(const char*, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
  *function = reinterpret_cast<void*>(encode);
  *found = cudaDriverEntryPointSuccess;
  return cudaSuccess;  // asked once in a process
}

// What nvcc's own code calls for each file and kernel.
void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char*, char*, const char*, int, void*, void*, void*, void*, int*) {}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void*) {
  *kernel = nullptr;
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void**, size_t, cudaStream_t) { return call(); }
cudaError_t __cudaPopCallConfiguration(dim3*, dim3*, size_t*, void*) { return cudaSuccess; }
}
