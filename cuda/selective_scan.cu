// h_t = exp(dt_t·A)·h_{t-1} + dt_t·B_t·u_t,  y_t = (C_t·h_t + D·u_t)·silu(z_t),  dt = softplus(delta + delta_bias)
// (Mamba, arXiv 2312.00752 §3, Alg. 2). Without delta_softplus dt = delta + delta_bias; channel c reads group c /
// (d/g). u, delta, z, y: [b,d,l]   A: [d,n]   B, C: [b,g,n,l]   D, delta_bias: [d], with any strides; u, delta, z, y, B
// and C f32, f16 or bf16, the rest f32. initial_state, last_state: [b,d,n] f32, n contiguous; with slots, i32 [b], they
// are [slots,d,n] and row b is row slots[b]. They may be the same memory. Without an initial state h starts at 0.
//
// A block takes its channels through the sequence a tile of steps at a time. Some of its warps bring dt, dt·u, B and C of
// the next tile to shared memory and take the sums of the last one away; the others run the recurrence, each with its
// channels' states in registers. A sum over states is the same tree of additions everywhere, so that the tile may depend
// on the batch without a bit of the result doing so. More than 16 states are several launches, each adding to the sums of
// the one before.
#include <algorithm>

#include "scan_bulk.h"
#include "scan_slots.cuh"

namespace vlm::cuda {
namespace {

constexpr int kStates = 16, kSteps = 32, kPitch = kSteps + 4, kStages = 3;
constexpr int kSpan = 16;  // steps whose instructions the compiler may mix

// A block of kQuads warps with 8·M channels, 4 lanes with 4 states each to a channel, kPairs warps with 2 channels, 16 lanes
// each, and kCarriers warps that move the data. A lane shares what it reads of B and C among its M channels.
template <int Quads, int Channels, int Pairs, int Carriers>
struct Tile {
  static constexpr int kQuads = Quads, M = Channels, kPairs = Pairs, kCarriers = Carriers;
  static constexpr int channels = 8 * M * kQuads + 2 * kPairs, threads = 32 * (kQuads + kPairs + kCarriers);
};
using Small = Tile<0, 1, 4, 4>;   // 8 channels
using Medium = Tile<4, 1, 4, 8>;  // 40, 10 for each scheduler of a multiprocessor
using Large = Tile<4, 2, 4, 8>;   // 72

template <class T>
struct Shared {
  float B_C[2][kSteps][kPitch];  // B, then C, of each step
  float dt[2][T::channels][kPitch];
  float x[2][T::channels][kPitch];  // dt·u, and then the sums
};

// The barrier of a block whose warps go different ways between two of them: not bar.sync, which promises that all come by
// the same instruction.
template <class T>
__device__ inline void meet() {
  asm volatile("barrier.sync 1, %0;" ::"n"(T::threads) : "memory");
}

// Where a block is.
struct Place {
  int64_t b, k, c0;  // batch row, group, first channel
  int64_t row;       // of the states, or -1
  bool fits;         // whether states may be written
};

__device__ inline int64_t place(const Walk& walk, int64_t t) {
  if (walk.turns == 1) return walk.start + t * walk.step;
  const uint32_t run = static_cast<uint32_t>(walk.run), turn = static_cast<uint32_t>(t) / run;
  return walk.start + turn * walk.turn + (static_cast<uint32_t>(t) - turn * run) * walk.step;
}

template <int kBytes>
__device__ inline void copy_async(std::byte* to, const void* from) {
  if constexpr (kBytes == 2)  // less than the hardware copies by itself
    *reinterpret_cast<uint16_t*>(to) = *static_cast<const uint16_t*>(from);
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))),
                 "l"(from), "n"(kBytes)
                 : "memory");
}

