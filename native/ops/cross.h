// What cross_scan and cross_merge share: a grid [b,c,h,w] beside its sequences [b,k,c,h·w].
#pragma once

#include "ops/at.h"
#include "ops/directions.h"
#include "worker.h"

namespace vlm {

// `count` patches in a straight line and their places in a sequence. Each is `n` neighbours in memory: channels, or 1.
struct Run {
  int direction;
  float *patch, *element;
  int64_t patch_step, element_step, count, n;
};

// Calls visit(run) until every direction has visited every patch, directions in their order.
template <class Visit>
void visit_runs(const TensorArg& grid, const TensorArg& sequences, Worker& w, Visit&& visit) {
  constexpr int64_t kStrip = 64;
  const int64_t channels = grid.size[1], strips = (channels + kStrip - 1) / kStrip;
  const bool neighbours = grid.stride[1] == 1 && sequences.stride[2] == 1;
  w.each(grid.size[0] * strips, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t b = i / strips, first = i % strips * kStrip;
      const int64_t count = channels - first < kStrip ? channels - first : kStrip, n = neighbours ? count : 1;
      for (int64_t c = first; c < first + count; c += n)
        for (int k = 0; k < sequences.size[1]; k++) {
          const Walk order = walk(k, grid.size[2], grid.size[3], grid.stride[2], grid.stride[3]);
          for (int64_t turn = 0; turn < order.turns; turn++)
            visit(Run{k, at(grid, b, c) + order.start + turn * order.turn, at(sequences, b, k, c, turn * order.run),
                      order.step, sequences.stride[3], order.run, n});
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
