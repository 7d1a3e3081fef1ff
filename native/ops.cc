#include "ops.h"

#include <string_view>

namespace vlm {
const Op kOps[] = {
#define OP(name, inputs, outputs, attrs) {#name, inputs, outputs, attrs, prepare_##name, kernel_##name},
#include "ops.def"
#undef OP
};
const int kOpCount = sizeof(kOps) / sizeof(kOps[0]);

bool is_weight(const Step& step, int i) {
  std::string_view inputs = kOps[step.op].inputs;
  for (; i > 0; i--) inputs.remove_prefix(inputs.find(' ') + 1);
  return inputs.substr(0, inputs.find(' ')) == "weight";
}

void check_step(const Step& step) {
  const Op& op = kOps[step.op];
  Step plain = step;
  // A 16-bit activation is checked as if it were f32, and lay where nothing else does.
  auto widen = [address = uintptr_t{1} << 62](TensorArg& t) mutable {
    if (!t || (t.dtype != Dtype::f16 && t.dtype != Dtype::bf16)) return;
    t.dtype = Dtype::f32;
    t.data = reinterpret_cast<void*>(address);
    address += uintptr_t{1} << 52;
  };
  for (int i = 0; i < kMaxInputs; i++)
    if (plain.in[i] && !is_weight(step, i)) widen(plain.in[i]);
  for (TensorArg& t : plain.out) widen(t);
  op.prepare(plain, 1);
}

}  // namespace vlm
