// load(), whose segments say which bytes of a file go where.
#include "node_load.h"

#include <cstring>

#include "load.h"

namespace vlm {
namespace {

constexpr int kSegmentNumbers = 13;

// A segment of load(): its numbers are in the order of load.h.
Segment segment(const CallbackInfo& info, const double* f, const std::vector<std::shared_ptr<Buffer>>& buffers) {
  constexpr double kDtypeNumbers = kDtypes - 1;
  for (int i = 0; i < kSegmentNumbers; i++)
    if (!(f[i] >= 0 && f[i] <= 9007199254740991.0)) bad(info, 3, "whole numbers");
  if (f[2] > kDtypeNumbers || f[3] > kDtypeNumbers || f[4] > 1 || f[5] >= buffers.size() || f[7] > 3)
    bad(info, 3, "segments that exist");
  Segment s{int64_t(f[0]),    int64_t(f[1]),        Dtype(int(f[2])),
            Dtype(int(f[3])), Transform(int(f[4])), buffers[static_cast<size_t>(f[5])],
            int64_t(f[6]),    Rule(int(f[7])),      int64_t(f[8]),
            int64_t(f[9]),    int64_t(f[10]),       f[11] != 0,
            int64_t(f[12])};
  if (s.count > int64_t{1} << 44) bad(info, 3, "segments of at most 2^44 elements");
  const auto is_float = [](Dtype t) { return t == Dtype::f32 || t == Dtype::f16 || t == Dtype::bf16; };
  const bool as_stored = s.from == s.to && s.from != Dtype::i32 && (is_float(s.from) || s.transform == Transform::none);
  const Dtype ruled_dtype = s.rule == Rule::scales ? Dtype::f32 : Dtype::i8;
  const bool ruled = s.rule == Rule::any || (as_stored && s.transform == Transform::none && s.to == ruled_dtype &&
                                             s.at % dtype_bytes(s.to) == 0);
  if (!ruled) bad(info, 3, "rules for what is read as it is stored");
  const bool matrix = s.to == Dtype::i8 || s.to == Dtype::u8, quantizes = s.quantizes() && is_float(s.from);
  if (s.lines && !(matrix && (as_stored || quantizes) && s.at % kLineBytes == 0 && s.row <= int64_t{1} << 44))
    bad(info, 3, "lines of a matrix of 8 or 4 bits");
  const int64_t unit = quantizes ? s.columns : s.lines ? s.row_bytes() : 1;
  if (s.columns > int64_t{1} << 44 || unit == 0 || s.count % unit || s.scale_at % 4)
    bad(info, 3, "whole rows of a matrix with scales");
  const int64_t n = s.count / unit, blocks = quant_blocks(s.columns);
  const auto check_matrix = [&](int64_t bytes) {
    if (s.lines && n > 0) {
      const int64_t size = static_cast<int64_t>(s.buffer->bytes), stripes = (s.row + n - 1) / kLineRows + 1;
      bytes = stripes <= size / s.stripe_bytes() ? stripes * s.stripe_bytes() : size + 1;
    }
    check_range(info, *s.buffer, s.at, bytes);
  };
  if (quantizes && s.transform == Transform::none) {
    check_matrix(n * s.row_bytes());
    check_range(info, *s.buffer, s.scale_at, n * blocks * 4);
    if (s.to == Dtype::u8) check_range(info, *s.buffer, s.grid_at, n * blocks * (kQuantBlock / kQuantGroup) * 2);
  } else {
    if (!as_stored && !(is_float(s.from) && is_float(s.to))) bad(info, 3, "dtypes that can be read so");
    check_matrix(s.count * dtype_bytes(s.to));
  }
  return s;
}

}  // namespace

// load(device, path, identity, segments, buffers, token, threads) → promise
// identity: BigInt64Array [dev, ino, size, mtimeNs]
// segments: Float64Array, for each [offset, count, from, to, transform, buffer (index), at, rule, columns, scale_at, grid_at, lines, row]
Napi::Value Load(const CallbackInfo& info) {
  const auto node = pointer<NodeDevice>(info, 0);
  if (!info[1].IsString()) bad(info, 1, "a path");
  const std::string path = info[1].As<Napi::String>();
  if (path.find('\0') != std::string::npos) bad(info, 1, "a path without a NUL: what follows it would be cut off");
  const auto buffers = buffer_list(info, 4);
  const Bytes id = bytes(info, 2, info[2]), words = bytes(info, 3, info[3]);
  if (id.size != sizeof(FileIdentity)) bad(info, 2, "four 64-bit numbers");
  if (words.size % (kSegmentNumbers * sizeof(double))) bad(info, 3, "thirteen numbers for each segment");
  FileIdentity identity;
  std::memcpy(&identity, id.data, sizeof identity);
  std::vector<Segment> segments;
  for (size_t at = 0; at < words.size; at += kSegmentNumbers * sizeof(double)) {
    double numbers[kSegmentNumbers];
    std::memcpy(numbers, words.data + at, sizeof numbers);
    segments.push_back(segment(info, numbers, buffers));
  }
  const int64_t threads = integer(info, 6);
  if (threads < 1 || threads > 1024) bad(info, 6, "1 to 1024 threads");
  return node->post(
      info.Env(), token_or_null(info, 5),
      [path, identity, segments = std::move(segments), threads, device = node->device()](Job& job) {
        load_file(device->backend(), path, identity, segments, static_cast<int>(threads), *job.token);
        return true;
      },
      undefined);
}
}  // namespace vlm
