// One of the threads that walk a program together. Every thread runs every step; `each` hands out the work.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include "check.h"

namespace vlm {

// What the threads of one run share. The pool owns it; ops see it through Worker.
struct Team {
  std::atomic<int64_t> next{0};  // the next item nobody has claimed; reset at every barrier
  virtual ~Team() = default;
  virtual void barrier() = 0;
  virtual void fail(int step, const char* code, const char* message) = 0;  // the first failure of a run wins
};

struct Worker {
  Team& team;
  int ith, nth;
  int step;            // its place in the program
  std::byte* scratch;  // as many bytes as the op's prepare() asked for, shared by the threads, 64-byte aligned

  // Calls f(begin, end) for pieces of [0, count) of at most `grain` items until none is left. Which thread gets which
  // piece varies from run to run, so an item's result must not depend on its piece. Two calls in one op need sync()
  // between them.
  template <class F>
  void each(int64_t count, int64_t grain, F&& f) {
    for (;;) {
      const int64_t begin = team.next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= count) return;
      f(begin, begin + grain < count ? begin + grain : count);
    }
  }

  // Calls f(i) for every i of [0, count) as each() does, in runs that get shorter: a thread reads most of its share of
  // memory from end to end, and all threads end together.
  template <class F>
  void runs(int64_t count, F&& f) {
    for (;;) {
      int64_t begin = team.next.load(std::memory_order_relaxed), end;
      do {
        if (begin >= count) return;
        const int64_t share = (count - begin) / (nth + 1);
        end = begin + (share > 1 ? share : 1);
      } while (!team.next.compare_exchange_weak(begin, end, std::memory_order_relaxed));
      for (int64_t i = begin; i < end; i++) f(i);
    }
  }

  // Waits for the other threads: what they wrote before is visible after.
  void sync() { team.barrier(); }

  // Ends the run with an error at the next barrier; the message is the parts in a row. The op returns as usual afterwards:
  // kernels never throw, and nothing may throw on a thread of the pool, so without memory the error has no message.
  template <class... Parts>
  void fail(const char* code, const Parts&... parts) noexcept {
    try {
      team.fail(step, code, text(parts...).c_str());
    } catch (const std::exception&) {
      team.fail(step, code, "");
    }
  }
};

}  // namespace vlm
