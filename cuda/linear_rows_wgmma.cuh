// The rows form on Hopper: the weight streams by in tiles of 64 rows and is wgmma's left operand, out of registers, where
// whole numbers become bf16; 16, 32 or 64 rows of x are the right one and stay in shared memory. A block holds some ranges
// of k, a cluster all of them. Sums of a range are sent to the blocks of the cluster that finish their rows of x, which add
// the ranges in order.
//
// The sums have the bits that linear_rows_kernel gives them: the same ranges, the same elements in the same slots of each
// product. There 16 bytes of a row of weight are a lane's slots of two products, so here the words of x are transposed,
// 4 × 4 of them at a time.
#pragma once

#include <algorithm>
#include <bit>

#include "hopper.cuh"
#include "linear_finish.cuh"
#include "quantised.cuh"

namespace vlm::cuda {

constexpr int kStreamRows = 64;                      // of weight in a tile
constexpr int kStreamGroups = 2;                     // warpgroups that take tiles, each with a ring of its own
constexpr int kStreamPitch = kStreamRows + 4;        // of a row of x, in floats, where sums meet
constexpr int kStreamThreads = 160 * kStreamGroups;  // and a warp for each that fills its ring

// How a row of weight is stored: a stage has kColumns of it, kRowBytes. Of every 64 bytes, a lane has 16.
template <class T>
struct StreamFloats {
  using X = T;
  static constexpr bool kQuants = false, kInt4 = false;
  static constexpr int kColumns = 64, kRowBytes = 128, kChunk = 32;
  static __device__ int unit(int chunk, int q) { return 4 * chunk + q; }
};
template <bool Int4>
struct StreamQuants {
  using X = bf16;
  static constexpr bool kQuants = true, kInt4 = Int4;
  static constexpr int kColumns = kQuantBlock, kRowBytes = Int4 ? 64 : 128, kChunk = kQuantBlock;
  static __device__ int unit(int chunk, int q) { return chunk / 2 * 8 + q * 2 + chunk % 2; }
};

struct StreamParams {
  CUtensorMap weight;  // boxes of a stage
  Rows x;
  int64_t ldx;
  const std::byte *scale, *grid;
  int64_t ld_scale, ld_grid;  // bytes
  int k, range;               // range: columns that a sum has
  int parts;                  // ranges that a block holds
  int cluster, log_slice;     // log_slice: of the rows of x that a block finishes
  int tiles, stages;
  bool copies;  // x is as the products want it
  bool early;   // the weight may be read before wait_for_inputs()
  Finish finish;
};

// Where a block's shared memory begins what. N: rows of x.
struct StreamShared {
  int rings, meetings, barriers, bytes;  // meetings: where the sums of all ranges come in

  __host__ __device__ StreamShared(int N, int range, int columns, int stage_bytes, int parts, int stages) {
    rings = parts * ((range + columns - 1) / columns) * columns * 2 * N;
    meetings = rings + kStreamGroups * stages * stage_bytes;
    barriers = meetings + kStreamGroups * N * parts * kStreamPitch * 4;
    bytes = barriers + kStreamGroups * (2 * stages + 2) * 8;
  }
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// d += a bᵀ (or = where not `more`): 64 rows of a, in registers, N rows of b, 16 of k.
template <class T, int N>
__device__ __forceinline__ void stream_wgmma(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, int more) {
#define VLM_F4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define VLM_F8(i) VLM_F4(i), VLM_F4(i + 4)
#define VLM_D8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define VLM_D16 VLM_D8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define VLM_D32 VLM_D16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define VLM_WGMMA(type, n, sums, a_at, b_at, more_at, ...)                                                     \
  asm volatile("{\n.reg .pred more;\nsetp.ne.b32 more, " more_at                                               \
               ", 0;\n"                                                                                        \
               "wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " {" sums "}, {" a_at "}, " b_at \
               ", more, 1, 1, 0;\n}"                                                                           \
               : __VA_ARGS__                                                                                   \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(more))
#define VLM_WGMMA_OF(type)                                                                    \
  if constexpr (N == 16)                                                                      \
    VLM_WGMMA(type, "16", VLM_D8, "%8, %9, %10, %11", "%12", "%13", VLM_F8(0));               \
  else if constexpr (N == 32)                                                                 \
    VLM_WGMMA(type, "32", VLM_D16, "%16, %17, %18, %19", "%20", "%21", VLM_F8(0), VLM_F8(8)); \
  else                                                                                        \
    VLM_WGMMA(type, "64", VLM_D32, "%32, %33, %34, %35", "%36", "%37", VLM_F8(0), VLM_F8(8), VLM_F8(16), VLM_F8(24))
  static_assert(N == 16 || N == 32 || N == 64);
  if constexpr (dtype_of<T> == Dtype::bf16) {
    VLM_WGMMA_OF("bf16");
  } else {
    VLM_WGMMA_OF("f16");
  }
#undef VLM_WGMMA_OF
#undef VLM_WGMMA
#undef VLM_D32
#undef VLM_D16
#undef VLM_D8
#undef VLM_F8
#undef VLM_F4
}

__device__ __forceinline__ void group_sync(int group) { asm volatile("bar.sync %0, 128;" ::"r"(2 + group) : "memory"); }
// Two floats to a block of the cluster, whose barrier counts the bytes.
__device__ __forceinline__ void send(uint32_t to, float a, float b, uint32_t barrier, int rank) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(
                   at_rank(to, rank)),
               "f"(a), "f"(b), "r"(at_rank(barrier, rank))
               : "memory");
}
__device__ __forceinline__ uint4 load_shared(uint32_t at) {
  uint4 v;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(at)
               : "memory");
  return v;
}