// The part of a warp that moves data. A lane has one step of each tile: what it needs it copies ahead to a ring in shared
// memory that only it reads, it writes dt and x, and later it reads the sums. kRows: channels are neighbours in memory, and
// the lane takes pairs of them, with 8 steps to a warp; otherwise lanes are 32 steps and a warp has every eighth channel.
// What lies outside is read inside, and not used.
template <class T, bool kRows>
__device__ void carry(const ScanProblem& p, Shared<T>& shared, std::byte* ring, const Place& at, int warp) {
  constexpr int N = kRows ? 2 : 1, kParts = T::kCarriers, kCarrierThreads = 32 * T::kCarriers;
  constexpr int kItems = (T::channels + kParts * N - 1) / (kParts * N), kProjections = 2 * kStates / kParts;
  const int lane = threadIdx.x % 32, thread = warp * 32 + lane;
  const int step = kRows ? warp % 4 * 8 + lane % 8 : lane, part = kRows ? warp / 4 * 4 + lane / 8 : warp;
  const auto channel_of = [&](int i) { return (kParts * i + part) * N; };
  const auto in_tile = [&](int i) { return T::channels % (kParts * N) == 0 || channel_of(i) < T::channels; };
  const int channels = static_cast<int>(min(p.d - at.c0, int64_t{T::channels}));
  const int count = (channels - part * N + kParts * N - 1) / (kParts * N);  // items that exist
  const Walk walk = p.walk[p.walks == 1 ? 0 : at.k];
  const auto spot_at = [&](int64_t t0) { return place(walk, min(t0 + step, p.length - 1)); };
  // The lane's first element of the first step, and from an item to the next.
  const auto base = [&](const Sequence& s) {
    return advance(s, at.b * s.row + at.k * s.group + (at.c0 + part * N) * s.channel);
  };
  const auto offset = [&](const Sequence& s, int i) -> int64_t {
    return kRows ? kParts * N * i : kParts * i * s.channel;
  };

  // Some of the states of B, or of C.
  const bool is_C = part >= kParts / 2;
  const int first_state = part % (kParts / 2) * kProjections, states = static_cast<int>(p.n);
  const Dtype projected_dtype = is_C ? p.C.dtype : p.B.dtype;
  const int64_t projected_step = is_C ? p.C.step : p.B.step, projected_channel = is_C ? p.C.channel : p.B.channel;
  const void* projected_base =
      is_C ? advance(p.C, at.b * p.C.row + at.k * p.C.group) : advance(p.B, at.b * p.B.row + at.k * p.B.group);
  const void *u_base = base(p.u), *delta_base = base(p.delta), *z_base = base(p.z);
  void* y_base = base(p.y);

  // A stage of the ring: B or C, u, delta and z, each [item][thread].
  const int u_at = kProjections * sizeof(float) * kCarrierThreads;
  const int delta_at = u_at + kItems * N * kCarrierThreads * element_bytes(p.u);
  const int z_at = delta_at + kItems * N * kCarrierThreads * element_bytes(p.delta);
  const int stage_bytes = z_at + (p.z.data ? kItems * N * kCarrierThreads * element_bytes(p.z) : 0);

  const auto load = [&](int64_t spot, std::byte* stage) {
    const auto copy = [&](std::byte* to, const Sequence& s, const void* from) {
      const auto each = [&](auto type) {
        using E = decltype(type);
        constexpr int kBytes = N * sizeof(E);
        const E* first = static_cast<const E*>(from) + spot * s.step;
#pragma unroll
        for (int i = 0; i < kItems; i++)
          if (i < count) copy_async<kBytes>(to + (i * kCarrierThreads + thread) * kBytes, first + offset(s, i));
      };
      if (s.dtype == Dtype::f32)
        each(uint32_t{});
      else
        each(uint16_t{});
    };
    copy(stage + u_at, p.u, u_base);
    copy(stage + delta_at, p.delta, delta_base);
    if (p.z.data) copy(stage + z_at, p.z, z_base);
    if constexpr (kRows) {
      const float* first = static_cast<const float*>(projected_base) + spot * projected_step + first_state;
#pragma unroll
      for (int i = 0; i < kProjections; i += 4)
        copy_async<16>(stage + (thread * kProjections + i) * sizeof(float), first + i);
    } else {
      const auto each = [&](auto type) {
        using E = decltype(type);
        const E* first = static_cast<const E*>(projected_base) + spot * projected_step;
#pragma unroll
        for (int i = 0; i < kProjections; i++)
          copy_async<sizeof(E)>(stage + (thread * kProjections + i) * sizeof(float),
                                first + min(first_state + i, states - 1) * projected_channel);
      };
      if (projected_dtype == Dtype::f32)
        each(uint32_t{});
      else
        each(uint16_t{});
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  };
  const auto read = [&](float(&to)[kItems][N], const std::byte* from, Dtype dtype) {
    const auto each = [&](auto type) {
      using E = decltype(type);
#pragma unroll
      for (int i = 0; i < kItems; i++) {
        const auto pack = reinterpret_cast<const Pack<E, N>*>(from)[i * kCarrierThreads + thread];
#pragma unroll
        for (int j = 0; j < N; j++) to[i][j] = to_float(pack.v[j]);
      }
    };
    if (dtype == Dtype::f32)
      each(float{});
    else if (dtype == Dtype::bf16)
      each(bf16{});
    else
      each(f16{});
  };

  int64_t spots[] = {0, 0, spot_at(0), spot_at(kSteps)};  // of the last tile, this one and the next two
  load(spots[2], ring);
  load(spots[3], ring + stage_bytes);
  float D[kItems][N], delta_bias[kItems][N];
#pragma unroll
  for (int i = 0; i < kItems; i++)
#pragma unroll
    for (int j = 0; j < N; j++) {
      const int64_t c = at.c0 + min(channel_of(i) + j, channels - 1);
      D[i][j] = p.D.data ? p.D.data[at.k * p.D.group + c * p.D.channel] : 0.f;
      delta_bias[i][j] =
          p.delta_bias.data ? p.delta_bias.data[at.k * p.delta_bias.group + c * p.delta_bias.channel] : 0.f;
    }

  const auto put = [&](int64_t t0, const std::byte* stage, int buffer) {
    const bool inside = t0 + step < p.length;
    float x[kItems][N], dt[kItems][N];
    read(x, stage + u_at, p.u.dtype);
    read(dt, stage + delta_at, p.delta.dtype);
#pragma unroll
    for (int i = 0; i < kItems; i++)
#pragma unroll
      for (int j = 0; j < N; j++) {
        const float sum = dt[i][j] + delta_bias[i][j], positive = softplus(sum), value = p.positive ? positive : sum;
        if (in_tile(i)) {
          shared.dt[buffer][channel_of(i) + j][step] = inside && i < count ? value : 0.f;
          shared.x[buffer][channel_of(i) + j][step] = inside && i < count ? value * x[i][j] : 0.f;
        }
      }
#pragma unroll
    for (int i = 0; i < kProjections; i += 4) {
      auto pack = reinterpret_cast<const Pack<float, 4>*>(stage)[(thread * kProjections + i) / 4];
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const uint32_t bits = __float_as_uint(pack.v[j]);
        if (!kRows && projected_dtype == Dtype::bf16) pack.v[j] = __uint_as_float(bits << 16);
        if (!kRows && projected_dtype == Dtype::f16) pack.v[j] = __half2float(__ushort_as_half(bits));
        if (!inside || (!kRows && first_state + i + j >= states)) pack.v[j] = 0.f;
      }
      *reinterpret_cast<Pack<float, 4>*>(&shared.B_C[buffer][step][part * kProjections + i]) = pack;
    }
  };
  const auto take = [&](int64_t t0, const std::byte* stage, int buffer) {
    float y[kItems][N], other[kItems][N];
    const auto each = [&](auto&& f) {
#pragma unroll
      for (int i = 0; i < kItems; i++)
#pragma unroll
        for (int j = 0; j < N; j++) f(i, j);
    };
    each([&](int i, int j) { y[i][j] = in_tile(i) ? shared.x[buffer][channel_of(i) + j][step] : 0.f; });
    if (p.D.data) {
      read(other, stage + u_at, p.u.dtype);
      each([&](int i, int j) { y[i][j] = fmaf(D[i][j], other[i][j], y[i][j]); });
    }
    const int64_t spot = spots[0];
    if (p.carry.data) {
      const float* from = static_cast<const float*>(base(p.carry)) + spot * p.carry.step;
      each([&](int i, int j) {
        if (i < count) y[i][j] += from[offset(p.carry, i) + j * p.carry.channel];
      });
    }
    if (p.z.data) {
      read(other, stage + z_at, p.z.dtype);
      each([&](int i, int j) { y[i][j] *= silu(other[i][j]); });
    }
    if (t0 + step >= p.length) return;
    const auto store = [&](auto type) {
      using E = decltype(type);
      E* to = static_cast<E*>(y_base) + spot * p.y.step;
#pragma unroll
      for (int i = 0; i < kItems; i++) {
        Pack<E, N> pack;
#pragma unroll
        for (int j = 0; j < N; j++) pack.v[j] = from_float<E>(y[i][j]);
        if (i < count) *reinterpret_cast<Pack<E, N>*>(to + offset(p.y, i)) = pack;
      }
    };
    if (p.y.dtype == Dtype::f32)
      store(float{});
    else if (p.y.dtype == Dtype::bf16)
      store(bf16{});
    else
      store(f16{});
  };

  asm volatile("cp.async.wait_group 1;" ::: "memory");
  put(0, ring, 0);
  int buffer = 0, next = 1;  // the stage of the next tile
  for (int64_t t0 = 0;; t0 += kSteps, buffer ^= 1) {
    meet<T>();
#pragma unroll
    for (int i = 0; i < 3; i++) spots[i] = spots[i + 1];
    spots[3] = spot_at(t0 + 2 * kSteps);
    const int last = next == kStages - 1 ? 0 : next + 1;  // the stage of the last tile, free after it
    if (t0 > 0) take(t0 - kSteps, ring + last * stage_bytes, buffer ^ 1);
    if (t0 >= p.length) break;
    load(spots[3], ring + last * stage_bytes);
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    put(t0 + kSteps, ring + next * stage_bytes, buffer ^ 1);
    next = next == kStages - 1 ? 0 : next + 1;
  }
  asm volatile("cp.async.wait_all;" ::: "memory");
}

