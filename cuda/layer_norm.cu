// s = x + residual,  y = (s - mean(s)) / sqrt(var(s) + eps) * weight + bias, over the last dimension
// (Ba et al. 2016, eq. 3)
// x, residual, y, sum: [rows…, d] f32 | f16 | bf16    weight, bias: [d] f32    sum receives s when it is asked for
#include "norm.cuh"

namespace vlm::cuda {

size_t workspace_layer_norm(const Step& step, const Card&) {
  const auto [x, weight, bias, residual] = step.inputs<4>();
  check_norm(x, weight, bias, residual, step.out[0], step.out[1]);
  return 0;
}

void launch_layer_norm(const Step& step, const Launch& on) {
  const auto [x, weight, bias, residual] = step.inputs<4>();
  launch_norm<true>(x, weight, bias, residual, step.out[0], step.out[1], step.attr[0].f, on);
}

}  // namespace vlm::cuda
