// Zeroed pages straight from the operating system: untouched pages cost nothing, and freeing gives the memory back.
#pragma once

#include <cstddef>

namespace vlm {

void* map_pages(size_t bytes);  // null when there are none; never for 0 bytes
void unmap_pages(void* memory, size_t bytes);

}  // namespace vlm
