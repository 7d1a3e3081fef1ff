#include "chain.h"

#include <algorithm>
#include <cstring>

namespace vlm {
namespace {

std::span<int32_t> words(std::vector<std::byte>& bytes) {
  return {reinterpret_cast<int32_t*>(bytes.data()), bytes.size() / sizeof(int32_t)};
}

}  // namespace

void check_chain(const Chain& chain, const Program& program) {
  const auto port = [&](const std::vector<int32_t>& ports, int32_t i) -> const TensorArg* {
    if (i < 0 || i >= static_cast<int64_t>(ports.size())) return nullptr;
    const TensorArg& t = program.tensors[ports[i]].arg;
    return t.dtype == Dtype::i32 ? &t : nullptr;
  };
  const TensorArg* const token = port(program.outputs, chain.token);
  const auto fits = [&](const TensorArg* input) { return input && token && input->numel() == token->numel(); };
  if (chain.steps < 1 || !fits(port(program.inputs, chain.ids)) || !fits(port(program.inputs, chain.position)))
    throw Error("ERR_ARG_SHAPE",
                "a chain takes at least one step, and ids, position and token of the same number of i32");
}

bool run_chain(Executable& executable, const Chain& chain, std::vector<std::vector<std::byte>>& inputs,
               std::vector<std::vector<std::byte>>& outputs, const Token& token, const std::function<void()>& each,
               Failure& failure) {
  std::vector<const void*> from;
  std::vector<void*> to;
  for (auto& input : inputs) from.push_back(input.data());
  for (auto& output : outputs) to.push_back(output.data());
  const auto drawn = words(outputs[chain.token]), ids = words(inputs[chain.ids]),
             position = words(inputs[chain.position]);
  const auto stops = [&](int32_t id) { return std::ranges::find(chain.stops, id) != chain.stops.end(); };
  for (int64_t step = 1;; step++) {
    if (!executable.run(from, to, token.cancelled, nullptr, failure)) return false;
    each();
    if (step == chain.steps || token.halted || executable.awaited() || std::ranges::any_of(drawn, stops)) return true;
    std::ranges::copy(drawn, ids.begin());
    for (int32_t& p : position) p = static_cast<int32_t>(static_cast<uint32_t>(p) + 1);
  }
}

}  // namespace vlm
