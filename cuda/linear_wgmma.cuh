// Tiles through wgmma, Hopper's matrix product of a warpgroup with operands in shared memory, fed by bulk tensor copies.
// One warp of a block keeps a ring of stages full, one or two warpgroups take 64 rows of the tile each; the blocks stay and
// take tile after tile. Blocks of a cluster that share rows of x or of the weight read them once, each a part for all.
// Long narrow products (k long, n small) are cut along k instead: the blocks of a cluster sum one or two of eight parts
// each, and the parts are added, always in the same order, through distributed shared memory.
#pragma once

#include <algorithm>

#include "hopper.cuh"
#include "linear_finish.cuh"
#include "tensor_map.cuh"

namespace vlm::cuda {

constexpr int kWgmmaK = 64;     // elements of k in a stage: a row of 128 bytes, as the swizzle has it
constexpr int kWgmmaParts = 8;  // of k, where it is split

struct WgmmaParams {
  CUtensorMap x, weight;  // boxes of a block's part of the tile
  int blocks;             // of kWgmmaK along k
  int cluster_m, cluster_n;
  int tiles_m, tiles_n;  // of a cluster
  bool early;            // the weight may be read before wait_for_inputs()
  Finish finish;
};

template <class T_, int kGroups_, int BN_, int kSplits_ = 1, int kBlocks_ = 1>
struct WgmmaTraits {
  using T = T_;
  static constexpr int kGroups = kGroups_;  // consumer warpgroups
  static constexpr int BM = 64 * kGroups, BN = BN_;
  static constexpr int kSplits = kSplits_;  // blocks that share a tile's k
  static constexpr bool kSplit = kSplits > 1;
  static constexpr int kBlocks = kBlocks_;  // of a multiprocessor at once
  // Two consumers take over registers of the producer, which has to be a whole warpgroup for it.
  static constexpr bool kGive = kGroups == 2;
  static constexpr int kThreads = 128 * kGroups + (kGive ? 128 : 32);
  static constexpr int kAhead = BN <= 160 ? (BN + 31) / 32 : BN <= 208 ? 3 : 2;  // chunks of the residual under way
  static constexpr int kChunks = (BN + 31) / 32;                                 // of 32 columns, as sums are finished
  static constexpr int kWarps = 4 * kGroups;
  static constexpr int kStageBytes = (BM + BN) * kWgmmaK * 2;
  static constexpr int kStagingBytes = kSplit ? 0 : kWarps * static_cast<int>(sizeof(Staging));
  static constexpr int kStages = std::min(8, (228 * 1024 / kBlocks - 1024 - 128 - kStagingBytes) / kStageBytes);
  static constexpr int kShared = kStages * (kStageBytes + 16) + kStagingBytes;
  static_assert(!kSplit || BM * BN * 4 <= kStages * kStageBytes);
};

// A stage of the ring, and how often the ring went round.
template <int kStages>
struct RingPlace {
  int stage = 0, lap = 0;
  __device__ __forceinline__ void next() {
    if (++stage == kStages) stage = 0, lap ^= 1;
  }
};

// Tiles in the order they are taken: down 16 of them, so that what is in flight shares rows of x and of the weight.
__device__ __forceinline__ void tile_of(const WgmmaParams& p, int unit, int& row, int& column) {
  const int band = 16 * p.tiles_n, top = unit / band * 16, rows = min(p.tiles_m - top, 16);
  row = top + unit % band % rows;
  column = unit % band / rows;
}

// What finishing a tile needs, found while the products run: a lane has rows r and r + 8 of its warp.
template <int BN>
struct Ahead {
  bool inside[2];
  int64_t y_at[2], residual_at[2];
  float bias[(BN + 31) / 32];  // of one column of every 32

  __device__ __forceinline__ Ahead(const Finish& f, int row, int column) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int i = row + lane / 4 + 8 * h;
      inside[h] = i < f.m;
      y_at[h] = inside[h] ? place(f.y, i) : 0;
      residual_at[h] = inside[h] && f.residual ? place(f.residual, i) : 0;
      const int element = f.residual.dtype == Dtype::f32 ? 4 : 2;
      if (!inside[h] || !f.residual) continue;
      for (int c = column + lane % 4 * (128 / element); c < f.n && c < column + BN; c += 512 / element)
        asm volatile("prefetch.global.L2 [%0];" ::"l"(f.residual.data + (residual_at[h] + c) * element));
    }
    load_bias(f, column, bias);
  }
};

