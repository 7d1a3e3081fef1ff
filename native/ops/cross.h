// What cross_scan and cross_merge share: a grid [b,c,h,w] beside its sequences [b,k,c,h·w].
#pragma once

#include "ops/at.h"
#include "ops/directions.h"
#include "worker.h"

namespace vlm {

// Calls visit(k, patch, element, n) for every direction in its order, and for every patch in the direction's order: `n`
// neighbours in memory of the grid belong to `n` neighbours of a sequence. These are channels where both tensors have
// channels as neighbours, and single numbers otherwise.
template <class Visit>
void visit_patches(const TensorArg& grid, const TensorArg& sequences, Worker& w, Visit&& visit) {
  constexpr int64_t kStrip = 64;
  const int64_t channels = grid.size[1], strips = (channels + kStrip - 1) / kStrip;
  const bool rows = grid.stride[1] == 1 && sequences.stride[2] == 1;
  w.each(grid.size[0] * strips, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t b = i / strips, first = i % strips * kStrip;
      const int64_t count = channels - first < kStrip ? channels - first : kStrip, n = rows ? count : 1;
      for (int64_t c = first; c < first + count; c += n)
        for (int k = 0; k < sequences.size[1]; k++) {
          const Walk order = walk(k, grid.size[2], grid.size[3], grid.stride[2], grid.stride[3]);
          float *patches = at(grid, b, c), *element = at(sequences, b, k, c);
          for (int64_t turn = 0, corner = order.start; turn < order.turns; turn++, corner += order.turn)
            for (int64_t j = 0, p = corner; j < order.run; j++, p += order.step, element += sequences.stride[3])
              visit(k, patches + p, element, n);
        }
    }
  });
}

inline void check_cross(Scan scan, const TensorArg& grid, const char* grid_name, const TensorArg& sequences,
                        const char* sequences_name) {
  check_floats(grid, grid_name, {-1, -1, -1, -1});
  check_floats(sequences, sequences_name, {grid.size[0], scan_directions(scan), grid.size[1], -1});
  check_grid(grid.size[2], grid.size[3], sequences.size[3]);
}

}  // namespace vlm
