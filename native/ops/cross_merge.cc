// y[b,c,p] = Σ_k ys[b,k,c,i], p the i-th patch that direction k visits (ops/directions.h), summed in the order of k:
// takes the sequences of cross_scan back to the grid
// ys: [b,k,c,h·w] f32   y: [b,c,h,w] f32   any strides
#include "ops.h"
#include "ops/cross.h"

namespace vlm {

static void cross_merge(const Step& step, Worker& w) {
  visit_runs(step.out[0], step.in[0], w, [](const Run& r) {
    const auto each = [&](auto put) {
      for (int64_t j = 0; r.n == 1 && j < r.count; j++) put(r.patch[j * r.patch_step], r.element[j * r.element_step]);
      for (int64_t j = 0; r.n > 1 && j < r.count; j++)
        for (int64_t i = 0; i < r.n; i++) put(r.patch[j * r.patch_step + i], r.element[j * r.element_step + i]);
    };
    if (r.direction == 0)
      each([](float& sum, float x) { sum = x; });
    else
      each([](float& sum, float x) { sum += x; });
  });
}

size_t prepare_cross_merge(const Step& step, int) {
  check_cross(static_cast<Scan>(step.attr[0].i), step.out[0], "y", step.in[0], "ys");
  return 0;
}

Kernel kernel_cross_merge(Isa) { return cross_merge; }

}  // namespace vlm
