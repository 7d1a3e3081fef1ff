// When a process calls exit(), its threads go on while the driver takes itself apart. A call of the runtime at that moment
// is a crash: from there on no call begins, and exit() waits for those that have begun.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>

namespace vlm::cuda {

class ProcessEnd {
 public:
  // Never destroyed: threads may still ask after static objects are gone.
  static ProcessEnd& get() {
    static ProcessEnd* const one = new ProcessEnd;
    return *one;
  }

  // Handlers of exit() run last in, first out, and the driver may register its own while a device opens: to be called
  // before that and after it.
  void watch() {
    std::lock_guard lock(lock_);
    if (watching_ < 2 && std::atexit([] { get().close(); }) == 0) watching_++;
  }

  bool closed() const { return closed_; }

  // Whether calls may be made until leave().
  bool enter() {
    std::lock_guard lock(lock_);
    if (!closed_) inside_++;
    return !closed_;
  }
  void leave() {
    std::lock_guard lock(lock_);
    if (--inside_ == 0) idle_.notify_all();
  }

 private:
  // A GPU that hangs must not keep the process.
  static constexpr std::chrono::seconds kPatience{2};

  void close() {
    std::unique_lock lock(lock_);
    closed_ = true;
    idle_.wait_for(lock, kPatience, [this] { return inside_ == 0; });
  }

  std::mutex lock_;
  std::condition_variable idle_;
  std::atomic<bool> closed_ = false;
  int inside_ = 0, watching_ = 0;
};

}  // namespace vlm::cuda
