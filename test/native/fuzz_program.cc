// A fuzzer (libFuzzer) of what stands between JavaScript and the kernels. An input is one of two things: words of a program as
// they are, or a recipe for one step whose arguments mostly fit together, so that kernels are reached. Every buffer is an
// allocation of its own and ends where its tensor does: AddressSanitizer sees any step beyond. A program is refused with an
// Error or it runs; nothing else may happen.
#include <cstdlib>

#include "recipes.h"

namespace vlm::test {
void fail(const char*, int, const std::string&) { std::abort(); }
}  // namespace vlm::test

namespace {

using namespace vlm;
using test::kMost;

// What one thread needs to run a kernel.
struct Alone final : Team {
  bool failed = false;
  void barrier() override { next = 0; }
  void fail(int, const char*, const char*) override { failed = true; }
};

// Memory that ends where it is said to.
struct Exact {
  explicit Exact(size_t bytes) : memory(static_cast<std::byte*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64))) {}
  ~Exact() { std::free(memory); }
  std::byte* memory;
};

void run(const test::Case& given) {
  try {
    const auto program = Program::decode(given.words.data(), given.words.size(), given.buffers);
    if (program->arena_bytes > kMost || program->steps.size() > 8) return;
    const Exact arena(static_cast<size_t>(program->arena_bytes) + 64);
    std::memset(arena.memory, 0, static_cast<size_t>(program->arena_bytes));
    program->bind(arena.memory);
    for (size_t s = 0; s < program->steps.size(); s++) {
      const Step& step = program->steps[s];
      if (program->traffic(static_cast<int>(s)) > kMost) return;
      const size_t scratch = kOps[step.op].prepare(step, 1);
      if (scratch > kMost * 16) return;
      const Exact desk(scratch);
      Alone team;
      Worker worker{team, 0, 1, static_cast<int>(s), desk.memory};
      kOps[step.op].kernel(given.isa)(step, worker);
      if (team.failed) return;
    }
  } catch (const Error& e) {
    if (e.code != "ERR_PROGRAM" && e.code != "ERR_OP_ARG") std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  test::Choices choices(bytes, size);
  if (choices.within<int>(0, 7) > 0) {
    run(test::make_case(choices));
    return 0;
  }
  const auto raw = choices.rest();
  test::Case given{std::vector<int32_t>(raw.size() / 4), {}, detect_isa()};
  if (!given.words.empty()) std::memcpy(given.words.data(), raw.data(), given.words.size() * 4);
  const int32_t count = given.words.size() > 3 && given.words[3] > 0 && given.words[3] < 16 ? given.words[3] : 0;
  for (int32_t i = 0; i < count; i++) {
    given.buffers.push_back(test::buffer_of(256));
    std::memset(given.buffers.back()->memory, 0, 256);
  }
  run(given);
  return 0;
}
