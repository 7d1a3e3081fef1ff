// A fuzzer (libFuzzer) of the words of programs, without the kernels of fuzz_program.cc and many times faster: sizes may be
// anything, because the memory is not there. What decode() accepts is held to its promises as a second reader of the words
// sees them, and every op has to prepare the step or refuse it without touching the memory.
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>

#include "kit.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* bytes, size_t size, size_t most);

namespace vlm::test {
void fail(const char*, int, const std::string&) { std::abort(); }
}  // namespace vlm::test

namespace {

using namespace vlm;
using Wide = __int128;

constexpr int64_t kBufferBytes = int64_t{1} << 40;

// An address where nothing is.
std::byte* nowhere(int i) { return reinterpret_cast<std::byte*>(static_cast<uintptr_t>(i + 1) << 52); }

int count(const std::string& names) {
  int n = names.empty() ? 0 : 1;
  for (const char c : names) n += c == ' ';
  return n;
}

void within_storage(const Program& p) {
  for (const auto& t : p.tensors) {
    Wide elements = 1, last = 0;
    for (int i = 0; i < t.arg.rank; i++) {
      elements *= t.arg.size[i];
      last += static_cast<Wide>(std::max<int64_t>(t.arg.size[i], 1) - 1) * t.arg.stride[i];
    }
    const Wide end = elements ? t.offset + (last + 1) * dtype_bytes(t.arg.dtype) : t.offset;
    EXPECT(t.offset >= 0 && end <= (t.storage < 0 ? kBufferBytes : p.value_bytes[t.storage]), "");
    EXPECT(elements == t.arg.numel(), "");
  }
}

// Nothing is read that was not written, and values that live at the same time lie apart.
void in_order_and_apart(const Program& p, const int32_t* step_words) {
  const int values = static_cast<int>(p.value_bytes.size()), end = static_cast<int>(p.steps.size());
  std::vector<int> first(values, std::numeric_limits<int>::max()), last(values, -2);
  const auto touch = [&](int32_t tensor, int step) {
    const int32_t v = p.tensors[tensor].storage;
    if (v < 0) return;
    first[v] = std::min(first[v], step), last[v] = std::max(last[v], step);
  };
  const auto read = [&](int32_t tensor, int step) {
    const int32_t v = p.tensors[tensor].storage;
    EXPECT(v < 0 || first[v] < step, "");
  };
  for (const int32_t id : p.inputs) touch(id, -1);
  for (int s = 0; s < end; s++) {
    const Op& op = kOps[*step_words++];
    const int in = count(op.inputs), all = in + count(op.outputs);
    for (int i = 0; i < in; i++)
      if (step_words[i] >= 0) read(step_words[i], s);
    for (int i = 0; i < all; i++)
      if (step_words[i] >= 0) touch(step_words[i], s);
    step_words += all + count(op.attrs);
  }
  for (const int32_t id : p.outputs) read(id, end), touch(id, end);

  for (int a = 0; a < values; a++) {
    if (last[a] < first[a]) continue;
    EXPECT(p.value_offset[a] >= 0 && p.value_offset[a] % 64 == 0, "");
    EXPECT(p.value_offset[a] + p.value_bytes[a] <= p.arena_bytes, "");
    for (int b = 0; b < a; b++) {
      if (last[b] < first[b] || last[a] < first[b] || last[b] < first[a]) continue;
      EXPECT(!p.value_bytes[a] || !p.value_bytes[b] || p.value_offset[a] + p.value_bytes[a] <= p.value_offset[b] ||
                 p.value_offset[b] + p.value_bytes[b] <= p.value_offset[a],
             "");
    }
  }
}

void prepares_or_refuses(const Step& step) {
  try {
    check_step(step);
    for (const int threads : {1, 64}) kOps[step.op].prepare(step, threads);
  } catch (const Error& e) {
    EXPECT(e.code == "ERR_OP_ARG", "");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  std::vector<int32_t> words(size / 4);
  if (!words.empty()) std::memcpy(words.data(), bytes, words.size() * 4);
  const int given = words.size() > 3 && words[3] > 0 && words[3] < 64 ? words[3] : 0;
  std::vector<std::shared_ptr<Buffer>> buffers;
  for (int i = 0; i < given; i++) buffers.emplace_back(new Buffer{nowhere(i + 1), static_cast<size_t>(kBufferBytes)});
  std::unique_ptr<Program> program;
  try {
    program = Program::decode(words.data(), words.size(), std::move(buffers));
  } catch (const Error& e) {
    EXPECT(e.code == "ERR_PROGRAM", "");
    return 0;
  }
  const int32_t* at = words.data() + 8 + 2 * program->value_bytes.size();
  for (size_t i = 0; i < program->tensors.size(); i++) at += 5 + 4 * program->tensors[i].arg.rank;
  within_storage(*program);
  in_order_and_apart(*program, at + program->inputs.size() + program->outputs.size());
  program->bind(nowhere(0));
  for (const Step& step : program->steps) prepares_or_refuses(step);
  return 0;
}

// Half of the time a whole word changes, so that an input stays a program more often.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* bytes, size_t size, size_t most, unsigned seed) {
  std::minstd_rand next(seed);
  if (size < 4 || next() % 2) return LLVMFuzzerMutate(bytes, size, most);
  const auto place = [&] { return bytes + next() % (size / 4) * 4; };
  uint8_t* word = place();
  int32_t value;
  std::memcpy(&value, word, 4);
  constexpr int32_t kNumbers[] = {-1, 0, 1, 2, 3, 4, 15, 16, 17, 64, 128, 1 << 12, 1 << 20, INT32_MAX, INT32_MIN};
  switch (next() % 4) {
    case 0:
      value = kNumbers[next() % std::size(kNumbers)];
      break;
    case 1:
      std::memcpy(&value, place(), 4);
      break;
    case 2:
      value = static_cast<int32_t>(next() % 16);
      break;
    default:
      value = static_cast<int32_t>(static_cast<uint32_t>(value) + next() % 3 - 1);
  }
  std::memcpy(word, &value, 4);
  return size;
}
