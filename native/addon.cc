// What JavaScript can call. lib/binding.ts has the types and says what each does.
#include <napi.h>

#include <system_error>

#include "cpu.h"
#include "cuda_loader.h"
#include "load.h"
#include "node_device.h"
#include "ops.h"
#include "verify.h"

namespace vlm {
namespace {

using Napi::CallbackInfo;

[[noreturn]] void bad(const CallbackInfo& info, int i, const char* expected) {
  throw Napi::TypeError::New(info.Env(), text("argument ", i, " must be ", expected));
}

int64_t integer(const CallbackInfo& info, int i) {
  if (!info[i].IsNumber()) bad(info, i, "a number");
  const double n = info[i].As<Napi::Number>().DoubleValue();
  if (!(n >= 0 && n <= 9007199254740991.0) || n != static_cast<double>(static_cast<int64_t>(n)))
    bad(info, i, "a whole number");
  return static_cast<int64_t>(n);
}

// Handles: an External that owns a shared pointer, tagged with its type so that one can't be taken for another, nor for one
// of another copy of this addon, which may be of another version.
template <class T>
const char* const kName = nullptr;
template <>
const char* const kName<NodeDevice> = "a device";
template <>
const char* const kName<Buffer> = "a buffer";
template <>
const char* const kName<Executable> = "a program";
template <>
const char* const kName<Token> = "a token";

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

std::shared_ptr<Token> token_or_null(const CallbackInfo& info, int i) {
  return info[i].IsUndefined() || info[i].IsNull() ? nullptr : pointer<Token>(info, i);
}

struct Bytes {
  const std::byte* data;
  size_t size;
};

Bytes bytes(const CallbackInfo& info, int i, Napi::Value value) {
  if (!value.IsTypedArray()) bad(info, i, "a typed array");
  auto array = value.As<Napi::TypedArray>();
  if (array.ByteLength() == 0) return {nullptr, 0};
  return {static_cast<const std::byte*>(array.ArrayBuffer().Data()) + array.ByteOffset(), array.ByteLength()};
}

// Reading an element can run JavaScript, which may take any array's memory away: addresses are asked for afterwards.
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

Napi::Value undefined(Napi::Env env, Job&) { return env.Undefined(); }

// schema() → [{ name, inputs, outputs, attrs }]
Napi::Value Schema(const CallbackInfo& info) {
  auto list = Napi::Array::New(info.Env(), kOpCount);
  for (int i = 0; i < kOpCount; i++) {
    auto op = Napi::Object::New(info.Env());
    op.Set("name", kOps[i].name);
    op.Set("inputs", kOps[i].inputs);
    op.Set("outputs", kOps[i].outputs);
    op.Set("attrs", kOps[i].attrs);
    list.Set(i, op);
  }
  return list;
}

// open(threads) → device; 0 threads: as many as fit the machine
Napi::Value Open(const CallbackInfo& info) {
  const int64_t threads = integer(info, 0);
  if (threads > 1024) bad(info, 0, "at most 1024 threads");
  return handle(info.Env(), NodeDevice::open(info.Env(), open_cpu(threads ? int(threads) : default_threads())));
}

// openCuda(ordinal, graph, verify) → device. Its first job opens the card. graph: programs are captured and replayed;
// verify: every step is checked against the CPU
Napi::Value OpenCuda(const CallbackInfo& info) {
  const int64_t ordinal = integer(info, 0);
  if (ordinal > 1 << 20) bad(info, 0, "a GPU's number");
  const bool checked = info[2].ToBoolean();
  Failure failure;
  auto backend = open_cuda(static_cast<int>(ordinal), info[1].ToBoolean() && !checked, failure);
  if (!backend) throw to_js(info.Env(), failure.code, failure.message);
  return handle(info.Env(), NodeDevice::open(info.Env(), checked ? verify(std::move(backend)) : std::move(backend)));
}

// cudaSurvey() → promise of { reason, driver, cards: [{ name, arch, memory, reason }] }
class SurveyWorker final : public Napi::AsyncWorker {
 public:
  explicit SurveyWorker(Napi::Env env) : AsyncWorker(env), deferred(Napi::Promise::Deferred::New(env)) {}
  const Napi::Promise::Deferred deferred;

