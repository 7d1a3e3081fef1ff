// What JavaScript can call. lib/binding.ts has the types and says what each does.
#include <napi.h>

#include <system_error>

#include "cpu.h"
#include "cuda_loader.h"
#include "node_load.h"
#include "node_programs.h"
#include "ops.h"
#include "verify.h"

namespace vlm {
namespace {

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

// token() → token; cancel(token); halt(token); progress(token) → bytes
Napi::Value MakeToken(const CallbackInfo& info) { return handle(info.Env(), std::make_shared<Token>()); }
void Cancel(const CallbackInfo& info) { pointer<Token>(info, 0)->cancelled = true; }
void Halt(const CallbackInfo& info) { pointer<Token>(info, 0)->halted = true; }
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
  exports.Set("halt", Napi::Function::New<guarded<Halt>>(env));
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
  exports.Set("runChain", Napi::Function::New<guarded<RunChain>>(env));
  return exports;
}

}  // namespace
}  // namespace vlm

static Napi::Object InitAddon(Napi::Env env, Napi::Object exports) { return vlm::Init(env, exports); }
NODE_API_MODULE(NODE_GYP_MODULE_NAME, InitAddon)
