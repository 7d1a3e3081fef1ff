// Which call of a mock has to fail: a file of four 32-bit numbers, named by MOCK_LIBRARY_CONTROL, that the test and the mock
// both have in memory: fail at this call (1: the next; 0: none), also at all later ones if not 0, calls made, things alive.
// The first two are the test's to write, the others the mock's.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>

struct Control {
  std::atomic<int32_t> at{0}, later{0}, calls{0}, alive{0};
};

inline Control& control() {
  static Control* const shared = [] {
    const char* path = std::getenv("MOCK_LIBRARY_CONTROL");
    const int file = path ? open(path, O_RDWR) : -1;
    void* memory = file < 0 ? MAP_FAILED : mmap(nullptr, sizeof(Control), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (file >= 0) close(file);
    return memory == MAP_FAILED ? new Control : static_cast<Control*>(memory);
  }();
  return *shared;
}

// Counts a call; false when it is one that has to fail.
inline bool goes() {
  Control& c = control();
  const int32_t call = ++c.calls, at = c.at;
  return at == 0 || call < at || (call > at && !c.later);
}
