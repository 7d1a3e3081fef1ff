// y = the middle of resize(canvas); the canvas has the colour `fill`, and the image in its middle (Pillow's bicubic)
// image: [h,w,3] u8    y: [oh,ow,3] u8    canvas_height >= h, canvas_width >= w, height >= oh, width >= ow
// fill: 0xRRGGBB
#define SIMD_FILE "ops/resize_bicubic.cc"
#include "ops/resize_bicubic.h"
#include "simd/foreach.h"
#include "simd/vec.h"

SIMD_BEGIN
namespace vlm::SIMD {

constexpr int kColumns = 64;  // bytes of a row that the second pass takes together

SIMD_INLINE uint8_t clip8(int32_t sum) {
  const int32_t v = sum >> kBicubicBits;
  return static_cast<uint8_t>(v < 0 ? 0 : v > 255 ? 255 : v);
}

// Bytes [begin, end) of kRows rows, column by column. Rows from `count` on repeat the last one.
SIMD_INLINE void interleave(const uint8_t* in, int64_t row, int64_t count, int64_t begin, int64_t end, uint8_t* lanes) {
  const uint8_t* from[kRows];
  for (int r = 0; r < kRows; r++) from[r] = in + (r < count ? r : count - 1) * row;
  for (int64_t i = begin; i < end; i++)
    for (int r = 0; r < kRows; r++) *lanes++ = from[r][i];
}

// One pixel of the first pass, for `count` rows at once.
SIMD_INLINE void across(const uint8_t* lanes, const int32_t* k, const Taps& taps, const int32_t* fill, uint8_t* out,
                        int64_t row, int64_t count) {
  int32_t acc[kLanes];
  for (int i = 0; i < kLanes; i++) acc[i] = kBicubicHalf + fill[i / kRows] * taps.outside;
  for (int j = 0; j < taps.count; j++)
    for (int i = 0; i < kLanes; i++) acc[i] += lanes[kLanes * j + i] * k[j];
  uint8_t pixel[kLanes];
  for (int i = 0; i < kLanes; i++) pixel[i] = clip8(acc[i]);
  for (int64_t r = 0; r < count; r++)
    for (int c = 0; c < 3; c++) out[r * row + c] = pixel[c * kRows + r];
}

// One row of the second pass; `in` is the first row it reads.
SIMD_INLINE void down(const uint8_t* in, int64_t row, const int32_t* k, const Taps& taps, const int32_t* fill,
                      uint8_t* out) {
  for (int64_t x = 0; x < row; x += kColumns) {
    const int n = static_cast<int>(row - x < kColumns ? row - x : kColumns);
    int32_t acc[kColumns];
    for (int i = 0; i < n; i++) acc[i] = kBicubicHalf + fill[(x + i) % 3] * taps.outside;
    for (int j = 0; j < taps.count; j++) {
      const uint8_t* from = in + j * row + x;
      const int32_t weight = k[j];
      if (n == kColumns) {
        for (int i = 0; i < kColumns; i++) acc[i] += from[i] * weight;
      } else {
        for (int i = 0; i < n; i++) acc[i] += from[i] * weight;
      }
    }
    for (int i = 0; i < n; i++) out[x + i] = clip8(acc[i]);
  }
}

void resize_bicubic(const Step& step, Worker& w) {
  const auto image = step.inputs<1>()[0];
  const auto y = step.outputs<1>()[0];
  const ResizePlan plan(step);
  const ResizeScratch s = plan.layout(w.scratch);
  const int32_t ow = plan.x.window, oh = plan.y.window;
  const int64_t row_in = 3 * image.size[1], row_out = plan.row_bytes();
  const int64_t most_x = plan.x.most(), most_y = plan.y.most();

  w.each(ow + oh, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int32_t at = static_cast<int32_t>(i < ow ? i : i - ow);
      if (i < ow) {
        s.x[at] = plan.x.taps(at, s.kx + at * most_x);
      } else {
        s.y[at] = plan.y.taps(at, s.ky + at * most_y);
      }
    }
  });
  w.sync();
  const uint8_t* in = image.as<uint8_t>() + plan.y_begin * row_in;
  uint8_t* lanes = s.lanes + w.ith * plan.lane_bytes();
  w.each(plan.y_end - plan.y_begin, kRows, [&](int64_t begin, int64_t end) {
    interleave(in + begin * row_in, row_in, end - begin, 3 * plan.x_begin, 3 * plan.x_end, lanes);
    for (int32_t at = 0; at < ow; at++)
      across(lanes + kLanes * (s.x[at].first - plan.x_begin), s.kx + at * most_x, s.x[at], plan.fill,
             s.rows + begin * row_out + 3 * at, row_out, end - begin);
  });
  w.sync();
  w.each(oh, 2, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++)
      down(s.rows + (s.y[i].first - plan.y_begin) * row_out, row_out, s.ky + i * most_y, s.y[i], plan.fill,
           y.as<uint8_t>() + i * row_out);
  });
}

}  // namespace vlm::SIMD
SIMD_END

#if SIMD_ONCE
namespace vlm {

size_t prepare_resize_bicubic(const Step& step, int nth) {
  const auto image = step.inputs<1>()[0];
  const auto y = step.outputs<1>()[0];
  for (const auto& [t, name] : {std::pair(image, "image"), std::pair(y, "y")}) {
    check_given(t, name);
    check_dtype(t, name, Dtype::u8);
    check_size(t, name, {-1, -1, 3});
    check_contiguous(t, name);
  }
  for (const int axis : {0, 1}) {
    const int64_t canvas = step.attr[axis].i, resized = step.attr[3 + axis].i, limit = 1 << 24;
    CHECK(image.size[axis] >= 1 && y.size[axis] >= 1, "image and y must not be empty, got ", shape(image), ", ",
          shape(y));
    CHECK(canvas >= image.size[axis] && canvas <= limit, "the canvas must hold the image ", shape(image),
          " and be at most ", limit, ", got ", canvas);
    CHECK(resized >= y.size[axis] && resized <= int64_t{1} << 30, "the resized canvas must hold y ", shape(y), ", got ",
          resized);
    // More than 16448 weights could round to a sum that does not reproduce one colour, which the padding relies on.
    CHECK(canvas / resized < 4096, "the canvas shrinks by ", canvas, " / ", resized, ", at most 4095 is supported");
  }
  CHECK(step.attr[2].i >= 0 && step.attr[2].i <= 0xffffff, "fill must be 0xRRGGBB, got ", step.attr[2].i);
  return ResizePlan(step).bytes(nth);
}

SIMD_KERNELS(resize_bicubic)

}  // namespace vlm
#endif
