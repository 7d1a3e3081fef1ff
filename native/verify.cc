#include "verify.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <vector>

#include "check.h"
#include "cpu.h"
#include "half.h"
#include "ops.h"

namespace vlm {
namespace {

// Relative L2 errors above these are wrong kernels: what rounding makes of one step stays well below. The CPU rounds x to
// int8 where the weights are of fewer bits.
double tolerance(Dtype dtype, bool half_products, bool quantised) {
  return quantised ? 3e-2 : dtype != Dtype::f32 ? 1e-2 : half_products ? 5e-3 : 1e-4;
}

bool is_half(Dtype t) { return t == Dtype::f16 || t == Dtype::bf16; }

// A tensor of the device, copied to the host: every element between its first and its last, as the CPU's kernels want it.
struct Copy {
  TensorArg arg;
  std::vector<std::byte> bytes;
};

template <class F>
void each_element(const TensorArg& t, F&& f) {
  int64_t index[kMaxRank] = {};
  for (int64_t left = t.numel(); left > 0; left--) {
    int64_t at = 0;
    for (int i = 0; i < t.rank; i++) at += index[i] * t.stride[i];
    f(at);
    for (int i = t.rank - 1; i >= 0 && ++index[i] == t.size[i]; i--) index[i] = 0;
  }
}

class Verify final : public Backend {
 public:
  explicit Verify(std::unique_ptr<Backend> device) : device_(std::move(device)), cpu_(open_cpu(default_threads())) {}

  bool start(Failure& f) override { return device_->start(f); }
  void stop() override { device_->stop(); }
  void* alloc(size_t bytes, Failure& f) override { return device_->alloc(bytes, f); }
  void free(void* memory, size_t bytes) override { device_->free(memory, bytes); }
  std::byte* host_address(void* memory) override { return device_->host_address(memory); }
  bool write(void* to, const void* host, size_t n, Failure& f) override { return device_->write(to, host, n, f); }
  bool read(void* host, const void* from, size_t n, Failure& f) override { return device_->read(host, from, n, f); }
  bool copy(void* to, const void* from, size_t n, Failure& f) override { return device_->copy(to, from, n, f); }
  bool fill(void* memory, int byte, size_t n, Failure& f) override { return device_->fill(memory, byte, n, f); }

  void* compile(std::span<const Step> steps, std::span<const Port> inputs, std::span<const Port> outputs, Port,
                Failure& failure) override {
    std::unique_ptr<Program> made(new Program);
    made->inputs.assign(inputs.begin(), inputs.end());
    made->outputs.assign(outputs.begin(), outputs.end());
    for (const Step& step : steps) {
      void* one = device_->compile({&step, 1}, {}, {}, {}, failure);
      if (!one) {
        failure.step = static_cast<int>(made->steps.size());
        destroy(made.release());
        return nullptr;
      }
      made->steps.push_back(step);
      made->device.push_back(one);
    }
    return made.release();
  }

  void destroy(void* executable) override {
    auto* program = static_cast<Program*>(executable);
    for (void* step : program->device) device_->destroy(step);
    delete program;
  }

  bool run(void* executable, const void* const* inputs, void* const* outputs, const std::atomic<bool>& cancel,
           double* ms, Failure& failure) override {
    const auto& program = *static_cast<Program*>(executable);
    for (const Port& port : program.inputs)
      if (!device_->write(port.memory, *inputs++, port.bytes, failure)) return false;
    double total = 0;
    for (size_t s = 0; s < program.steps.size(); s++) {
      double took = 0;
      if (!check(program.steps[s], program.device[s], cancel, took, failure)) {
        failure.step = static_cast<int>(s);
        return false;
      }
      if (ms) ms[s] = took;
      total += took;
    }
    if (ms) ms[program.steps.size()] = total;
    for (const Port& port : program.outputs)
      if (!device_->read(*outputs++, port.memory, port.bytes, failure)) return false;
    return true;
  }

 private:
  struct Program {
    std::vector<Step> steps;
    std::vector<void*> device;
    std::vector<Port> inputs, outputs;
  };