#endif

template <class W, int N>
__global__ __launch_bounds__(kStreamThreads, 1) void stream_kernel(const __grid_constant__ StreamParams p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using T = typename W::X;
  constexpr int kStage = kStreamRows * W::kRowBytes, kPieces = W::kRowBytes / 64, kSteps = W::kColumns / 16;
  constexpr int kChunks = W::kColumns / 32, kBlock = W::kColumns * 2 * N;  // kBlock: bytes of x that go with a stage
  extern __shared__ __align__(1024) std::byte stream_shared[];
  const StreamShared at(N, p.range, W::kColumns, kStage, p.parts, p.stages);
  const uint32_t base = shared_address(stream_shared);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, rank = cluster_rank();
  const bool consumer = warp < 4 * kStreamGroups;
  const int group = consumer ? warp / 4 : warp - 4 * kStreamGroups;
  const uint32_t ring = base + at.rings + group * p.stages * kStage;
  const uint32_t full = base + at.barriers + group * (2 * p.stages + 2) * 8, empty = full + 8 * p.stages;
  const uint32_t arrived = empty + 8 * p.stages, taken = arrived + 8;
  const int clusters = gridDim.x / p.cluster, first = blockIdx.x / p.cluster + group * clusters;
  const int stride = clusters * kStreamGroups, blocks = (p.range + W::kColumns - 1) / W::kColumns;
  const int64_t first_row = static_cast<int64_t>(blockIdx.y) * N;
  const auto begin_of = [&](int part) { return (rank * p.parts + part) * p.range; };
  const auto columns_of = [&](int part) { return min(p.range, p.k - begin_of(part)); };

  if (threadIdx.x == 0) {
    for (int g = 0; g < kStreamGroups; g++) {
      const uint32_t of_group = base + at.barriers + g * (2 * p.stages + 2) * 8;
      for (int s = 0; s < p.stages; s++) {
        barrier_init(of_group + 8 * s, 1);
        barrier_init(of_group + 8 * (p.stages + s), 4);
      }
      barrier_init(of_group + 16 * p.stages, 1);
      barrier_init(of_group + 16 * p.stages + 8, p.cluster);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  cluster_meet();

  int stage = 0, lap = 0;
  const auto next = [&] {
    if (++stage == p.stages) stage = 0, lap ^= 1;
  };
  if (!consumer) {
    bool waits = p.early && lane == 0;
    if (!waits) wait_for_inputs();
    if (lane == 0) {
      for (int tile = first; tile < p.tiles; tile += stride)
        for (int part = 0; part < p.parts; part++)
          for (int j = 0; j < columns_of(part); j += W::kColumns, next()) {
            if (waits && lap) wait_for_inputs(), waits = false;
            barrier_wait(empty + 8 * stage, lap ^ 1);
            barrier_expect(full + 8 * stage, kStage);
            copy_box(ring + stage * kStage, p.weight, (begin_of(part) + j) * (W::kRowBytes / 2) / W::kColumns,
                     tile * kStreamRows, full + 8 * stage, 1);
          }
      if (waits) wait_for_inputs();
    }
  } else {
    wait_for_inputs();
    const int g = lane / 4, q = lane % 4;
    // x: eight rows and 32 columns at a time, all loads at once: each waits behind the weights that are under way.
    constexpr int kOctets = N / 8, kAtOnce = N == 64 ? 20 : 10;
    const int tasks = blocks * kChunks * kOctets;
    for (int part = 0; part < p.parts; part++)
      for (int begin = warp; begin < tasks; begin += 4 * kStreamGroups * kAtOnce) {
        uint4 unit[kAtOnce];
#pragma unroll
        for (int t = 0; t < kAtOnce; t++) {
          const int task = begin + t * 4 * kStreamGroups, chunk = task / kOctets;
          const int64_t i = first_row + task % kOctets * 8 + g;
          const int j = chunk / kChunks * W::kColumns + W::unit(chunk % kChunks, q) * 8;
          unit[t] = {};
          if (task >= tasks || i >= p.finish.m || j >= columns_of(part)) continue;
          const int64_t from = i * p.ldx + begin_of(part) + j;
          if (p.copies) {
            unit[t] = *reinterpret_cast<const uint4*>(p.x.data + 2 * from);
          } else {
            const auto low = read<4>(p.x, from), high = read<4>(p.x, from + 4);
            Pack<T, 8> both;
#pragma unroll
            for (int e = 0; e < 4; e++) both.v[e] = from_float<T>(low.v[e]), both.v[4 + e] = from_float<T>(high.v[e]);
            unit[t] = *reinterpret_cast<const uint4*>(&both);
          }
        }
#pragma unroll
        for (int t = 0; t < kAtOnce; t++) {
          const int task = begin + t * 4 * kStreamGroups;
          if (task >= tasks) continue;
          const int chunk = task / kOctets, row = task % kOctets * 8 + g;
          std::byte* const to = stream_shared + part * blocks * kBlock + (chunk / 2 * N + row) * 128 + 4 * q;
          const uint32_t words[4] = {unit[t].x, unit[t].y, unit[t].z, unit[t].w};
#pragma unroll
          for (int c = 0; c < 4; c++)
            *reinterpret_cast<uint32_t*>(to + ((chunk % 2 * 4 + c) ^ (row & 7)) * 16) = words[c];
        }
      }
    asm volatile("fence.proxy.async.shared::cta;\nbar.sync 1, %0;" ::"n"(128 * kStreamGroups) : "memory");

    // Rows of weight are dealt to lanes in pairs, so that those which read at the same time meet in few banks.
    const int row = warp % 4 * 16 + ((g & 4) | (g & 1) << 1 | (g >> 1 & 1)) * 2;
    uint32_t pieces[2][kPieces];
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
      for (int i = 0; i < kPieces; i++) {
        const uint32_t plain = (row + r) * W::kRowBytes + i * 64 + q * 16;
        pieces[r][i] = plain ^ (plain >> 7 & (W::kRowBytes / 16 - 1)) << 4;  // as the copy engine swizzles
      }
    const int slice = 1 << p.log_slice, ranges = p.parts * p.cluster;
    const uint32_t meeting = base + at.meetings + group * N * p.parts * kStreamPitch * 4;
    const int me = threadIdx.x % 128;
    int turn = 0;
    for (int tile = first; tile < p.tiles; tile += stride, turn ^= 1) {
      for (int part = 0; part < p.parts; part++) {
        const int columns = columns_of(part);
        // A stage's weight in this lane's registers, and what goes with it.
        struct {
          uint4 weight[2][kPieces];
          float scale[2];
          uint2 grid[2];
        } ahead;
        int loaded = 0;
        const auto load = [&](int j) {
          if constexpr (W::kQuants) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
              const int64_t i = min(static_cast<int64_t>(tile) * kStreamRows + row + r, p.finish.n - 1);
              const int block = (begin_of(part) + j) / kQuantBlock;
              ahead.scale[r] = reinterpret_cast<const float*>(p.scale + i * p.ld_scale)[block] * kQuantUnit;
              if constexpr (W::kInt4) ahead.grid[r] = reinterpret_cast<const uint2*>(p.grid + i * p.ld_grid)[block];
            }
          }
          barrier_wait(full + 8 * stage, lap);
#pragma unroll
          for (int r = 0; r < 2; r++)
#pragma unroll
            for (int i = 0; i < kPieces; i++) {
              ahead.weight[r][i] = load_shared(ring + stage * kStage + pieces[r][i]);
              if (!W::kQuants && j + 32 * i >= columns) ahead.weight[r][i] = {};  // of the next range
            }
          loaded = stage;
          next();
        };
        // The products' operands out of it.
        uint32_t a[kSteps][4];
        const auto make = [&] {
          if constexpr (W::kQuants) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
              GridPair grid[2];
              if constexpr (W::kInt4) read_grids(ahead.grid[r], q, grid);
#pragma unroll
              for (int u = 0; u < 4; u++) {
                const uint4& piece = ahead.weight[r][W::kInt4 ? 0 : u / 2];
#pragma unroll
                for (int i = 0; i < 2; i++) {
                  uint32_t word = i ? (u % 2 ? piece.w : piece.y) : (u % 2 ? piece.z : piece.x);
                  if (W::kInt4 && u / 2) word >>= 4;
                  a[2 * u + i][r] = W::kInt4 ? grid[u / 2](spread<0>(word)) : int8_pair(spread<0>(word));
                  a[2 * u + i][2 + r] = W::kInt4 ? grid[u / 2](spread<1>(word)) : int8_pair(spread<1>(word));
                }
              }
            }
          } else {
#pragma unroll
            for (int r = 0; r < 2; r++)
#pragma unroll
              for (int i = 0; i < 2; i++) {
                const uint4& piece = ahead.weight[r][i];
                a[2 * i][r] = piece.x, a[2 * i][2 + r] = piece.y;
                a[2 * i + 1][r] = piece.z, a[2 * i + 1][2 + r] = piece.w;
              }
          }
        };
        float sums[N / 2], total[W::kQuants ? N / 2 : 1] = {};
        if (!W::kQuants && columns <= 0) {
#pragma unroll
          for (float& sum : sums) sum = 0;
        }
        if (columns > 0) load(0);
#pragma unroll 1
        for (int j = 0; j < columns; j += W::kColumns) {
          make();
          const float scale[2] = {ahead.scale[0], ahead.scale[1]};
          const uint32_t x = base + (part * blocks + j / W::kColumns) * kBlock;
          asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
          for (int step = 0; step < kSteps; step++)
            stream_wgmma<T, N>(sums, a[step], descriptor(x + step / 4 * N * 128) + step % 4 * 2,
                               (!W::kQuants && j > 0) || step > 0);
          asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
          // Not before: an arrival overtakes loads that no instruction has waited for.
          __syncwarp();
          if (lane == 0) barrier_arrive(empty + 8 * loaded);
          if (j + W::kColumns < columns) load(j + W::kColumns);
          asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
          for (float& sum : sums) asm volatile("" : "+f"(sum)::"memory");
          // ptxas takes a product's registers for free once it has begun, but they are read until it ends: never true, this
          // keeps them.
          if (p.tiles == 0)
#pragma unroll
            for (int i = 0; i < 4 * kSteps; i++)
              asm volatile("st.shared.b32 [%0], %1;" ::"r"(base + 4 * i), "r"(a[i / 4][i % 4]) : "memory");
          if constexpr (W::kQuants)
#pragma unroll
            for (int i = 0; i < N / 2; i++) total[i] = fmaf(scale[i / 2 % 2], sums[i], total[i]);
        }
        const auto sum = [&](int i) { return W::kQuants ? total[i] : sums[i]; };

        // All have read what was sent to them for the tile before.
        if (part == 0 && tile != first) barrier_wait(taken, turn ^ 1);
#pragma unroll
        for (int j = 0; j < N / 8; j++)
#pragma unroll
          for (int e = 0; e < 2; e++) {
            const int i = 8 * j + 2 * q + e, line = (rank * p.parts + part) * slice + (i & (slice - 1));
            send(meeting + (line * kStreamPitch + row) * 4, sum(4 * j + e), sum(4 * j + 2 + e), arrived,
                 i >> p.log_slice);
          }
      }
      if (me == 0) barrier_expect(arrived, ranges * slice * kStreamRows * 4);
      barrier_wait(arrived, turn);
      for (int quad = me; quad < slice * kStreamRows / 4; quad += 128) {
        const int i = quad / (kStreamRows / 4), c = quad % (kStreamRows / 4) * 4;
        Pack<float, 4> sum{};
        for (int r = 0; r < ranges; r++) {
          const uint4 v = load_shared(meeting + ((r * slice + i) * kStreamPitch + c) * 4);
          sum.v[0] += __uint_as_float(v.x);
          sum.v[1] += __uint_as_float(v.y);
          sum.v[2] += __uint_as_float(v.z);
          sum.v[3] += __uint_as_float(v.w);
        }
        p.finish(first_row + rank * slice + i, tile * kStreamRows + c, sum);
      }
      group_sync(group);
      if (me < p.cluster && tile + stride < p.tiles) barrier_arrive_at(taken, me);
    }
  }
  // Nobody leaves while others write to its memory.
  cluster_meet();
