// The GPUs of this machine, and the library with our kernels for them. Nothing of NVIDIA is linked: the driver's own library
// and ours are opened when they are first asked for, and whatever is missing is a reason, not an error.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend.h"

namespace vlm {

struct CudaCard {
  int ordinal;
  std::string name;
  int arch;            // compute capability, 10 · major + minor
  int64_t memory;      // bytes
  std::string reason;  // why it can't be used; empty when it can
};

struct CudaSurvey {
  std::string reason;  // why there are no usable cards at all; empty when there may be
  std::string driver;  // the newest CUDA the driver knows, "13.0"; empty without a driver
  std::vector<CudaCard> cards;
};

// Looks once, and remembers. Can be called from any thread.
const CudaSurvey& cuda_survey();

// Null, with the reason as the failure, when there is no such card or it can't be used. The card itself is opened on the
// device's thread, by Backend::start.
std::unique_ptr<Backend> open_cuda(int ordinal, bool graphs, Failure&);

}  // namespace vlm
