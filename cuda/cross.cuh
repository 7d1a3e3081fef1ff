// What cross_scan and cross_merge share: a grid [b,c,h,w] beside its sequences [b,k,c,h·w].
#pragma once

#include "images.cuh"

namespace vlm::cuda {

struct Cross {
  TensorArg grid;       // [b,c,h,w]
  TensorArg sequences;  // [b,k,c,h·w]

  __device__ int height() const { return static_cast<int>(grid.size[2]); }
  __device__ int width() const { return static_cast<int>(grid.size[3]); }
  __device__ int patches() const { return height() * width(); }
  // Where direction k has the patch (ops/directions.h).
  __device__ int place(int k, int row, int column) const {
    const int i = k & 2 ? column * height() + row : row * width() + column;
    return k & 1 ? patches() - 1 - i : i;
  }
};

// One element, or pack of neighbouring channels, of the grid for each thread: where it is, and where its sequences'
// elements are. Neighbouring threads are neighbours along the patches (`along`) or the channels.
struct Cell {
  uint32_t b, c;
  int row, column;
  bool mine;

  __device__ Cell(const Cross& p, int pack, bool along) {
    const uint32_t i = blockIdx.x * kThreads + threadIdx.x, patches = p.patches(), packs = p.grid.size[1] / pack;
    const uint32_t patch = along ? i % patches : i / packs;
    b = blockIdx.y;
    c = (along ? i / patches : i % packs) * pack;
    row = patch / p.width(), column = patch % p.width();
    mine = i < packs * patches;
  }
  __device__ int64_t in_grid(const Cross& p) const { return offset(p.grid, b, c, row, column); }
  __device__ int64_t in_sequence(const Cross& p, int k) const {
    return offset(p.sequences, b, k, c, p.place(k, row, column));
  }
};
inline dim3 cells(const Cross& p, int64_t pack) {
  return dim3(static_cast<uint32_t>(ceil_div(p.grid.size[1] / pack * p.sequences.size[3], kThreads)), p.grid.size[0]);
}
inline void check_cells(const Cross& p, const char* name) {
  expect_float(p.grid, name);
  expect_float(p.sequences, name);
  CHECK(p.grid.size[0] <= 65535 && p.grid.size[1] * p.sequences.size[3] <= INT32_MAX, name, " is too large, got ",
        shape(p.grid));
}

// Images of `channels` channels lie in shared memory, in the grid's order and in each direction's. Calls visit(i, place)
// for every patch of every image: i in the grid's order, place[k] in direction k's.
template <class Visit>
__device__ void each_patch(const Cross& p, int channels, Visit&& visit) {
  const int patches = p.patches();
  for (int i = threadIdx.x; i < patches; i += kThreads) {
    const int row = i / p.width(), column = i % p.width();
    int place[4];
#pragma unroll
    for (int k = 0; k < 4; k++) place[k] = p.place(k, row, column);
    int at = i;
#pragma unroll 4
    for (int c = 0; c < channels; c++) {
      visit(at, place);
      at += patches;
#pragma unroll
      for (int k = 0; k < 4; k++) place[k] += patches;
    }
  }
}

// Channels of an image that a block takes, 0 where images aren't contiguous.
inline int group_of(const Cross& p, const Card& card) {
  const int64_t patches = p.sequences.size[3];
  if (p.grid.dtype != p.sequences.dtype) return 0;
  if (!images_packed(p.grid, 1, patches) || !images_packed(p.sequences, 2, patches)) return 0;
  return group_of(p.grid.size[1], p.grid.size[0], patches, dtype_bytes(p.grid.dtype), p.sequences.size[1], card);
}

}  // namespace vlm::cuda
