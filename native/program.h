// A program as it arrives from TypeScript: one list of words, checked here once and for all. After decode() every address
// that a tensor's sizes and strides can reach is known to lie inside its storage.
#pragma once

#include <memory>
#include <vector>

#include "check.h"

namespace vlm {

// Memory on a device that outlives programs: weights, recurrent state. Freed by its last owner.
struct Buffer {
  void* memory = nullptr;
  size_t bytes = 0;
};

// Words, all int32; "wide" numbers take two, low word first:
//   magic version values buffers tensors inputs outputs steps
//   per value:  bytes (wide)
//   per tensor: storage (value v: v; buffer b: -1 - b), dtype, rank, offset in elements (wide), per dimension size, stride (wide)
//   per input, per output: tensor
//   per step: op, its inputs (tensor or -1), its outputs (tensor or -1), its attributes (number or float bits); the counts
//   of each are the op's
// A value is memory of one run; values share an arena, where one may take the place of another that no later step reads.
struct Program {
  struct Tensor {
    TensorArg arg;  // data is set by bind()
    int32_t storage;
    int64_t offset;  // bytes
    int64_t bytes;   // from offset to the end of the last element it reaches
  };

  std::vector<std::shared_ptr<Buffer>> buffers;
  std::vector<int64_t> value_bytes, value_offset;  // offsets into the arena, set by the plan
  std::vector<Tensor> tensors;
  std::vector<int32_t> inputs, outputs;  // tensors, contiguous
  std::vector<Step> steps;               // data addresses are set by bind()
  int64_t arena_bytes = 0;

  // Throws Error with ERR_PROGRAM when the words make no sense.
  static std::unique_ptr<Program> decode(const int32_t* words, size_t count,
                                         std::vector<std::shared_ptr<Buffer>> buffers);

  void bind(std::byte* arena);
  // Bytes that a step reads and writes, each tensor counted once.
  int64_t traffic(int step) const;

 private:
  std::vector<std::vector<int32_t>> step_tensors_;  // inputs then outputs of each step
  std::vector<int> step_inputs_;

  friend class Decoder;
  void plan();
};

}  // namespace vlm
