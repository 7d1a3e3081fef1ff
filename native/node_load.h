#pragma once

#include "node_arguments.h"

namespace vlm {

Napi::Value Load(const CallbackInfo& info);

}  // namespace vlm
