// What JavaScript hands over, checked: every function throws what it says to JavaScript when an argument is not what it has
// to be.
#pragma once

#include <string>
#include <vector>

#include "node_device.h"

namespace vlm {

using Napi::CallbackInfo;

[[noreturn]] void bad(const CallbackInfo& info, int i, const char* expected);

// From 0 to 2^53 - 1.
int64_t integer(const CallbackInfo& info, int i);

// Handles: an External that owns a shared pointer, tagged with its type so that one can't be taken for another, nor for one
// of another copy of this addon, which may be of another version.
template <class T>
inline const char* const kName = nullptr;
template <>
inline const char* const kName<NodeDevice> = "a device";
template <>
inline const char* const kName<Buffer> = "a buffer";
template <>
inline const char* const kName<Executable> = "a program";
template <>
inline const char* const kName<Token> = "a token";

template <class T>
napi_type_tag tag() {
  return {0x564c4d4d9d1cf2b4, reinterpret_cast<uintptr_t>(&kName<T>)};
}

template <class T>
Napi::Value handle(Napi::Env env, std::shared_ptr<T> value) {
  using Pointer = std::shared_ptr<T>;
  // A worker that is being terminated takes no more values: New throws, and the pointer is still ours.
  auto pointer = std::make_unique<Pointer>(std::move(value));
  auto external = Napi::External<Pointer>::New(env, pointer.get(), [](Napi::Env, Pointer* p) { delete p; });
  pointer.release();
  const napi_type_tag type = tag<T>();
  napi_type_tag_object(env, external, &type);
  return external;
}

template <class T>
std::shared_ptr<T>& slot(const CallbackInfo& info, int i, Napi::Value value) {
  bool same = false;
  const napi_type_tag type = tag<T>();
  if (!value.IsExternal() || napi_check_object_type_tag(info.Env(), value, &type, &same) != napi_ok || !same)
    bad(info, i, kName<T>);
  return *value.As<Napi::External<std::shared_ptr<T>>>().Data();
}

template <class T>
std::shared_ptr<T> pointer(const CallbackInfo& info, int i) {
  auto& p = slot<T>(info, i, info[i]);
  if (!p) throw to_js(info.Env(), "ERR_DISPOSED", text(kName<T>, " was used after it was freed").c_str());
  return p;
}

// Null for undefined and null.
std::shared_ptr<Token> token_or_null(const CallbackInfo& info, int i);
std::vector<std::shared_ptr<Buffer>> buffer_list(const CallbackInfo& info, int i);

struct Bytes {
  const std::byte* data;
  size_t size;
};
// Of a typed array.
Bytes bytes(const CallbackInfo& info, int i, Napi::Value value);

// Reading an element can run JavaScript, which may take any array's memory away: addresses are asked for afterwards.
std::vector<Napi::Value> elements(const CallbackInfo& info, int i, const char* expected);

void check_range(const CallbackInfo& info, const Buffer& buffer, int64_t offset, int64_t count);

// What a job comes to that leaves nothing to JavaScript.
inline Napi::Value undefined(Napi::Env env, Job&) { return env.Undefined(); }

}  // namespace vlm
