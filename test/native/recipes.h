// What fuzz_program.cc and ops.cc run.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "kit.h"

namespace vlm::test {

// Numbers out of bytes: those at the end decide, those at the front are handed out as they are. When none is left, every
// number is the least.
class Choices {
 public:
  Choices(const uint8_t* bytes, size_t size) : front_(bytes), left_(size) {}

  template <class T>
  T within(T least, T most) {
    const auto range = static_cast<uint64_t>(most) - static_cast<uint64_t>(least);
    uint64_t n = 0;
    for (int bits = 0; bits < static_cast<int>(sizeof(T)) * 8 && range >> bits > 0 && left_ > 0; bits += 8)
      n = n << 8 | front_[--left_];
    if (range != std::numeric_limits<uint64_t>::max()) n %= range + 1;
    return static_cast<T>(static_cast<uint64_t>(least) + n);
  }
  template <class T>
  T any() {
    return within<T>(std::numeric_limits<T>::min(), std::numeric_limits<T>::max());
  }
  bool flag() { return within<uint8_t>(0, 1) != 0; }
  // At most `count`.
  std::vector<uint8_t> bytes(size_t count) {
    count = count < left_ ? count : left_;
    std::vector<uint8_t> taken(front_, front_ + count);
    front_ += count;
    left_ -= count;
    return taken;
  }
  std::vector<uint8_t> rest() { return bytes(left_); }

 private:
  const uint8_t* front_;
  size_t left_;
};

constexpr int64_t kMost = 1 << 16;  // elements of a tensor, bytes of a step

// Every buffer is an allocation of its own that ends where its tensor does.
struct Case {
  std::vector<int32_t> words;
  std::vector<std::shared_ptr<Buffer>> buffers;
  Isa isa;
};
// `longest`: of texts and lists of rows.
Case make_case(Choices&, int64_t longest = 70);
std::shared_ptr<Buffer> buffer_of(size_t bytes);

}  // namespace vlm::test
