// The selective scan (see selective_scan.cu) where channels are neighbours in memory, on Hopper. Nobody waits for memory: the
// copy engine brings tiles of steps to a ring in shared memory well ahead, and takes y away.
//
// The warps of a block pass tiles on to each other. Some make dt and dt·u of u and delta, some run the recurrence, and some
// finish y; one gives the copy engine its orders. A block has the channels for one multiprocessor, shared out so that all of
// its schedulers have the same work.
#include <algorithm>
#include <type_traits>

#include "hopper.cuh"
#include "scan_bulk.h"
#include "scan_slots.cuh"

namespace vlm::cuda {
namespace {

constexpr int kStates = 16, kSteps = 32, kPitch = kSteps + 4, kMaxStages = 8, kFirst = 2;  // kFirst: tiles asked for before all else
#ifndef SPAN
#define SPAN 16
#endif
#ifndef PREP
#define PREP 4
#endif
#ifndef FIN
#define FIN 4
#endif
constexpr int kSpan = SPAN;  // steps whose instructions the compiler may mix
constexpr int kQuads = 4, kPairs = 4, kRecurring = kQuads + kPairs, kPreparing = PREP, kFinishing = FIN;
constexpr int kThreads = 32 * (kRecurring + kPreparing + kFinishing);

// A tile of steps as it comes from memory, in bytes: [step][channel], then B and C.
struct Stage {
  int u, delta, z, y, B, C, size;
};

// How a sequence lies in memory: `turns` straight runs of so many steps, each of them so many tiles.
struct Route {
  CUtensorMap u, delta, z, y, B, C;
  int run, turns, tiles;
};

struct Bulk {
  Route routes[2];  // of plain sequences and rows of a grid, and of its columns
  Stage at;
  int stages, loaded;  // loaded: bytes of a stage that the copy engine brings
};

template <int M>
struct Prepared {
  static constexpr int channels = 32 * M + 8;
  static constexpr int kBuffers = M == 1 ? 3 : 2, kPlane = channels * kPitch + 8;
  float dt[channels][kPitch];
  float x[channels][kPitch];  // dt·u
  float sums[4][kPlane];      // over each quarter of the states
};

// Where a channel of the block lies in Prepared: the even ones first, for the sake of the banks.
template <int M>
__device__ inline int channel_of(int line) {
  constexpr int half = Prepared<M>::channels / 2;
  return line < half ? 2 * line : 2 * (line - half) + 1;
}

// Steps through a ring.
struct Turn {
  int count, at = 0, parity = 0;
  __device__ void next() {
    if (++at == count) at = 0, parity ^= 1;
  }
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// Waits as one: what follows is known to be done by all lanes together.
__device__ inline void warp_wait(uint32_t barrier, int parity) {
  bool done;
  do {
    int is;
    asm volatile(
        "{\n.reg .pred done;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
        "selp.s32 %0, 1, 0, done;\n}"
        : "=r"(is)
        : "r"(barrier), "r"(parity)
        : "memory");
    done = __all_sync(~0u, is);
  } while (!done);
}

// Barriers at which warps hand a buffer on: dt and dt·u are there, the sums are, the buffer is free, y is there.
enum Hand { kFull, kDone, kFree, kOut, kHands };
constexpr int hand_threads(int hand) {
  return 32 * (hand == kFull ? kPreparing : hand == kDone ? kRecurring : kFinishing);
}

struct Block {
  int64_t b, k, c0, row;  // batch row, group, first channel, row of the states or -1
  bool fits;
  std::byte* ring;
  uint32_t arrived;  // barriers
  float *delta_bias, *D;
  const Route* route;
  bool reversed;
  int tiles;
  // Tiles lie where they do whichever way the walk goes: a reversed one begins with the last, which may be a short one.
  __device__ int in_run(int tile) const {
    const int i = route->turns == 1 ? tile : tile % route->tiles;
    return reversed ? route->tiles - 1 - i : i;
  }
  __device__ int steps(int tile) const { return min(kSteps, route->run - in_run(tile) * kSteps); }
  __device__ std::byte* stage(const Bulk& bulk, const Turn& turn) const { return ring + turn.at * bulk.at.size; }
  __device__ void wait(const Turn& turn) const { warp_wait(arrived + 8 * turn.at, turn.parity); }
  __device__ uint32_t hand(Hand which, int buffer) const { return arrived + 8 * (kMaxStages + 3 * which + buffer); }
  __device__ void hand_on(Hand which, const Turn& turn) const { barrier_arrive(hand(which, turn.at)); }
  __device__ void receive(Hand which, const Turn& turn, int before = 0) const {
    warp_wait(hand(which, turn.at), turn.parity ^ before);
  }
};

// A box's coordinates: channel, place in a run, run, group, batch row.
struct Box {
  int c, i, turn, k, b;
  __device__ Box(const Block& block, int tile) {
    const Route& route = *block.route;
    turn = route.turns == 1 ? 0 : tile / route.tiles, i = block.in_run(tile) * kSteps;
    if (block.reversed) turn = route.turns - 1 - turn;
    c = static_cast<int>(block.c0), k = static_cast<int>(block.k), b = static_cast<int>(block.b);
  }
};
__device__ inline void bring_box(uint32_t to, const CUtensorMap& map, int c, const Box& box, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5, %6}], "
      "[%7];" ::"r"(to),
      "l"(&map), "r"(c), "r"(box.i), "r"(box.turn), "r"(box.k), "r"(box.b), "r"(barrier)
      : "memory");
}
__device__ inline void take_box(uint32_t from, const CUtensorMap& map, const Box& box) {
  asm volatile("cp.async.bulk.tensor.5d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5, %6}], [%1];" ::"l"(&map),
               "r"(from), "r"(box.c), "r"(box.i), "r"(box.turn), "r"(box.k), "r"(box.b)
               : "memory");
}

