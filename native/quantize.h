// Makes int8 and int4 of floats; linear() in lib/ops says what they stand for, docs/quantization.md why.
#pragma once

#include "step.h"

namespace vlm {

constexpr int kMaxGridStep = 16;

// Each makes a row of k numbers, f32, f16 or bf16, into one of a matrix; false when one of them is not finite. `floats`
// has room for k. The same bytes on every processor: sums are taken in one order, and no product is fused into one.
struct Quantizer {
  // x ≈ scale · weight. weight: [k]    scale: [⌈k/128⌉]
  bool (*int8)(const void* row, Dtype from, int64_t k, float* floats, int8_t* weight, float* scale);
  // x ≈ scale · (step · q + offset). weight: [⌈k/128⌉ · 64]    scale: [⌈k/128⌉]    grid: [⌈k/128⌉ · 4, 2], step and offset
  bool (*int4)(const void* row, Dtype from, int64_t k, float* floats, uint8_t* weight, float* scale, int8_t* grid);
};
const Quantizer& quantizer();

// Whether numbers from a file are such as the functions above write.
bool valid_weights(const int8_t* weight, int64_t count);
bool valid_scales(const float* scale, int64_t count);
bool valid_grids(const int8_t* grid, int64_t count);

}  // namespace vlm
