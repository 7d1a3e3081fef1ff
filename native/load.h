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

struct Segment {
  int64_t offset;  // in the file, bytes
  int64_t count;   // elements
  Dtype from, to;  // f32, f16 or bf16
  Transform transform;
  std::shared_ptr<Buffer> buffer;
  int64_t at;  // in the buffer, bytes
};

// Fails with ERR_ST_OPEN, ERR_ST_CHANGED or ERR_ST_READ; counts the bytes read in the token's progress.
bool load_file(Backend&, const std::string& path, const FileIdentity&, const std::vector<Segment>&, Token&, Failure&);

}  // namespace vlm
