// Programs: compiled, run once, and run in chains.
#include "node_programs.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <mutex>
#include <span>

#include "chain.h"

namespace vlm {
namespace {

struct Run {
  std::vector<std::vector<std::byte>> copies, outputs;
  std::vector<const void*> inputs;
  std::vector<Napi::ObjectReference> borrowed;
  std::vector<double> ms;
};

// The program's inputs, as large as they have to be.
std::vector<Bytes> program_inputs(const CallbackInfo& info, int at, const Program& program,
                                  const std::vector<Napi::Value>& list) {
  if (list.size() != program.inputs.size())
    throw Napi::RangeError::New(info.Env(),
                                text("the program takes ", program.inputs.size(), " inputs, got ", list.size()));
  std::vector<Bytes> inputs;
  for (size_t i = 0; i < list.size(); i++) {
    inputs.push_back(bytes(info, at, list[i]));
    const int64_t expected = program.tensors[program.inputs[i]].bytes;
    if (static_cast<int64_t>(inputs.back().size) != expected)
      throw Napi::RangeError::New(info.Env(),
                                  text("input ", i, " must be ", expected, " bytes, got ", inputs.back().size));
  }
  return inputs;
}

std::vector<std::vector<std::byte>> program_outputs(const Program& program) {
  std::vector<std::vector<std::byte>> outputs;
  for (int32_t id : program.outputs) outputs.emplace_back(program.tensors[id].bytes);
  return outputs;
}

// One row of many may be at fault: its neighbours' tokens can be drawn from the logits again.
bool leave_logits(Executable& executable, Job& job) {
  if (std::strcmp(job.failure.code, "ERR_NONFINITE_LOGITS") == 0)
    job.leftover = executable.first_input(job.failure.step);
  return false;
}

std::shared_ptr<Executable> program_of(const CallbackInfo& info, const NodeDevice& node) {
  auto executable = pointer<Executable>(info, 1);
  if (executable->device() != node.device().get()) bad(info, 1, "a program of this device");
  return executable;
}

using Clock = std::chrono::steady_clock;
// Of a screen that shows 60 a second.
constexpr auto kFrame = std::chrono::milliseconds(16);

struct ChainRun {
  Chain chain;
  std::vector<std::vector<std::byte>> inputs, outputs;
  std::mutex lock;  // for what follows
  std::vector<std::vector<std::byte>>
      done;  // each output of the steps that JavaScript has not heard of, one after another
};

}  // namespace

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

// run(device, program, inputs, token, borrow, profile) → promise of ArrayBuffers, one for each output; with profile,
// two more: Float64Arrays' bytes of milliseconds (each step's, then the whole run's) and of bytes moved for each step. The
// inputs are copied before the call returns, or, with borrow, read in place until the promise settles. An error
// ERR_NONFINITE_LOGITS has the logits as `leftover`, an ArrayBuffer.
Napi::Value RunProgram(const CallbackInfo& info) {
  const auto node = pointer<NodeDevice>(info, 0);
  const auto executable = program_of(info, *node);
  const bool borrow = info[4].ToBoolean(), profile = info[5].ToBoolean();
  const auto list = elements(info, 2, "an array of typed arrays");
  const Program& program = executable->program();
  auto run = std::make_shared<Run>();
  for (const Bytes& from : program_inputs(info, 2, program, list)) {
    if (borrow) {
      run->borrowed.push_back(Napi::Persistent(list[run->inputs.size()].As<Napi::Object>()));
      run->inputs.push_back(from.data);
    } else {
      run->copies.emplace_back(from.data, from.data + from.size);
      run->inputs.push_back(run->copies.back().data());
    }
  }
  run->outputs = program_outputs(program);
  if (profile) run->ms.resize(program.steps.size() + 1);
  return node->post(
      info.Env(), token_or_null(info, 3),
      [run, executable](Job& job) {
        std::vector<void*> outputs;
        for (auto& out : run->outputs) outputs.push_back(out.data());
        return executable->run(run->inputs, outputs, job.token->cancelled, run->ms.empty() ? nullptr : run->ms.data(),
                               job.failure) ||
               leave_logits(*executable, job);
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

// runChain(device, program, inputs, token, numbers, stops, take) → promise; see chain.h
// numbers: [steps, token, ids, position], stops: Int32Array
// take: called with ArrayBuffers, one for each output, that hold those of one or more further steps. It must not throw.
Napi::Value RunChain(const CallbackInfo& info) {
  const auto node = pointer<NodeDevice>(info, 0);
  const auto executable = program_of(info, *node);
  const auto list = elements(info, 2, "an array of typed arrays");
  const auto numbers = elements(info, 4, "four numbers");
  if (numbers.size() != 4) bad(info, 4, "four numbers");
  if (!info[5].IsTypedArray() || info[5].As<Napi::TypedArray>().TypedArrayType() != napi_int32_array)
    bad(info, 5, "an Int32Array");
  if (!info[6].IsFunction()) bad(info, 6, "a function");
  const auto number = [&](int i, double most) {
    const double n = numbers[i].IsNumber() ? numbers[i].As<Napi::Number>().DoubleValue() : -1;
    if (!(n >= 0 && n <= most) || n != std::floor(n)) bad(info, 4, "four whole numbers");
    return static_cast<int64_t>(n);
  };
  constexpr double kMostPorts = 1 << 20, kMostSteps = 1 << 30;
  auto run = std::make_shared<ChainRun>();
  run->chain = {number(0, kMostSteps), static_cast<int32_t>(number(1, kMostPorts)),
                static_cast<int32_t>(number(2, kMostPorts)), static_cast<int32_t>(number(3, kMostPorts))};
  const Program& program = executable->program();
  check_chain(run->chain, program);
  for (const Bytes& from : program_inputs(info, 2, program, list))
    run->inputs.emplace_back(from.data, from.data + from.size);
  run->outputs = program_outputs(program);
  run->done.resize(run->outputs.size());
  const Bytes stops = bytes(info, 5, info[5]);
  run->chain.stops.resize(stops.size / sizeof(int32_t));
  if (!run->chain.stops.empty())
    std::memcpy(run->chain.stops.data(), stops.data, run->chain.stops.size() * sizeof(int32_t));
  const auto take = std::make_shared<Napi::FunctionReference>(Napi::Persistent(info[6].As<Napi::Function>()));
  return node->post(
      info.Env(), token_or_null(info, 3),
      [run, executable, node = node.get()](Job& job) {
        auto last = Clock::now(), told = last;
        const auto each = [&] {
          {
            std::lock_guard lock(run->lock);
            for (size_t i = 0; i < run->outputs.size(); i++)
              run->done[i].insert(run->done[i].end(), run->outputs[i].begin(), run->outputs[i].end());
          }
          // Waking JavaScript costs it more than a token does: while steps are quick, it hears of them once a frame.
          const auto now = Clock::now();
          if (now + (now - last) - told > kFrame) {
            node->wake();
            told = now;
          }
          last = now;
        };
        return run_chain(*executable, run->chain, run->inputs, run->outputs, *job.token, each, job.failure) ||
               leave_logits(*executable, job);
      },
      undefined,
      [run, take](Napi::Env env) {
        std::vector<std::vector<std::byte>> done(run->done.size());
        {
          std::lock_guard lock(run->lock);
          done.swap(run->done);
        }
        if (std::ranges::all_of(done, [](const auto& bytes) { return bytes.empty(); })) return;
        std::vector<napi_value> buffers;
        for (const auto& bytes : done) buffers.push_back(array_buffer(env, bytes));
        take->Call(buffers);
      });
}
}  // namespace vlm
