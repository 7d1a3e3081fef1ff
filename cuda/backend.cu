// The GPU as a device: memory, one stream, programs captured once as CUDA graphs and replayed. Loaded by the addon
// (native/cuda_loader.cc) through the three functions at the end.
#include "backend.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "built_images.h"
#include "extent.h"
#include "fault.h"
#include "library.h"
#include "mamba_decode.h"
#include "op.h"
#include "process_end.h"

namespace vlm::cuda {
namespace {

constexpr size_t kPiece = 8 << 20;   // bytes of one of the two pinned buffers that large copies go through
constexpr size_t kPinned = 4 << 20;  // bytes of inputs and outputs there is pinned memory for at first
constexpr size_t kAlign = 64;

constexpr size_t align_up(size_t n, size_t to = kAlign) { return (n + to - 1) / to * to; }

// Ports that lie next to each other are moved as one; `host` is an offset into pinned memory.
struct Move {
  void* memory;
  size_t host, bytes;
};

struct Transfers {
  std::vector<Port> ports;
  std::vector<size_t> host;  // of each port
  std::vector<Move> moves;
  size_t end;  // of the pinned memory in use

  Transfers(std::span<const Port> list, size_t from) : ports(list.begin(), list.end()), end(from) {
    for (const Port& port : ports) {
      auto* at = static_cast<std::byte*>(port.memory);
      if (moves.empty() || at != static_cast<std::byte*>(moves.back().memory) + align_up(moves.back().bytes))
        moves.push_back({at, end, 0});
      Move& move = moves.back();
      host.push_back(move.host + (at - static_cast<std::byte*>(move.memory)));
      move.bytes = at + port.bytes - static_cast<std::byte*>(move.memory);
      end = align_up(move.host + move.bytes);
    }
  }
};

// For each step, whether what linear() has its weight, scale and grid in is written by none of them.
std::vector<bool> fixed_weights(const std::vector<Step>& steps) {
  std::vector<Extent> written;
  for (const Step& step : steps)
    for (const TensorArg& t : step.out)
      if (t) written.push_back(extent(t));
  std::vector<bool> fixed;
  for (const Step& step : steps) {
    fixed.push_back(std::none_of(written.begin(), written.end(), [&](const Extent& to) {
      return meet(to, extent(step.in[1])) || meet(to, extent(step.in[4])) || meet(to, extent(step.in[5]));
    }));
  }
  return fixed;
}

// Steps that one kernel does.
struct Fused {
  size_t first, count;
  std::unique_ptr<MambaDecode> kernel;
  std::byte* memory = nullptr;
};

struct Executable {
  std::vector<Step> steps;
  std::vector<bool> fixed_weight;
  std::vector<Fused> fused;  // in order
  Transfers inputs, outputs;
  size_t workspace = 0;
  cudaGraphExec_t graph = nullptr;
  int captured_over = -1;  // the generation of shared memory that the graph has the addresses of
  std::chrono::nanoseconds last_time{0};

  Executable(std::span<const Step> s, std::span<const Port> in, std::span<const Port> out)
      : steps(s.begin(), s.end()), fixed_weight(fixed_weights(steps)), inputs(in, 0), outputs(out, inputs.end) {}
};

class Cuda final : public Backend {
 public:
  Cuda(int ordinal, bool graphs) : graphs_(graphs) { card_.ordinal = ordinal; }
  ~Cuda() override {
    for (Executable* executable : executables_) delete executable;
  }

