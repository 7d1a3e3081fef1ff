#include "node_arguments.h"

namespace vlm {

void bad(const CallbackInfo& info, int i, const char* expected) {
  throw Napi::TypeError::New(info.Env(), text("argument ", i, " must be ", expected));
}

int64_t integer(const CallbackInfo& info, int i) {
  if (!info[i].IsNumber()) bad(info, i, "a number");
  const double n = info[i].As<Napi::Number>().DoubleValue();
  if (!(n >= 0 && n <= 9007199254740991.0) || n != static_cast<double>(static_cast<int64_t>(n)))
    bad(info, i, "a whole number");
  return static_cast<int64_t>(n);
}

std::shared_ptr<Token> token_or_null(const CallbackInfo& info, int i) {
  return info[i].IsUndefined() || info[i].IsNull() ? nullptr : pointer<Token>(info, i);
}

Bytes bytes(const CallbackInfo& info, int i, Napi::Value value) {
  if (!value.IsTypedArray()) bad(info, i, "a typed array");
  auto array = value.As<Napi::TypedArray>();
  if (array.ByteLength() == 0) return {nullptr, 0};
  return {static_cast<const std::byte*>(array.ArrayBuffer().Data()) + array.ByteOffset(), array.ByteLength()};
}

std::vector<Napi::Value> elements(const CallbackInfo& info, int i, const char* expected) {
  if (!info[i].IsArray()) bad(info, i, expected);
  const auto list = info[i].As<Napi::Array>();
  std::vector<Napi::Value> values;
  for (uint32_t k = 0; k < list.Length(); k++) values.push_back(list.Get(k));
  return values;
}

std::vector<std::shared_ptr<Buffer>> buffer_list(const CallbackInfo& info, int i) {
  std::vector<std::shared_ptr<Buffer>> buffers;
  for (const Napi::Value& value : elements(info, i, "an array of buffers")) {
    buffers.push_back(slot<Buffer>(info, i, value));
    if (!buffers.back()) bad(info, i, "buffers that were not freed");
  }
  return buffers;
}

void check_range(const CallbackInfo& info, const Buffer& buffer, int64_t offset, int64_t count) {
  const auto size = static_cast<int64_t>(buffer.bytes);
  if (offset > size || count > size - offset)
    throw Napi::RangeError::New(info.Env(), text("bytes ", offset, " to ", offset + count, " of a buffer of ", size));
}

}  // namespace vlm
