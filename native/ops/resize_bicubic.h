// How one resize_bicubic step goes about it, and where its workspace lies.
#pragma once

#include "ops/bicubic.h"
#include "step.h"

namespace vlm {

constexpr int kRows = 16;          // of the image that the first pass takes together
constexpr int kLanes = 3 * kRows;  // channel by channel: a pixel of kRows rows

struct ResizeScratch {
  Taps *x, *y;
  int32_t *kx, *ky;  // most() weights for every output
  uint8_t* rows;     // [y_end - y_begin, ow, 3]: the rows that y needs, resized across
  uint8_t* lanes;    // for every thread [x_end - x_begin, 3, kRows]
};

struct ResizePlan {
  BicubicAxis x, y;
  int32_t fill[3];
  int32_t x_begin, x_end, y_begin, y_end;  // the part of the image that y needs

  // Attributes in the order of ops.def: canvas_height, canvas_width, fill, height, width.
  explicit ResizePlan(const Step& step)
      : x{static_cast<int32_t>(step.in[0].size[1]), step.attr[1].i, step.attr[4].i,
          static_cast<int32_t>(step.out[0].size[1])},
        y{static_cast<int32_t>(step.in[0].size[0]), step.attr[0].i, step.attr[3].i,
          static_cast<int32_t>(step.out[0].size[0])},
        fill{step.attr[2].i >> 16 & 255, step.attr[2].i >> 8 & 255, step.attr[2].i & 255} {
    x.needed(&x_begin, &x_end);
    y.needed(&y_begin, &y_end);
  }

  int64_t row_bytes() const { return 3 * static_cast<int64_t>(x.window); }
  int64_t lane_bytes() const { return kLanes * static_cast<int64_t>(x_end - x_begin); }

  ResizeScratch layout(std::byte* memory) const {
    ResizeScratch s;
    s.x = reinterpret_cast<Taps*>(memory);
    s.y = s.x + x.window;
    s.kx = reinterpret_cast<int32_t*>(s.y + y.window);
    s.ky = s.kx + x.window * x.most();
    s.rows = reinterpret_cast<uint8_t*>(s.ky + y.window * y.most());
    s.lanes = s.rows + (y_end - y_begin) * row_bytes();
    return s;
  }

  size_t bytes(int nth) const {
    const int64_t taps = int64_t{x.window} + y.window, weights = x.window * x.most() + y.window * y.most();
    return taps * sizeof(Taps) + weights * sizeof(int32_t) + (y_end - y_begin) * row_bytes() + nth * lane_bytes();
  }
};

}  // namespace vlm
