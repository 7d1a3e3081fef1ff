// Reads tensors from files into device memory.
#pragma once

#include <string>
#include <vector>

#include "device.h"

namespace vlm {

// The file as it was when its header was read: all must be the same when the data are.
struct FileIdentity {
  int64_t dev = 0, ino = 0, size = 0, mtime_ns = 0;
};

enum class Transform : int32_t {
  none,
  neg_exp,  // -e^x: what a Mamba block stores as A_log is kept as A
};

// What numbers from a file have to be, where not every number will do.
enum class Rule : int32_t {
  any,
  weights,  // int8 without −128
  scales,   // finite, not below 0
  grids,    // pairs of step and offset that stay within int8
};

struct Segment {
  int64_t offset;  // in the file, bytes
  int64_t count;   // elements
  Dtype from, to;  // f32, f16 or bf16; or as stored; or to i8 and u8, which makes a matrix with scales: see quantize.h
  Transform transform;
  std::shared_ptr<Buffer> buffer;
  int64_t at;  // in the buffer, bytes
  Rule rule = Rule::any;
  // Of a matrix that gets scales: the length of its rows, and where the scales and grids go in the buffer.
  int64_t columns = 0, scale_at = 0, grid_at = 0;
  // A matrix of i8 or u8 that goes into lines of sixteen rows (see step.h), of which the segment's first is `row`; `at` is
  // the whole matrix's place, and `columns` the length of its rows here too.
  bool lines = false;
  int64_t row = 0;

  bool quantizes() const { return from != to && (to == Dtype::i8 || to == Dtype::u8); }
  // Bytes of a row of the matrix as a file has it, and as it is spread over lines.
  int64_t row_bytes() const { return to == Dtype::i8 ? columns : quant_blocks(columns) * (kQuantBlock / 2); }
  int64_t stripe_bytes() const { return quant_lines(to == Dtype::u8, columns) * kLineBytes; }
};

// Reads and converts on up to `threads` threads; counts the bytes in the token's progress. Throws Error: ERR_ST_OPEN,
// ERR_ST_CHANGED, ERR_ST_READ, ERR_CANCELLED or, with the number of the segment as its step, ERR_QUANT_VALUES.
void load_file(Backend&, const std::string& path, const FileIdentity&, const std::vector<Segment>&, int threads,
               Token&);

}  // namespace vlm
