#include "check.h"

#include <functional>

namespace vlm {

std::string shape(const TensorArg& t) {
  static constexpr const char* names[] = {"f32", "f16", "bf16", "i32", "u8", "i8"};
  std::ostringstream out(std::ios::out);
  out << names[static_cast<int>(t.dtype)] << " [";
  for (int i = 0; i < t.rank; i++) out << (i ? "," : "") << t.size[i];
  out << "]";
  return out.str();
}

void check_given(const TensorArg& t, const char* name) { CHECK(t, name, " is required"); }

void check_dtype(const TensorArg& t, const char* name, Dtype dtype) {
  const std::string wanted = shape({.dtype = dtype});
  CHECK(t.dtype == dtype, name, " must be ", wanted.substr(0, wanted.find(' ')), ", got ", shape(t));
}

void check_size(const TensorArg& t, const char* name, std::initializer_list<int64_t> size) {
  bool same = t.rank == static_cast<int>(size.size());
  int i = 0;
  for (int64_t n : size) {
    same = same && (n < 0 || t.size[i] == n);
    i++;
  }
  if (same) return;
  std::ostringstream want(std::ios::out);
  const char* comma = "";
  for (int64_t n : size) {
    want << comma << (n < 0 ? "*" : std::to_string(n));
    comma = ",";
  }
  CHECK(false, name, " must be [", want.str(), "], got ", shape(t));
}

void check_rows(const TensorArg& t, const char* name) {
  CHECK(t.rank > 0 && (t.stride[t.rank - 1] == 1 || t.size[t.rank - 1] <= 1), name,
        " must be contiguous in its last dimension");
}

void check_contiguous(const TensorArg& t, const char* name) {
  int64_t expected = 1;
  for (int i = t.rank - 1; i >= 0; i--) {
    CHECK(t.stride[i] == expected || t.size[i] <= 1, name, " must be contiguous");
    expected *= t.size[i];
  }
}

void check_plain(const TensorArg& t, const char* name, std::initializer_list<int64_t> size) {
  if (!t) return;
  check_dtype(t, name, Dtype::f32);
  check_size(t, name, size);
  check_contiguous(t, name);
}

void check_apart(const TensorArg& read, const char* read_name, const TensorArg& written, const char* written_name) {
  if (!read || !written || read.numel() == 0 || written.numel() == 0) return;
  const auto end = [](const TensorArg& t) { return t.as<std::byte>() + t.reach() * dtype_bytes(t.dtype); };
  const std::less<const std::byte*> before;
  CHECK(!before(read.as<std::byte>(), end(written)) || !before(written.as<std::byte>(), end(read)), written_name,
        " must not lie in the memory of ", read_name);
}

}  // namespace vlm
