#include "pool.h"

#include <chrono>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace vlm {
namespace {

// About 10 µs: long enough to bridge the gap between steps, short enough to give way to a partner on the same core.
constexpr int kSpins = 200;

// Without partners there is nobody to wait for.
struct Alone final : Team {
  Team& team;
  explicit Alone(Team& t) : team(t) {}
  void barrier() override { next.store(0, std::memory_order_relaxed); }
  void fail(int step, const char* code, const char* message) override { team.fail(step, code, message); }
};

inline void relax() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__) && !defined(_MSC_VER)
  __asm__ volatile("yield");
#endif
}

void wait_for_change(const std::atomic<uint32_t>& value, uint32_t old) {
  for (int i = 0; i < kSpins; i++) {
    if (value.load(std::memory_order_acquire) != old) return;
    relax();
  }
  value.wait(old, std::memory_order_acquire);
}

// Subnormal numbers cost a hundred cycles each and carry nothing here: a state that decays towards zero passes through
// them for thousands of steps.
void flush_subnormals() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_setcsr(_mm_getcsr() | 0x8040);
#elif defined(__aarch64__) && !defined(_MSC_VER)
  uint64_t fpcr;
  __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
  __asm__ volatile("msr fpcr, %0" ::"r"(fpcr | (1 << 24)));
#endif
}

}  // namespace

Pool::Pool(int threads) : nth_(threads) {
  try {
    for (int i = 1; i < nth_; i++) threads_.emplace_back([this, i] { loop(i); });
  } catch (...) {
    stop_threads();
    throw;
  }
}

Pool::~Pool() { stop_threads(); }

void Pool::stop_threads() {
  quit_ = true;
  run_.fetch_add(1, std::memory_order_release);
  run_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void Pool::loop(int ith) {
  uint32_t seen = 0;
  for (;;) {
    wait_for_change(run_, seen);
    seen++;
    if (quit_) return;
    walk(ith);
  }
}

bool Pool::run(const std::vector<PreparedStep>& steps, std::byte* scratch, const std::atomic<bool>& cancel, double* ms,
               Failure& failure) {
  steps_ = &steps;
  scratch_ = scratch;
  cancel_ = &cancel;
  ms_ = ms;
  failed_ = false;
  failure_ = {};
  stop_ = cancel.load();
  next.store(0);
  run_.fetch_add(1, std::memory_order_release);
  run_.notify_all();
  walk(0);
  if (failed_) {
    failure = failure_;
    return false;
  }
  if (stop_) {
    failure.set("ERR_CANCELLED", "the run was cancelled");
    return false;
  }
  return true;
}

void Pool::walk(int ith) {
  flush_subnormals();
  using Clock = std::chrono::steady_clock;
  auto start = Clock::now();
  Alone alone(*this);
  const int count = static_cast<int>(steps_->size());
  for (int s = 0; s < count && !stop_; s++) {
    const auto& [step, kernel, solo] = (*steps_)[s];
    if (!solo) {
      Worker worker{*this, ith, nth_, s, scratch_};
      kernel(step, worker);
    } else if (ith == 0) {
      Worker worker{alone, 0, 1, s, scratch_};
      kernel(step, worker);
      alone.barrier();
    }
    if (!solo || s + 1 == count || !(*steps_)[s + 1].solo) barrier();
    if (ith == 0 && ms_) {
      const auto now = Clock::now();
      ms_[s] = std::chrono::duration<double, std::milli>(now - start).count();
      start = now;
    }
  }
  barrier();  // nobody may still look at this run when the next one is set up
}

void Pool::barrier() {
  const uint32_t phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < nth_) return wait_for_change(phase_, phase);
  arrived_.store(0, std::memory_order_relaxed);
  next.store(0, std::memory_order_relaxed);
  stop_ = stop_ || failed_.load(std::memory_order_relaxed) || cancel_->load(std::memory_order_relaxed);
  phase_.store(phase + 1, std::memory_order_release);
  if (nth_ > 1) phase_.notify_all();
}

void Pool::fail(int step, const char* code, const char* message) {
  std::lock_guard lock(failure_lock_);
  if (failed_) return;
  failure_.set(code, message, step);
  failed_ = true;
}

}  // namespace vlm
