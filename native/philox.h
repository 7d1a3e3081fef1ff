// Random numbers without a state: a hash of (key, counter), so that a draw can be made anywhere, in any order, alone or
// many at a time. Plain arithmetic, one operation at a time, and the same bits on every machine; loops over these
// functions vectorize.
#pragma once

#include <bit>
#include <cstdint>

#include "step.h"

namespace vlm {

// The first of the four words of Philox-4x32-10 (Salmon, Moraes, Dror & Shaw 2011, §3.3) for the counter
// {c0, c1, c2, c3}. Unrolled by recursion: compilers do not vectorize a loop around a loop.
template <int Rounds = 10>
VLM_HD inline uint32_t philox(uint32_t key0, uint32_t key1, uint32_t c0, uint32_t c1, uint32_t c2 = 0,
                              uint32_t c3 = 0) {
  if constexpr (Rounds == 0) {
    return c0;
  } else {
    const uint64_t a = uint64_t{0xd2511f53} * c0, b = uint64_t{0xcd9e8d57} * c2;
    return philox<Rounds - 1>(key0 + 0x9e3779b9, key1 + 0xbb67ae85, static_cast<uint32_t>(b >> 32) ^ c1 ^ key0,
                              static_cast<uint32_t>(b), static_cast<uint32_t>(a >> 32) ^ c3 ^ key1,
                              static_cast<uint32_t>(a));
  }
}

// The top 24 bits as a number strictly between 0 and 1: n / 2^24, and half a step where n is 0.
VLM_HD inline float unit_interval(uint32_t word) {
  const uint32_t halves = word >> 8 << 1 | (word < 256);
  return static_cast<float>(static_cast<int32_t>(halves)) * 0x1p-25f;
}

// log x for a positive, normal x. x = m 2^e with m in [sqrt 1/2, sqrt 2); log m = 2 atanh(s), s = (m - 1) / (m + 1),
// whose relative error stays small where m is near 1.
VLM_HD inline float natural_log(float x) {
  const int32_t bits = std::bit_cast<int32_t>(x), e = (bits - 0x3f3504f3) >> 23;
  const float m = std::bit_cast<float>(bits - e * (1 << 23)), s = (m - 1.f) / (m + 1.f), q = s * s;
  float p = q * (2.f / 9) + 2.f / 7;
  p = q * p + 2.f / 5;
  p = q * p + 2.f / 3;
  p = q * p * s + (s + s);
  const float n = static_cast<float>(e);
  return n * 0.693359375f + (n * -2.12194440e-4f + p);
}

// A standard Gumbel number: argmax of logit + gumbel draws from softmax(logit) (Gumbel 1954; Maddison et al. 2014, §2).
VLM_HD inline float gumbel(uint32_t word) { return -natural_log(-natural_log(unit_interval(word))); }

}  // namespace vlm
