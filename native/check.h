// Errors as values with a stable code, and the checks that throw them. Thrown only outside kernels.
#pragma once

#include <exception>
#include <sstream>
#include <string>

#include "step.h"

namespace vlm {

struct Error : std::exception {
  std::string code, message;
  int step = -1;  // the step of the program it happened in, where there is one
  Error(std::string c, std::string m, int s = -1) : code(std::move(c)), message(std::move(m)), step(s) {}
  const char* what() const noexcept override { return message.c_str(); }
};

template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out(std::ios::out);
  (out << ... << parts);
  return out.str();
}

// "f32 [1,729,1152]"
std::string shape(const TensorArg& t);

// CHECK(B.size[2] == n, "B must be [b,g,n,l] with n = ", n, ", got ", shape(B));
#define CHECK(condition, ...) \
  if (!(condition)) throw ::vlm::Error("ERR_OP_ARG", ::vlm::text(__VA_ARGS__))

// The checks that most ops need; `name` is the argument's name in ops.def.
void check_given(const TensorArg& t, const char* name);
void check_dtype(const TensorArg& t, const char* name, Dtype dtype);
// Every size as given; -1 accepts any.
void check_size(const TensorArg& t, const char* name, std::initializer_list<int64_t> size);
// The last dimension has stride 1 (or at most one element).
void check_rows(const TensorArg& t, const char* name);
// Row-major without gaps.
void check_contiguous(const TensorArg& t, const char* name);
// f32, row-major without gaps, sizes as given; an absent optional argument passes.
void check_plain(const TensorArg& t, const char* name, std::initializer_list<int64_t> size);
// What an op reads twice, trusting it not to change, is not where it writes. Absent arguments pass.
void check_apart(const TensorArg& read, const char* read_name, const TensorArg& written, const char* written_name);

}  // namespace vlm