  // Steps may write where they read, so everything is fetched before the device's step runs, and it runs once: to be timed
  // by the device it would run again.
  bool check(const Step& step, void* on_device, const std::atomic<bool>& cancel, double& ms, Failure& failure) {
    Step plain = step;
    std::vector<Copy> in(kMaxInputs), out(kMaxOutputs), got(kMaxOutputs);
    for (int i = 0; i < kMaxInputs; i++)
      if (!fetch(step.in[i], !is_weight(step, i), in[i], plain.in[i], failure)) return false;
    for (int i = 0; i < kMaxOutputs; i++)
      if (!fetch(step.out[i], true, out[i], plain.out[i], failure)) return false;
    const auto start = std::chrono::steady_clock::now();
    if (!device_->run(on_device, nullptr, nullptr, cancel, nullptr, failure)) return false;
    ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    void* on_cpu = cpu_->compile({&plain, 1}, {}, {}, {}, failure);
    if (!on_cpu) return false;
    const bool fine = cpu_->run(on_cpu, nullptr, nullptr, cancel, nullptr, failure);
    cpu_->destroy(on_cpu);
    if (!fine) return false;
    for (int i = 0; i < kMaxOutputs; i++) {
      TensorArg arg;
      if (!fetch(step.out[i], true, got[i], arg, failure)) return false;
      if (step.out[i] && !compare(step, i, got[i].arg, out[i].arg, failure)) return false;
    }
    return true;
  }

  bool fetch(const TensorArg& t, bool widen, Copy& copy, TensorArg& arg, Failure& failure) {
    if (!t) return true;
    const int64_t count = t.reach(), width = dtype_bytes(t.dtype);
    copy.bytes.resize(std::max<int64_t>(count * width, 64));
    if (!device_->read(copy.bytes.data(), t.data, count * width, failure)) return false;
    copy.arg = t;
    if (widen && is_half(t.dtype)) {
      std::vector<std::byte> wide(std::max<int64_t>(count * 4, 64));
      for (int64_t i = 0; i < count; i++) {
        uint16_t half;
        std::memcpy(&half, copy.bytes.data() + 2 * i, 2);
        const float f = t.dtype == Dtype::bf16 ? bf16_to_f32(half) : f16_to_f32(half);
        std::memcpy(wide.data() + 4 * i, &f, 4);
      }
      copy.bytes = std::move(wide);
      copy.arg.dtype = Dtype::f32;
    }
    copy.arg.data = copy.bytes.data();
    arg = copy.arg;
    return true;
  }

  static bool compare(const Step& step, int i, const TensorArg& got, const TensorArg& want, Failure& failure) {
    double error = 0, norm = 0;
    int64_t different = 0;
    each_element(want, [&](int64_t at) {
      if (want.dtype == Dtype::f32) {
        const double g = got.f32()[at], w = want.f32()[at];
        error += g == w ? 0 : (g - w) * (g - w);
        norm += w * w;
      } else if (std::memcmp(got.as<std::byte>() + at * dtype_bytes(got.dtype),
                             want.as<std::byte>() + at * dtype_bytes(want.dtype), dtype_bytes(want.dtype)) != 0) {
        different++;
      }
    });
    bool half_products = false;
    for (const TensorArg& t : step.in) half_products = half_products || is_half(t.dtype);
    const Dtype weight = step.in[1] ? step.in[1].dtype : Dtype::f32;
    const bool quantised = weight == Dtype::i8 || weight == Dtype::u8;
    // A log-probability near 0 is what large sums leave: its error is that of numbers around 1.
    const bool logarithm = std::strcmp(kOps[step.op].name, "sample") == 0;
    const double relative = std::sqrt(error / std::max(norm, logarithm ? static_cast<double>(want.numel()) : 1e-30));
    if (different == 0 && relative <= tolerance(step.out[i].dtype, half_products, quantised)) return true;
    failure.set("ERR_VERIFY", text("output ", i, " ", shape(step.out[i]), " differs from the CPU's: ",
                                   different ? text(different, " elements") : text("relative L2 error ", relative))
                                  .c_str());
    return false;
  }

  std::unique_ptr<Backend> device_, cpu_;
};

}  // namespace

std::unique_ptr<Backend> verify(std::unique_ptr<Backend> device) { return std::make_unique<Verify>(std::move(device)); }

}  // namespace vlm
