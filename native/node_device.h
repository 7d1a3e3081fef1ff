// A device as JavaScript holds it: promises settled on the JavaScript thread, an end that waits for the device's thread,
// whichever comes first of dispose(), garbage collection and the end of the environment (worker.terminate, process.exit).
#pragma once

#include <napi.h>

#include <span>

#include "device.h"

namespace vlm {

class NodeDevice : public std::enable_shared_from_this<NodeDevice> {
 public:
  static std::shared_ptr<NodeDevice> open(Napi::Env env, std::unique_ptr<Backend> backend);
  ~NodeDevice();

  // Queues a job. `result` makes the promise's value out of what the job left; a failed job rejects instead. `news` is
  // called on the JavaScript thread some time after each wake() and once before the promise is settled.
  using Work = std::function<bool(Job&)>;
  using Result = std::function<Napi::Value(Napi::Env, Job&)>;
  using News = std::function<void(Napi::Env)>;
  Napi::Promise post(Napi::Env env, std::shared_ptr<Token> token, Work work, Result result, News news = nullptr);

  // From any thread, as long as a job that was posted is not settled.
  void wake();

  // Cancels what runs and refuses what waits; resolves when the thread has ended.
  Napi::Promise close(Napi::Env env);

  const std::shared_ptr<Device>& device() const { return device_; }

 private:
  NodeDevice() = default;
  void drain(Napi::Env env);
  void finish();
  static void at_exit(void* self);

  napi_env env_ = nullptr;
  napi_threadsafe_function wake_ = nullptr;
  std::atomic<bool> awake_{false};  // a call of drain() is on its way
  std::shared_ptr<Device> device_;
  std::mutex lock_;
  JobQueue done_;
  std::vector<std::shared_ptr<News>> news_;  // of jobs that are not settled
  std::vector<Napi::Promise::Deferred> closing_;
  int pending_ = 0;
  bool closed_ = false, finished_ = false;
};

// An Error for JavaScript, with `code` and, where there is one, `step`.
Napi::Error to_js(Napi::Env env, const char* code, const char* message, int step = -1);

Napi::ArrayBuffer array_buffer(Napi::Env env, std::span<const std::byte> bytes);

}  // namespace vlm