#endif
}

// How the rows form's product is spread, or no stages where it does not fit.
struct StreamTile {
  int rows, parts, cluster, stages;  // rows: of x, that a block takes

  template <class W>
  static StreamTile of(int64_t m, int64_t n, int64_t k, int range, int ranges, const Card& card) {
    StreamTile t;
    // A weight that is small is soon read again, by more blocks.
    t.rows = m <= 16 || (m <= 64 && n * k < int64_t{1} << 21) ? 16 : m <= 32 ? 32 : 64;
    t.cluster = std::min(ranges, 8);
    t.parts = ranges / t.cluster;
    constexpr int kStage = kStreamRows * W::kRowBytes, kEach = kStreamGroups * (kStage + 16);
    for (t.stages = 0; t.rows >= 16; t.rows /= 2) {
      const StreamShared least(t.rows, range, W::kColumns, kStage, t.parts, 0);
      t.stages =
          static_cast<int>(std::min<int64_t>((static_cast<int64_t>(card.shared_bytes) - least.bytes) / kEach, 12));
      if (t.stages >= 3) return t;
    }
    t.stages = 0;
    return t;
  }
};

template <class W>
void launch_stream(StreamParams p, const void* weight, int64_t row_bytes, int64_t ldw, const StreamTile& t,
                   const Launch& on) {
  // Bytes are copied two at a time.
  p.weight =
      tensor_map<2>(weight, dtype_of<typename W::X>, {row_bytes / 2, p.finish.n}, {ldw / 2},
                    {W::kRowBytes / 2, kStreamRows}, W::kInt4 ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B);
  p.parts = t.parts;
  p.cluster = t.cluster;
  p.log_slice = static_cast<int>(std::bit_width(static_cast<unsigned>(t.rows / t.cluster))) - 1;
  p.tiles = static_cast<int>(ceil_div(p.finish.n, kStreamRows));
  p.stages = t.stages;
  const int shared = StreamShared(t.rows, p.range, W::kColumns, kStreamRows * W::kRowBytes, t.parts, t.stages).bytes;
  const auto go = [&](auto* kernel) {
    VLM_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    cudaLaunchAttribute attributes[2] = {{}, launched_early()};
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim = {static_cast<unsigned>(t.cluster), 1, 1};
    cudaLaunchConfig_t config{};
    config.gridDim = {static_cast<unsigned>(p.tiles * t.cluster), static_cast<unsigned>(ceil_div(p.finish.m, t.rows)),
                      1};
    config.blockDim = kStreamThreads;
    config.dynamicSmemBytes = shared;
    config.stream = on.stream;
    config.attrs = attributes;
    config.numAttrs = 1;
    // As many clusters as there is room for at once.
    int clusters = 0;
    VLM_CUDA(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config));
    clusters = std::max(clusters / static_cast<int>(config.gridDim.y), 1);
    config.gridDim.x = static_cast<unsigned>(std::min(clusters, p.tiles) * t.cluster);
    config.numAttrs = 2;
    VLM_CUDA(cudaLaunchKernelEx(&config, kernel, p));
  };
  if (t.rows == 16)
    go(stream_kernel<W, 16>);
  else if (t.rows == 32)
    go(stream_kernel<W, 32>);
  else
    go(stream_kernel<W, 64>);
}

}  // namespace vlm::cuda
