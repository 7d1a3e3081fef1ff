#pragma once

#include "node_arguments.h"

namespace vlm {

Napi::Value Compile(const CallbackInfo& info);
void Drop(const CallbackInfo& info);
Napi::Value RunProgram(const CallbackInfo& info);
Napi::Value RunChain(const CallbackInfo& info);

}  // namespace vlm
