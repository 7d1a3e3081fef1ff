#include "op.h"

namespace vlm::cuda {

const Op kOps[] = {
#define OP(name, inputs, outputs, attrs) {#name, workspace_##name, launch_##name},
#include "ops.def"
#undef OP
};
const int kOpCount = sizeof(kOps) / sizeof(kOps[0]);

void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  throw Error("ERR_CUDA", text(call, ": ", cudaGetErrorName(status), ", ", cudaGetErrorString(status)));
}

}  // namespace vlm::cuda
