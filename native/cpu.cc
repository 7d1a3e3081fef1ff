#include "cpu.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <numeric>
#include <set>
#include <string>
#include <thread>

#include "memory.h"
#include "pool.h"

#ifdef __linux__
#include <sched.h>
#endif

namespace vlm {
namespace {

// Waking and joining the others costs a few microseconds: what memory delivers in that time is done sooner alone.
constexpr int64_t kSoloBytes = 96 << 10;

int64_t traffic(const Step& step) {
  int64_t bytes = 0;
  auto add = [&](const TensorArg& t) {
    if (t) bytes += t.numel() * dtype_bytes(t.dtype);
  };
  for (const auto& t : step.in) add(t);
  for (const auto& t : step.out) add(t);
  return bytes;
}

struct Executable {
  std::vector<PreparedStep> steps;
  std::vector<Port> inputs, outputs;
  size_t scratch = 0;
};

class Cpu final : public Backend {
 public:
  explicit Cpu(int threads) : pool_(threads) {}
  ~Cpu() override {
    if (scratch_) unmap_pages(scratch_, scratch_bytes_);
  }

  void* alloc(size_t bytes, Failure& failure) override {
    void* memory = map_pages(bytes);
    if (!memory) failure.set("ERR_OUT_OF_MEMORY", text("the system has no ", bytes, " bytes of memory left").c_str());
    return memory;
  }
  void free(void* memory, size_t bytes) override { unmap_pages(memory, bytes); }
  std::byte* host_address(void* memory) override { return static_cast<std::byte*>(memory); }

  bool write(void* to, const void* host, size_t bytes, Failure&) override { return move(to, host, bytes); }
  bool read(void* host, const void* from, size_t bytes, Failure&) override { return move(host, from, bytes); }
  bool copy(void* to, const void* from, size_t bytes, Failure&) override { return move(to, from, bytes); }
  bool fill(void* memory, int byte, size_t bytes, Failure&) override {
    if (bytes) std::memset(memory, byte, bytes);
    return true;
  }

  void* compile(std::span<const Step> steps, std::span<const Port> inputs, std::span<const Port> outputs, Port,
                Failure& failure) override {
    size_t s = 0;
    try {
      auto made = std::make_unique<Executable>();
      made->inputs.assign(inputs.begin(), inputs.end());
      made->outputs.assign(outputs.begin(), outputs.end());
      made->steps.reserve(steps.size());
      for (; s < steps.size(); s++) {
        const Op& op = kOps[steps[s].op];
        made->scratch = std::max(made->scratch, op.prepare(steps[s], pool_.size()));
        made->steps.push_back({steps[s], op.kernel(detect_isa()), traffic(steps[s]) < kSoloBytes});
      }
      return made.release();
    } catch (const Error& e) {
      failure.set(e.code.c_str(), e.what(), static_cast<int>(s));
    } catch (const std::bad_alloc&) {
      failure.set("ERR_OUT_OF_MEMORY", "no memory left for the program", static_cast<int>(s));
    }
    return nullptr;
  }
  void destroy(void* executable) override { delete static_cast<Executable*>(executable); }

  bool run(void* executable, const void* const* inputs, void* const* outputs, const std::atomic<bool>& cancel,
           double* ms, Failure& failure) override {
    const auto& program = *static_cast<Executable*>(executable);
    if (program.scratch > scratch_bytes_ && !grow_scratch(program.scratch, failure)) return false;
    for (const Port& port : program.inputs) move(port.memory, *inputs++, port.bytes);
    if (!pool_.run(program.steps, static_cast<std::byte*>(scratch_), cancel, ms, failure)) return false;
    if (ms) ms[program.steps.size()] = std::accumulate(ms, ms + program.steps.size(), 0.0);
    for (const Port& port : program.outputs) move(*outputs++, port.memory, port.bytes);
    return true;
  }

 private:
  static bool move(void* to, const void* from, size_t bytes) {
    if (bytes) std::memmove(to, from, bytes);
    return true;
  }

  bool grow_scratch(size_t bytes, Failure& failure) {
    void* memory = alloc(bytes, failure);
    if (!memory) return false;
    if (scratch_) unmap_pages(scratch_, scratch_bytes_);
    scratch_ = memory;
    scratch_bytes_ = bytes;
    return true;
  }

  Pool pool_;
  void* scratch_ = nullptr;
  size_t scratch_bytes_ = 0;
};

#ifdef __linux__
// Hyper-threads share the units that these kernels fill, so a core counts once.
int physical_cores() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 0;
  std::set<std::string> cores;
  int logical = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    logical++;
    std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
    std::string siblings;
    if (std::getline(file, siblings)) cores.insert(siblings);
  }
  return cores.empty() ? logical : static_cast<int>(cores.size());
}

// "max 100000" or "150000 100000": microseconds of processor time in each period.
int container_quota() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max" || period <= 0) return 0;
  return std::max(1, static_cast<int>(std::atof(quota.c_str()) / period));
}
#endif

}  // namespace

int default_threads() {
  int cores = 0;
#ifdef __linux__
  cores = physical_cores();
  if (const int quota = container_quota()) cores = std::min(cores ? cores : quota, quota);
#endif
  if (!cores) cores = static_cast<int>(std::thread::hardware_concurrency());
  return std::clamp(cores, 1, 64);
}

std::unique_ptr<Backend> open_cpu(int threads) { return std::make_unique<Cpu>(threads); }

}  // namespace vlm
