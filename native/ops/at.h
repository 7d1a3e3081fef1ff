// Addresses of elements of strided f32 tensors, and the check for tensors with any strides.
#pragma once

#include "check.h"

namespace vlm {

// The element at the given indices; indices that are left out are 0.
template <class... Index>
inline float* at(const TensorArg& t, Index... index) {
  int64_t offset = 0;
  int i = 0;
  ((offset += index * t.stride[i++]), ...);
  return t.f32() + offset;
}

inline void check_floats(const TensorArg& t, const char* name, std::initializer_list<int64_t> size) {
  check_given(t, name);
  check_dtype(t, name, Dtype::f32);
  check_size(t, name, size);
}

// A tensor from an element on, its last dimension as rows and the one in front of that as lanes.
struct Rows {
  float* data = nullptr;  // null: an optional argument that was not given
  int64_t lane = 0, row = 0;
};

template <class... Index>
inline Rows rows_at(const TensorArg& t, Index... index) {
  if (!t) return {};
  return {at(t, index...), t.rank > 1 ? t.stride[t.rank - 2] : 0, t.stride[t.rank - 1]};
}

// Weights of the directions of a scan have `rank` dimensions when all share them, and one more in front, [k,…], when
// each has its own. What direction k uses:
inline TensorArg of_direction(TensorArg t, int rank, int64_t k) {
  if (t.rank <= rank) return t;
  if (t) t.data = at(t, k);
  t.rank = rank;
  for (int i = 0; i < rank; i++) t.size[i] = t.size[i + 1], t.stride[i] = t.stride[i + 1];
  return t;
}

inline void check_directions(const TensorArg& t, const char* name, int64_t directions,
                             std::initializer_list<int64_t> size) {
  check_given(t, name);
  const int rank = static_cast<int>(size.size());
  CHECK(t.rank == rank || (t.rank == rank + 1 && t.size[0] == directions), name, " must have ", rank,
        " dimensions, or one more in front of size ", directions, " for each direction, got ", shape(t));
  check_floats(of_direction(t, rank, 0), name, size);
}

}  // namespace vlm