// The part of a warp that runs channels, Q lanes to each and M channels to a lane. Bit 0 of a lane is a channel's, the next
// log2 Q are its place among the states and the rest are the channel's again. kPadded: there may be fewer states.
template <class T, int Q, int M, bool kPadded>
__device__ void recur(const ScanProblem& p, Shared<T>& shared, const Place& at, int first_channel) {
  constexpr int S = kStates / Q, kApart = 32 / Q;  // states of a lane; from one of its channels to the next
  const int lane = threadIdx.x % 32, q = lane / 2 % Q, first = first_channel + (lane & 1) + lane / (2 * Q) * 2;
  const int states = static_cast<int>(p.n);
  float rate[M][S], h[M][S];
  const auto each = [&](auto&& f) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int s = 0; s < S; s++) {
        const int64_t channel = at.c0 + first + kApart * m, state = q * S + s;
        f(m, s, channel, state, channel < p.d && state < p.n);
      }
  };
  each([&](int m, int s, int64_t channel, int64_t state, bool valid) {
    rate[m][s] = valid ? p.A.data[at.k * p.A.group + channel * p.A.channel + state * p.A.state] * kLog2e : 0.f;
    h[m][s] = valid && p.initial.data && at.row >= 0
                  ? p.initial.data[at.row * p.initial.row + (at.k * p.d + channel) * p.initial.channel + state]
                  : 0.f;
  });

  int buffer = 0;
