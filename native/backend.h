// What a device has to be able to do. The CPU fills it in cpu.cc; the CUDA library fills it in its own file, so only plain
// data crosses this line. Calls come from the device's own thread, one at a time; only free() may come from any thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdio>

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

class Backend {
 public:
  virtual ~Backend() = default;

  // Zero-filled, aligned to 64 bytes. Null on failure.
  virtual void* alloc(size_t bytes, Failure&) = 0;
  virtual void free(void* memory, size_t bytes) = 0;
  // The address itself where the CPU can reach it, else null: then data goes through write().
  virtual std::byte* host_address(void* memory) = 0;

  virtual bool write(void* to, const void* host, size_t bytes, Failure&) = 0;
  virtual bool read(void* host, const void* from, size_t bytes, Failure&) = 0;
  virtual bool copy(void* to, const void* from, size_t bytes, Failure&) = 0;
  virtual bool fill(void* memory, int byte, size_t bytes, Failure&) = 0;

  // Checks the steps against their ops and gets them ready to run. Null on failure.
  virtual void* compile(const Step* steps, int count, Failure&) = 0;
  virtual void destroy(void* executable) = 0;
  // Runs the steps in order. `cancel` is polled at every step; a cancelled run fails with ERR_CANCELLED. `ms`, when not
  // null, receives each step's milliseconds.
  virtual bool run(void* executable, const std::atomic<bool>& cancel, double* ms, Failure&) = 0;
};

}  // namespace vlm
