// Tensors read as rows: [rows…, d] with any strides in front of a contiguous last dimension.
#pragma once

#include <cmath>

#include "check.h"

namespace vlm {

inline int64_t row_count(const TensorArg& t) {
  int64_t n = 1;
  for (int i = 0; i < t.rank - 1; i++) n *= t.size[i];
  return n;
}

template <class T = float>
inline T* row(const TensorArg& t, int64_t i) {
  int64_t offset = 0;
  for (int k = t.rank - 2; k > 0; k--) {
    offset += i % t.size[k] * t.stride[k];
    i /= t.size[k];
  }
  if (t.rank > 1) offset += i * t.stride[0];
  return t.as<T>() + offset;
}

// f32, the sizes of `like` in front of a contiguous last dimension of `width`.
inline void check_row_tensor(const TensorArg& t, const char* name, const TensorArg& like, int64_t width) {
  check_given(t, name);
  check_dtype(t, name, Dtype::f32);
  check_rows(t, name);
  bool same = t.rank == like.rank && t.rank > 0 && t.size[t.rank - 1] == width;
  for (int i = 0; same && i + 1 < t.rank; i++) same = t.size[i] == like.size[i];
  CHECK(same, name, " must have the rows of ", shape(like), " and width ", width, ", got ", shape(t));
}

}  // namespace vlm