#pragma unroll 1
  for (int64_t t0 = 0; t0 < p.length; t0 += kSteps, buffer ^= 1) {
    meet<T>();
    const float* dts = shared.dt[buffer][first];
    float* xs = shared.x[buffer][first];
#pragma unroll 1
    for (int t = 0; t < kSteps; t += kSpan) {
      float y[kSpan / 4][M];
#pragma unroll
      for (int i = 0; i < kSpan; i += 4) {
        Pack<float, S> B[4], C[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const float* row = shared.B_C[buffer][t + i + j] + q * S;
          B[j] = *reinterpret_cast<const Pack<float, S>*>(row);
          if constexpr (S > 1) C[j] = *reinterpret_cast<const Pack<float, S>*>(row + kStates);
        }
#pragma unroll
        for (int m = 0; m < M; m++) {
          const auto dt = *reinterpret_cast<const Pack<float, 4>*>(dts + kApart * m * kPitch + t + i);
          const auto x = *reinterpret_cast<const Pack<float, 4>*>(xs + kApart * m * kPitch + t + i);
          float sum[4], half[2];
#pragma unroll
          for (int j = 0; j < 4; j++) {
#pragma unroll
            for (int s = 0; s < S; s++) {
              h[m][s] = fmaf(exp2_fast(dt.v[j] * rate[m][s]), h[m][s], x.v[j] * B[j].v[s]);
              if (kPadded && q * S + s >= states) h[m][s] = 0.f;  // even where x is infinite
            }
            if constexpr (S > 1)
              sum[j] = dot(C[j].v, h[m]);
            else
              sum[j] = h[m][0];
          }
          // The sums of 4 steps go to the lanes whose bits 1 and 2 are the number of the step, half of them crossing over
          // at each level. With one state to a lane the states cross first.
          const bool odd = lane & 2, high = lane & 4;
#pragma unroll
          for (int j = 0; j < 2; j++) {
            const float kept = odd ? sum[2 * j + 1] : sum[2 * j];
            const float got = __shfl_xor_sync(~0u, odd ? sum[2 * j] : sum[2 * j + 1], 2);
            if constexpr (S > 1) {
              half[j] = kept + got;
            } else {
              const float* row = shared.B_C[buffer][t + i + 2 * j + odd] + kStates + (q & ~1);
              const float pair[] = {odd ? got : kept, odd ? kept : got};
              half[j] = dot(reinterpret_cast<const Pack<float, 2>*>(row)->v, pair);
            }
          }
          float all = (high ? half[1] : half[0]) + __shfl_xor_sync(~0u, high ? half[0] : half[1], 4);
#pragma unroll
          for (int bit = 8; bit <= Q; bit *= 2) all += __shfl_xor_sync(~0u, all, bit);
          y[i / 4][m] = all;
        }
      }
      __syncwarp();
      if (q < 4)
#pragma unroll
        for (int i = 0; i < kSpan; i += 4)
#pragma unroll
          for (int m = 0; m < M; m++) xs[kApart * m * kPitch + t + i + q] = y[i / 4][m];
    }
  }
  meet<T>();

  if (!p.last.data || !at.fits) return;
  each([&](int m, int s, int64_t channel, int64_t state, bool valid) {
    if (valid) p.last.data[at.row * p.last.row + (at.k * p.d + channel) * p.last.channel + state] = h[m][s];
  });
}

