// Writing text without a word from JavaScript between its tokens: a program run again and again, each time with what it
// drew the last time.
#pragma once

#include "device.h"

namespace vlm {

struct Chain {
  int64_t steps = 1;             // at most
  int32_t token = 0;             // the output [n] i32 that becomes ...
  int32_t ids = 0;               // ... this input [n] i32
  int32_t position = 0;          // the input [n] i32 whose numbers grow by one from step to step
  std::vector<int32_t> stops{};  // the step that draws one of them is the last
};

// Throws ERR_ARG_SHAPE when the program has no such inputs and outputs.
void check_chain(const Chain&, const Program&);

// Runs the steps, each followed by a call of `each`; `inputs` and `outputs` hold the bytes of the program's. The present step
// is the last when the token is halted or another job waits; when it is cancelled, the chain fails as a single run would.
bool run_chain(Executable&, const Chain&, std::vector<std::vector<std::byte>>& inputs,
               std::vector<std::vector<std::byte>>& outputs, const Token&, const std::function<void()>& each, Failure&);

}  // namespace vlm
