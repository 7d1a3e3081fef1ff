// Every op in every instruction set that this machine has, alone and on several threads: the same bytes, whatever the
// arguments and whatever was in the scratch memory before.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "pool.h"
#include "recipes.h"

namespace vlm::test {
namespace {

constexpr int kRuns = 30;  // of each op in each instruction set, at least

struct Outcome {
  std::string code;  // empty: it ran
  std::vector<std::vector<char>> memory;
};

std::vector<std::vector<char>> contents(const Case& given) {
  std::vector<std::vector<char>> all;
  for (const auto& buffer : given.buffers) {
    const char* bytes = static_cast<const char*>(buffer->memory);
    all.emplace_back(bytes, bytes + buffer->bytes);
  }
  return all;
}

// Runs a step and puts the memory back as it was.
Outcome run(const Case& given, const Step& step, Isa isa, Pool& pool, int dirt) {
  const auto before = contents(given);
  const size_t bytes = (kOps[step.op].prepare(step, pool.size()) + 63) / 64 * 64;
  const std::unique_ptr<void, decltype(&std::free)> scratch(std::aligned_alloc(64, bytes ? bytes : 64), std::free);
  if (bytes) std::memset(scratch.get(), dirt, bytes);
  const std::atomic<bool> cancel{false};
  Failure failure;
  pool.run({{step, kOps[step.op].kernel(isa), false}}, static_cast<std::byte*>(scratch.get()), cancel, nullptr,
           failure);
  Outcome outcome{failure.code, contents(given)};
  for (size_t i = 0; i < before.size(); i++)
    if (!before[i].empty()) std::memcpy(given.buffers[i]->memory, before[i].data(), before[i].size());
  return outcome;
}

std::vector<Isa> instruction_sets() {
  const Isa best = detect_isa();
  const auto lower = lower_isas(best);
  std::vector<Isa> all(lower.begin(), lower.end());
  all.push_back(best);
  return all;
}

TEST(every_op_gives_the_same_bytes_on_any_number_of_threads) {
  Pool one(1), some(3);
  const auto isas = instruction_sets();
  std::minstd_rand next(1);
  std::vector<int> runs(kOpCount);
  const auto enough = [&] { return *std::min_element(runs.begin(), runs.end()) >= kRuns; };
  for (int i = 0; i < 100'000 && !enough(); i++) {
    std::array<uint8_t, 300> bytes;
    for (auto& byte : bytes) byte = static_cast<uint8_t>(next() >> 8);
    Choices choices(bytes.data(), bytes.size());
    const Case given = make_case(choices, 250);
    try {
      const auto program = Program::decode(given.words.data(), given.words.size(), given.buffers);
      program->bind(nullptr);
      const Step& step = program->steps.at(0);
      if (runs[step.op] >= 2 * kRuns) continue;
      bool ran = true;
      for (const Isa isa : isas) {
        const Outcome alone = run(given, step, isa, one, 0x00), shared = run(given, step, isa, some, 0xff);
        EXPECT(alone.code == shared.code, kOps[step.op].name, " in ", isa_name(isa), ", case ", i, ": ", alone.code,
               " alone, ", shared.code, " on ", some.size(), " threads");
        EXPECT(!alone.code.empty() || alone.memory == shared.memory, kOps[step.op].name, " in ", isa_name(isa),
               ", case ", i, ": other bytes on ", some.size(), " threads");
        ran = ran && alone.code.empty();
      }
      runs[step.op] += ran;
    } catch (const Error& e) {
      EXPECT(e.code == "ERR_PROGRAM" || e.code == "ERR_OP_ARG", "case ", i, ": ", e.code);
    }
  }
  for (int op = 0; op < kOpCount; op++) EXPECT(runs[op] >= kRuns, kOps[op].name, " ran only ", runs[op], " times");
  std::printf("     %zu instruction sets, up to %s\n", isas.size(), isa_name(isas.back()));
}

}  // namespace
}  // namespace vlm::test