template <class T, bool kRows>
__global__ __launch_bounds__(T::threads) void scan_kernel(const __grid_constant__ ScanProblem p) {
  wait_for_inputs();
  extern __shared__ __align__(16) std::byte memory[];
  Shared<T>& shared = *reinterpret_cast<Shared<T>*>(memory);
  const uint32_t blocks = static_cast<uint32_t>(ceil_div(p.d, T::channels)), groups = static_cast<uint32_t>(p.groups);
  const uint32_t rest = blockIdx.x / blocks;
  Place at{rest / groups, rest % groups, int64_t{blockIdx.x - rest * blocks} * T::channels};
  const bool faulted = has_fault(p.fault);
  at.fits = slots_fit(p, reinterpret_cast<int32_t*>(memory)) && !faulted;
  at.row = state_row(p, at.b, at.fits);
  const int warp = threadIdx.x / 32;
  if (warp < T::kQuads)
    recur<T, 4, T::M, !kRows>(p, shared, at, warp * 8 * T::M);
  else if (warp < T::kQuads + T::kPairs)
    recur<T, 16, 1, !kRows>(p, shared, at, T::kQuads * 8 * T::M + (warp - T::kQuads) * 2);
  else if (p.length > 0)
    carry<T, kRows>(p, shared, memory + sizeof(Shared<T>), at, warp - T::kQuads - T::kPairs);
  else
    meet<T>();
}