// A warpgroup's sums to y straight from the registers: two neighbours of a quad swap halves, so that each has four columns
// of a row. As many loads of the residual as there are registers for are under way before the first is used.
template <int BN, int kAhead>
__device__ __forceinline__ void finish_registers(const Finish& f, const float (&sums)[BN / 2], const Ahead<BN>& ahead,
                                                 int column) {
  constexpr int kChunks = (BN + 31) / 32;  // of 32 columns
  const int lane = threadIdx.x % 32, t = lane % 4;
  const bool odd = t % 2;
  const int c0 = column + t % 2 * 8 + t / 2 * 4;
  const bool wide = f.residual.dtype == Dtype::f32, gated = f.activation != Activation::none;
  const Gate gate = gate_of(f.activation);
  Pack<uint32_t, 4> add[kAhead][2][2];
  const auto load_residual = [&](int chunk) {
#pragma unroll
    for (int p = 0; p < 2; p++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int c = c0 + 32 * chunk + 16 * p;
        if (32 * chunk + 16 * p >= BN || c >= f.n || !ahead.inside[h]) continue;
        auto& to = add[chunk % kAhead][p][h];
        const std::byte* from = f.residual.data + (ahead.residual_at[h] + c) * (wide ? 4 : 2);
        if (wide)
          to = *reinterpret_cast<const Pack<uint32_t, 4>*>(from);
        else
          *reinterpret_cast<Pack<uint32_t, 2>*>(&to) = *reinterpret_cast<const Pack<uint32_t, 2>*>(from);
      }
  };
  if (f.residual) {
#pragma unroll
    for (int chunk = 0; chunk < kAhead; chunk++) load_residual(chunk);
  }
#pragma unroll
  for (int chunk = 0; chunk < kChunks; chunk++) {
    float v[16];
#pragma unroll
    for (int e = 0; e < 16; e++) v[e] = 16 * chunk + e < BN / 2 ? sums[16 * chunk + e] : 0.f;
    if (f.bias) {
#pragma unroll
      for (int e = 0; e < 8; e++) {
        const float b = __shfl_sync(~0u, ahead.bias[chunk], e / 2 * 8 + 2 * t + e % 2);
        v[e / 2 * 4 + e % 2] += b;
        v[e / 2 * 4 + e % 2 + 2] += b;
      }
    }
    if (gated) {
#pragma unroll
      for (float& x : v) x = gate(x);
    }
    const auto store = [&](auto type) {
      using T = decltype(type);
#pragma unroll
      for (int p = 0; p < 2; p++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
          if (32 * chunk + 16 * p >= BN) continue;
          const float* mine = v + 8 * p + 2 * h;  // two columns of a group of eight; four on, of the next
          Pack<float, 4> quad;
#pragma unroll
          for (int e = 0; e < 2; e++) {
            const float other = __shfl_xor_sync(~0u, odd ? mine[e] : mine[4 + e], 1);
            quad.v[e] = odd ? other : mine[e];
            quad.v[2 + e] = odd ? mine[4 + e] : other;
          }
          const auto& raw = add[chunk % kAhead][p][h];
          if (f.residual) {
#pragma unroll
            for (int e = 0; e < 4; e++)
              quad.v[e] += wide ? __uint_as_float(raw.v[e]) : to_float(reinterpret_cast<const T*>(&raw)[e]);
          }
          Pack<T, 4> out;
#pragma unroll
          for (int e = 0; e < 4; e++) out.v[e] = from_float<T>(quad.v[e]);
          const int c = c0 + 32 * chunk + 16 * p;
          if (c < f.n && ahead.inside[h]) store_pack(reinterpret_cast<T*>(f.y.data) + ahead.y_at[h] + c, out);
        }
    };
    if (f.y.dtype == Dtype::f32)
      store(float{});
    else if (f.y.dtype == Dtype::f16)
      store(f16{});
    else
      store(bf16{});
    if (f.residual && chunk + kAhead < kChunks) load_residual(chunk + kAhead);
  }
}

