// The selective scan (see selective_scan.cu) where channels are neighbours in memory, on Hopper. The copy engine brings tiles
// of steps to a ring in shared memory well ahead, and takes y away: no warp waits for memory.
//
// The warps of a block pass tiles on to each other. Some make dt and dt·u of u and delta, some run the recurrence, some finish
// y. A block has the channels for one multiprocessor, shared out so that all of its schedulers have the same work.
#include <algorithm>
#include <type_traits>

#include "hopper.cuh"
#include "scan_bulk.h"
#include "scan_slots.cuh"

namespace vlm::cuda {
namespace {

constexpr int kStates = 16, kSteps = 32, kPitch = kSteps + 4, kBuffers = 4, kMaxStages = 8;
// Warps: quads with 8 channels, 4 lanes with 4 states each to a channel; pairs with 2 channels, a lane to each state.
constexpr int kQuads = 4, kPairs = 4, kRecurring = kQuads + kPairs, kPreparing = 5, kFinishing = 5;
constexpr int kThreads = 32 * (kRecurring + kPreparing + kFinishing);
constexpr int kChannels = kBulkChannels, kPlane = kChannels * kPitch + 8;
static_assert(kChannels == 8 * kQuads + 2 * kPairs);
constexpr int kProjectionBytes = kStates * kSteps * sizeof(float);

// A tile as it comes from memory, [step][channel] and B and C as [step][state], at these bytes of a stage. y takes the place
// of u.
struct Stage {
  int u, delta, z, B, C, size;
};

struct Bulk {
  CUtensorMap u, delta, z, y, B, C;
  Stage at;
  int stages;
};

// A tile as the recurrence reads and leaves it. Even channels come first, for the sake of the banks.
struct Buffer {
  float dt[kChannels][kPitch];
  float x[kChannels][kPitch];  // dt·u
  float sums[4][kPlane];       // over each quarter of the states
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

constexpr int kHalf = kChannels / 2;  // pairs of channels

// Barriers at which warps hand a buffer on: dt and dt·u are there, the sums are, they have been read, y is there.
enum Hand { kFull, kDone, kFree, kOut, kHands };
constexpr int hand_threads(int hand) {
  return 32 * (hand == kFull ? kPreparing : hand == kDone ? kRecurring : kFinishing);
}

// Steps through a ring.
struct Turn {
  int count, at = 0, parity = 0;
  __device__ void next() {
    if (++at == count) at = 0, parity ^= 1;
  }
};

// Waits for all lanes of a warp, so that they are known to be together afterwards.
__device__ inline void warp_wait(uint32_t barrier, int parity) {
  int done;
  do {
    asm volatile(
        "{\n.reg .pred done;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
        "selp.s32 %0, 1, 0, done;\n}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
  } while (!__all_sync(~0u, done));
}

struct Block {
  int64_t b, k, c0, row;  // batch row, group, first channel, row of the states or -1
  bool fits;              // whether states may be written
  int tiles;
  std::byte* ring;
  Buffer* buffers;
  float *delta_bias, *D;
  uint32_t barriers;

  __device__ std::byte* stage(const Bulk& bulk, int stage) const { return ring + stage * bulk.at.size; }
  __device__ uint32_t arrived(int stage) const { return barriers + 8 * stage; }
  __device__ uint32_t hand(Hand which, int buffer) const {
    return barriers + 8 * (kMaxStages + kBuffers * which + buffer);
  }
  __device__ void hand_on(Hand which, const Turn& buffer) const { barrier_arrive(hand(which, buffer.at)); }
  __device__ void receive(Hand which, const Turn& buffer) const { warp_wait(hand(which, buffer.at), buffer.parity); }
  // Its last turn.
  __device__ void receive_before(Hand which, const Turn& buffer) const {
    warp_wait(hand(which, buffer.at), buffer.parity ^ 1);
  }
};

__device__ inline void bring_box(uint32_t to, const CUtensorMap& map, int c, int t, const Block& block,
                                 uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], "
      "[%6];" ::"r"(to),
      "l"(&map), "r"(c), "r"(t), "r"(static_cast<int>(block.k)), "r"(static_cast<int>(block.b)), "r"(barrier)
      : "memory");
}

__device__ inline void bring(const ScanProblem& p, const Bulk& bulk, const Block& block, int tile) {
  const int stage = tile % bulk.stages, c = static_cast<int>(block.c0), t = tile * kSteps;
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(block.stage(bulk, stage)));
  const uint32_t barrier = block.arrived(stage);
  barrier_expect(barrier, bulk.at.size);
  bring_box(to + bulk.at.u, bulk.u, c, t, block, barrier);
  bring_box(to + bulk.at.delta, bulk.delta, c, t, block, barrier);
  bring_box(to + bulk.at.B, bulk.B, 0, t, block, barrier);
  bring_box(to + bulk.at.C, bulk.C, 0, t, block, barrier);
  if (p.z.data) bring_box(to + bulk.at.z, bulk.z, c, t, block, barrier);
}

// Stores a finished tile, and brings a new one to where the tile before it was.
__device__ inline void pass_on(const ScanProblem& p, const Bulk& bulk, const Block& block, int tile) {
  const uint32_t from = static_cast<uint32_t>(__cvta_generic_to_shared(block.stage(bulk, tile % bulk.stages)));
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(&bulk.y),
               "r"(from + bulk.at.u), "r"(static_cast<int>(block.c0)), "r"(tile * kSteps),
               "r"(static_cast<int>(block.k)), "r"(static_cast<int>(block.b))
               : "memory");
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
  const int next = tile - 1 + bulk.stages;
  if (tile == 0 || next >= block.tiles) return;
  asm volatile("cp.async.bulk.wait_group.read 1;" ::: "memory");
  bring(p, bulk, block, next);
}

