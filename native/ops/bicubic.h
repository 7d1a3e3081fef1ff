// The weights of Pillow's bicubic resize of 8-bit pictures (Keys 1981, a = -0.5; reference/model-facts §5.4): computed
// in double in Pillow's order of operations, then rounded to 22 fractional bits. Bit-equality depends on both.
#pragma once

#include <cmath>
#include <cstdint>

#include "step.h"

namespace vlm {

constexpr int kBicubicBits = 22;
constexpr int32_t kBicubicHalf = 1 << (kBicubicBits - 1);

// The inputs of one output along one axis. A picture lies on a canvas of one colour: taps beside it only count their
// weight.
struct Taps {
  int32_t first, count;  // in the picture
  int32_t outside;       // sum of the weights beside it
};

// One axis: `picture` pixels in the middle of a canvas are resized from `canvas` to `resized`, of which the middle
// `window` are computed. Middles round down.
struct BicubicAxis {
  int32_t picture, canvas, resized, window;

  VLM_HD double scale() const { return static_cast<double>(canvas) / resized; }
  VLM_HD double stretch() const { return scale() < 1 ? 1 : scale(); }
  // No output has more taps.
  VLM_HD int64_t most() const { return static_cast<int64_t>(std::ceil(2 * stretch())) * 2 + 1; }

  VLM_HD static double cubic(double x) {
    x = x < 0 ? -x : x;
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * -0.5;
    return 0;
  }

  // The canvas pixels that output i of the window reads: [*begin, *end).
  VLM_HD double reach(int32_t i, int32_t* begin, int32_t* end) const {
    const double center = ((resized - window) / 2 + i + 0.5) * scale(), support = 2 * stretch();
    const int32_t from = static_cast<int32_t>(center - support + 0.5),
                  to = static_cast<int32_t>(center + support + 0.5);
    *begin = from < 0 ? 0 : from;
    *end = to > canvas ? canvas : to;
    return center;
  }

  // The picture's rows or columns that the window reads: [*begin, *end), empty when it sees only canvas.
  VLM_HD void needed(int32_t* begin, int32_t* end) const {
    int32_t unused;
    reach(0, begin, &unused);
    reach(window - 1, &unused, end);
    const int32_t left = (canvas - picture) / 2;
    *begin = clamp(*begin - left);
    *end = clamp(*end - left);
  }

  // Output i of the window. Its weights go to k, which has room for most().
  VLM_HD Taps taps(int32_t i, int32_t* k) const {
    int32_t begin, end;
    const double center = reach(i, &begin, &end), shrink = 1 / stretch();
    double sum = 0;
    for (int32_t j = begin; j < end; j++) sum += cubic((j - center + 0.5) * shrink);
    const int32_t left = (canvas - picture) / 2;
    Taps taps{clamp(begin - left), 0, 0};
    for (int32_t j = begin; j < end; j++) {
      const double w = cubic((j - center + 0.5) * shrink) / sum;
      const int32_t fixed = static_cast<int32_t>((w < 0 ? -0.5 : 0.5) + w * (1 << kBicubicBits));
      if (j < left || j >= left + picture) {
        taps.outside += fixed;
        continue;
      }
      k[taps.count++] = fixed;
    }
    return taps;
  }

 private:
  VLM_HD int32_t clamp(int32_t at) const { return at < 0 ? 0 : at > picture ? picture : at; }
};

}  // namespace vlm