  bool start(Failure& failure) override {
    return guarded(failure, [&] {
      ProcessEnd::get().watch();
      VLM_CUDA(cudaSetDevice(card_.ordinal));
      const auto attribute = [&](cudaDeviceAttr which) {
        int value = 0;
        VLM_CUDA(cudaDeviceGetAttribute(&value, which, card_.ordinal));
        return value;
      };
      card_.arch = 10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor);
      card_.multiprocessors = attribute(cudaDevAttrMultiProcessorCount);
      card_.shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
      VLM_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
      for (auto* event : {&began_, &ended_}) VLM_CUDA(cudaEventCreate(event));
      for (auto& piece : pieces_) {
        VLM_CUDA(cudaMallocHost(reinterpret_cast<void**>(&piece.memory), kPiece));
        VLM_CUDA(cudaEventCreateWithFlags(&piece.free, cudaEventDisableTiming));
      }
      ProcessEnd::get().watch();
      fault_ = static_cast<Fault*>(take(sizeof *fault_));
      VLM_CUDA(cudaMallocHost(reinterpret_cast<void**>(&seen_fault_), sizeof *seen_fault_));
      grow_pinned(kPinned);
    });
  }

  void stop() override {
    std::lock_guard lock(lock_);
    stopped_ = true;
    if (!ProcessEnd::get().enter()) return;
    cudaStreamSynchronize(stream_);
    for (Executable* executable : executables_) forget_graph(*executable);
    for (void* memory : allocated_) cudaFree(memory);
    for (auto& piece : pieces_) {
      cudaFreeHost(piece.memory);
      if (piece.free) cudaEventDestroy(piece.free);
    }
    cudaFreeHost(pinned_);
    cudaFreeHost(seen_fault_);
    for (auto event : {began_, ended_})
      if (event) cudaEventDestroy(event);
    if (stream_) cudaStreamDestroy(stream_);
    cudaGetLastError();
    ProcessEnd::get().leave();
  }

  void* alloc(size_t bytes, Failure& failure) override {
    void* memory = nullptr;
    guarded(failure, [&] { memory = take(bytes); });
    return memory;
  }

  // cudaFree waits for the GPU and may not be called during a capture: what is given back here goes at the next collect().
  void free(void* memory, size_t) override {
    std::lock_guard lock(lock_);
    if (!stopped_) freed_.push_back(memory);
  }
  void destroy(void* executable) override {
    std::lock_guard lock(lock_);
    if (!stopped_) dropped_.push_back(static_cast<Executable*>(executable));
  }

  std::byte* host_address(void*) override { return nullptr; }

  bool write(void* to, const void* host, size_t bytes, Failure& failure) override {
    return guarded(failure, [&] {
      in_pieces(bytes, [&](Piece& piece, size_t done, size_t n) {
        VLM_CUDA(cudaEventSynchronize(piece.free));
        std::memcpy(piece.memory, static_cast<const std::byte*>(host) + done, n);
        VLM_CUDA(cudaMemcpyAsync(static_cast<std::byte*>(to) + done, piece.memory, n, cudaMemcpyHostToDevice, stream_));
        VLM_CUDA(cudaEventRecord(piece.free, stream_));
      });
    });
  }

  bool read(void* host, const void* from, size_t bytes, Failure& failure) override {
    return guarded(failure, [&] {
      in_pieces(bytes, [&](Piece& piece, size_t done, size_t n) {
        VLM_CUDA(cudaEventSynchronize(piece.free));
        VLM_CUDA(cudaMemcpyAsync(piece.memory, static_cast<const std::byte*>(from) + done, n, cudaMemcpyDeviceToHost,
                                 stream_));
        VLM_CUDA(cudaStreamSynchronize(stream_));
        std::memcpy(static_cast<std::byte*>(host) + done, piece.memory, n);
      });
    });
  }

