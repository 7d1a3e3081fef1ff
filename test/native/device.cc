// The pool, the queue and the flags between threads: what ThreadSanitizer has to watch.
#include <array>
#include <chrono>
#include <cmath>
#include <span>
#include <thread>

#include "chain.h"
#include "kit.h"

namespace vlm::test {
namespace {

using namespace std::chrono_literals;

// y = silu(norm(x)) · W, [rows,64] → [rows,96]: enough work that the pool shares it out.
Words chain(int64_t rows) {
  Words w;
  w.values = {rows * 64 * 4, 64 * 4, 96 * 64 * 4, rows * 64 * 4, rows * 96 * 4};
  w.tensors = {{0, 0, {rows, 64}}, {1, 0, {64}}, {2, 0, {96, 64}}, {3, 0, {rows, 64}}, {4, 0, {rows, 96}}};
  w.inputs = {0, 1, 2};
  w.outputs = {4};
  w.steps = {{op_id("rms_norm"), {0, 1, -1, 3, -1}, {bits(1e-5f)}},
             {op_id("activation"), {3, 3}, {1}},
             {op_id("linear"), {3, 2, -1, -1, -1, -1, 4}, {0}}};
  return w;
}

std::shared_ptr<Executable> compile(Caller& caller, const Words& words,
                                    std::vector<std::shared_ptr<Buffer>> buffers = {}) {
  std::shared_ptr<Executable> made;
  const auto encoded = words.encode();
  const Failure failure = caller.call([&, device = caller.device](Job& job) {
    made = std::make_shared<Executable>(device, Program::decode(encoded.data(), encoded.size(), buffers));
    return made->prepare(job.failure);
  });
  EXPECT(!failure.code[0], failure.code, " ", failure.message);
  return made;
}

std::vector<float> ramp(size_t n) {
  std::vector<float> v(n);
  for (size_t i = 0; i < n; i++) v[i] = std::sin(static_cast<float>(i));
  return v;
}

std::vector<float> run_chain(Caller& caller, Executable& executable, int64_t rows) {
  const auto x = ramp(rows * 64), weight = ramp(64), matrix = ramp(96 * 64);
  std::vector<float> y(rows * 96);
  const Failure failure = caller.call([&](Job& job) {
    return executable.run({x.data(), weight.data(), matrix.data()}, {y.data()}, job.token->cancelled, nullptr,
                          job.failure);
  });
  EXPECT(!failure.code[0], failure.code, " ", failure.message);
  return y;
}

TEST(any_number_of_threads_gives_the_same_bytes) {
  const int64_t rows = 300;
  std::vector<float> want;
  for (const int threads : {1, 2, 3, 5, 8}) {
    Caller caller(threads);
    const auto program = compile(caller, chain(rows));
    for (int i = 0; i < 20; i++) {
      const auto y = run_chain(caller, *program, rows);
      if (want.empty()) want = y;
      EXPECT(std::memcmp(want.data(), y.data(), y.size() * 4) == 0, threads, " threads, run ", i);
    }
  }
}

TEST(a_run_is_cancelled_from_another_thread) {
  Caller caller(3);
  const auto program = compile(caller, chain(3000));
  const auto x = ramp(3000 * 64), weight = ramp(64), matrix = ramp(96 * 64);
  std::vector<float> y(3000 * 96);
  int cancelled = 0;
  for (int i = 0; i < 100; i++) {
    auto token = std::make_shared<Token>();
    std::thread other([token, i] {
      std::this_thread::sleep_for(std::chrono::microseconds(i * 5));
      token->cancelled = true;
    });
    const Failure failure = caller.call(
        [&](Job& job) {
          return program->run({x.data(), weight.data(), matrix.data()}, {y.data()}, job.token->cancelled, nullptr,
                              job.failure);
        },
        token);
    other.join();
    EXPECT(!failure.code[0] || std::strcmp(failure.code, "ERR_CANCELLED") == 0, failure.code);
    cancelled += failure.code[0] != 0;
  }
  EXPECT(cancelled > 0, "none was cancelled");
}

TEST(the_first_failure_of_a_run_wins_and_the_next_run_works) {
  Caller caller(4);
  Words w;
  w.values = {4096 * 4, 10 * 8 * 4, 4096 * 8 * 4};
  w.tensors = {{0, 3, {1, 4096}}, {1, 0, {10, 8}}, {2, 0, {1, 4096, 8}}};
  w.inputs = {0, 1};
  w.outputs = {2};
  w.steps = {{op_id("embedding"), {0, 1, -1, -1, 2}, {}}};
  const auto program = compile(caller, w);
  const auto weight = ramp(80);
  std::vector<float> y(4096 * 8);
  for (int i = 0; i < 50; i++) {
    std::vector<int32_t> ids(4096, i % 2 ? 99 : 3);
    const Failure failure = caller.call([&](Job& job) {
      return program->run({ids.data(), weight.data()}, {y.data()}, job.token->cancelled, nullptr, job.failure);
    });
    EXPECT(std::strcmp(failure.code, i % 2 ? "ERR_OP_INDEX" : "") == 0, i, ": ", failure.code);
    EXPECT(failure.step == (i % 2 ? 0 : -1), failure.step);
  }
}

TEST(every_job_comes_back_once_however_the_device_ends) {
  for (int round = 0; round < 50; round++) {
    std::atomic<int> came{0}, worked{0};
    std::array<std::atomic<int>, 2> refused{};
    auto device = std::make_shared<Device>(open_cpu(2), [&](std::unique_ptr<Job> job) {
      if (!job->ok) refused[std::strcmp(job->failure.code, "ERR_DISPOSED") ? 1 : 0]++;
      came++;
    });
    std::vector<std::thread> callers;
    for (int t = 0; t < 4; t++)
      callers.emplace_back([&, device] {
        for (int i = 0; i < 50; i++) {
          auto job = std::make_unique<Job>();
          job->work = [&](Job&) {
            worked++;
            return true;
          };
          device->post(std::move(job));
        }
      });
    if (round % 2) std::this_thread::sleep_for(std::chrono::microseconds(round * 10));
    device->shut();
    for (auto& caller : callers) caller.join();
    device->join();
    const int left = 200 - came.load();
    EXPECT(left >= 0, "a job came back twice");
    EXPECT(worked + refused[0] == came && refused[1] == 0, worked, " worked, ", refused[0], " refused, ", refused[1],
           " failed, ", came, " came back");
  }
}

TEST(buffers_are_freed_on_any_thread_while_the_device_works) {
  Caller caller(2);
  const auto program = compile(caller, chain(200));
  std::vector<std::thread> others;
  for (int i = 0; i < 40; i++) {
    std::shared_ptr<Buffer> buffer;
    const Failure failure = caller.call([&, device = caller.device](Job& job) {
      buffer = device->alloc(1 << 16, job.failure);
      return buffer != nullptr;
    });
    EXPECT(!failure.code[0], failure.code);
    others.emplace_back([buffer = std::move(buffer)]() mutable { buffer.reset(); });
    run_chain(caller, *program, 200);
  }
  for (auto& other : others) other.join();
}

TEST(a_device_ends_with_programs_and_buffers_alive) {
  for (int i = 0; i < 20; i++) {
    std::shared_ptr<Executable> program;
    std::shared_ptr<Buffer> buffer;
    {
      Caller caller(3);
      program = compile(caller, chain(100));
      caller.call([&, device = caller.device](Job& job) {
        buffer = device->alloc(100, job.failure);
        return buffer != nullptr;
      });
      caller.device->join();
    }
    static_cast<char*>(buffer->memory)[99] = 1;
  }
}

// A model of 8 tokens that counts: token = ids + 1, from 7 to 0.
Words counting() {
  Words w;
  w.values = {4, 4, 24, 8, 8 * 8 * 4, 8 * 4, 4, 4};
  const int32_t f32 = 0, i32 = 3;
  w.tensors = {{0, i32, {1, 1}},    {1, i32, {1}}, {2, f32, {1, 6}}, {3, i32, {1, 2}}, {4, f32, {8, 8}},
               {5, f32, {1, 1, 8}}, {6, i32, {1}}, {7, f32, {1}},    {5, f32, {1, 8}}};
  w.inputs = {0, 1, 2, 3, 4};
  w.outputs = {6, 7};
  w.steps = {{op_id("embedding"), {0, 4, -1, -1, 5}, {}}, {op_id("sample"), {8, 2, 3, 1, -1, -1, 6, 7}, {}}};
  return w;
}

TEST(a_chain_ends_where_it_is_told_to_from_any_thread) {
  Caller caller(2);
  const auto program = compile(caller, counting());
  std::vector<float> weight(64);
  for (int i = 0; i < 8; i++) weight[8 * i + (i + 1) % 8] = 1;
  const std::vector<float> params = {0, 0, 1, 0, 1, 0};
  const auto bytes = [](const auto& numbers) {
    const auto span = std::as_bytes(std::span(numbers));
    return std::vector<std::byte>(span.begin(), span.end());
  };
  for (int i = 0; i < 60; i++) {
    const bool stopped = i % 3 == 0, halted = i % 3 == 1;
    std::vector<std::vector<std::byte>> inputs = {bytes(std::array{2}), bytes(std::array{0}), bytes(params),
                                                  bytes(std::array{0, 0}), bytes(weight)};
    std::vector<std::vector<std::byte>> outputs = {std::vector<std::byte>(4), std::vector<std::byte>(4)};
    std::vector<int32_t> tokens;
    const auto each = [&] {
      tokens.emplace_back();
      std::memcpy(&tokens.back(), outputs[0].data(), 4);
    };
    Chain chain{1 << 30, 0, 0, 1};
    if (stopped) chain.stops = {9, 1};
    auto token = std::make_shared<Token>();
    std::thread other([&] {
      std::this_thread::sleep_for(std::chrono::microseconds(i * 10));
      (halted ? token->halted : token->cancelled) = !stopped;
    });
    const Failure failure = caller.call(
        [&](Job& job) { return run_chain(*program, chain, inputs, outputs, *job.token, each, job.failure); }, token);
    other.join();
    EXPECT(stopped || halted ? !failure.code[0] : std::string(failure.code) == "ERR_CANCELLED", failure.code);
    EXPECT(!stopped || tokens.size() == 7, tokens.size(), " steps");
    for (size_t t = 0; t < tokens.size(); t++) EXPECT(tokens[t] == static_cast<int32_t>((3 + t) % 8), "step ", t);
  }
}

}  // namespace
}  // namespace vlm::test
