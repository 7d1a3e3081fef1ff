// The op table: what native/ops.def names and native/ops/<op>.cc defines.
#pragma once

#include "check.h"
#include "simd/isa.h"
#include "step.h"
#include "worker.h"

namespace vlm {

using Kernel = void (*)(const Step&, Worker&);

struct Op {
  const char *name, *inputs, *outputs, *attrs;
  // Throws Error when the tensors do not fit together (every address is known to be in bounds for the sizes and strides
  // given, nothing else is); returns the bytes of scratch that a run of the step with `nth` threads needs.
  size_t (*prepare)(const Step&, int nth);
  Kernel (*kernel)(Isa);
};

#define OP(name, inputs, outputs, attrs)       \
  size_t prepare_##name(const Step&, int nth); \
  Kernel kernel_##name(Isa);
#include "ops.def"
#undef OP

extern const Op kOps[];
extern const int kOpCount;

// Whether an input is the one that ops.def calls weight: it may be f16 or bf16 on every device.
bool is_weight(const Step&, int input);
// Throws Error when the tensors of a step do not fit together, on any device: activations may be f16 or bf16, which the
// CPU refuses when it prepares the step and the CUDA library takes where it has the kernel.
void check_step(const Step&);

}  // namespace vlm
