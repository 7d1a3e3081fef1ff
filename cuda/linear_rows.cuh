// The rows form of linear: few rows of x, as decoding has them, so that reading the weights is all of the work.
#pragma once

#include "op.h"

namespace vlm::cuda {

// Into how many sums k, `chunks` of 64 bytes, is divided: a matter of the weight's size alone.
int rows_ranges(int64_t n, int chunks);

size_t linear_rows_workspace(const Step&, const Card&);
void launch_linear_rows(const Step&, const Launch&);

}  // namespace vlm::cuda
