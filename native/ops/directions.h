// The order in which a scan direction visits a height × width grid (VL-Mamba §3.2, Fig. 3; arXiv 2403.13600).
// Directions: 0 row by row, 1 its reverse, 2 column by column, 3 its reverse. bsm has the first two, csm all four.
#pragma once

#include "check.h"

namespace vlm {

// A walk is two nested loops: `turns` straight runs of `run` cells, each cell an offset from the first patch.
struct Walk {
  int64_t start, turns, turn, run, step;
};

// Offsets in a grid whose rows are `row` and whose columns are `column` apart.
VLM_HD inline Walk walk(int direction, int64_t height, int64_t width, int64_t row, int64_t column) {
  const int64_t sign = direction & 1 ? -1 : 1;
  const int64_t start = direction & 1 ? (height - 1) * row + (width - 1) * column : 0;
  if (direction & 2) return {start, width, sign * column, height, sign * row};
  return {start, height, sign * row, width, sign * column};
}

// The patch numbers of a row-major grid in the order of the direction.
VLM_HD inline Walk patches(int direction, int64_t height, int64_t width) {
  return walk(direction, height, width, width, 1);
}

// A plain sequence, as a walk.
VLM_HD inline Walk steps(int64_t count) { return {0, 1, 0, count, 1}; }

// The attributes height and width, against the number of patches that a tensor has.
inline void check_grid(int64_t height, int64_t width, int64_t patches) {
  constexpr int64_t kMaxSide = 1 << 15;
  CHECK(height >= 0 && height <= kMaxSide && width >= 0 && width <= kMaxSide, "height and width must be 0 to ",
        kMaxSide, ", got ", height, " x ", width);
  CHECK(height * width == patches, "height x width = ", height, " x ", width, " must be the number of patches, got ",
        patches);
}

}  // namespace vlm
