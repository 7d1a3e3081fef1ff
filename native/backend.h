// What a device has to be able to do. The CPU fills it in cpu.cc; the CUDA library fills it in cuda/backend.cu, which is
// why only plain data crosses this line. Calls come from the device's own thread, one at a time; only free() and
// destroy() may come from any thread, and after stop().
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdio>
#include <span>

#include "step.h"

namespace vlm {

struct Failure {
  char code[40] = "";
  char message[600] = "";
  int step = -1;

  void set(const char* c, const char* m, int s = -1) {
    std::snprintf(code, sizeof code, "%s", c);
    std::snprintf(message, sizeof message, "%s", m);
    step = s;
  }
};

// An input or an output of a program: where it lies on the device.
struct Port {
  void* memory = nullptr;
  size_t bytes = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  // The first call on the device's thread. A device that did not start fails everything that is asked of it.
  virtual bool start(Failure&) { return true; }
  // The last one. What was allocated is gone afterwards, whether it was freed or not.
  virtual void stop() {}

  // Zero-filled, aligned to 64 bytes. Null on failure.
  virtual void* alloc(size_t bytes, Failure&) = 0;
  virtual void free(void* memory, size_t bytes) = 0;
  // The address itself where the CPU can reach it, else null: then data goes through write().
  virtual std::byte* host_address(void* memory) = 0;

  // The host's bytes may change once write() has returned.
  virtual bool write(void* to, const void* host, size_t bytes, Failure&) = 0;
  virtual bool read(void* host, const void* from, size_t bytes, Failure&) = 0;
  virtual bool copy(void* to, const void* from, size_t bytes, Failure&) = 0;
  virtual bool fill(void* memory, int byte, size_t bytes, Failure&) = 0;

  // Gets steps that were checked against their ops (check_step in program.h) ready to run. Null on failure. `arena` is what
  // programs have in common for what they compute on the way: between runs nobody reads it.
  virtual void* compile(std::span<const Step> steps, std::span<const Port> inputs, std::span<const Port> outputs,
                        Port arena, Failure&) = 0;
  virtual void destroy(void* executable) = 0;
  // Puts the inputs in their places, runs the steps in order and fetches the outputs; one host address for each port.
  // `cancel` is polled as often as the device can stop; a cancelled run fails with ERR_CANCELLED. `ms`, when not null,
  // receives each step's milliseconds and, behind them, those of the whole.
  virtual bool run(void* executable, const void* const* inputs, void* const* outputs, const std::atomic<bool>& cancel,
                   double* ms, Failure&) = 0;
};

}  // namespace vlm
