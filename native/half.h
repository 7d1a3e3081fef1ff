// 16-bit floats as stored in checkpoints, one at a time. Vector forms are in simd/vec.h.
#pragma once

#include <bit>
#include <cstdint>

namespace vlm {

inline float bf16_to_f32(uint16_t h) { return std::bit_cast<float>(static_cast<uint32_t>(h) << 16); }

// Round to nearest, ties to even; NaN stays NaN.
inline uint16_t f32_to_bf16(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f);
  if ((u & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>((u >> 16) | 0x40);
  return static_cast<uint16_t>((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

// No step may be a subnormal float: kernels run on threads that take those for zero.
inline float f16_to_f32(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, magnitude = h & 0x7fff;
  const uint32_t special = magnitude >= 0x7c00 ? 0x38000000 : 0;  // the exponents of infinity and NaN move twice as far
  const float normal = std::bit_cast<float>((magnitude << 13) + 0x38000000 + special);
  const float subnormal = static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude < 0x400 ? subnormal : normal) | sign);
}

inline uint16_t f32_to_f16(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f), sign = u >> 16 & 0x8000, magnitude = u & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
  if (magnitude >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // rounds to 65536 and beyond: infinity
  if (magnitude < 0x38800000) {                                              // below 2^-14: subnormal in f16
    const float aligned = std::bit_cast<float>(magnitude) + 0.5f;            // adding 2^-1 rounds at 2^-24
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(aligned) - 0x3f000000));
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000) >> 13));
}

}  // namespace vlm