template <class Traits>
__global__ __launch_bounds__(Traits::kThreads,
                             Traits::kBlocks) void wgmma_kernel(const __grid_constant__ WgmmaParams p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using T = typename Traits::T;
  constexpr int BM = Traits::BM, BN = Traits::BN, kGroups = Traits::kGroups, kStages = Traits::kStages;
  extern __shared__ __align__(1024) std::byte shared[];  // as the swizzle has it
  const uint32_t base = shared_address(shared);
  const uint32_t full = base + kStages * Traits::kStageBytes, empty = full + 8 * kStages;
  Staging* const staging = reinterpret_cast<Staging*>(shared + kStages * (Traits::kStageBytes + 16));
  const auto x_at = [&](int stage) { return base + stage * Traits::kStageBytes; };
  const auto w_at = [&](int stage) { return x_at(stage) + BM * 128; };

  const int cluster = Traits::kSplit ? Traits::kSplits : p.cluster_m * p.cluster_n, rank = cluster_rank();
  const int rank_m = Traits::kSplit ? 0 : rank % p.cluster_m, rank_n = Traits::kSplit ? 0 : rank / p.cluster_m;
  const int first = Traits::kSplit ? p.blocks * rank / Traits::kSplits : 0;
  const int last = Traits::kSplit ? p.blocks * (rank + 1) / Traits::kSplits : p.blocks;
  const int units = p.tiles_m * p.tiles_n, stride = gridDim.x / cluster;
  const auto tile = [&](int unit, int& row, int& column) {
    tile_of(p, unit, row, column);
    row = (row * p.cluster_m + rank_m) * BM;
    column = (column * p.cluster_n + rank_n) * BN;
  };

  if (threadIdx.x == 0) {
    asm volatile("prefetch.tensormap [%0];\nprefetch.tensormap [%1];" ::"l"(&p.x), "l"(&p.weight) : "memory");
    for (int s = 0; s < kStages; s++) {
      barrier_init(full + 8 * s, 1);
      barrier_init(empty + 8 * s, Traits::kSplit ? kGroups : kGroups * cluster);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  cluster_meet();

  const int group = threadIdx.x / 128;
  RingPlace<kStages> at;
  if (group == kGroups) {
    if constexpr (Traits::kGive) asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x % 128 != 0) {
      wait_for_inputs();
    } else {
      const int x_rows = BM / p.cluster_n, w_rows = BN / p.cluster_m;  // of this block's part
      int x_mask = 0, w_mask = 0;
      for (int r = 0; r < p.cluster_n; r++) x_mask |= 1 << (rank_m + r * p.cluster_m);
      for (int r = 0; r < p.cluster_m; r++) w_mask |= 1 << (r + rank_n * p.cluster_m);
      const auto copy_weight = [&](int stage, int block, int column) {
        barrier_expect(full + 8 * stage, Traits::kStageBytes);
        copy_box(w_at(stage) + rank_m * w_rows * 128, p.weight, block * kWgmmaK, column + rank_m * w_rows,
                 full + 8 * stage, w_mask);
      };
      int row, column, copied = first;  // blocks of the first tile's weight
      if (p.early) {
        tile(blockIdx.x / cluster, row, column);
        for (; copied < min(first + kStages, last); copied++) copy_weight(copied - first, copied, column);
      }
      wait_for_inputs();
      for (int unit = blockIdx.x / cluster; unit < units; unit += stride) {
        tile(unit, row, column);
        const int i = row + rank_n * x_rows;
#pragma unroll 1
        for (int block = first; block < last; block++, at.next()) {
          if (block >= copied) {
            barrier_wait(empty + 8 * at.stage, at.lap ^ 1);
            copy_weight(at.stage, block, column);
          }
          copy_box(x_at(at.stage) + rank_n * x_rows * 128, p.x, block * kWgmmaK, i, full + 8 * at.stage, x_mask);
        }
        copied = first;
      }
    }
  } else {
    if constexpr (Traits::kGive) asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    wait_for_inputs();
    const int warp = threadIdx.x / 32;
    // One thread of a warpgroup for each block of the cluster tells it that the stage was read here.
    const auto release = [&](int stage) {
      if constexpr (Traits::kSplit) {
        if (threadIdx.x % 128 == 0) barrier_arrive_at(empty + 8 * stage, rank);
      } else {
        const int to = threadIdx.x % 128;
        if (to < cluster) barrier_arrive_at(empty + 8 * stage, to);
      }
    };
    const auto wait = [](float(&sums)[BN / 2]) {
      asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
      for (float& sum : sums) asm volatile("" : "+f"(sum)::"memory");
    };
    // Leaves the last stage under way, which it returns.
    const auto multiply = [&](float(&sums)[BN / 2], int from, int to) {
      int before = 0;
      for (int block = from; block < to; block++, at.next()) {
        barrier_wait(full + 8 * at.stage, at.lap);
        const uint64_t a = descriptor(x_at(at.stage) + group * 64 * 128), b = descriptor(w_at(at.stage));
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int step = 0; step < 4; step++) wgmma<T, BN>(sums, a + 2 * step, b + 2 * step, block > from || step > 0);
        asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 1;" ::: "memory");
        if (block > from) release(before);
        before = at.stage;
      }
      return before;
    };
    if constexpr (!Traits::kSplit) {
      for (int unit = blockIdx.x / cluster; unit < units; unit += stride) {
        int row, column;
        tile(unit, row, column);
        const Ahead<BN> ahead(p.finish, row + warp * 16, column);
        float sums[BN / 2];
        const int stage = multiply(sums, first, last);
        wait(sums);
        release(stage);
        if (unit + stride >= units) cluster_arrive();  // here there is nothing written to wait for yet
        // The code of gelu for all columns would run from a cold instruction cache: it takes 32 columns at a time.
        if (p.finish.activation != Activation::gelu)
          finish_registers<BN, Traits::kAhead>(p.finish, sums, ahead, column);
        else
          finish<Traits::kChunks, 0>(p.finish, staging[warp], sums, ahead.bias, row + 16 * warp, column, column + BN,
                                     [] {});
      }
    } else {
      const auto part_begin = [&](int i) {
        return p.blocks * (rank * kWgmmaParts / Traits::kSplits + i) / kWgmmaParts;
      };
      float sums[BN / 2];
      int stage = multiply(sums, part_begin(0), part_begin(1));
      wait(sums);
      release(stage);
      if constexpr (Traits::kSplits < kWgmmaParts) {
        static_assert(2 * Traits::kSplits == kWgmmaParts);
        float more[BN / 2];
        stage = multiply(more, part_begin(1), part_begin(2));
        wait(more);
        release(stage);
#pragma unroll
        for (int i = 0; i < BN / 2; i++) sums[i] += more[i];
      }
      // Both warpgroups have read the stages that their sums go to.
      asm volatile("bar.sync 1, %0;" ::"n"(128 * kGroups) : "memory");
      stage_sums<BN>(reinterpret_cast<float*>(shared), warp * 16, sums);
      cluster_sync();
      int row, column;
      tile(blockIdx.x / cluster, row, column);
      constexpr int kQuads = BN / 4, kRows = BM / Traits::kSplits, kPairs = Traits::kSplits == kWgmmaParts ? 2 : 1;
      for (int q = threadIdx.x; q < kRows * kQuads; q += 128 * kGroups) {
        const int r = rank * kRows + q / kQuads, c = q % kQuads * 4;
        Pack<float, 4> part[Traits::kSplits];
#pragma unroll
        for (int s = 0; s < Traits::kSplits; s++)
          asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                       : "=f"(part[s].v[0]), "=f"(part[s].v[1]), "=f"(part[s].v[2]), "=f"(part[s].v[3])
                       : "r"(at_rank(base + 4 * staged<BN>(r, c), s))
                       : "memory");
        Pack<float, 4> sum{};
#pragma unroll
        for (int s = 0; s < Traits::kSplits; s += kPairs)
#pragma unroll
          for (int e = 0; e < 4; e++) sum.v[e] += kPairs == 2 ? part[s].v[e] + part[s + kPairs - 1].v[e] : part[s].v[e];
        p.finish(row + r, column + c, sum);
      }
    }
  }
  // Nobody leaves while others read or write its memory.
  if constexpr (Traits::kSplit) {
    if (group == kGroups) cluster_sync();
    cluster_meet();
  } else {
    if (group == kGroups) cluster_arrive();
    cluster_wait();
  }
