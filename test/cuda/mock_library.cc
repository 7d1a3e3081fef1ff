// Stands in for the CUDA library: a "GPU" in the process's own memory that computes nothing and fails where
//   MOCK_LIBRARY_FAILS   version | start | alloc | run
// says, and at the calls that mock_control.h is told. Memory is the host's, but is not told to be: data goes through write()
// and read() as it would for a GPU.
#include "../../cuda/library.h"

#include <cstdlib>
#include <cstring>
#include <string>

#include "backend.h"
#include "mock_control.h"

namespace {

bool fails(const char* where) {
  const char* told = std::getenv("MOCK_LIBRARY_FAILS");
  return told && std::string(told) == where;
}

// Counts a call; false after noting the failure when it is one that has to fail.
bool goes(const char* what, vlm::Failure& failure) {
  if (::goes()) return true;
  failure.set("ERR_CUDA", what);
  return false;
}

class Mock final : public vlm::Backend {
 public:
  bool start(vlm::Failure& failure) override {
    if (fails("start")) failure.set("ERR_CUDA", "cudaSetDevice: cudaErrorDevicesUnavailable, the GPU is busy");
    return !failure.code[0] && goes("cudaStreamCreate failed", failure);
  }
  void* alloc(size_t bytes, vlm::Failure& failure) override {
    // The probe and small buffers fit; weights don't.
    if (fails("alloc") && bytes > 4096) {
      failure.set("ERR_OUT_OF_MEMORY", "the GPU has 3 of its 16384 MiB left, and 12 MiB more were asked for");
      return nullptr;
    }
    if (!goes("cudaMalloc failed", failure)) return nullptr;
    control().alive++;
    return std::calloc(1, bytes ? bytes : 1);
  }
  void free(void* memory, size_t) override {
    control().alive--;
    std::free(memory);
  }
  std::byte* host_address(void*) override { return nullptr; }
  bool write(void* to, const void* host, size_t bytes, vlm::Failure& failure) override {
    return move(to, host, bytes, failure);
  }
  bool read(void* host, const void* from, size_t bytes, vlm::Failure& failure) override {
    return move(host, from, bytes, failure);
  }
  bool copy(void* to, const void* from, size_t bytes, vlm::Failure& failure) override {
    return move(to, from, bytes, failure);
  }
  bool fill(void* memory, int byte, size_t bytes, vlm::Failure& failure) override {
    if (!goes("cudaMemsetAsync failed", failure)) return false;
    if (bytes) std::memset(memory, byte, bytes);
    return alive(failure);
  }
  void* compile(std::span<const vlm::Step>, std::span<const vlm::Port>, std::span<const vlm::Port>, vlm::Port,
                vlm::Failure& failure) override {
    if (!alive(failure) || !goes("cudaGraphInstantiate failed", failure)) return nullptr;
    control().alive++;
    return new int;
  }
  void destroy(void* executable) override {
    control().alive--;
    delete static_cast<int*>(executable);
  }
  bool run(void*, const void* const*, void* const*, const std::atomic<bool>&, double*, vlm::Failure& failure) override {
    lost_ = lost_ || fails("run");
    return alive(failure) && goes("cudaGraphLaunch failed", failure);
  }

 private:
  bool alive(vlm::Failure& failure) {
    if (lost_) failure.set("ERR_CUDA_LOST", "the GPU stopped (cudaErrorIllegalAddress)");
    return !lost_;
  }
  bool move(void* to, const void* from, size_t bytes, vlm::Failure& failure) {
    if (!goes("cudaMemcpyAsync failed", failure)) return false;
    if (bytes) std::memcpy(to, from, bytes);
    return alive(failure);
  }
  bool lost_ = false;
};

}  // namespace

extern "C" {
VLM_EXPORT int vlm_cuda_version() { return fails("version") ? -1 : vlm::cuda::kLibraryVersion; }
VLM_EXPORT const int* vlm_cuda_images(int* count) {
  static constexpr int images[] = {80, 86, 89, 90, 100, 120};
  *count = 6;
  return images;
}
VLM_EXPORT vlm::Backend* vlm_cuda_open(int, int) { return new Mock; }
}
