#include "ops.h"

namespace vlm {

const Op kOps[] = {
#define OP(name, inputs, outputs, attrs) {#name, inputs, outputs, attrs, prepare_##name, kernel_##name},
#include "ops.def"
#undef OP
};
const int kOpCount = sizeof(kOps) / sizeof(kOps[0]);

}  // namespace vlm
