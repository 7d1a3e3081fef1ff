// The least that a native test needs: TEST registers, EXPECT reports, main.cc runs.
#pragma once

#include <condition_variable>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "cpu.h"
#include "device.h"
#include "ops.h"

namespace vlm::test {

struct Test {
  const char* name;
  void (*run)();
};
std::vector<Test>& tests();
void fail(const char* file, int line, const std::string& what);

struct Register {
  Register(const char* name, void (*run)()) { tests().push_back({name, run}); }
};
#define TEST(name)                                                 \
  static void name();                                              \
  static const ::vlm::test::Register register_##name(#name, name); \
  static void name()
#define EXPECT(condition, ...) \
  if (!(condition)) ::vlm::test::fail(__FILE__, __LINE__, ::vlm::text(#condition, "  ", __VA_ARGS__))

// Words of a program as lib/program.ts writes them.
class Words {
 public:
  struct Tensor {
    int32_t storage, dtype;
    std::vector<int64_t> size;
    std::vector<int64_t> stride = {};  // row-major when left out
    int64_t offset = 0;
  };
  struct Step {
    int32_t op;
    std::vector<int32_t> tensors, attrs;
  };

  std::vector<int64_t> values;
  int32_t buffers = 0;
  std::vector<Tensor> tensors;
  std::vector<int32_t> inputs, outputs;
  std::vector<Step> steps;

  std::vector<int32_t> encode() const;
};

int32_t op_id(const char* name);
inline int32_t bits(float f) {
  int32_t i;
  std::memcpy(&i, &f, sizeof i);
  return i;
}

// A device whose jobs are waited for, one after another, and what came of the last one.
class Caller {
 public:
  explicit Caller(int threads);

  std::shared_ptr<Device> device;
  Failure call(std::function<bool(Job&)> work, std::shared_ptr<Token> token = nullptr);

 private:
  // Shared with the device's thread, which may outlive the caller by a moment.
  struct Inbox {
    std::mutex lock;
    std::condition_variable came;
    JobQueue done;
  };
  std::shared_ptr<Inbox> inbox_ = std::make_shared<Inbox>();
};

}  // namespace vlm::test