// A single step: 4 lanes to a channel, straight from memory to memory, `rows` batch rows to a thread. kWide: 16-byte
// accesses, and element types known to the compiler; otherwise they are asked for.
constexpr int kOnceThreads = 128, kOnceChannels = kOnceThreads / 4;

template <bool kWide, class E, class F>
__global__ __launch_bounds__(kOnceThreads) void scan_once_kernel(const __grid_constant__ ScanProblem p, int rows) {
  wait_for_inputs();
  const uint32_t blocks = static_cast<uint32_t>(ceil_div(p.d, kOnceChannels)), rest = blockIdx.x / blocks;
  const uint32_t groups = static_cast<uint32_t>(p.groups), part = rest / groups, k = rest - part * groups;
  const int q = threadIdx.x % 4;
  const int64_t c = static_cast<int64_t>(blockIdx.x - rest * blocks) * kOnceChannels + threadIdx.x / 4;
  const bool valid = c < p.d;
  const int64_t channel = valid ? c : p.d - 1, states = k * p.d + channel;
  const auto weight = [&](const Weight& w) { return w.data ? w.data[k * w.group + channel * w.channel] : 0.f; };
  const auto index = [&](const Sequence& s, int64_t b) { return b * s.row + k * s.group + channel * s.channel; };
  const float delta_bias = weight(p.delta_bias), D = weight(p.D);
  __shared__ int32_t list[kChunk];
  const bool faulted = has_fault(p.fault), fits = slots_fit(p, list) && !faulted;

  const int64_t end = min((part + 1) * static_cast<int64_t>(rows), p.batch);
  for (int64_t b = part * static_cast<int64_t>(rows); b < end; b++) {
    const int64_t row = state_row(p, b, fits);
    const float u = load_as<E>(p.u, index(p.u, b)), delta = load_as<F>(p.delta, index(p.delta, b)) + delta_bias;
    const float z = p.z.data ? load_as<E>(p.z, index(p.z, b)) : 0.f;
    const float dt = p.positive ? softplus(delta) : delta, x = dt * u;
    float y = 0.f;
    for (int s0 = 0; s0 < p.n; s0 += kStates) {
      const int first = s0 + 4 * q, left = static_cast<int>(p.n) - first;
      Pack<float, 4> A{}, h{}, B{}, C{};
      const auto read = [&](Pack<float, 4>& to, const float* from, int64_t stride) {
        if constexpr (kWide)
          to = *reinterpret_cast<const Pack<float, 4>*>(from + first);
        else
#pragma unroll
          for (int i = 0; i < 4; i++)
            if (i < left) to.v[i] = from[(first + i) * stride];
      };
      const auto project = [&](Pack<float, 4>& to, const Sequence& s) {
        const int64_t at = b * s.row + k * s.group;
        if constexpr (kWide)
          read(to, static_cast<const float*>(s.data) + at, 1);
        else
#pragma unroll
          for (int i = 0; i < 4; i++)
            if (i < left) to.v[i] = load_as<Any>(s, at + (first + i) * s.channel);
      };
      if (p.initial.data && row >= 0) read(h, p.initial.data + row * p.initial.row + states * p.initial.channel, 1);
      read(A, p.A.data + k * p.A.group + channel * p.A.channel, p.A.state);
      project(B, p.B);
      project(C, p.C);
#pragma unroll
      for (int i = 0; i < 4; i++)  // a state beyond n stays 0, even where x is infinite
        h.v[i] = kWide || i < left ? fmaf(exp2_fast(dt * (A.v[i] * kLog2e)), h.v[i], x * B.v[i]) : 0.f;
      float sum = dot(C.v, h.v);
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      y = s0 > 0 ? sum + y : p.D.data ? fmaf(D, u, sum) : sum;
      if (valid && fits && p.last.data) {
        float* to = p.last.data + row * p.last.row + states * p.last.channel + first;
        if constexpr (kWide)
          *reinterpret_cast<Pack<float, 4>*>(to) = h;
        else
#pragma unroll
          for (int i = 0; i < 4; i++)
            if (i < left) to[i] = h.v[i];
      }
    }
    if (valid && q == 0) store_as<E>(p.y, index(p.y, b), p.z.data ? y * silu(z) : y);
  }
}

