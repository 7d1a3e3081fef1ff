#include "memory.h"

#ifdef _WIN32
#include <windows.h>
#else
#include <sys/mman.h>
#endif

namespace vlm {

#ifdef _WIN32

void* map_pages(size_t bytes) {
  return VirtualAlloc(nullptr, bytes ? bytes : 1, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
}
void unmap_pages(void* memory, size_t) { VirtualFree(memory, 0, MEM_RELEASE); }

#else

void* map_pages(size_t bytes) {
  void* memory = mmap(nullptr, bytes ? bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
#ifdef MADV_HUGEPAGE
  // Weights are read end to end: with 4 KB pages the address translation, not the memory, sets the pace.
  if (bytes >= size_t{8} << 20) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  return memory;
}
void unmap_pages(void* memory, size_t bytes) { munmap(memory, bytes ? bytes : 1); }

#endif

}  // namespace vlm