// What a preparing or finishing thread has of a tile: 4 steps of 2 channels.
using Item = float[4][2];
template <class F>
__device__ inline void each(F&& f) {
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 2; j++) f(i, j);
}
constexpr int kItems = kHalf * kSteps / 4;
static_assert(kItems == 32 * kPreparing && kItems == 32 * kFinishing);

template <class E>
__device__ inline Pack<E, 2>& pair_at(std::byte* tile, int step, int pair) {
  return reinterpret_cast<Pack<E, 2>*>(tile)[step * kHalf + pair];
}
template <class E>
__device__ inline void read_item(Item& to, std::byte* tile, int first, int pair) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const auto pack = pair_at<E>(tile, first + i, pair);
    to[i][0] = to_float(pack.v[0]), to[i][1] = to_float(pack.v[1]);
  }
}

// E: the type of u, F: of delta.
template <class E, class F>
__device__ void prepare(const ScanProblem& p, const Bulk& bulk, const Block& block, int thread) {
  const int pair = thread % kHalf, first = thread / kHalf * 4;
  const float delta_bias[] = {block.delta_bias[2 * pair], block.delta_bias[2 * pair + 1]};
  Turn stage{bulk.stages}, buffer{kBuffers};
  for (int tile = 0; tile < block.tiles; tile++, stage.next(), buffer.next()) {
    warp_wait(block.arrived(stage.at), stage.parity);
    std::byte* from = block.stage(bulk, stage.at);
    Item x, dt;
    read_item<F>(dt, from + bulk.at.delta, first, pair);
    read_item<E>(x, from + bulk.at.u, first, pair);
    each([&](int i, int j) {
      dt[i][j] += delta_bias[j];
      if (p.positive) dt[i][j] = softplus(dt[i][j]);
      x[i][j] *= dt[i][j];
    });
    if (tile >= kBuffers) block.receive_before(kDone, buffer);
    Buffer& to = block.buffers[buffer.at];
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const int line = pair + j * kHalf;
      *reinterpret_cast<Pack<float, 4>*>(&to.dt[line][first]) = {dt[0][j], dt[1][j], dt[2][j], dt[3][j]};
      *reinterpret_cast<Pack<float, 4>*>(&to.x[line][first]) = {x[0][j], x[1][j], x[2][j], x[3][j]};
    }
    // Steps beyond the end leave the states as they are.
    const int steps = static_cast<int>(min(p.length - int64_t{tile} * kSteps, int64_t{kSteps}));
#pragma unroll 1
    for (int i = max(first, steps); i < first + 4; i++)
#pragma unroll
      for (int j = 0; j < 2; j++) to.dt[pair + j * kHalf][i] = to.x[pair + j * kHalf][i] = 0.f;
    block.hand_on(kFull, buffer);
  }
}

