#include "node_device.h"

#include <cstring>

namespace vlm {

Napi::Error to_js(Napi::Env env, const char* code, const char* message, int step) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", Napi::String::New(env, code));
  if (step >= 0) error.Set("step", Napi::Number::New(env, step));
  return error;
}

Napi::ArrayBuffer array_buffer(Napi::Env env, std::span<const std::byte> bytes) {
  auto buffer = Napi::ArrayBuffer::New(env, bytes.size());
  if (!bytes.empty()) std::memcpy(buffer.Data(), bytes.data(), bytes.size());
  return buffer;
}

std::shared_ptr<NodeDevice> NodeDevice::open(Napi::Env env, std::unique_ptr<Backend> backend) {
  std::shared_ptr<NodeDevice> self(new NodeDevice);
  self->env_ = env;
  auto on_wake = [](napi_env env, napi_value, void* context, void*) {
    if (env) static_cast<NodeDevice*>(context)->drain(env);
  };
  if (napi_create_threadsafe_function(env, nullptr, nullptr, Napi::String::New(env, "vl-mamba"), 0, 1, nullptr, nullptr,
                                      self.get(), on_wake, &self->wake_) != napi_ok)
    throw Error("ERR_INTERNAL", "cannot create a thread-safe function");
  napi_unref_threadsafe_function(env, self->wake_);
  NodeDevice* raw = self.get();
  self->device_ = std::make_shared<Device>(std::move(backend), [raw](std::unique_ptr<Job> job) {
    {
      std::lock_guard lock(raw->lock_);
      raw->done_.push(std::move(job));
    }
    raw->wake();
  });
  // Hooks run last in, first out: registered after the thread-safe function, this one joins the thread while the
  // function can still be called.
  napi_add_env_cleanup_hook(env, at_exit, raw);
  return self;
}

NodeDevice::~NodeDevice() { finish(); }

void NodeDevice::at_exit(void* self) {
  // Its jobs may hold the last references to the device: it goes after them.
  const auto device = static_cast<NodeDevice*>(self)->shared_from_this();
  device->finish();
  const JobQueue unsettled = std::move(device->done_);
  const auto untold = std::move(device->news_);
}

void NodeDevice::finish() {
  if (finished_) return;
  finished_ = closed_ = true;
  if (device_) device_->join();
  if (wake_) {
    napi_release_threadsafe_function(wake_, napi_tsfn_abort);
    napi_remove_env_cleanup_hook(env_, at_exit, this);
  }
}

void NodeDevice::wake() {
  if (!awake_.exchange(true) && napi_call_threadsafe_function(wake_, nullptr, napi_tsfn_nonblocking) != napi_ok)
    awake_ = false;
}

Napi::Promise NodeDevice::post(Napi::Env env, std::shared_ptr<Token> token, Work work, Result result, News news) {
  auto deferred = Napi::Promise::Deferred::New(env);
  if (closed_) {
    deferred.Reject(to_js(env, "ERR_DISPOSED", "the device was disposed").Value());
    return deferred.Promise();
  }
  auto job = std::make_unique<Job>();
  if (token) job->token = std::move(token);
  job->work = std::move(work);
  const auto told = news ? std::make_shared<News>(std::move(news)) : nullptr;
  if (told) news_.push_back(told);
  job->settle = [env, deferred, result = std::move(result), told, self = shared_from_this()](Job& job) {
    if (told) std::erase(self->news_, told);
    try {
      if (!job.ok) {
        Napi::Error error = to_js(env, job.failure.code, job.failure.message, job.failure.step);
        // Not enumerable: whoever prints the error has no use for it.
        if (!job.leftover.empty())
          error.Value().DefineProperty(Napi::PropertyDescriptor::Value("leftover", array_buffer(env, job.leftover)));
        deferred.Reject(error.Value());
        return;
      }
      deferred.Resolve(result(env, job));
    } catch (const Napi::Error& e) {
      deferred.Reject(e.Value());
    } catch (const std::exception& e) {
      deferred.Reject(to_js(env, "ERR_INTERNAL", e.what()).Value());
    }
  };
  device_->post(std::move(job));
  if (pending_++ == 0) napi_ref_threadsafe_function(env, wake_);
  return deferred.Promise();
}

void NodeDevice::drain(Napi::Env env) {
  Napi::HandleScope scope(env);
  const auto keep = shared_from_this();  // the last job may hold the last reference
  awake_ = false;
  JobQueue done = [this] {
    std::lock_guard lock(lock_);
    return std::move(done_);
  }();
  try {
    for (const auto& news : std::vector(news_)) (*news)(env);
  } catch (const Napi::Error&) {
    // As below.
  }
  while (auto job = done.pop()) {
    try {
      job->settle(*job);
    } catch (const Napi::Error&) {
      // The environment is being torn down and takes no more values.
    }
    job.reset();
    if (--pending_ == 0 && !finished_) napi_unref_threadsafe_function(env, wake_);
  }
  if (!closed_ || pending_ > 0 || finished_) return;
  finish();
  try {
    for (auto& deferred : closing_) deferred.Resolve(env.Undefined());
  } catch (const Napi::Error&) {
  }
  closing_.clear();
}

Napi::Promise NodeDevice::close(Napi::Env env) {
  auto deferred = Napi::Promise::Deferred::New(env);
  closed_ = true;
  if (pending_ > 0) {
    closing_.push_back(deferred);
    device_->shut();
  } else {
    finish();
    deferred.Resolve(env.Undefined());
  }
  return deferred.Promise();
}

}  // namespace vlm
