// What a Fault means, in the words that the CPU's kernels use for it.
#pragma once

#include "backend.h"
#include "op.h"

namespace vlm::cuda {

void describe(const Fault&, const Step&, Failure&);

}  // namespace vlm::cuda
