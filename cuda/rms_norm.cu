// s = x + residual,  y = s / sqrt(mean(s²) + eps) * weight, over the last dimension (Zhang & Sennrich 2019, eq. 4)
// x, residual, y, sum: [rows…, d] f32 | f16 | bf16    weight: [d] f32    sum receives s when it is asked for
#include "norm.cuh"

namespace vlm::cuda {

size_t workspace_rms_norm(const Step& step, const Card&) {
  const auto [x, weight, residual] = step.inputs<3>();
  check_norm(x, weight, {}, residual, step.out[0], step.out[1]);
  return 0;
}

void launch_rms_norm(const Step& step, const Launch& on) {
  const auto [x, weight, residual] = step.inputs<3>();
  launch_norm<false>(x, weight, {}, residual, step.out[0], step.out[1], step.attr[0].f, on);
}

}  // namespace vlm::cuda