  bool copy(void* to, const void* from, size_t bytes, Failure& failure) override {
    return guarded(failure, [&] { VLM_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_)); });
  }

  bool fill(void* memory, int byte, size_t bytes, Failure& failure) override {
    return guarded(failure, [&] { VLM_CUDA(cudaMemsetAsync(memory, byte, bytes, stream_)); });
  }

  void* compile(std::span<const Step> steps, std::span<const Port> inputs, std::span<const Port> outputs, Port arena,
                Failure& failure) override {
    Executable* made = nullptr;
    const bool fine = guarded(failure, [&] {
      auto owned = std::make_unique<Executable>(steps, inputs, outputs);
      {
        std::lock_guard lock(lock_);
        executables_.insert(owned.get());
      }
      made = owned.release();
      for (size_t s = 0; s < steps.size(); s++) {
        failure.step = static_cast<int>(s);
        made->workspace = std::max(made->workspace, kOps[steps[s].op].workspace(steps[s], card_));
      }
      failure.step = -1;
      fuse(*made, outputs, arena);
      if (graphs_) prepare(*made);
    });
    if (fine) return made;
    if (made) destroy(made);
    return nullptr;
  }

  bool run(void* executable, const void* const* inputs, void* const* outputs, const std::atomic<bool>& cancel,
           double* ms, Failure& failure) override {
    Executable& program = *static_cast<Executable*>(executable);
    bool cancelled = false;
    const bool fine = guarded(failure, [&] {
      prepare(program);
      for (size_t i = 0; i < program.inputs.ports.size(); i++)
        if (const size_t n = program.inputs.ports[i].bytes) std::memcpy(pinned_ + program.inputs.host[i], inputs[i], n);
      if (ms) time_steps(program, ms);
      const auto start = std::chrono::steady_clock::now();
      VLM_CUDA(cudaEventRecord(began_, stream_));
      if (graphs_)
        VLM_CUDA(cudaGraphLaunch(program.graph, stream_));
      else
        cancelled = !launch(program, &cancel);
      VLM_CUDA(cudaEventRecord(ended_, stream_));
      wait(program.last_time);
      program.last_time = std::chrono::steady_clock::now() - start;
      if (ms) ms[program.steps.size()] = elapsed(began_, ended_);
      for (size_t i = 0; i < program.outputs.ports.size(); i++)
        if (const size_t n = program.outputs.ports[i].bytes)
          std::memcpy(outputs[i], pinned_ + program.outputs.host[i], n);
    });
    if (!fine) return false;
    if (cancelled || cancel) {
      failure.set("ERR_CANCELLED", "the run was cancelled");
      return false;
    }
    if (seen_fault_->trouble == Trouble::none) return true;
    describe(*seen_fault_, program.steps[seen_fault_->step], failure);
    Failure ignored;
    fill(fault_, 0, sizeof *fault_, ignored);
    return false;
  }

 private:
  struct Piece {
    std::byte* memory = nullptr;
    cudaEvent_t free = nullptr;
  };

  // Runs f; what it throws becomes the failure. An error that the runtime repeats afterwards has ended the context: nothing
  // works any more then, and every later call fails with the same words.
  template <class F>
  bool guarded(Failure& failure, F&& f) {
    if (lost_.code[0]) {
      failure = lost_;
      return false;
    }
    if (!ProcessEnd::get().enter()) {
      failure.set("ERR_DISPOSED", "the process is ending");
      return false;
    }
    const bool fine = attempt(failure, std::forward<F>(f));
    ProcessEnd::get().leave();
    return fine;
  }

  template <class F>
  bool attempt(Failure& failure, F&& f) {
    const int step = failure.step;
    try {
      collect();
      f();
      return true;
    } catch (const Error& e) {
      failure.set(e.code.c_str(), e.what(), failure.step);
    } catch (const std::bad_alloc&) {
      failure.set("ERR_OUT_OF_MEMORY", "no memory left", step);
    }
    cudaGetLastError();
    if (stream_ && cudaStreamSynchronize(stream_) != cudaSuccess) {
      lost_.set("ERR_CUDA_LOST", text("the GPU stopped (", failure.message,
                                      "): it can't be used any more in this "
                                      "process, the CPU can")
                                     .c_str());
      failure = lost_;
    }
    return false;
  }

  void* take(size_t bytes) {
    void* memory = nullptr;
    const cudaError_t status = cudaMalloc(&memory, std::max(bytes, kAlign));
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      size_t available = 0, total = 0;
      cudaMemGetInfo(&available, &total);
      throw Error("ERR_OUT_OF_MEMORY", text("the GPU has ", available >> 20, " of its ", total >> 20, " MiB left, and ",
                                            (bytes >> 20) + 1, " MiB more were asked for"));
    }
    check(status, "cudaMalloc");
    allocated_.insert(memory);
    VLM_CUDA(cudaMemsetAsync(memory, 0, std::max(bytes, kAlign), stream_));
    return memory;
  }

  void give_back(void* memory) {
    allocated_.erase(memory);
    VLM_CUDA(cudaFree(memory));
  }

  void collect() {
    std::vector<void*> freed;
    std::vector<Executable*> dropped;
    {
      std::lock_guard lock(lock_);
      freed.swap(freed_);
      dropped.swap(dropped_);
      for (Executable* executable : dropped) executables_.erase(executable);
    }
    for (Executable* executable : dropped) {
      forget_graph(*executable);
      for (const Fused& fused : executable->fused) give_back(fused.memory);
      delete executable;
    }
    for (void* memory : freed) give_back(memory);
  }

  static void forget_graph(Executable& program) {
    if (program.graph) cudaGraphExecDestroy(program.graph);
    program.graph = nullptr;
  }

  void grow_pinned(size_t bytes) {
    if (pinned_) VLM_CUDA(cudaFreeHost(pinned_));
    pinned_ = nullptr;
    pinned_bytes_ = 0;
    VLM_CUDA(cudaMallocHost(reinterpret_cast<void**>(&pinned_), bytes));
    pinned_bytes_ = bytes;
    generation_++;
  }

  void grow_workspace(size_t bytes) {
    if (workspace_) give_back(workspace_);
    workspace_ = nullptr;
    workspace_bytes_ = 0;
    workspace_ = static_cast<std::byte*>(take(bytes));
    workspace_bytes_ = bytes;
    generation_++;
  }

  void fuse(Executable& program, std::span<const Port> outputs, Port arena) {
    for (const DecodeRun& run : find_decode_runs(program.steps, outputs, arena)) {
      Fused fused{static_cast<size_t>(run.first), kLayerSteps * run.layers.size(), MambaDecode::make(run, card_)};
      if (!fused.kernel) continue;
      const std::vector<std::byte> contents = fused.kernel->contents();
      fused.memory = static_cast<std::byte*>(take(contents.size()));
      program.fused.push_back(std::move(fused));
      VLM_CUDA(cudaMemcpyAsync(program.fused.back().memory, contents.data(), contents.size(), cudaMemcpyHostToDevice,
                               stream_));
    }
  }

  // Programs share the workspace and the pinned memory, since they run one after another; a graph that was captured over
  // other addresses is captured again.
  void prepare(Executable& program) {
    if (program.outputs.end > pinned_bytes_) grow_pinned(align_up(program.outputs.end, kPinned));
    if (program.workspace > workspace_bytes_) grow_workspace(program.workspace);
    if (!graphs_ || program.captured_over == generation_) return;
    forget_graph(program);
    cudaGraph_t graph = nullptr;
    VLM_CUDA(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed));
    try {
      launch(program, nullptr);
    } catch (...) {
      cudaStreamEndCapture(stream_, &graph);
      if (graph) cudaGraphDestroy(graph);
      throw;
    }
    VLM_CUDA(cudaStreamEndCapture(stream_, &graph));
    const cudaError_t status = cudaGraphInstantiate(&program.graph, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "cudaGraphInstantiate");
    VLM_CUDA(cudaGraphUpload(program.graph, stream_));
    program.captured_over = generation_;
  }

  // False when it was cancelled on the way.
  bool launch(const Executable& program, const std::atomic<bool>* cancel) {
    fetch(program);
    auto fused = program.fused.begin();
    for (size_t s = 0; s < program.steps.size();) {
      if (cancel && *cancel) return false;
      if (fused != program.fused.end() && fused->first == s) {
        fused->kernel->launch(fused->memory, launch_of(program, s));
        s += fused++->count;
      } else {
        launch_step(program, s++);
      }
    }
    for (const Move& move : program.outputs.moves)
      if (move.bytes)
        VLM_CUDA(cudaMemcpyAsync(pinned_ + move.host, move.memory, move.bytes, cudaMemcpyDeviceToHost, stream_));
    VLM_CUDA(cudaMemcpyAsync(seen_fault_, fault_, sizeof *fault_, cudaMemcpyDeviceToHost, stream_));
    return true;
  }

  void fetch(const Executable& program) {
    for (const Move& move : program.inputs.moves)
      if (move.bytes)
        VLM_CUDA(cudaMemcpyAsync(move.memory, pinned_ + move.host, move.bytes, cudaMemcpyHostToDevice, stream_));
  }

  void launch_step(const Executable& program, size_t s) {
    const Step& step = program.steps[s];
    kOps[step.op].launch(step, launch_of(program, s));
  }
  Launch launch_of(const Executable& program, size_t s) {
    return {stream_, card_, static_cast<int>(s), workspace_, fault_, program.fixed_weight[s]};
  }

  void time_steps(const Executable& program, double* ms) {
    fetch(program);
    for (size_t s = 0; s < program.steps.size(); s++) {
      VLM_CUDA(cudaEventRecord(began_, stream_));
      launch_step(program, s);
      VLM_CUDA(cudaEventRecord(ended_, stream_));
      VLM_CUDA(cudaEventSynchronize(ended_));
      ms[s] = elapsed(began_, ended_);
    }
  }

  static double elapsed(cudaEvent_t from, cudaEvent_t to) {
    float ms = 0;
    VLM_CUDA(cudaEventElapsedTime(&ms, from, to));
    return ms;
  }

  // Sleeping until shortly before the end costs no processor time, looking again and again from then on no latency.
  void wait(std::chrono::nanoseconds expected) {
    if (expected > std::chrono::milliseconds(1)) std::this_thread::sleep_for(expected * 3 / 4);
    cudaError_t status;
    while ((status = cudaEventQuery(ended_)) == cudaErrorNotReady) {
      if (ProcessEnd::get().closed()) throw Error("ERR_DISPOSED", "the process is ending");
      std::this_thread::yield();
    }
    check(status, "cudaEventQuery");
  }

  template <class F>
  void in_pieces(size_t bytes, F&& f) {
    for (size_t done = 0; done < bytes; done += kPiece) {
      f(pieces_[next_piece_], done, std::min(kPiece, bytes - done));
      next_piece_ ^= 1;
    }
  }

  const bool graphs_;
  Card card_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t began_ = nullptr, ended_ = nullptr;
  Piece pieces_[2];
  int next_piece_ = 0;
  Fault *fault_ = nullptr, *seen_fault_ = nullptr;
  std::byte *workspace_ = nullptr, *pinned_ = nullptr;
  size_t workspace_bytes_ = 0, pinned_bytes_ = 0;
  int generation_ = 0;
  std::set<void*> allocated_;
  Failure lost_;

  std::mutex lock_;  // for what follows
  bool stopped_ = false;
  std::vector<void*> freed_;
  std::vector<Executable*> dropped_;
  std::set<Executable*> executables_;
};

}  // namespace
}  // namespace vlm::cuda

extern "C" {

VLM_EXPORT int vlm_cuda_version() { return vlm::cuda::kLibraryVersion; }

VLM_EXPORT const int* vlm_cuda_images(int* count) {
  *count = sizeof kBuiltImages / sizeof kBuiltImages[0];
  return kBuiltImages;
}

VLM_EXPORT vlm::Backend* vlm_cuda_open(int ordinal, int graphs) {
  return new (std::nothrow) vlm::cuda::Cuda(ordinal, graphs != 0);
}
}