// E: the type of u, z and y. The first thread also gives the copy engine its orders.
template <class E>
__device__ void finish(const ScanProblem& p, const Bulk& bulk, const Block& block, int thread, int brought) {
  const int pair = thread % kHalf, first = thread / kHalf * 4;
  const float D[] = {block.D[2 * pair], block.D[2 * pair + 1]};
  if (thread == 0)
    for (int i = brought; i < min(bulk.stages, block.tiles); i++) bring(p, bulk, block, i);
  __syncwarp();
  Turn stage{bulk.stages}, buffer{kBuffers}, before = buffer;
  for (int tile = 0; tile < block.tiles; tile++, stage.next(), buffer.next()) {
    warp_wait(block.arrived(stage.at), stage.parity);
    std::byte* at = block.stage(bulk, stage.at);
    Item u, gate, y;
    if (p.D.data) read_item<E>(u, at + bulk.at.u, first, pair);
    if (p.z.data) {
      read_item<E>(gate, at + bulk.at.z, first, pair);
      each([&](int i, int j) { gate[i][j] = silu(gate[i][j]); });
    }
    block.receive(kDone, buffer);
    const Buffer& from = block.buffers[buffer.at];
#pragma unroll
    for (int j = 0; j < 2; j++) {
      Pack<float, 4> part[4];
#pragma unroll
      for (int q = 0; q < 4; q++)
        part[q] = *reinterpret_cast<const Pack<float, 4>*>(from.sums[q] + (pair + j * kHalf) * kPitch + first);
#pragma unroll
      for (int i = 0; i < 4; i++) y[i][j] = (part[0].v[i] + part[1].v[i]) + (part[2].v[i] + part[3].v[i]);
    }
    block.hand_on(kFree, buffer);
    if (p.D.data) each([&](int i, int j) { y[i][j] = fmaf(D[j], u[i][j], y[i][j]); });
    if (p.z.data) each([&](int i, int j) { y[i][j] *= gate[i][j]; });
#pragma unroll
    for (int i = 0; i < 4; i++)
      pair_at<E>(at + bulk.at.u, first + i, pair) = {from_float<E>(y[i][0]), from_float<E>(y[i][1])};
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    block.hand_on(kOut, buffer);
    if (thread < 32 && tile > 0) {  // the tile before, so that nobody is waited for
      block.receive(kOut, before);
      if (thread == 0) pass_on(p, bulk, block, tile - 1);
      __syncwarp();
    }
    before = buffer;
  }
  if (thread >= 32) return;
  block.receive(kOut, before);
  if (thread == 0) {
    pass_on(p, bulk, block, block.tiles - 1);
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
  }
}

