// The bytes that a tensor lies in, gaps included.
#pragma once

#include <cstddef>

#include "step.h"

namespace vlm::cuda {

struct Extent {
  const std::byte *begin, *end;
};

inline Extent extent(const TensorArg& t) {
  const auto* begin = t.as<std::byte>();
  return {begin, begin + (t ? t.reach() * dtype_bytes(t.dtype) : 0)};
}
inline bool meet(const Extent& a, const Extent& b) { return a.begin < b.end && b.begin < a.end; }
inline bool covers(const Extent& whole, const Extent& part) {
  return whole.begin <= part.begin && part.end <= whole.end;
}

}  // namespace vlm::cuda
