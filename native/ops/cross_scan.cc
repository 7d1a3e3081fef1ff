// xs[b,k,c,i] = x[b,c,p], p the i-th patch that direction k visits (ops/directions.h; VMamba, arXiv 2401.10166, has the
// same four in another order)
// x: [b,c,h,w] f32   xs: [b,k,c,h·w] f32   any strides
#include <cstring>

#include "ops.h"
#include "ops/cross.h"

namespace vlm {

static void cross_scan(const Step& step, Worker& w) {
  visit_runs(step.in[0], step.out[0], w, [](const Run& r) {
    for (int64_t j = 0; r.n == 1 && j < r.count; j++) r.element[j * r.element_step] = r.patch[j * r.patch_step];
    for (int64_t j = 0; r.n > 1 && j < r.count; j++)
      std::memcpy(r.element + j * r.element_step, r.patch + j * r.patch_step, r.n * sizeof(float));
  });
}

size_t prepare_cross_scan(const Step& step, int) {
  check_cross(static_cast<Scan>(step.attr[0].i), step.in[0], "x", step.out[0], "xs");
  return 0;
}

Kernel kernel_cross_scan(Isa) { return cross_scan; }

}  // namespace vlm