// Q lanes to a channel. Bit 0 of a lane is a channel's, the next log2 Q are its place among the states and the rest are the
// channel's again.
template <int Q>
__device__ void recur(const ScanProblem& p, const Bulk& bulk, const Block& block, int first_line) {
  constexpr int S = kStates / Q, kSpan = 16;  // states of a lane; steps whose instructions the compiler may mix
  const int lane = threadIdx.x % 32, q = lane / 2 % Q, line = first_line + (lane & 1) + lane / (2 * Q) * 2;
  const int64_t c = block.c0 + line % kHalf * 2 + line / kHalf;
  const bool valid = c < p.d;
  float rate[S], h[S];
#pragma unroll
  for (int s = 0; s < S; s++) {
    const int state = q * S + s;
    rate[s] = valid ? p.A.data[block.k * p.A.group + c * p.A.channel + state * p.A.state] * kLog2e : 0.f;
    h[s] = valid && p.initial.data && block.row >= 0
               ? p.initial.data[block.row * p.initial.row + (block.k * p.d + c) * p.initial.channel + state]
               : 0.f;
  }

  const bool odd = lane & 2, high = lane & 4;
  Turn stage{bulk.stages}, buffer{kBuffers};
  for (int tile = 0; tile < block.tiles; tile++, stage.next(), buffer.next()) {
    block.receive(kFull, buffer);
    if (tile >= kBuffers) block.receive_before(kFree, buffer);
    const std::byte* from = block.stage(bulk, stage.at);
    const float* B_row = reinterpret_cast<const float*>(from + bulk.at.B) + q * S;
    const float* C_row = reinterpret_cast<const float*>(from + bulk.at.C) + (S > 1 ? q * S : q & ~1);
    Buffer& at = block.buffers[buffer.at];
    const float *dts = at.dt[line], *xs = at.x[line];
    float* sums = at.sums[S > 1 ? q : q / 4] + line * kPitch + (S > 1 ? 0 : q & 3);
#pragma unroll 1
    for (int t = 0; t < kSteps; t += kSpan) {
      // Kept until the end, so that loads may go ahead of them.
      using Sums = std::conditional_t<(S > 1), Pack<float, 4>, float>;
      Sums done[kSpan / 4];
#pragma unroll
      for (int i = 0; i < kSpan; i += 4) {
        const int first = t + i;
        const auto dt = *reinterpret_cast<const Pack<float, 4>*>(dts + first);
        const auto x = *reinterpret_cast<const Pack<float, 4>*>(xs + first);
        Pack<float, 4> sum;
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const auto B = *reinterpret_cast<const Pack<float, S>*>(B_row + (first + j) * kStates);
#pragma unroll
          for (int s = 0; s < S; s++) h[s] = fmaf(exp2_fast(dt.v[j] * rate[s]), h[s], x.v[j] * B.v[s]);
          if constexpr (S > 1)
            sum.v[j] = dot(reinterpret_cast<const Pack<float, S>*>(C_row + (first + j) * kStates)->v, h);
          else
            sum.v[j] = h[0];
        }
        if constexpr (S > 1) {
          done[i / 4] = sum;
        } else {
          // The states of 4 steps cross over between neighbours, and then the sums of two, half of them each time: lane bits
          // 1 and 2 become the number of the step.
          float half[2];
#pragma unroll
          for (int j = 0; j < 2; j++) {
            const float kept = odd ? sum.v[2 * j + 1] : sum.v[2 * j];
            const float got = __shfl_xor_sync(~0u, odd ? sum.v[2 * j] : sum.v[2 * j + 1], 2);
            const float* row = C_row + (first + 2 * j + odd) * kStates;
            const float pair[] = {odd ? got : kept, odd ? kept : got};
            half[j] = dot(reinterpret_cast<const Pack<float, 2>*>(row)->v, pair);
          }
          done[i / 4] = (high ? half[1] : half[0]) + __shfl_xor_sync(~0u, high ? half[0] : half[1], 4);
        }
      }
#pragma unroll
      for (int i = 0; i < kSpan; i += 4) *reinterpret_cast<Sums*>(sums + t + i) = done[i / 4];
    }
    block.hand_on(kDone, buffer);
  }

  if (p.last.data && block.fits && valid)
#pragma unroll
    for (int s = 0; s < S; s++)
      p.last.data[block.row * p.last.row + (block.k * p.d + c) * p.last.channel + q * S + s] = h[s];
}

template <class F>
__device__ inline void with_type(const Sequence& s, F&& f) {
  s.dtype == Dtype::f32 ? f(float{}) : s.dtype == Dtype::bf16 ? f(bf16{}) : f(f16{});
}

#endif

__global__ __launch_bounds__(kThreads, 1) void bulk_kernel([[maybe_unused]] const __grid_constant__ ScanProblem p,
                                                           [[maybe_unused]] const __grid_constant__ Bulk bulk) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(128) std::byte memory[];
  __shared__ __align__(8) uint64_t barriers[kMaxStages + kBuffers * kHands];
  __shared__ float delta_bias[kChannels], D[kChannels];
  __shared__ int32_t list[kChunk];
  const uint32_t blocks = static_cast<uint32_t>(ceil_div(p.d, kChannels)), groups = static_cast<uint32_t>(p.groups);
  const uint32_t rest = blockIdx.x / blocks;
  Block block;
  block.b = rest / groups, block.k = rest % groups, block.c0 = int64_t{blockIdx.x - rest * blocks} * kChannels;
  block.tiles = static_cast<int>(ceil_div(p.length, kSteps));
  block.ring = memory, block.buffers = reinterpret_cast<Buffer*>(memory + bulk.stages * bulk.at.size);
  block.delta_bias = delta_bias, block.D = D;
  block.barriers = static_cast<uint32_t>(__cvta_generic_to_shared(barriers));
  // The same for a warp, and known to be.
  const int thread = threadIdx.x, warp = __shfl_sync(~0u, thread / 32, 0);
  const int brought = min(2, block.tiles);  // tiles asked for before all else
  const bool orders = thread == 32 * (kRecurring + kPreparing);
  if (orders) {
    for (int i = 0; i < bulk.stages; i++) barrier_init(block.arrived(i), 1);
    for (int which = 0; which < kHands; which++)
      for (int i = 0; i < kBuffers; i++) barrier_init(block.hand(static_cast<Hand>(which), i), hand_threads(which));
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  wait_for_inputs();
  if (orders)
    for (int i = 0; i < brought; i++) bring(p, bulk, block, i);
  if (thread < kChannels) {
    const int64_t c = min(block.c0 + thread, p.d - 1);
    const auto weight = [&](const Weight& w) { return w.data ? w.data[block.k * w.group + c * w.channel] : 0.f; };
    delta_bias[thread] = weight(p.delta_bias), D[thread] = weight(p.D);
  }
  const bool faulted = has_fault(p.fault);
  block.fits = slots_fit(p, list) && !faulted;
  block.row = state_row(p, block.b, block.fits);
  __syncthreads();
  if (warp < kQuads)
    recur<4>(p, bulk, block, warp * 8);
  else if (warp < kRecurring)
    recur<16>(p, bulk, block, 8 * kQuads + (warp - kQuads) * 2);
  else if (warp < kRecurring + kPreparing)
    with_type(p.u, [&](auto u) {
      using E = decltype(u);
      const int own = thread - 32 * kRecurring;
      p.delta.dtype == Dtype::f32 ? prepare<E, float>(p, bulk, block, own) : prepare<E, E>(p, bulk, block, own);
    });
  else
    with_type(p.u,
              [&](auto u) { finish<decltype(u)>(p, bulk, block, thread - 32 * (kRecurring + kPreparing), brought); });
#endif
}

