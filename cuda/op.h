// What an op is on the GPU: two functions that cuda/<op>.cu defines. Tensors and attributes are as native/step.h has them,
// already checked by the addon (sizes, strides, what overlaps what), with one difference from the CPU: what is f32 there
// may be f16 or bf16 here, unless it is a bias, a norm, a state, A, D or another small weight.
#pragma once

#include <cuda_runtime.h>

#include "check.h"
#include "step.h"

namespace vlm::cuda {

struct Card {
  int ordinal = 0, arch = 0;  // arch: 10 · major + minor, 90 for Hopper
  int multiprocessors = 0;
  size_t shared_bytes = 0;  // that a block may ask for
};

// What a kernel found in the numbers it was given; the first one wins. Steps after it must leave states alone.
enum class Trouble : int32_t { none, id_range, slot_range, slot_twice, sampling_parameter, nonfinite_logit, no_logit };
struct Fault {
  Trouble trouble = Trouble::none;
  int32_t step = 0;
  int64_t where[3] = {};  // what each means depends on the trouble: fault.cu
  float value = 0;
};

struct Launch {
  cudaStream_t stream;
  const Card& card;
  int step;              // its place in the program
  std::byte* workspace;  // as many bytes as workspace_<op>() asked for, 256-byte aligned, with anything in them
  Fault* fault;          // in device memory
  bool fixed_weight;     // no step of the program writes linear's weight, scale and grid: they may be read before
                         // wait_for_inputs()
};

struct Op {
  const char* name;
  // Throws Error (ERR_OP_ARG) for what the kernels can't do; returns the bytes of workspace that launch needs.
  size_t (*workspace)(const Step&, const Card&);
  // Puts the step's kernels on the stream, which is often being captured: nothing here may wait or allocate.
  void (*launch)(const Step&, const Launch&);
};

#define OP(name, inputs, outputs, attrs)             \
  size_t workspace_##name(const Step&, const Card&); \
  void launch_##name(const Step&, const Launch&);
#include "ops.def"
#undef OP

extern const Op kOps[];
extern const int kOpCount;

// A call of the runtime that failed, as ERR_CUDA with the call's name and the driver's words.
void check(cudaError_t, const char* call);
#define VLM_CUDA(call) ::vlm::cuda::check((call), #call)

}  // namespace vlm::cuda
