// The threads of the CPU device: they walk a list of steps together, with a barrier after each.
#pragma once

#include <mutex>
#include <thread>
#include <vector>

#include "backend.h"
#include "ops.h"

namespace vlm {

struct PreparedStep {
  Step step;
  Kernel kernel;
  bool solo;  // too little work to share: one thread does it while the others wait
};

class Pool final : public Team {
 public:
  // The calling thread is one of the `threads`; the others are started here and sleep between runs.
  explicit Pool(int threads);
  ~Pool() override;

  int size() const { return nth_; }
  bool run(const std::vector<PreparedStep>& steps, std::byte* scratch, const std::atomic<bool>& cancel, double* ms,
           Failure& failure);

  void barrier() override;
  void fail(int step, const char* code, const char* message) override;

 private:
  void walk(int ith);
  void loop(int ith);
  void stop_threads();

  const int nth_;
  std::vector<std::thread> threads_;

  // The run in progress.
  const std::vector<PreparedStep>* steps_ = nullptr;
  std::byte* scratch_ = nullptr;
  const std::atomic<bool>* cancel_ = nullptr;
  double* ms_ = nullptr;
  std::mutex failure_lock_;
  Failure failure_;
  std::atomic<bool> failed_{false};
  bool stop_ = false;  // written by the last thread to reach a barrier, read by all behind it

  std::atomic<uint32_t> run_{0};  // counts runs; the threads wait for it to change
  std::atomic<bool> quit_{false};
  std::atomic<uint32_t> phase_{0};
  std::atomic<int> arrived_{0};
};

}  // namespace vlm