__device__ inline void bring(const ScanProblem& p, const Bulk& bulk, const Block& block, int tile, int stage) {
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(block.ring)) + stage * bulk.at.size;
  const uint32_t barrier = block.arrived + 8 * stage;
  const Box box(block, tile);
  barrier_expect(barrier, bulk.loaded);
  bring_box(to + bulk.at.u, block.route->u, box.c, box, barrier);
  bring_box(to + bulk.at.delta, block.route->delta, box.c, box, barrier);
  bring_box(to + bulk.at.B, block.route->B, 0, box, barrier);
  bring_box(to + bulk.at.C, block.route->C, 0, box, barrier);
  if (p.z.data) bring_box(to + bulk.at.z, block.route->z, box.c, box, barrier);
}

// 4 steps of 2 channels.
using Item = float[4][2];
template <class F>
__device__ inline void each(F&& f) {
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 2; j++) f(i, j);
}
template <class E>
__device__ inline void read_item(Item& to, const std::byte* tile, int channels, int first, int pair) {
  const E* from = reinterpret_cast<const E*>(tile) + first * channels + 2 * pair;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const auto pack = *reinterpret_cast<const Pack<E, 2>*>(from + i * channels);
    to[i][0] = to_float(pack.v[0]), to[i][1] = to_float(pack.v[1]);
  }
}
template <class E>
__device__ inline void write_item(std::byte* tile, const Pack<float, 4> (&y)[2], int channels, int first, int pair) {
  E* to = reinterpret_cast<E*>(tile) + first * channels + 2 * pair;
#pragma unroll
  for (int i = 0; i < 4; i++)
    *reinterpret_cast<Pack<E, 2>*>(to + i * channels) = {from_float<E>(y[0].v[i]), from_float<E>(y[1].v[i])};
}

template <int M>
struct Items {
  static constexpr int channels = Prepared<M>::channels, half = channels / 2, all = half * kSteps / 4;
  static constexpr int each_of(int threads) { return static_cast<int>(ceil_div(all, threads)); }
  // The warps take turns at what is left over.
  template <int kCount>
  static __device__ int item(int tile, int thread, int n) {
    return (all % kCount == 0 ? thread : (thread + tile * 32) % kCount) + n * kCount;
  }
};

