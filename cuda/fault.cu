#include "fault.h"

#include <cstdio>

#include "check.h"

namespace vlm::cuda {
namespace {

// The names of params in the order of the sample op, with what each may be.
constexpr struct {
  const char *name, *range;
} kParams[] = {{"temperature", "a finite number, 0 or more"},
               {"top_k", "a whole number from 0 to 2^31"},
               {"top_p", "above 0 and at most 1"},
               {"min_p", "from 0 to 1"},
               {"repetition_penalty", "a finite number above 0"},
               {"vocab_limit", "a whole number from 0 to 2^31"}};

void describe_id(const Fault& f, const Step& step, Failure& failure) {
  const auto [ids, weight, rows] = step.inputs<3>();
  failure.set("ERR_OP_INDEX",
              text("ids[", f.where[0], ",", f.where[1], "] is ", f.where[2], ": weight has ", weight.size[0],
                   " rows, rows has ", rows ? rows.size[0] : 0, " (row r is id -1 - r)")
                  .c_str(),
              f.step);
}

}  // namespace

void describe(const Fault& f, const Step& step, Failure& failure) {
  const int64_t a = f.where[0], b = f.where[1], c = f.where[2];
  switch (f.trouble) {
    case Trouble::none:
      return;
    case Trouble::id_range:
      return describe_id(f, step, failure);
    case Trouble::slot_range:
      return failure.set("ERR_OP_INDEX", text("slots[", a, "] is ", b, ", expected 0 to ", c - 1).c_str(), f.step);
    case Trouble::slot_twice:
      return failure.set("ERR_OP_INDEX",
                         text("slots[", a, "] is ", b, ", which an earlier row of the batch has already").c_str(),
                         f.step);
    case Trouble::sampling_parameter:
      return failure.set(
          "ERR_OP_ARG",
          text("params, row ", a, ": ", kParams[b].name, " must be ", kParams[b].range, ", got ", f.value).c_str(),
          f.step);
    case Trouble::nonfinite_logit:
      return failure.set(
          "ERR_NONFINITE_LOGITS",
          text("logits, row ", a, ": the logit of token ", b, " is ", f.value > 0 ? "+Inf" : "NaN").c_str(), f.step);
    case Trouble::no_logit:
      return failure.set("ERR_NONFINITE_LOGITS",
                         text("logits, row ", a, ": the logits of all ", b, " tokens are -Inf").c_str(), f.step);
  }
}

}  // namespace vlm::cuda
