// The CPU device.
#pragma once

#include <memory>

#include "backend.h"

namespace vlm {

// Cores this process may use: affinity and container quota respected, one per physical core.
int default_threads();

std::unique_ptr<Backend> open_cpu(int threads);

}  // namespace vlm
