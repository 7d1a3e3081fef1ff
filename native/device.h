// A device with a thread of its own: what is asked of it is queued and done in order.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "backend.h"
#include "program.h"

namespace vlm {

// Shared by a caller and the jobs it has queued: one flag stops them all, one counter says how far they are.
struct Token {
  std::atomic<bool> cancelled{false};
  std::atomic<bool> halted{false};   // of a chain: no further step
  std::atomic<int64_t> progress{0};  // bytes
};

struct Job {
  std::shared_ptr<Token> token = std::make_shared<Token>();
  Failure failure;
  std::vector<std::byte> leftover;  // what a job that failed leaves to its caller
  bool ok = false;
  std::function<bool(Job&)> work;    // on the device's thread; false after setting `failure`
  std::function<void(Job&)> settle;  // where the device's owner chooses; not called when the device is torn down first
  std::unique_ptr<Job> next;         // in its queue
};

// First in, first out. It takes no memory of its own, so a job that exists can always be handed on.
class JobQueue {
 public:
  JobQueue() = default;
  JobQueue(JobQueue&& from) noexcept : first_(std::move(from.first_)), last_(std::exchange(from.last_, nullptr)) {}
  ~JobQueue() {
    while (pop()) {
    }
  }

  bool empty() const { return !first_; }
  void push(std::unique_ptr<Job> job) noexcept {
    Job* const raw = job.get();
    (last_ ? last_->next : first_) = std::move(job);
    last_ = raw;
  }
  std::unique_ptr<Job> pop() noexcept {
    std::unique_ptr<Job> job = std::move(first_);
    if (!job) return job;
    first_ = std::move(job->next);
    if (!first_) last_ = nullptr;
    return job;
  }

 private:
  std::unique_ptr<Job> first_;
  Job* last_ = nullptr;
};

class Executable;

class Device : public std::enable_shared_from_this<Device> {
 public:
  using Done = std::function<void(std::unique_ptr<Job>)>;

  // `done` is called on the device's thread with every job that was taken up or refused. It must not throw.
  Device(std::unique_ptr<Backend> backend, Done done);
  ~Device();

  void post(std::unique_ptr<Job> job) noexcept;
  // Whether jobs wait for the present one.
  bool awaited();
  // Cancels the job in progress and all that wait. No job is taken up any more; those waiting fail with ERR_DISPOSED.
  void shut();
  // shut(), and waits for the thread to end. Not from the device's own thread.
  void join();

  Backend& backend() { return *backend_; }
  // The two below are called on the device's thread only.
  std::shared_ptr<Buffer> alloc(size_t bytes, Failure&);
  bool reserve(size_t arena_bytes, Failure&);
  std::byte* arena() const { return static_cast<std::byte*>(arena_); }
  // Counts the arenas there were: a new one may have the address of the last.
  int arenas() const { return arenas_; }

 private:
  void loop();
  std::unique_ptr<Job> next();
  void work(Job&);

  std::unique_ptr<Backend> backend_;
  Done done_;
  std::mutex lock_;
  std::condition_variable wake_;
  JobQueue queue_;
  std::shared_ptr<Token> current_;
  bool shut_ = false;
  bool interrupted_ = false;  // it was shut(), and nobody else, that cancelled the job in progress
  void* arena_ = nullptr;
  size_t arena_bytes_ = 0;
  int arenas_ = 0;
  std::thread thread_;
};

// A program on a device. All members but the destructor are used on the device's thread only.
class Executable {
 public:
  Executable(std::shared_ptr<Device> device, std::unique_ptr<Program> program)
      : device_(std::move(device)), program_(std::move(program)) {}
  ~Executable();

  const Program& program() const { return *program_; }
  const Device* device() const { return device_.get(); }
  bool awaited() const { return device_->awaited(); }
  bool prepare(Failure&);
  // inputs: one address for each of the program's inputs; outputs likewise, each as large as its tensor. ms: null, or
  // milliseconds for each step.
  bool run(const std::vector<const void*>& inputs, const std::vector<void*>& outputs, const std::atomic<bool>& cancel,
           double* ms, Failure&);
  // The first input of a step as it lies on the device: after a run that failed at this step, what the step has read.
  std::vector<std::byte> first_input(int step);

 private:
  std::shared_ptr<Device> device_;
  std::unique_ptr<Program> program_;
  int bound_to_ = -1;
  void* compiled_ = nullptr;
};

}  // namespace vlm
