// Another device, checked against the CPU: every step of a run is repeated there on what the device's step was given, and
// the run fails at the first step whose results are too far apart. For finding a wrong kernel; very slow.
#pragma once

#include <memory>

#include "backend.h"

namespace vlm {

std::unique_ptr<Backend> verify(std::unique_ptr<Backend>);

}  // namespace vlm