// Whether two channels of a step are one aligned access.
bool is_rows(const Sequence& s) {
  return !s.data || (s.channel == 1 && aligned(s.data, 2 * dtype_bytes(s.dtype)) && s.row % 2 == 0 &&
                     s.group % 2 == 0 && s.step % 2 == 0);
}

bool is_wide(const Sequence& s) {
  return s.dtype == Dtype::f32 && s.channel == 1 && aligned(s.data, 16) && s.row % 4 == 0 && s.group % 4 == 0 &&
         s.step % 4 == 0;
}
bool is_wide(const State& s) { return !s.data || (aligned(s.data, 16) && s.row % 4 == 0 && s.channel % 4 == 0); }

template <class T>
size_t shared_bytes(const ScanProblem& p) {
  size_t stage = 2 * kStates * sizeof(float) * kSteps;
  for (const Sequence* s : {&p.u, &p.delta, &p.z})
    if (s->data) stage += ceil_div(T::channels, 2 * T::kCarriers) * 2 * T::kCarriers * kSteps * element_bytes(*s);
  return sizeof(Shared<T>) + kStages * stage;
}

template <class T>
void launch_tile(const ScanProblem& p, const Launch& on) {
  const bool rows = p.d % 2 == 0 && p.n == kStates && is_rows(p.u) && is_rows(p.delta) && is_rows(p.z) &&
                    is_rows(p.y) && is_wide(p.B) && is_wide(p.C);
  const dim3 grid(static_cast<unsigned>(p.batch * p.groups * ceil_div(p.d, T::channels)));
  launch(rows ? scan_kernel<T, true> : scan_kernel<T, false>, grid, dim3(T::threads), shared_bytes<T>(p), on, p);
}

// The tile with the least to do for the fullest multiprocessor. The costs are what a step of a block takes, measured.
void launch_states(const ScanProblem& p, const Launch& on) {
  const auto cost = [&](int channels, int step) {
    return ceil_div(p.batch * p.groups * ceil_div(p.d, channels), on.card.multiprocessors) * step;
  };
  const int64_t small = cost(Small::channels, 5), medium = cost(Medium::channels, 12),
                large = cost(Large::channels, 15), bulk = cost(kBulkChannels, 8);
  if (small < std::min(medium, large)) return launch_tile<Small>(p, on);
  if (bulk < std::min(medium, large) && scan_is_bulk(p, on.card)) return launch_scan_bulk(p, on);
  medium <= large || shared_bytes<Large>(p) > on.card.shared_bytes ? launch_tile<Medium>(p, on)
                                                                   : launch_tile<Large>(p, on);
}

}  // namespace

size_t workspace_scan(const ScanProblem& p) {
  return p.n > kStates && p.length > 1 ? p.batch * p.groups * p.d * p.length * sizeof(float) : 0;
}

