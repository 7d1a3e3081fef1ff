#include "device.h"

#include <algorithm>
#include <cstring>

#include "ops.h"

namespace vlm {

Device::Device(std::unique_ptr<Backend> backend, Done done) : backend_(std::move(backend)), done_(std::move(done)) {
  thread_ = std::thread([this] { loop(); });
}

Device::~Device() {
  join();
  if (arena_) backend_->free(arena_, arena_bytes_);
}

void Device::post(std::unique_ptr<Job> job) noexcept {
  {
    std::lock_guard lock(lock_);
    queue_.push(std::move(job));
  }
  wake_.notify_one();
}

bool Device::awaited() {
  std::lock_guard lock(lock_);
  return !queue_.empty();
}

void Device::shut() {
  {
    std::lock_guard lock(lock_);
    shut_ = true;
    if (current_ && !current_->cancelled.exchange(true)) interrupted_ = true;
  }
  wake_.notify_one();
}

void Device::join() {
  shut();
  if (thread_.joinable()) thread_.join();
}

void Device::loop() {
  Failure unusable;
  const bool started = backend_->start(unusable);
  while (auto job = next()) {
    if (!job->failure.code[0]) {
      if (started)
        work(*job);
      else
        job->failure = unusable;
    }
    {
      std::lock_guard lock(lock_);
      current_.reset();
      if (interrupted_ && !job->ok && std::strcmp(job->failure.code, "ERR_CANCELLED") == 0)
        job->failure.set("ERR_DISPOSED", "the device was disposed");
    }
    done_(std::move(job));
  }
  backend_->stop();
}

// Null when the device was shut and nothing waits any more. A job that is not to be done has its failure already.
std::unique_ptr<Job> Device::next() {
  std::unique_lock lock(lock_);
  wake_.wait(lock, [&] { return shut_ || !queue_.empty(); });
  std::unique_ptr<Job> job = queue_.pop();
  if (!job) return job;
  current_ = job->token;
  if (shut_)
    job->failure.set("ERR_DISPOSED", "the device was disposed");
  else if (job->token->cancelled)
    job->failure.set("ERR_CANCELLED", "the run was cancelled");
  return job;
}

void Device::work(Job& job) {
  try {
    job.ok = job.work(job);
  } catch (const Error& e) {
    job.failure.set(e.code.c_str(), e.what(), e.step);
  } catch (const std::bad_alloc&) {
    job.failure.set("ERR_OUT_OF_MEMORY", "no memory left");
  } catch (const std::exception& e) {
    job.failure.set("ERR_INTERNAL", e.what());
  }
}

std::shared_ptr<Buffer> Device::alloc(size_t bytes, Failure& failure) {
  // The buffer keeps the device, and so the backend that has to free it.
  std::shared_ptr<Buffer> buffer(new Buffer, [device = shared_from_this()](Buffer* b) {
    if (b->memory) device->backend_->free(b->memory, b->bytes);
    delete b;
  });
  *buffer = {backend_->alloc(bytes, failure), bytes};
  return buffer->memory ? buffer : nullptr;
}

bool Device::reserve(size_t bytes, Failure& failure) {
  bytes = std::max<size_t>(bytes, 64);  // an empty tensor still has an address: null means absent
  if (bytes <= arena_bytes_) return true;
  if (arena_) backend_->free(arena_, arena_bytes_);
  arena_bytes_ = 0;
  arena_ = backend_->alloc(bytes, failure);
  if (arena_) arena_bytes_ = bytes;
  arenas_++;
  return arena_ != nullptr;
}

Executable::~Executable() {
  if (compiled_) device_->backend().destroy(compiled_);
}

bool Executable::prepare(Failure& failure) {
  if (!device_->reserve(program_->arena_bytes, failure)) return false;
  if (compiled_ && bound_to_ == device_->arenas()) return true;
  if (compiled_) device_->backend().destroy(compiled_);
  compiled_ = nullptr;
  bound_to_ = device_->arenas();
  program_->bind(device_->arena());
  for (size_t s = 0; s < program_->steps.size(); s++) {
    try {
      check_step(program_->steps[s]);
    } catch (const Error& e) {
      failure.set(e.code.c_str(), e.what(), static_cast<int>(s));
      return false;
    }
  }
  const auto ports = [&](const std::vector<int32_t>& tensors) {
    std::vector<Port> list;
    for (const int32_t id : tensors) {
      const auto& t = program_->tensors[id];
      list.push_back({t.arg.data, static_cast<size_t>(t.bytes)});
    }
    return list;
  };
  compiled_ = device_->backend().compile(program_->steps, ports(program_->inputs), ports(program_->outputs),
                                         {device_->arena(), static_cast<size_t>(program_->arena_bytes)}, failure);
  return compiled_ != nullptr;
}

bool Executable::run(const std::vector<const void*>& inputs, const std::vector<void*>& outputs,
                     const std::atomic<bool>& cancel, double* ms, Failure& failure) {
  return prepare(failure) && device_->backend().run(compiled_, inputs.data(), outputs.data(), cancel, ms, failure);
}

std::vector<std::byte> Executable::first_input(int step) {
  const TensorArg& t = program_->steps[step].in[0];
  std::vector<std::byte> bytes(t.reach() * dtype_bytes(t.dtype));
  Failure lost;
  if (!device_->backend().read(bytes.data(), t.data, bytes.size(), lost)) bytes.clear();
  return bytes;
}

}  // namespace vlm