// What the copy engine asks of a sequence: 16-byte steps between all but neighbouring channels.
bool is_bulk(const Sequence& s, const ScanProblem& p) {
  const int64_t unit = 16 / element_bytes(s);
  const auto fits = [&](int64_t stride, int64_t size) { return size <= 1 || (stride > 0 && stride % unit == 0); };
  return !s.data || (s.channel == 1 && aligned(s.data, 16) && fits(s.step, p.length) && fits(s.group, p.groups) &&
                     fits(s.row, p.batch));
}

}  // namespace

bool scan_is_bulk(const ScanProblem& p, const Card& card) {
  const auto f32 = [](const Sequence& s) { return s.dtype == Dtype::f32; };
  const auto like_u = [&](const Sequence& s) { return !s.data || s.dtype == p.u.dtype; };
  if (card.arch != 90 || p.n != kStates || p.length >= INT32_MAX - kSteps || p.walks != 1 || p.carry.data ||
      p.batch > INT32_MAX || p.d % 2 != 0 || !f32(p.B) || !f32(p.C) || !like_u(p.z) || !like_u(p.y) ||
      !(like_u(p.delta) || f32(p.delta)) || p.batch * p.groups * p.d * p.length == 0)
    return false;
  for (const Sequence* s : {&p.u, &p.delta, &p.z, &p.y, &p.B, &p.C})
    if (!is_bulk(*s, p)) return false;
  return encode_tiled();
}

void launch_scan_bulk(const ScanProblem& p, const Launch& on) {
  Bulk bulk{};
  const auto map = [&](CUtensorMap& to, const Sequence& s, int64_t size, int box) {
    if (s.data)
      to = tensor_map<4>(s.data, s.dtype, {size, p.length, p.groups, p.batch}, {s.step, s.group, s.row},
                         {box, kSteps, 1, 1}, CU_TENSOR_MAP_SWIZZLE_NONE);
  };
  map(bulk.u, p.u, p.d, kChannels), map(bulk.delta, p.delta, p.d, kChannels), map(bulk.z, p.z, p.d, kChannels);
  map(bulk.y, p.y, p.d, kChannels), map(bulk.B, p.B, kStates, kStates), map(bulk.C, p.C, kStates, kStates);
  Stage& at = bulk.at;
  const auto bytes = [&](const Sequence& s) { return s.data ? kChannels * kSteps * element_bytes(s) : 0; };
  at.delta = at.u + bytes(p.u), at.z = at.delta + bytes(p.delta), at.B = at.z + bytes(p.z);
  at.C = at.B + kProjectionBytes, at.size = at.C + kProjectionBytes;
  constexpr int kBuffersBytes = kBuffers * sizeof(Buffer), kStatic = 2048;  // kStatic: more than __shared__ variables
  bulk.stages = std::min<int>(kMaxStages, (on.card.shared_bytes - kStatic - kBuffersBytes) / at.size);
  const dim3 grid(static_cast<unsigned>(p.batch * p.groups * ceil_div(p.d, kChannels)));
  launch(bulk_kernel, grid, dim3(kThreads), bulk.stages * at.size + kBuffersBytes, on, p, bulk);
}

}  // namespace vlm::cuda