void launch_scan(ScanProblem p, const Launch& on) {
  p.fault = on.fault, p.step = on.step;
  if (p.length == 1) {
    const bool wide = p.n % kStates == 0 && p.A.state == 1 && p.A.channel % 4 == 0 && p.A.group % 4 == 0 &&
                      aligned(p.A.data, 16) && is_wide(p.initial) && is_wide(p.last) && is_wide(p.B) && is_wide(p.C) &&
                      p.u.dtype == p.y.dtype && (!p.z.data || p.u.dtype == p.z.dtype) &&
                      (p.delta.dtype == p.u.dtype || p.delta.dtype == Dtype::f32);
    const int64_t blocks = p.groups * ceil_div(p.d, kOnceChannels);
    // Rows to a thread, as long as there are threads enough.
    const int rows = p.batch * blocks >= 64 * on.card.multiprocessors ? 4 : 1;
    const auto go = [&](auto kernel) {
      launch(kernel, dim3(static_cast<unsigned>(blocks * ceil_div(p.batch, rows))), dim3(kOnceThreads), 0, on, p, rows);
    };
    if (!wide) return go(scan_once_kernel<false, Any, Any>);
    return with_float({.dtype = p.u.dtype}, "u", [&](auto type) {
      using E = decltype(type);
      p.delta.dtype == Dtype::f32 ? go(scan_once_kernel<true, E, float>) : go(scan_once_kernel<true, E, E>);
    });
  }
  // Sums lie as y does, so that reading and writing them goes as well as that.
  const Sequence y = p.y, z = p.z;
  const int64_t plane = p.d * p.length;
  Sequence sums{on.workspace, Dtype::f32, p.groups * plane, plane, p.length, 1};
  if (y.channel == 1) sums.channel = 1, sums.step = p.d;
  for (int64_t left = p.n; left > 0; left -= kStates) {
    ScanProblem part = p;
    part.n = std::min<int64_t>(left, kStates);
    part.y = left > kStates ? sums : y;
    part.z = left > kStates ? Sequence{} : z;
    launch_states(part, on);
    const auto skip = [](auto*& data, int64_t elements) {
      if (data) data += elements;
    };
    skip(p.A.data, kStates * p.A.state);
    skip(p.initial.data, kStates);
    skip(p.last.data, kStates);
    for (Sequence* s : {&p.B, &p.C})
      s->data = static_cast<std::byte*>(s->data) + kStates * s->channel * dtype_bytes(s->dtype);
    p.carry = sums;
    p.D = {};
  }
}

namespace {

ScanProblem plain(const Step& step) {
  const auto [u, delta, A, B, C, D, z, delta_bias, initial, slots] = step.inputs<10>();
  const auto [y, last] = step.outputs<2>();
  ScanProblem p;
  p.batch = u.size[0], p.groups = B.size[1], p.d = u.size[1] / p.groups, p.n = A.size[1], p.length = u.size[2];
  p.positive = step.attr[0].i != 0;
  const auto sequence = [&](const TensorArg& t, const char* name) {
    if (t) with_float(t, name, [](auto) {});
    return Sequence{t.data, t.dtype, t.stride[0], p.d * t.stride[1], t.stride[1], t.stride[2]};
  };
  p.u = sequence(u, "u"), p.delta = sequence(delta, "delta"), p.z = sequence(z, "z"), p.y = sequence(y, "y");
  const auto projection = [&](const TensorArg& t, const char* name) {
    with_float(t, name, [](auto) {});
    return Sequence{t.data, t.dtype, t.stride[0], t.stride[1], t.stride[2], t.stride[3]};
  };
  p.B = projection(B, "B"), p.C = projection(C, "C");
  const auto weight = [&](const TensorArg& t, const char* name) {
    expect_dtype(t, name, Dtype::f32);
    return Weight{t.f32(), p.d * t.stride[0], t.stride[0], t.stride[1]};
  };
  p.A = weight(A, "A"), p.D = weight(D, "D"), p.delta_bias = weight(delta_bias, "delta_bias");
  const auto state = [](const TensorArg& t) { return State{t.f32(), t.stride[0], t.stride[1], t.size[0]}; };
  p.initial = state(initial), p.last = state(last), p.slots = slots;
  p.walk[0] = steps(p.length);
  return p;
}

}  // namespace

size_t workspace_selective_scan(const Step& step, const Card&) { return workspace_scan(plain(step)); }

void launch_selective_scan(const Step& step, const Launch& on) { launch_scan(plain(step), on); }

}  // namespace vlm::cuda