  static Napi::Object result(Napi::Env env) {
    const CudaSurvey& found = cuda_survey();
    auto survey = Napi::Object::New(env);
    survey.Set("reason", found.reason);
    survey.Set("driver", found.driver);
    auto cards = Napi::Array::New(env);
    for (const CudaCard& card : found.cards) {
      auto entry = Napi::Object::New(env);
      entry.Set("name", card.name);
      entry.Set("arch", card.arch);
      entry.Set("memory", static_cast<double>(card.memory));
      entry.Set("reason", card.reason);
      cards.Set(cards.Length(), entry);
    }
    survey.Set("cards", cards);
    return survey;
  }

 protected:
  void Execute() override { cuda_survey(); }
  void OnOK() override { deferred.Resolve(result(Env())); }
  void OnError(const Napi::Error& error) override { deferred.Reject(error.Value()); }
};
Napi::Value Survey(const CallbackInfo& info) {
  auto* worker = new SurveyWorker(info.Env());
  const auto promise = worker->deferred.Promise();
  worker->Queue();
  return promise;
}
// cudaSurveySync() → the same, at once: the driver's start takes some hundred milliseconds the first time
Napi::Value SurveySync(const CallbackInfo& info) { return SurveyWorker::result(info.Env()); }

// close(device) → promise
Napi::Value Close(const CallbackInfo& info) { return pointer<NodeDevice>(info, 0)->close(info.Env()); }

// machine() → { isa, threads }
Napi::Value Machine(const CallbackInfo& info) {
  auto machine = Napi::Object::New(info.Env());
  machine.Set("isa", isa_name(detect_isa()));
  machine.Set("threads", default_threads());
  return machine;
}

// token() → token; cancel(token); progress(token) → bytes
Napi::Value MakeToken(const CallbackInfo& info) { return handle(info.Env(), std::make_shared<Token>()); }
void Cancel(const CallbackInfo& info) { pointer<Token>(info, 0)->cancelled = true; }
Napi::Value Progress(const CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(pointer<Token>(info, 0)->progress.load()));
}

// alloc(device, bytes) → promise of a zero-filled buffer; free(buffer)
Napi::Value Alloc(const CallbackInfo& info) {
  const auto node = pointer<NodeDevice>(info, 0);
  const int64_t size = integer(info, 1);
  auto made = std::make_shared<std::shared_ptr<Buffer>>();
  return node->post(
      info.Env(), nullptr,
      [made, size, device = node->device()](Job& job) {
        *made = device->alloc(static_cast<size_t>(size), job.failure);
        return *made != nullptr;
      },
      [made](Napi::Env env, Job&) { return handle(env, std::move(*made)); });
}
void Free(const CallbackInfo& info) { slot<Buffer>(info, 0, info[0]).reset(); }

// write(device, buffer, offset, typed array) → promise; the bytes are copied before the call returns
Napi::Value Write(const CallbackInfo& info) {
  const auto node = pointer<NodeDevice>(info, 0);
  const auto buffer = pointer<Buffer>(info, 1);
  const int64_t offset = integer(info, 2);
  const Bytes from = bytes(info, 3, info[3]);
  check_range(info, *buffer, offset, static_cast<int64_t>(from.size));
  return node->post(
      info.Env(), nullptr,
      [buffer, offset, data = std::vector<std::byte>(from.data, from.data + from.size),
       device = node->device()](Job& job) {
        return device->backend().write(static_cast<std::byte*>(buffer->memory) + offset, data.data(), data.size(),
                                       job.failure);
      },
      undefined);
}

// read(device, buffer, offset, bytes) → promise of an ArrayBuffer
Napi::Value Read(const CallbackInfo& info) {
  const auto node = pointer<NodeDevice>(info, 0);
  const auto buffer = pointer<Buffer>(info, 1);
  const int64_t offset = integer(info, 2), count = integer(info, 3);
  check_range(info, *buffer, offset, count);
  auto data = std::make_shared<std::vector<std::byte>>();
  return node->post(
      info.Env(), nullptr,
      [buffer, offset, count, data, device = node->device()](Job& job) {
        data->resize(count);
        return device->backend().read(data->data(), static_cast<std::byte*>(buffer->memory) + offset, data->size(),
                                      job.failure);
      },
      [data](Napi::Env env, Job&) { return array_buffer(env, *data); });
}

// copy(device, from, fromOffset, to, toOffset, bytes) → promise
Napi::Value Copy(const CallbackInfo& info) {
  const auto node = pointer<NodeDevice>(info, 0);
  const auto from = pointer<Buffer>(info, 1), to = pointer<Buffer>(info, 3);
  const int64_t from_offset = integer(info, 2), to_offset = integer(info, 4), count = integer(info, 5);
  check_range(info, *from, from_offset, count);
  check_range(info, *to, to_offset, count);
  return node->post(
      info.Env(), nullptr,
      [=, device = node->device()](Job& job) {
        return device->backend().copy(static_cast<std::byte*>(to->memory) + to_offset,
                                      static_cast<std::byte*>(from->memory) + from_offset, count, job.failure);
      },
      undefined);
}

// fill(device, buffer, offset, bytes, value) → promise
Napi::Value Fill(const CallbackInfo& info) {
  const auto node = pointer<NodeDevice>(info, 0);
  const auto buffer = pointer<Buffer>(info, 1);
  const int64_t offset = integer(info, 2), count = integer(info, 3), value = integer(info, 4);
  check_range(info, *buffer, offset, count);
  return node->post(
      info.Env(), nullptr,
      [=, device = node->device()](Job& job) {
        return device->backend().fill(static_cast<std::byte*>(buffer->memory) + offset, static_cast<int>(value & 255),
                                      count, job.failure);
      },
      undefined);
}

constexpr int kSegmentNumbers = 13;

// A segment of load(): its numbers are in the order of load.h.
Segment segment(const CallbackInfo& info, const double* f, const std::vector<std::shared_ptr<Buffer>>& buffers) {
  constexpr double kDtypeNumbers = kDtypes - 1;
  for (int i = 0; i < kSegmentNumbers; i++)
    if (!(f[i] >= 0 && f[i] <= 9007199254740991.0)) bad(info, 3, "whole numbers");
  if (f[2] > kDtypeNumbers || f[3] > kDtypeNumbers || f[4] > 1 || f[5] >= buffers.size() || f[7] > 3)
    bad(info, 3, "segments that exist");
  Segment s{int64_t(f[0]),    int64_t(f[1]),        Dtype(int(f[2])),
            Dtype(int(f[3])), Transform(int(f[4])), buffers[static_cast<size_t>(f[5])],
            int64_t(f[6]),    Rule(int(f[7])),      int64_t(f[8]),
            int64_t(f[9]),    int64_t(f[10]),       f[11] != 0,
            int64_t(f[12])};
  if (s.count > int64_t{1} << 44) bad(info, 3, "segments of at most 2^44 elements");
  const auto is_float = [](Dtype t) { return t == Dtype::f32 || t == Dtype::f16 || t == Dtype::bf16; };
  const bool as_stored = s.from == s.to && s.from != Dtype::i32 && (is_float(s.from) || s.transform == Transform::none);
  const Dtype ruled_dtype = s.rule == Rule::scales ? Dtype::f32 : Dtype::i8;
  const bool ruled = s.rule == Rule::any || (as_stored && s.transform == Transform::none && s.to == ruled_dtype &&
                                             s.at % dtype_bytes(s.to) == 0);
  if (!ruled) bad(info, 3, "rules for what is read as it is stored");
  const bool matrix = s.to == Dtype::i8 || s.to == Dtype::u8, quantizes = s.quantizes() && is_float(s.from);
  if (s.lines && !(matrix && (as_stored || quantizes) && s.at % kLineBytes == 0 && s.row <= int64_t{1} << 44))
    bad(info, 3, "lines of a matrix of 8 or 4 bits");
  const int64_t unit = quantizes ? s.columns : s.lines ? s.row_bytes() : 1;
  if (s.columns > int64_t{1} << 44 || unit == 0 || s.count % unit || s.scale_at % 4)
    bad(info, 3, "whole rows of a matrix with scales");
  const int64_t n = s.count / unit, blocks = quant_blocks(s.columns);
  const auto check_matrix = [&](int64_t bytes) {
    if (s.lines && n > 0) {
      const int64_t size = static_cast<int64_t>(s.buffer->bytes), stripes = (s.row + n - 1) / kLineRows + 1;
      bytes = stripes <= size / s.stripe_bytes() ? stripes * s.stripe_bytes() : size + 1;
    }
    check_range(info, *s.buffer, s.at, bytes);
  };
  if (quantizes && s.transform == Transform::none) {
    check_matrix(n * s.row_bytes());
    check_range(info, *s.buffer, s.scale_at, n * blocks * 4);
    if (s.to == Dtype::u8) check_range(info, *s.buffer, s.grid_at, n * blocks * (kQuantBlock / kQuantGroup) * 2);
  } else {
    if (!as_stored && !(is_float(s.from) && is_float(s.to))) bad(info, 3, "dtypes that can be read so");
    check_matrix(s.count * dtype_bytes(s.to));
  }
  return s;
}

// load(device, path, identity, segments, buffers, token, threads) → promise
// identity: BigInt64Array [dev, ino, size, mtimeNs]
// segments: Float64Array, for each [offset, count, from, to, transform, buffer (index), at, rule, columns, scale_at, grid_at, lines, row]
Napi::Value Load(const CallbackInfo& info) {
  const auto node = pointer<NodeDevice>(info, 0);
  if (!info[1].IsString()) bad(info, 1, "a path");
  const std::string path = info[1].As<Napi::String>();
  if (path.find('\0') != std::string::npos) bad(info, 1, "a path without a NUL: what follows it would be cut off");
  const auto buffers = buffer_list(info, 4);
  const Bytes id = bytes(info, 2, info[2]), words = bytes(info, 3, info[3]);
  if (id.size != sizeof(FileIdentity)) bad(info, 2, "four 64-bit numbers");
  if (words.size % (kSegmentNumbers * sizeof(double))) bad(info, 3, "thirteen numbers for each segment");
  FileIdentity identity;
  std::memcpy(&identity, id.data, sizeof identity);
  std::vector<Segment> segments;
  for (size_t at = 0; at < words.size; at += kSegmentNumbers * sizeof(double)) {
    double numbers[kSegmentNumbers];
    std::memcpy(numbers, words.data + at, sizeof numbers);
    segments.push_back(segment(info, numbers, buffers));
  }
  const int64_t threads = integer(info, 6);
  if (threads < 1 || threads > 1024) bad(info, 6, "1 to 1024 threads");
  return node->post(
      info.Env(), token_or_null(info, 5),
      [path, identity, segments = std::move(segments), threads, device = node->device()](Job& job) {
        load_file(device->backend(), path, identity, segments, static_cast<int>(threads), *job.token);
        return true;
      },
      undefined);
}

// compile(device, words, buffers) → promise of a program
Napi::Value Compile(const CallbackInfo& info) {
  const auto node = pointer<NodeDevice>(info, 0);
  if (!info[1].IsTypedArray() || info[1].As<Napi::TypedArray>().TypedArrayType() != napi_int32_array)
    bad(info, 1, "an Int32Array");
  auto buffers = buffer_list(info, 2);
  const Bytes words = bytes(info, 1, info[1]);
  const auto* first = reinterpret_cast<const int32_t*>(words.data);
  auto made = std::make_shared<std::shared_ptr<Executable>>();
  return node->post(
      info.Env(), nullptr,
      [made, program = std::vector<int32_t>(first, first + words.size / sizeof(int32_t)), buffers = std::move(buffers),
       device = node->device()](Job& job) {
        *made = std::make_shared<Executable>(device, Program::decode(program.data(), program.size(), buffers));
        return (*made)->prepare(job.failure);
      },
      [made](Napi::Env env, Job&) { return handle(env, std::move(*made)); });
}

// drop(program)
void Drop(const CallbackInfo& info) { slot<Executable>(info, 0, info[0]).reset(); }

struct Run {
  std::vector<std::vector<std::byte>> copies, outputs;
  std::vector<const void*> inputs;
  std::vector<Napi::ObjectReference> borrowed;
  std::vector<double> ms;
};

// run(device, program, inputs, token, borrow, profile) → promise of ArrayBuffers, one for each output; with profile,
// two more: Float64Arrays' bytes of milliseconds (each step's, then the whole run's) and of bytes moved for each step. The
// inputs are copied before the call returns, or, with borrow, read in place until the promise settles. An error
// ERR_NONFINITE_LOGITS has the logits as `leftover`, an ArrayBuffer.
Napi::Value RunProgram(const CallbackInfo& info) {
  const auto node = pointer<NodeDevice>(info, 0);
  const auto executable = pointer<Executable>(info, 1);
  if (executable->device() != node->device().get()) bad(info, 1, "a program of this device");
  const bool borrow = info[4].ToBoolean(), profile = info[5].ToBoolean();
  const auto list = elements(info, 2, "an array of typed arrays");
  const Program& program = executable->program();
  if (list.size() != program.inputs.size())
    throw Napi::RangeError::New(info.Env(),
                                text("the program takes ", program.inputs.size(), " inputs, got ", list.size()));
  auto run = std::make_shared<Run>();
  for (size_t i = 0; i < list.size(); i++) {
    const Bytes from = bytes(info, 2, list[i]);
    const int64_t expected = program.tensors[program.inputs[i]].bytes;
    if (static_cast<int64_t>(from.size) != expected)
      throw Napi::RangeError::New(info.Env(), text("input ", i, " must be ", expected, " bytes, got ", from.size));
    if (borrow) {
      run->borrowed.push_back(Napi::Persistent(list[i].As<Napi::Object>()));
      run->inputs.push_back(from.data);
    } else {
      run->copies.emplace_back(from.data, from.data + from.size);
      run->inputs.push_back(run->copies.back().data());
    }
  }
  for (int32_t id : program.outputs) run->outputs.emplace_back(program.tensors[id].bytes);
  if (profile) run->ms.resize(program.steps.size() + 1);
  return node->post(
      info.Env(), token_or_null(info, 3),
      [run, executable](Job& job) {
        std::vector<void*> outputs;
        for (auto& out : run->outputs) outputs.push_back(out.data());
        if (executable->run(run->inputs, outputs, job.token->cancelled, run->ms.empty() ? nullptr : run->ms.data(),
                            job.failure))
          return true;
        // One row of many may be at fault: its neighbours' tokens can be drawn from the logits again.
        if (std::strcmp(job.failure.code, "ERR_NONFINITE_LOGITS") == 0)
          job.leftover = executable->first_input(job.failure.step);
        return false;
      },
      [run, executable](Napi::Env env, Job&) -> Napi::Value {
        auto results = Napi::Array::New(env);
        auto add = [&](std::span<const std::byte> bytes) { results.Set(results.Length(), array_buffer(env, bytes)); };
        for (const auto& out : run->outputs) add(out);
        if (!run->ms.empty()) {
          std::vector<double> traffic;
          for (size_t s = 0; s + 1 < run->ms.size(); s++)
            traffic.push_back(static_cast<double>(executable->program().traffic(static_cast<int>(s))));
          add(std::as_bytes(std::span(run->ms)));
          add(std::as_bytes(std::span(traffic)));
        }
        return results;
      });
}

// No C++ exception may pass into Node: what isn't a JavaScript error yet becomes one here.
template <auto function>
auto guarded(const CallbackInfo& info) {
  try {
    return function(info);
  } catch (const Napi::Error&) {
    throw;
  } catch (const Error& e) {
    throw to_js(info.Env(), e.code.c_str(), e.what(), e.step);
  } catch (const std::bad_alloc&) {
    throw to_js(info.Env(), "ERR_OUT_OF_MEMORY", "no memory left");
  } catch (const std::system_error& e) {
    throw to_js(info.Env(), "ERR_THREAD", text("the system starts no more threads: ", e.what()).c_str());
  } catch (const std::exception& e) {
    throw to_js(info.Env(), "ERR_INTERNAL", e.what());
  }
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  exports.Set("schema", Napi::Function::New<guarded<Schema>>(env));
  exports.Set("machine", Napi::Function::New<guarded<Machine>>(env));
  exports.Set("open", Napi::Function::New<guarded<Open>>(env));
  exports.Set("openCuda", Napi::Function::New<guarded<OpenCuda>>(env));
  exports.Set("cudaSurvey", Napi::Function::New<guarded<Survey>>(env));
  exports.Set("cudaSurveySync", Napi::Function::New<guarded<SurveySync>>(env));
  exports.Set("close", Napi::Function::New<guarded<Close>>(env));
  exports.Set("token", Napi::Function::New<guarded<MakeToken>>(env));
  exports.Set("cancel", Napi::Function::New<guarded<Cancel>>(env));
  exports.Set("progress", Napi::Function::New<guarded<Progress>>(env));
  exports.Set("alloc", Napi::Function::New<guarded<Alloc>>(env));
  exports.Set("free", Napi::Function::New<guarded<Free>>(env));
  exports.Set("write", Napi::Function::New<guarded<Write>>(env));
  exports.Set("read", Napi::Function::New<guarded<Read>>(env));
  exports.Set("copy", Napi::Function::New<guarded<Copy>>(env));
  exports.Set("fill", Napi::Function::New<guarded<Fill>>(env));
  exports.Set("load", Napi::Function::New<guarded<Load>>(env));
  exports.Set("compile", Napi::Function::New<guarded<Compile>>(env));
  exports.Set("drop", Napi::Function::New<guarded<Drop>>(env));
  exports.Set("run", Napi::Function::New<guarded<RunProgram>>(env));
  return exports;
}

}  // namespace
}  // namespace vlm

static Napi::Object InitAddon(Napi::Env env, Napi::Object exports) { return vlm::Init(env, exports); }
NODE_API_MODULE(NODE_GYP_MODULE_NAME, InitAddon)
