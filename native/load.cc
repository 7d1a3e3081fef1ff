#include "load.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "file.h"
#include "half.h"

namespace vlm {
namespace {

constexpr int64_t kPiece = 8 << 20;  // bytes read between two looks at the token

void check_unchanged(const File& file, const std::string& path, const FileIdentity& expected) {
  const FileIdentity now = file.identity();
  const bool same = now.dev == expected.dev && now.ino == expected.ino && now.size == expected.size &&
                    now.mtime_ns == expected.mtime_ns;
#ifdef _WIN32
  const bool unchanged = now.size == expected.size || same;
#else
  const bool unchanged = same;
#endif
  if (!unchanged) throw Error("ERR_ST_CHANGED", text(path, ": the file changed while it was being read"));
}

float widen(const std::byte* p, Dtype dtype) {
  if (dtype == Dtype::f32) {
    float f;
    std::memcpy(&f, p, 4);
    return f;
  }
  uint16_t h;
  std::memcpy(&h, p, 2);
  return dtype == Dtype::bf16 ? bf16_to_f32(h) : f16_to_f32(h);
}

void convert(const std::byte* from, std::byte* to, int64_t count, const Segment& s) {
  const int64_t in = dtype_bytes(s.from), out = dtype_bytes(s.to);
  for (int64_t i = 0; i < count; i++) {
    float f = widen(from + i * in, s.from);
    if (s.transform == Transform::neg_exp) f = static_cast<float>(-std::exp(static_cast<double>(f)));
    if (s.to == Dtype::f32) {
      std::memcpy(to + i * out, &f, 4);
    } else {
      const uint16_t h = s.to == Dtype::bf16 ? f32_to_bf16(f) : f32_to_f16(f);
      std::memcpy(to + i * out, &h, 2);
    }
  }
}

}  // namespace

bool load_file(Backend& backend, const std::string& path, const FileIdentity& expected,
               const std::vector<Segment>& segments, Token& token, Failure& failure) {
  const File file(path);
  check_unchanged(file, path, expected);
  std::vector<std::byte> staged, converted;
  for (const Segment& s : segments) {
    const int64_t in = dtype_bytes(s.from), out = dtype_bytes(s.to), piece = kPiece / in;
    const bool as_stored = s.from == s.to && s.transform == Transform::none;
    std::byte* const memory = static_cast<std::byte*>(s.buffer->memory) + s.at;
    std::byte* const host = backend.host_address(memory);
    for (int64_t done = 0; done < s.count; done += piece) {
      if (token.cancelled) {
        failure.set("ERR_CANCELLED", "loading was cancelled");
        return false;
      }
      const int64_t n = std::min(piece, s.count - done);
      const bool direct = as_stored && host;
      if (!direct) staged.resize(kPiece);
      std::byte* to = direct ? host + done * out : staged.data();
      if (file.read(to, n * in, s.offset + done * in) != static_cast<size_t>(n * in))
        throw Error("ERR_ST_CHANGED", text(path, ": the file ended while it was being read"));
      if (!as_stored) {
        converted.resize(host ? 0 : piece * out);
        convert(staged.data(), host ? host + done * out : converted.data(), n, s);
      }
      if (!host && !backend.write(memory + done * out, as_stored ? staged.data() : converted.data(), n * out, failure))
        return false;
      token.progress += n * in;
    }
  }
  check_unchanged(file, path, expected);
  return true;
}

}  // namespace vlm
