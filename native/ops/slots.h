// Recurrent state: [b, …] with row b for batch row b, or [slots, …] with row slots[b], read and written in place.
#pragma once

#include "check.h"
#include "worker.h"

namespace vlm {

// `before` and `after` are [b, channels, width] f32, the last dimension contiguous; with slots their first size is
// free.
inline void check_state(const TensorArg& before, const char* before_name, const TensorArg& after,
                        const char* after_name, const TensorArg& slots, int64_t batch, int64_t channels,
                        int64_t width) {
  const auto check = [&](const TensorArg& t, const char* name) {
    if (!t) return;
    check_dtype(t, name, Dtype::f32);
    check_size(t, name, {slots ? -1 : batch, channels, width});
    check_rows(t, name);
  };
  check(before, before_name);
  check(after, after_name);
  if (!slots) return;
  check_apart(slots, "slots", after, after_name);
  check_dtype(slots, "slots", Dtype::i32);
  check_size(slots, "slots", {batch});
  CHECK(before || after, "slots choose rows of ", before_name, " and ", after_name, ", and neither is given");
  CHECK(!before || !after || before.size[0] == after.size[0], before_name, " and ", after_name,
        " must have the same number of slots, got ", before.size[0], " and ", after.size[0]);
}

// A mark for each slot, for each thread.
inline int64_t slot_marks(const TensorArg& before, const TensorArg& after) { return (before ? before : after).size[0]; }
inline size_t slot_scratch(const TensorArg& slots, const TensorArg& before, const TensorArg& after, int nth) {
  return slots ? static_cast<size_t>(slot_marks(before, after)) * nth : 0;
}

inline int64_t state_row(const TensorArg& slots, int64_t b) {
  return slots ? slots.as<int32_t>()[b * slots.stride[0]] : b;
}

// Whether every slot exists and none occurs twice. Every thread looks for itself, so that none has to wait for another.
inline bool slots_fit(const TensorArg& slots, const TensorArg& before, const TensorArg& after, Worker& w,
                      std::byte* scratch) {
  if (!slots) return true;
  const int64_t count = slot_marks(before, after);
  std::byte* mark = scratch + count * w.ith;
  for (int64_t b = 0; b < slots.size[0]; b++) {
    const int64_t slot = state_row(slots, b);
    if (slot < 0 || slot >= count) {
      w.fail("ERR_OP_INDEX", "slots[", b, "] is ", slot, ", expected 0 to ", count - 1);
      return false;
    }
    mark[slot] = std::byte{0};
  }
  for (int64_t b = 0; b < slots.size[0]; b++) {
    const int64_t slot = state_row(slots, b);
    if (mark[slot] != std::byte{0}) {
      w.fail("ERR_OP_INDEX", "slots[", b, "] is ", slot, ", which an earlier row of the batch has already");
      return false;
    }
    mark[slot] = std::byte{1};
  }
  return true;
}

}  // namespace vlm