// E: the type of u and z, F: of delta or y, which may be f32 in any case.
template <int M, class E, class F>
__device__ void prepare(const ScanProblem& p, const Bulk& bulk, const Block& block, Prepared<M>* buffers, int thread) {
  constexpr int channels = Items<M>::channels, half = Items<M>::half, kCount = 32 * kPreparing,
                kItems = Items<M>::each_of(kCount);
  Turn stage{bulk.stages}, buffer{Prepared<M>::kBuffers};
  for (int tile = 0; tile < block.tiles; tile++, stage.next(), buffer.next()) {
    block.wait(stage);
    const std::byte* from = block.stage(bulk, stage);
    Prepared<M>& to = buffers[buffer.at];
    const int steps = block.steps(tile);
#pragma unroll
    for (int n = 0; n < kItems; n++) {
      const int item = Items<M>::template item<kCount>(tile, thread, n), pair = item % half, first = item / half * 4;
      const bool mine = Items<M>::all % kCount == 0 || item < Items<M>::all;
      Item x, dt;
      if (mine) {
        const auto delta_bias = *reinterpret_cast<const Pack<float, 2>*>(block.delta_bias + 2 * pair);
        read_item<F>(dt, from + bulk.at.delta, channels, first, pair);
        read_item<E>(x, from + bulk.at.u, channels, first, pair);
        each([&](int i, int j) {
          dt[i][j] += delta_bias.v[j];
          if (p.positive) dt[i][j] = softplus(dt[i][j]);
          x[i][j] *= dt[i][j];
        });
      }
      if (n == 0 && tile >= Prepared<M>::kBuffers) block.receive(kDone, buffer, 1);
      if (mine) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
          const int line = pair + j * half;
          *reinterpret_cast<Pack<float, 4>*>(&to.dt[line][first]) = {dt[0][j], dt[1][j], dt[2][j], dt[3][j]};
          *reinterpret_cast<Pack<float, 4>*>(&to.x[line][first]) = {x[0][j], x[1][j], x[2][j], x[3][j]};
        }
        // Steps beyond the end leave the states as they are.
#pragma unroll 1
        for (int i = max(first, steps); i < first + 4; i++)
#pragma unroll
          for (int j = 0; j < 2; j++) to.dt[pair + j * half][i] = to.x[pair + j * half][i] = 0.f;
      }
    }
    block.hand_on(kFull, buffer);
  }
}

// Stores a finished tile, and brings a new one to where the tile before it was.
__device__ inline void pass_on(const ScanProblem& p, const Bulk& bulk, const Block& block, int tile) {
  const uint32_t ring = static_cast<uint32_t>(__cvta_generic_to_shared(block.ring));
  take_box(ring + tile % bulk.stages * bulk.at.size + bulk.at.y, block.route->y, Box(block, tile));
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
  const int next = tile - 1 + bulk.stages;
  if (tile == 0 || next >= block.tiles) return;
  asm volatile("cp.async.bulk.wait_group.read 1;" ::: "memory");
  bring(p, bulk, block, next, (tile - 1) % bulk.stages);
}