#endif
}

struct Matrix {
  const void* data;
  int64_t ld;
};

// [rows, k], read in boxes of box_rows rows and one stage of k.
template <class T>
CUtensorMap matrix_map(const Matrix& matrix, int64_t rows, int64_t k, int box_rows) {
  return tensor_map<2>(matrix.data, dtype_of<T>, {k, rows}, {matrix.ld}, {kWgmmaK, box_rows});
}

template <class Traits>
void launch_wgmma(const Matrix& x, const Matrix& weight, int64_t k, int cluster_m, int cluster_n, bool early,
                  const Finish& finish, const Launch& on) {
  using T = typename Traits::T;
  const int cluster = Traits::kSplit ? Traits::kSplits : cluster_m * cluster_n;
  const WgmmaParams params{.x = matrix_map<T>(x, finish.m, k, Traits::BM / cluster_n),
                           .weight = matrix_map<T>(weight, finish.n, k, Traits::BN / cluster_m),
                           .blocks = static_cast<int>(ceil_div(k, kWgmmaK)),
                           .cluster_m = cluster_m,
                           .cluster_n = cluster_n,
                           .tiles_m = static_cast<int>(ceil_div(finish.m, Traits::BM * cluster_m)),
                           .tiles_n = static_cast<int>(ceil_div(finish.n, Traits::BN * cluster_n)),
                           .early = early,
                           .finish = finish};
  const auto kernel = wgmma_kernel<Traits>;
  VLM_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Traits::kShared));
  cudaLaunchAttribute attributes[2] = {{}, launched_early()};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(params.tiles_m * params.tiles_n * cluster);
  config.blockDim = Traits::kThreads;
  config.dynamicSmemBytes = Traits::kShared;
  config.stream = on.stream;
  config.attrs = attributes;
  config.numAttrs = 1;
  if (!Traits::kSplit) {
    // As many clusters as there is room for at once; each takes tile after tile.
    int clusters = 0;
    VLM_CUDA(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config));
    config.gridDim.x = std::min(config.gridDim.x, static_cast<unsigned>(std::max(clusters, 1) * cluster));
  }
  config.numAttrs = 2;
  VLM_CUDA(cudaLaunchKernelEx(&config, kernel, params));
}

}  // namespace vlm::cuda