template <int M, class E, class F>
__device__ void finish(const ScanProblem& p, const Bulk& bulk, const Block& block, Prepared<M>* buffers, int thread) {
  constexpr int channels = Items<M>::channels, half = Items<M>::half, kCount = 32 * kFinishing,
                kItems = Items<M>::each_of(kCount);
  Turn stage{bulk.stages}, buffer{Prepared<M>::kBuffers};
  Turn before = buffer;  // that of the last tile
  if (thread == 0)
    for (int i = kFirst; i < min(bulk.stages, block.tiles); i++) bring(p, bulk, block, i, i);
  __syncwarp();
  for (int tile = 0; tile < block.tiles; tile++, stage.next(), buffer.next()) {
    block.wait(stage);
    std::byte* at = block.stage(bulk, stage);
    const Prepared<M>& from = buffers[buffer.at];
#pragma unroll
    for (int n = 0; n < kItems; n++) {
      const int item = Items<M>::template item<kCount>(tile, thread, n), pair = item % half, first = item / half * 4;
      const bool mine = Items<M>::all % kCount == 0 || item < Items<M>::all;
      Item u, gate;
      if (mine && p.D.data) read_item<E>(u, at + bulk.at.u, channels, first, pair);
      if (mine && p.z.data) {
        read_item<E>(gate, at + bulk.at.z, channels, first, pair);
        each([&](int i, int j) { gate[i][j] = silu(gate[i][j]); });
      }
      if (n == 0) block.receive(kDone, buffer);
      if (mine) {
        Pack<float, 4> sum[2];
#pragma unroll
        for (int j = 0; j < 2; j++) {
          Pack<float, 4> part[4];
#pragma unroll
          for (int q = 0; q < 4; q++)
            part[q] = *reinterpret_cast<const Pack<float, 4>*>(from.sums[q] + (pair + j * half) * kPitch + first);
#pragma unroll
          for (int i = 0; i < 4; i++) sum[j].v[i] = (part[0].v[i] + part[1].v[i]) + (part[2].v[i] + part[3].v[i]);
        }
        const auto D = *reinterpret_cast<const Pack<float, 2>*>(block.D + 2 * pair);
        if (p.D.data) each([&](int i, int j) { sum[j].v[i] = fmaf(D.v[j], u[i][j], sum[j].v[i]); });
        if (p.z.data) each([&](int i, int j) { sum[j].v[i] *= gate[i][j]; });
        write_item<F>(at + bulk.at.y, sum, channels, first, pair);
      }
    }
    block.hand_on(kFree, buffer);
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

template <class F>
__device__ inline void with_types(const Sequence& u, const Sequence& other, F&& f) {
  const auto with = [&](auto type) { other.dtype == Dtype::f32 ? f(type, float{}) : f(type, type); };
  if (u.dtype == Dtype::f32)
    f(float{}, float{});
  else
    u.dtype == Dtype::bf16 ? with(bf16{}) : with(f16{});
}

// Q lanes to a channel and M channels to a lane. Bit 0 of a lane is a channel's, the next log2 Q are its place among the
// states and the rest are the channel's again. Tiles are read backwards where kReversed.
template <int N, int Q, int M, bool kReversed>
__device__ void recur(const ScanProblem& p, const Bulk& bulk, const Block& block, Prepared<N>* buffers, int first_line) {
  constexpr int S = kStates / Q, kApart = 32 / Q;  // states of a lane; from one of its lines to the next
  const int lane = threadIdx.x % 32, q = lane / 2 % Q, line = first_line + (lane & 1) + lane / (2 * Q) * 2;
  float rate[M][S], h[M][S];
  const auto each_state = [&](auto&& f) {
#pragma unroll
    for (int m = 0; m < M; m++) {
      const int64_t c = block.c0 + channel_of<N>(line + kApart * m);
#pragma unroll
      for (int s = 0; s < S; s++)
        if (c < p.d) f(m, s, c, q * S + s);
    }
  };
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int s = 0; s < S; s++) rate[m][s] = h[m][s] = 0.f;
  each_state([&](int m, int s, int64_t c, int state) {
    rate[m][s] = p.A.data[block.k * p.A.group + c * p.A.channel + state * p.A.state] * kLog2e;
    if (p.initial.data && block.row >= 0)
      h[m][s] = p.initial.data[block.row * p.initial.row + (block.k * p.d + c) * p.initial.channel + state];
  });

  // From the place in a tile of the first of 4 steps to those of the others, and of the next 4.
  constexpr int kNext = kReversed ? -1 : 1;
  const bool odd = lane & 2, high = lane & 4;
  Turn stage{bulk.stages}, buffer{Prepared<N>::kBuffers};
  for (int tile = 0; tile < block.tiles; tile++, stage.next(), buffer.next()) {
    block.receive(kFull, buffer);
    if (tile >= Prepared<N>::kBuffers) block.receive(kFree, buffer, 1);
    const float* B_row = reinterpret_cast<const float*>(block.stage(bulk, stage) + bulk.at.B) + q * S;
    const float* C_row = reinterpret_cast<const float*>(block.stage(bulk, stage) + bulk.at.C) + (S > 1 ? q * S : q & ~1);
    const float* dts = buffers[buffer.at].dt[line];
    const float* xs = buffers[buffer.at].x[line];
    float* sums = buffers[buffer.at].sums[S > 1 ? q : q / 4] + line * kPitch;
    const auto span = [&](auto count, int at) {  // steps from this place on
      constexpr int kCount = decltype(count)::value;
      // Kept until the end, so that loads may go ahead of them.
      using Sums = std::conditional_t<(S > 1), Pack<float, 4>, float>;
      Sums done[kCount / 4][M];
#pragma unroll
      for (int i = 0; i < kCount; i += 4) {
        const int first = at + kNext * i, low = kReversed ? first - 3 : first;
        Pack<float, S> B[4];
        [[maybe_unused]] Pack<float, S> C[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
          B[j] = *reinterpret_cast<const Pack<float, S>*>(B_row + (first + kNext * j) * kStates);
          if constexpr (S > 1) C[j] = *reinterpret_cast<const Pack<float, S>*>(C_row + (first + kNext * j) * kStates);
        }
#pragma unroll
        for (int m = 0; m < M; m++) {
          const auto dt = *reinterpret_cast<const Pack<float, 4>*>(dts + kApart * m * kPitch + low);
          const auto x = *reinterpret_cast<const Pack<float, 4>*>(xs + kApart * m * kPitch + low);
          float sum[4];
          [[maybe_unused]] float half[2];
#pragma unroll
          for (int j = 0; j < 4; j++) {
            const int v = kReversed ? 3 - j : j;
#pragma unroll
            for (int s = 0; s < S; s++)
              h[m][s] = fmaf(exp2_fast(dt.v[v] * rate[m][s]), h[m][s], x.v[v] * B[j].v[s]);
            if constexpr (S > 1)
              sum[j] = dot(C[j].v, h[m]);
            else
              sum[j] = h[m][0];
          }
          if constexpr (S > 1) {
            constexpr int a = kReversed ? 3 : 0;
            done[i / 4][m] = {sum[a], sum[a ^ 1], sum[a ^ 2], sum[a ^ 3]};
          } else {
            // The states of 4 steps cross over between neighbours, and then the sums of two, half of them each time: lane
            // bits 1 and 2 become the number of the step.
#pragma unroll
            for (int j = 0; j < 2; j++) {
              const float kept = odd ? sum[2 * j + 1] : sum[2 * j];
              const float got = __shfl_xor_sync(~0u, odd ? sum[2 * j] : sum[2 * j + 1], 2);
              const float* row = C_row + (first + kNext * (2 * j + odd)) * kStates;
              const float pair[] = {odd ? got : kept, odd ? kept : got};
              half[j] = dot(reinterpret_cast<const Pack<float, 2>*>(row)->v, pair);
            }
            done[i / 4][m] = (high ? half[1] : half[0]) + __shfl_xor_sync(~0u, high ? half[0] : half[1], 4);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kCount; i += 4)
#pragma unroll
        for (int m = 0; m < M; m++)
          *reinterpret_cast<Sums*>(sums + kApart * m * kPitch + at + kNext * (S > 1 ? kReversed ? i + 3 : i : i + (q & 3))) =
              done[i / 4][m];
    };
    const int steps = block.steps(tile);
    int t = 0, at = kReversed ? (steps + 3) / 4 * 4 - 1 : 0;
#pragma unroll 1
    for (; t + kSpan - 4 < steps; t += kSpan, at += kNext * kSpan) span(std::integral_constant<int, kSpan>{}, at);
#pragma unroll 1
    for (; t < steps; t += 4, at += kNext * 4) span(std::integral_constant<int, 4>{}, at);
    block.hand_on(kDone, buffer);
  }

  if (p.last.data && block.fits)
    each_state([&](int m, int s, int64_t c, int state) {
      p.last.data[block.row * p.last.row + (block.k * p.d + c) * p.last.channel + state] = h[m][s];
    });
}

#endif

template <int M>
__global__ __launch_bounds__(kThreads, 1) void bulk_kernel(const __grid_constant__ ScanProblem p,
                                                           const __grid_constant__ Bulk bulk) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  constexpr int channels = Prepared<M>::channels;
  extern __shared__ __align__(128) std::byte memory[];
  __shared__ __align__(8) uint64_t arrived[kMaxStages + 3 * kHands];
  auto* buffers = reinterpret_cast<Prepared<M>*>(memory + bulk.stages * bulk.at.size);
  const uint32_t blocks = static_cast<uint32_t>(ceil_div(p.d, channels)), groups = static_cast<uint32_t>(p.groups);
  const uint32_t rest = blockIdx.x / blocks;
  Block block;
  block.b = rest / groups, block.k = rest % groups, block.c0 = int64_t{blockIdx.x - rest * blocks} * channels;
  block.ring = memory, block.arrived = static_cast<uint32_t>(__cvta_generic_to_shared(arrived));
  const int walk = p.walks > 1 ? static_cast<int>(block.k) : 0;
  block.route = &bulk.routes[walk / 2], block.reversed = walk % 2;
  block.tiles = block.route->turns * block.route->tiles;
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);  // the same for a warp, and known to be
  const bool orders = threadIdx.x == 32 * (kRecurring + kPreparing);
  if (orders) {
    for (int i = 0; i < bulk.stages; i++) barrier_init(block.arrived + 8 * i, 1);
    for (int i = 0; i < 3 * kHands; i++) barrier_init(block.arrived + 8 * (kMaxStages + i), hand_threads(i / 3));
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  wait_for_inputs();
  if (orders)
    for (int i = 0; i < min(kFirst, block.tiles); i++) bring(p, bulk, block, i, i);
  __shared__ __align__(8) float delta_bias[channels], D[channels];
  block.delta_bias = delta_bias, block.D = D;
  if (threadIdx.x < channels) {
    const int64_t c = min(block.c0 + threadIdx.x, p.d - 1);
    const auto weight = [&](const Weight& w) { return w.data ? w.data[block.k * w.group + c * w.channel] : 0.f; };
    delta_bias[threadIdx.x] = weight(p.delta_bias), D[threadIdx.x] = weight(p.D);
  }
  __shared__ int32_t list[kChunk];
  const bool faulted = has_fault(p.fault);
  block.fits = slots_fit(p, list) && !faulted;
  block.row = state_row(p, block.b, block.fits);
  __syncthreads();
  const int quad_line = warp * 8 * M, pair_line = 32 * M + (warp - kQuads) * 2;
  if (warp < kQuads)
    block.reversed ? recur<M, 4, M, true>(p, bulk, block, buffers, quad_line)
                   : recur<M, 4, M, false>(p, bulk, block, buffers, quad_line);
  else if (warp < kRecurring)
    block.reversed ? recur<M, 16, 1, true>(p, bulk, block, buffers, pair_line)
                   : recur<M, 16, 1, false>(p, bulk, block, buffers, pair_line);
  else if (warp < kRecurring + kPreparing)
    with_types(p.u, p.delta, [&](auto u, auto delta) {
      prepare<M, decltype(u), decltype(delta)>(p, bulk, block, buffers, threadIdx.x - 32 * kRecurring);
    });
  else
    with_types(p.u, p.y, [&](auto u, auto y) {
      finish<M, decltype(u), decltype(y)>(p, bulk, block, buffers, threadIdx.x - 32 * (kRecurring + kPreparing));
    });
#endif
}

// What the copy engine asks of a sequence: 16-byte steps between all but neighbouring channels.
bool is_bulk(const Sequence& s, const ScanProblem& p) {
  const int64_t unit = 16 / element_bytes(s);
  const auto fits = [&](int64_t stride, int64_t size) { return size <= 1 || (stride > 0 && stride % unit == 0); };
  return !s.data || (s.channel == 1 && aligned(s.data, 16) && fits(s.step, p.length) && fits(s.group, p.groups) &&
                     fits(s.row, p.batch));
}

// A walk's steps from the first cell in memory on, whichever way it goes.
Route route(const ScanProblem& p, const Walk& walk, int channels) {
  const bool straight = walk.turns == 1 || walk.turn == walk.run * walk.step;
  const int64_t run = straight ? walk.turns * walk.run : walk.run, turns = straight ? 1 : walk.turns;
  Route to{};
  to.run = static_cast<int>(run), to.turns = static_cast<int>(turns), to.tiles = static_cast<int>(ceil_div(run, kSteps));
  const auto map = [&](CUtensorMap& map, const Sequence& s, int64_t size, int box) {
    if (s.data)
      map = tensor_map<5>(s.data, s.dtype, {size, run, turns, p.groups, p.batch},
                          {walk.step * s.step, walk.turn * s.step, s.group, s.row}, {box, kSteps, 1, 1, 1},
                          CU_TENSOR_MAP_SWIZZLE_NONE);
  };
  map(to.u, p.u, p.d, channels), map(to.delta, p.delta, p.d, channels), map(to.z, p.z, p.d, channels);
  map(to.y, p.y, p.d, channels), map(to.B, p.B, kStates, kStates), map(to.C, p.C, kStates, kStates);
  return to;
}

template <int M>
void launch_tile(const ScanProblem& p, const Launch& on) {
  constexpr int channels = Prepared<M>::channels;
  Bulk bulk{};
  for (int i = 0; i < 2; i++)
    if (i == 0 || p.walks == 4) bulk.routes[i] = route(p, p.walk[2 * i], channels);
  // y takes the place of u where it is as large.
  Stage& at = bulk.at;
  const auto bytes = [&](const Sequence& s) { return s.data ? channels * kSteps * element_bytes(s) : 0; };
  const bool in_place = element_bytes(p.u) == element_bytes(p.y);
  at.u = 0, at.delta = bytes(p.u), at.z = at.delta + bytes(p.delta);
  const int end = at.z + bytes(p.z);
  at.y = end, at.B = end + (in_place ? 0 : bytes(p.y)), at.C = at.B + kStates * kSteps * 4,
  at.size = at.C + kStates * kSteps * 4;
  const int loaded = end;
  if (in_place) at.y = at.u;
  bulk.stages = std::min<int>(kMaxStages, (on.card.shared_bytes - 2048 - Prepared<M>::kBuffers * sizeof(Prepared<M>)) / at.size);
  const dim3 grid(static_cast<unsigned>(p.batch * p.groups * ceil_div(p.d, channels)));
  bulk.loaded = loaded + 2 * kStates * kSteps * 4;
  launch(bulk_kernel<M>, grid, dim3(kThreads), bulk.stages * at.size + Prepared<M>::kBuffers * sizeof(Prepared<M>), on, p, bulk);
}

}  // namespace

bool launch_scan_bulk(const ScanProblem& p, const Launch& on) {
  const auto f32 = [](const Sequence& s) { return s.dtype == Dtype::f32; };
  if (on.card.arch != 90 || p.n != kStates || p.length < 2 || p.batch * p.groups * p.d == 0 || p.length >= INT32_MAX || p.carry.data ||
      p.d % 2 != 0 || !f32(p.B) || !f32(p.C) || !encode_tiled())
    return false;
  const auto same = [&](const Sequence& s) { return !s.data || s.dtype == p.u.dtype; };
  if (!same(p.z) || (!same(p.delta) && !f32(p.delta)) || (!same(p.y) && !f32(p.y))) return false;
  for (const Sequence* s : {&p.u, &p.delta, &p.z, &p.y, &p.B, &p.C})
    if (!is_bulk(*s, p)) return false;
  const auto waves = [&](int channels) {
    return ceil_div(p.batch * p.groups * ceil_div(p.d, channels), on.card.multiprocessors);
  };
  waves(40) * 40 <= waves(72) * 72 ? launch_tile<1>(p, on) : launch_tile<2>(p, on);
  return true;
}

}  // namespace vlm::cuda
