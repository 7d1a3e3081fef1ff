// y[i,c] = act(Σ_j x[i,j] weight[c,j] + bias[c]) + residual[i,c]
// x: [rows…, k]    weight: [n, k] f32, f16 or bf16, or quantised    bias: [n] f32    residual, y: [rows…, n], may be the same
// x and y f32, f16 or bf16, the residual f32 or as y; x is rounded to the weight's type, products are summed in f32.
// Quantised: weight [n, k] i8 with scale [n, ⌈k/128⌉] f32, or weight [n, ⌈k/128⌉·64] u8 with that scale and grid
// [n, ⌈k/128⌉·4, 2] i8. Their x is rounded to bf16; a block's sum is made by itself, and times its scale added to the rest.
//
// The weights go through rings in shared memory, each lane's bytes for itself alone, to the registers that mma wants
// them in: which k an operand's slot holds is free as long as x agrees, so 16 bytes of a row are a lane's slots of two
// products. A warp sums one range of k for 8·R rows of weight and 8·H rows of x. The warps of a block, or of a cluster
// of blocks where there are many rows of x, hold the ranges, whose sums are added in order. Ranges depend on the size
// of the weight only: a row has the same bits in any batch.
#include <algorithm>
#include <bit>

#include "activation.cuh"
#include "async_copy.cuh"
#include "linear_rows.cuh"
#include "linear_rows_wgmma.cuh"
#include "mma.cuh"
#include "quantised.cuh"
#include "rows.cuh"

namespace vlm::cuda {
namespace {

struct RowsParams {
  Rows x;                   // [m, k]
  const std::byte* weight;  // [n, k]
  const std::byte *scale, *grid;
  const float* bias;  // [n]
  Rows residual, y;   // [m, n]
  int64_t ldx, ld_residual, ldy;
  int64_t ldw, ld_scale, ld_grid;  // bytes
  int64_t m, n;
  int k, chunks;      // chunks: of 64 bytes or a quantised block, in a row of weight
  int row_bytes;      // of weight
  int range;          // chunks in a range
  int span;           // chunks that a warp takes: those of one range, or of all where the weights are quantised
  int stage;          // of them, how many have their x in shared memory at a time
  int cluster;        // blocks that share the ranges of k
  int log_rows;       // of x, that a block takes
  bool copies, wide;  // x can be copied as it is, 16 bytes at a time; or at least be read 4 elements at a time
  bool early;         // weights first, and x when what is in front of the launch has ended
  bool loads;  // early, and x is so little that it comes by loads: copies end in the order they began, it would be last
  bool pairs;  // two columns of y and the residual can be moved as one
  Activation activation;
};

constexpr int kWarp = 32;
template <class T>
constexpr int kUnit = 16 / sizeof(T);  // elements of 16 bytes

// How a row of weight is stored. Four lanes share it, and a chunk of it is kPieces times 16 bytes for each of them, at 64
// bytes from one another. Units of 16 bytes of x go with it, 4 · kUnits; lane q takes those in slots 4 · i + q.
template <class T>
struct Floats {
  using Element = T;
  using X = T;
  static constexpr int kPieces = 1, kUnits = 1, kChunk = 4 * kUnit<T>, kScaleBytes = 0;
  static __device__ int slot(int unit, int) { return unit; }
};
template <bool Int4>
struct Quants {
  using Element = int8_t;
  using X = bf16;
  static constexpr int kPieces = Int4 ? 1 : 2, kUnits = 4, kChunk = kQuantBlock, kScaleBytes = Int4 ? 12 : 4;
  static __device__ int slot(int unit, int rows) { return (unit / 8 * 2 + unit % 2) * rows * 4 + unit / 2 % 4; }
};

// 16 bytes to shared memory, zeros where there is nothing to copy, without a stop in registers.
template <bool Once>
__device__ __forceinline__ void copy_unit(uint4* to, const void* from, bool some) {
  if constexpr (Once)
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(some ? 16 : 0)
                 : "memory");
  else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(some ? 16 : 0)
                 : "memory");
}

// N bytes to shared memory; not Wide: from anywhere.
template <int N, bool Wide>
__device__ __forceinline__ void copy_bytes(void* to, const std::byte* from) {
  if constexpr (Wide)
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared_address(to)), "l"(from), "n"(N) : "memory");
  else
    for (int i = 0; i < N; i++) static_cast<std::byte*>(to)[i] = from[i];
}

__device__ __forceinline__ void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive;\n\tbarrier.cluster.wait;" ::: "memory");
#endif
}

// What block `rank` of the cluster has at p of its shared memory.
__device__ __forceinline__ float2 load_peer(const float2* p, int rank) {
#if __CUDA_ARCH__ >= 900
  float2 v;
  asm volatile(
      "{\n\t.reg .u32 a;\n\tmapa.shared::cluster.u32 a, %2, %3;\n\tld.shared::cluster.v2.f32 {%0, %1}, [a];\n\t}"
      : "=f"(v.x), "=f"(v.y)
      : "r"(shared_address(p)), "r"(rank));
  return v;
#else
  return *p;
#endif
}

// What goes with a warp's weights in a block: [8·R] each.
struct BlockScales {
  const float* scale;
  const uint2* grid;
};

// A warp's sums of 8·H rows of x and 8·R of weight. Lane 4·g + q has 16 bytes of row g of weight in each piece of a chunk,
// the q-th.
template <class W, int H, int R>
struct Sums;

template <class T, int H, int R>
struct Sums<Floats<T>, H, R> {
  float v[(H + 1) / 2][R][4] = {};

  // xs: the chunk of x, [rows][4]
  __device__ void add(const uint4* xs, int rows, const uint4 (&w)[R][1], BlockScales) {
    const int g = threadIdx.x / 4, q = threadIdx.x % 4;
    uint4 x[H + H % 2] = {};
#pragma unroll
    for (int h = 0; h < H; h++) x[h] = xs[((8 * h + g) & (rows - 1)) * 4 + q];
#pragma unroll
    for (int h = 0; h < H; h += 2)
#pragma unroll
      for (int r = 0; r < R; r++) mma<T>(v[h / 2][r], x[h].x, x[h + 1].x, x[h].y, x[h + 1].y, w[r][0].x, w[r][0].y);
#pragma unroll
    for (int h = 0; h < H; h += 2)
#pragma unroll
      for (int r = 0; r < R; r++) mma<T>(v[h / 2][r], x[h].z, x[h + 1].z, x[h].w, x[h + 1].w, w[r][0].z, w[r][0].w);
  }

  // Into [R][H][8 rows of x][8 of weight].
  __device__ void put(float* to) const {
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
      for (int h = 0; h < H; h++)
        reinterpret_cast<float2*>(to)[(r * H + h) * kWarp + threadIdx.x] =
            make_float2(v[h / 2][r][h % 2 * 2], v[h / 2][r][h % 2 * 2 + 1]);
  }
};

template <bool Int4, int H>
struct Sums<Quants<Int4>, H, 2> {
  // Only where there are few rows of x a warp takes more than one range.
  static constexpr bool kRanges = H == 1;
  float v[H][4] = {}, ranges[kRanges ? H : 1][4] = {};

  // xs: the block of x, [2 halves of it][2][rows][4]
  __device__ void add(const uint4* xs, int rows, const uint4 (&w)[2][Quants<Int4>::kPieces], BlockScales with) {
    const int g = threadIdx.x / 4, q = threadIdx.x % 4;
    GridPair grid[2][2];
    if constexpr (Int4)
#pragma unroll
      for (int r = 0; r < 2; r++) read_grids(with.grid[8 * r + g], q, grid[r]);
    float sum[H][4] = {};
#pragma unroll
    for (int u = 0; u < Quants<Int4>::kUnits; u++) {
      uint32_t pairs[2][4];
#pragma unroll
      for (int r = 0; r < 2; r++) unpack<Int4>(w[r][Int4 ? 0 : u / 2], grid[r], u, pairs[r]);
#pragma unroll
      for (int h = 0; h < H; h++) {
        const uint4 x = xs[(u * rows + ((8 * h + g) & (rows - 1))) * 4 + q];
        mma<bf16>(sum[h], pairs[0][0], pairs[1][0], pairs[0][1], pairs[1][1], x.x, x.y);
        mma<bf16>(sum[h], pairs[0][2], pairs[1][2], pairs[0][3], pairs[1][3], x.z, x.w);
      }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const float scale = with.scale[8 * r + g] * kQuantUnit;
#pragma unroll
      for (int h = 0; h < H; h++) {
        v[h][2 * r] = fmaf(scale, sum[h][2 * r], v[h][2 * r]);
        v[h][2 * r + 1] = fmaf(scale, sum[h][2 * r + 1], v[h][2 * r + 1]);
      }
    }
  }

  // A range of k ends here.
  __device__ void end_range() {
    if constexpr (kRanges)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        ranges[0][e] += v[0][e];
        v[0][e] = 0;
      }
  }

  // Into [2][H][8 rows of x][8 of weight].
  __device__ void put(float* to) const {
    const int g = threadIdx.x / 4, q = threadIdx.x % 4;
#pragma unroll
    for (int h = 0; h < H; h++)
#pragma unroll
      for (int e = 0; e < 4; e++) to[((e / 2 * H + h) * 8 + 2 * q + e % 2) * 8 + g] = kRanges ? ranges[0][e] : v[h][e];
  }
};

template <int R>
struct Sums<Floats<float>, 1, R> {
  float v[R][8] = {};

  __device__ void add(const uint4* xs, int rows, const uint4 (&w)[R][1], BlockScales) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const uint4 x = xs[(i & (rows - 1)) * 4 + threadIdx.x % 4];
#pragma unroll
      for (int r = 0; r < R; r++) {
        v[r][i] = fmaf(__uint_as_float(x.x), __uint_as_float(w[r][0].x), v[r][i]);
        v[r][i] = fmaf(__uint_as_float(x.y), __uint_as_float(w[r][0].y), v[r][i]);
        v[r][i] = fmaf(__uint_as_float(x.z), __uint_as_float(w[r][0].z), v[r][i]);
        v[r][i] = fmaf(__uint_as_float(x.w), __uint_as_float(w[r][0].w), v[r][i]);
      }
    }
  }

  __device__ void put(float* to) const {
    const int g = threadIdx.x / 4, q = threadIdx.x % 4;
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
      for (int i = 0; i < 8; i++) {
        float sum = v[r][i];
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        if (i / 2 == q) to[(r * 8 + i) * 8 + g] = sum;
      }
  }
};

// N elements of x, the residual or y, which may be moved as one.
template <int N>
__device__ __forceinline__ Pack<float, N> get(const Rows& t, int64_t at) {
  Pack<float, N> v;
  if (t.dtype == Dtype::f32) return *reinterpret_cast<const Pack<float, N>*>(t.data + 4 * at);
  const auto raw = *reinterpret_cast<const Pack<uint16_t, N>*>(t.data + 2 * at);
#pragma unroll
  for (int e = 0; e < N; e++)
    v.v[e] = t.dtype == Dtype::f16 ? to_float(__ushort_as_half(raw.v[e])) : to_float(__ushort_as_bfloat16(raw.v[e]));
  return v;
}

template <int N>
__device__ __forceinline__ void put(const Rows& t, int64_t at, const Pack<float, N>& v) {
  if (t.dtype == Dtype::f32) {
    *reinterpret_cast<Pack<float, N>*>(t.data + 4 * at) = v;
    return;
  }
  Pack<uint16_t, N> raw;
#pragma unroll
  for (int e = 0; e < N; e++)
    raw.v[e] = t.dtype == Dtype::f16 ? __half_as_ushort(from_float<f16>(v.v[e]))
                                     : __bfloat16_as_ushort(from_float<bf16>(v.v[e]));
  *reinterpret_cast<Pack<uint16_t, N>*>(t.data + 2 * at) = raw;
}

// 16 bytes of x as T, of which `left` elements exist.
template <class T>
__device__ __forceinline__ void convert_unit(uint4* to, const Rows& x, bool wide, int64_t at, int left) {
  if (wide && left > 0) {
    Pack<T, kUnit<T>> unit;
#pragma unroll
    for (int e = 0; e < kUnit<T>; e += 4) {
      const auto v = get<4>(x, at + e);
#pragma unroll
      for (int f = 0; f < 4; f++) unit.v[e + f] = from_float<T>(v.v[f]);
    }
    *to = *reinterpret_cast<const uint4*>(&unit);
  } else {
#pragma unroll 1
    for (int e = 0; e < kUnit<T>; e++)
      reinterpret_cast<T*>(to)[e] = from_float<T>(e < left ? get<1>(x, at + e).v[0] : 0.f);
  }
}

// A warp has kDepth chunks of its weights on their way to shared memory or there, and takes kStep of them at a time.
// Wide: rows of weight are whole 16-byte units.
template <class W, int H, int R, bool Wide>
struct RowsTraits {
  static constexpr bool kQuants = W::kScaleBytes > 0;
  static constexpr int kStep = kQuants ? 1 : H == 1 ? 4 : 2, kDepth = kQuants ? 4 / W::kPieces : H == 1 && Wide ? 8 : 4;
  static constexpr int kThreads = H == 1 ? 640 : !kQuants ? 704 : H == 8 ? 384 : 512;
};

template <class W, int H, int R, bool Wide>
__global__ void __launch_bounds__(RowsTraits<W, H, R, Wide>::kThreads)
    linear_rows_kernel(const __grid_constant__ RowsParams p) {
  using Traits = RowsTraits<W, H, R, Wide>;
  using X = typename W::X;
  constexpr int kDepth = Traits::kDepth, kStep = Traits::kStep, kPieces = W::kPieces, kUnits = W::kUnits;
  extern __shared__ uint4 shared[];
  const int lane = threadIdx.x, g = lane / 4, q = lane % 4;
  const int wk = threadIdx.y, warps_k = blockDim.y, wn = threadIdx.z, warps_n = blockDim.z;
  const int rank = blockIdx.x, rows = 1 << p.log_rows;
  const int64_t first_column = static_cast<int64_t>(blockIdx.z) * (warps_n * R * 8);
  const int64_t first_row = static_cast<int64_t>(blockIdx.y) << p.log_rows;
  const int begin = (rank * warps_k + wk) * p.span, count = min(p.span, p.chunks - begin);
  const auto column = [&](int c) { return min(first_column + wn * R * 8 + c, p.n - 1); };

  const int at = begin * kPieces * 64 + q * 16;  // where this lane's part of the first chunk is
  const int pieces = ceil_div(p.row_bytes - at, 64);
  const std::byte* weight[R];
#pragma unroll
  for (int r = 0; r < R; r++) weight[r] = p.weight + column(r * 8 + g) * p.ldw + at;

  uint4* const xs = shared + wk * p.stage * rows * 4 * kUnits;          // [stage][kUnits][rows][4] of each warp along k
  uint4* const rings = shared + warps_k * p.stage * rows * 4 * kUnits;  // [kDepth][R][kPieces][32] of each warp
  uint4* const ring = rings + (wn * warps_k + wk) * kDepth * R * kPieces * kWarp + lane;
  // [stage][8·R] grids and scales of each warp
  std::byte* const behind = reinterpret_cast<std::byte*>(rings + warps_n * warps_k * kDepth * R * kPieces * kWarp) +
                            (wn * warps_k + wk) * p.stage * R * 8 * W::kScaleBytes;
  uint2* const grids = reinterpret_cast<uint2*>(behind);
  float* const scales = reinterpret_cast<float*>(behind + p.stage * R * 8 * (W::kScaleBytes - 4));
  const auto fetch = [&](int chunk) {
    if constexpr (Wide) {
#pragma unroll
      for (int s = 0; s < kStep; s++) {
        if (chunk + s >= count) break;
#pragma unroll
        for (int r = 0; r < R; r++)
#pragma unroll
          for (int i = 0; i < kPieces; i++) {
            const int piece = (chunk + s) * kPieces + i;
            copy_unit<true>(ring + (((chunk + s) % kDepth * R + r) * kPieces + i) * kWarp, weight[r] + piece * 64,
                            piece < pieces);
          }
      }
    }
    copies_commit();
  };
  const auto fetch_first = [&] {
#pragma unroll
    for (int d = 0; d < kDepth; d += kStep) fetch(d);
  };
  const auto fetch_scales = [&](int first) {
    if constexpr (W::kScaleBytes > 0) {
      const int c = lane / (4 / R);
      const std::byte* const scale = p.scale + column(c) * p.ld_scale + begin * 4;
      const std::byte* const grid = p.grid + column(c) * p.ld_grid + begin * 8;
      for (int b = first + lane % (4 / R); b < min(first + p.stage, count); b += 4 / R) {
        copy_bytes<4, Wide>(scales + (b - first) * R * 8 + c, scale + b * 4);
        if constexpr (W::kScaleBytes > 4) copy_bytes<8, Wide>(grids + (b - first) * R * 8 + c, grid + b * 8);
      }
    }
  };
  if (p.early) {
    fetch_scales(0);
    fetch_first();
  }
  wait_for_inputs();

  Sums<W, H, R> sums;
  int in_range = p.range;  // chunks that are left of the range
  for (int first = 0; first < p.span; first += p.stage) {
    const int last = min(first + p.stage, count);
    if (first > 0) __syncthreads();
    if (first > 0 || !p.early) fetch_scales(first);
    const auto each_unit = [&](auto&& put) {
#pragma unroll 2
      for (int u = wn * kWarp + lane; u < (last - first) * rows * 4 * kUnits; u += warps_n * kWarp) {
        const int unit = u % (4 * kUnits), row = u / (4 * kUnits) & (rows - 1), chunk = u / (4 * kUnits) >> p.log_rows;
        const int64_t i = first_row + row;
        const int j = (begin + first + chunk) * W::kChunk + unit * kUnit<X>;
        if (i < p.m) put(xs + (chunk * kUnits * rows + row) * 4 + W::slot(unit, rows), i * p.ldx + j, p.k - j);
      }
    };
    const bool loads = Traits::kQuants && first == 0 && p.loads;
    if (p.copies && loads)
      each_unit([&](uint4* to, int64_t at, int left) {
        *to = left > 0 ? *reinterpret_cast<const uint4*>(reinterpret_cast<const X*>(p.x.data) + at) : uint4{};
      });
    else if (p.copies)
      each_unit([&](uint4* to, int64_t at, int left) {
        copy_unit<false>(to, reinterpret_cast<const X*>(p.x.data) + (left > 0 ? at : 0), left > 0);
      });
    else
      each_unit([&](uint4* to, int64_t at, int left) { convert_unit<X>(to, p.x, p.wide, at, left); });
    if (!loads) {
      copies_commit();
      if (first == 0 && !p.early) {
        fetch_first();
        copies_wait<kDepth / kStep>();
      } else {
        copies_wait<0>();
      }
    }
    if (warps_n == 1)
      __syncwarp();
    else
      __syncthreads();
    const auto add = [&](int chunk) {
      uint4 w[R][kPieces];
#pragma unroll
      for (int r = 0; r < R; r++)
#pragma unroll
        for (int i = 0; i < kPieces; i++) {
          if constexpr (Wide) {
            w[r][i] = ring[((chunk % kDepth * R + r) * kPieces + i) * kWarp];
          } else {
            using E = typename W::Element;
            constexpr int kBytes = sizeof(E);
            const int piece = (chunk * kPieces + i) * 64;
            E unit[16 / kBytes] = {};
            for (int e = 0; e < 16 && at + piece + e < p.row_bytes; e += kBytes)
              unit[e / kBytes] = *reinterpret_cast<const E*>(weight[r] + piece + e);
            w[r][i] = *reinterpret_cast<const uint4*>(unit);
          }
        }
      const int b = chunk - first;
      sums.add(xs + b * kUnits * rows * 4, rows, w, {scales + b * R * 8, grids + b * R * 8});
    };
    for (int chunk = first; chunk < last; chunk += kStep) {
      copies_wait<kDepth / kStep - 1>();
      if constexpr (Traits::kQuants) __syncwarp();  // other lanes' scales
      if (chunk + kStep <= last) {
#pragma unroll
        for (int s = 0; s < kStep; s++) add(chunk + s);
      } else {
#pragma unroll 1
        for (int s = chunk; s < last; s++) add(s);
      }
      fetch(chunk + kDepth);
      if constexpr (Traits::kQuants)
        if (--in_range == 0 || chunk + 1 == count) {
          sums.end_range();
          in_range = p.range;
        }
    }
  }

  // A warp's sums take the place of its ring: [R][H][8 rows of x][8 of weight].
  __syncwarp();
  sums.put(reinterpret_cast<float*>(ring - lane));
  if (p.cluster > 1)
    cluster_barrier();
  else
    __syncthreads();

  // Those of all ranges are added in order; each warp of the cluster does so for some of the 8 × 8 elements.
  constexpr int kRing = kDepth * R * kPieces * kWarp * 2;
  const int warps = warps_n * warps_k;
  for (int t = rank * warps + wn * warps_k + wk; t < warps_n * R * H; t += p.cluster * warps) {
    const int row = t % H * 8 + g;
    const int64_t i = first_row + row, c = first_column + t / H * 8 + q * 2;
    if (row >= rows || i >= p.m || c >= p.n) continue;
    const float2* const from =
        reinterpret_cast<const float2*>(rings) + t / (R * H) * warps_k * kRing + t % (R * H) * kWarp + lane;
    Pack<float, 2> v = {};
    for (int b = 0; b < p.cluster; b++) {
#pragma unroll 4
      for (int w = 0; w < warps_k; w++) {
        const float2 part = p.cluster > 1 ? load_peer(from + w * kRing, b) : from[w * kRing];
        v.v[0] += part.x;
        v.v[1] += part.y;
      }
    }
    const bool both = c + 1 < p.n;
    if (p.bias) {
      v.v[0] += p.bias[c];
      if (both) v.v[1] += p.bias[c + 1];
    }
    if (p.activation != Activation::none) v = {activate(p.activation, v.v[0]), activate(p.activation, v.v[1])};
    const int64_t to = i * p.ldy + c, add = i * p.ld_residual + c;
    if (p.pairs) {
      if (p.residual) {
        const auto more = get<2>(p.residual, add);
        v = {v.v[0] + more.v[0], v.v[1] + more.v[1]};
      }
      put<2>(p.y, to, v);
    } else {
      put<1>(p.y, to, {p.residual ? v.v[0] + get<1>(p.residual, add).v[0] : v.v[0]});
      if (both) put<1>(p.y, to + 1, {p.residual ? v.v[1] + get<1>(p.residual, add + 1).v[0] : v.v[1]});
    }
  }
  if (p.cluster > 1) cluster_barrier();  // a block that has ended has no shared memory to read
}

// How a product is spread over the card.
struct RowsTile {
  int halves, r;                  // H, R: a warp takes 8·H rows of x and 8·R rows of weight
  int cluster, warps_k, warps_n;  // blocks that share the ranges of k; a block's warps along k and along n
  bool all = false;               // a warp takes all ranges, one after another
};

// How many times 8 rows of x a block takes. A weight that is small is soon read again, by more blocks.
int some_halves(int64_t m, int64_t n, int64_t k) {
  return m <= 8 ? 1 : m <= 16 || n * k < int64_t{1} << 21 ? 2 : m <= 32 ? 4 : 8;
}

// One wave of blocks where that can be, else blocks of 8 warps.
RowsTile rows_tile(int64_t m, int64_t n, int64_t k, int ranges, bool tensor_cores, const Card& card) {
  const int64_t tiles = ceil_div(n, 16);
  if (m > 8 && tensor_cores && card.arch >= 90) {
    // Clusters leave some multiprocessors without work.
    const int cluster = std::min(ranges, 8), warps_k = ranges / cluster, halves = some_halves(m, n, k);
    const int most = std::min<int>(22, static_cast<int>(card.shared_bytes - (32 << 10)) >> 12) / warps_k;
    const int64_t even = ceil_div(tiles * cluster, card.multiprocessors * 10 / 11);
    return {halves, 2, cluster, warps_k, static_cast<int>(std::clamp<int64_t>(even, 2, most))};
  }
  const int least = std::max(8 / ranges, 1);
  if (!tensor_cores || ranges == 16) return {1, 1, 1, ranges, least};
  const int most = std::min<int>(20, static_cast<int>(card.shared_bytes - (24 << 10)) >> 13) / ranges;
  const int64_t even = std::max<int64_t>(ceil_div(tiles, card.multiprocessors), least);
  return {1, 2, 1, ranges, even <= most ? static_cast<int>(even) : least};
}

RowsTile quantised_tile(int64_t m, int64_t n, int64_t k, int ranges, bool wide, const Card& card) {
  const int64_t tiles = ceil_div(n, 16);
  if (!wide) return {1, 2, 1, ranges, std::max(8 / ranges, 1)};
  if (m <= 8 && tiles >= 12 * card.multiprocessors) return {1, 2, 1, 1, 8, true};
  if ((m > 8 || (m > 1 && ranges >= 8)) && card.arch >= 90) {
    // Each block then reads its part of x only.
    const int cluster = std::min(ranges, 8), warps_k = ranges / cluster;
    const int halves = some_halves(m, n, k), most = halves == 1 ? 20 : halves == 8 ? 12 : 16;
    const int64_t even = ceil_div(tiles * cluster, card.multiprocessors * 10 / 11);
    return {halves, 2, cluster, warps_k, static_cast<int>(std::min<int64_t>(even, most / warps_k))};
  }
  const int64_t even = ceil_div(tiles, card.multiprocessors);
  const bool wave = even * ranges <= 20 && ceil_div(tiles, even) >= card.multiprocessors * 9 / 10;
  return {1, 2, 1, ranges, wave ? static_cast<int>(even) : std::max(8 / ranges, 1)};
}

void launch_cluster(void (*kernel)(const RowsParams), dim3 grid, dim3 block, size_t shared, const Launch& on,
                    const RowsParams& p) {
  if (shared > 48 << 10)
    VLM_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = on.stream;
  config.attrs = attributes;
  if (p.cluster > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs++].val.clusterDim = {static_cast<unsigned>(p.cluster), 1, 1};
  }
  if (on.card.arch >= 90) attributes[config.numAttrs++] = launched_early();
  VLM_CUDA(cudaLaunchKernelEx(&config, kernel, p));
}

template <class W>
void launch_rows(RowsParams p, bool wide, const Launch& on) {
  using X = typename W::X;
  constexpr bool kQuants = W::kScaleBytes > 0, kTensorCores = sizeof(X) == 2;
  constexpr int unit = kUnit<X>;
  p.chunks = static_cast<int>(ceil_div(p.k, W::kChunk));
  const int ranges = rows_ranges(p.n, kQuants ? 2 * p.chunks : p.chunks);
  const RowsTile t = kQuants ? quantised_tile(p.m, p.n, p.k, ranges, wide, on.card)
                             : rows_tile(p.m, p.n, p.k, ranges, kTensorCores && wide, on.card);
  p.range = static_cast<int>(ceil_div(p.chunks, ranges));
  p.span = t.all ? p.chunks : p.range;
  p.cluster = t.cluster;
  p.log_rows = std::bit_width(static_cast<unsigned>(std::min<int64_t>(p.m, 8 * t.halves) - 1));
  p.copies = p.x.dtype == dtype_of<X> && p.k % unit == 0 && p.x.packs(unit);
  p.wide = p.k % unit == 0 && p.x.packs(4);
  p.pairs = p.n % 2 == 0 && p.y.packs(2) && p.residual.packs(2);

  const dim3 grid(t.cluster, static_cast<unsigned>(ceil_div(p.m, 1 << p.log_rows)),
                  static_cast<unsigned>(ceil_div(p.n, t.warps_n * t.r * 8)));
  const dim3 block(kWarp, t.warps_k, t.warps_n);
  p.early = on.card.arch >= 90 && on.fixed_weight && grid.x * grid.y * grid.z <= 2u * on.card.multiprocessors;
  const auto go = [&](auto* kernel, int depth, int step) {
    const int warps = t.warps_k * t.warps_n, rings = warps * depth * t.r * W::kPieces * kWarp * 16;
    const int chunk = (t.warps_k * W::kUnits * 64 << p.log_rows) + warps * t.r * 8 * W::kScaleBytes;
    const int room = (static_cast<int>(on.card.shared_bytes) - rings) / chunk;
    p.stage = p.span <= room ? p.span : std::max(room / step, 1) * step;
    const int units = p.stage * W::kUnits * 4 << p.log_rows;  // that a block's warps along n share
    p.loads = kQuants && p.early && (!p.copies || units <= 4 * kWarp * t.warps_n);
    launch_cluster(kernel, grid, block, rings + chunk * p.stage, on, p);
  };
  const auto with = [&]<int H, int R, bool Wide>() {
    go(linear_rows_kernel<W, H, R, Wide>, RowsTraits<W, H, R, Wide>::kDepth, RowsTraits<W, H, R, Wide>::kStep);
  };
  if constexpr (kQuants) {
    if (!wide) return with.template operator()<1, 2, false>();
    if (t.halves == 8) return with.template operator()<8, 2, true>();
    if (t.halves == 4) return with.template operator()<4, 2, true>();
    if (t.halves == 2) return with.template operator()<2, 2, true>();
    return with.template operator()<1, 2, true>();
  } else {
    if (!wide) return with.template operator()<1, 1, false>();
    if constexpr (kTensorCores) {
      if (t.halves == 8) return with.template operator()<8, 2, true>();
      if (t.halves == 4) return with.template operator()<4, 2, true>();
      if (t.halves == 2) return with.template operator()<2, 2, true>();
      if (t.r == 2) return with.template operator()<1, 2, true>();
    }
    with.template operator()<1, 1, true>();
  }
}

// Whether many rows of x went through wgmma: where that was measured to be faster. It pays for its start with many rows, and
// with weights that are so small that this start is all, or so tall that it is little.
template <class W>
bool launch_stream_where(const RowsParams& p, bool wide, const Launch& on) {
  if (!wide || on.card.arch != 90 || !encode_tiled() || p.k % 8 != 0 || !p.x.packs(p.x.dtype == Dtype::f32 ? 4 : 8))
    return false;
  const int chunks = static_cast<int>(ceil_div(p.k, W::kChunk));
  const int ranges = rows_ranges(p.n, W::kQuants ? 2 * chunks : chunks);
  const int range = static_cast<int>(ceil_div(chunks, ranges)) * W::kChunk;
  const bool small = p.n * p.k < int64_t{1} << 21, tall = p.n >= 1 << 15;
  const int64_t few = !W::kQuants ? (small || tall ? 8 : 64) : small ? 8 : p.n > p.k ? 16 : 32;
  if (ranges == 1 || p.m <= few) return false;
  const auto tile = StreamTile::of<W>(p.m, p.n, p.k, range, ranges, on.card);
  if (tile.stages == 0) return false;
  const Product product{
      .m = p.m, .n = p.n, .k = p.k, .bias = p.bias, .residual = p.residual, .y = p.y, .activation = p.activation};
  launch_stream<W>({.x = p.x,
                    .ldx = p.ldx,
                    .scale = p.scale,
                    .grid = p.grid,
                    .ld_scale = p.ld_scale,
                    .ld_grid = p.ld_grid,
                    .k = p.k,
                    .range = range,
                    .copies = p.x.dtype == dtype_of<typename W::X> && p.x.packs(8),
                    .early = on.fixed_weight,
                    .finish = Finish(product)},
                   p.weight, p.row_bytes, p.ldw, tile, on);
  return true;
}

// Rows that no single stride leads through: the parts that the first dimension has.
void launch_parts(Step step, const Launch& on) {
  int d = 0;
  while (step.in[0].size[d] == 1) d++;
  const int64_t parts = step.in[0].size[d];
  for (int64_t i = 0; i < parts; i++) {
    for (TensorArg* t : {&step.in[0], &step.in[3], &step.out[0]}) {
      if (!*t) continue;
      if (i > 0) t->data = t->as<std::byte>() + t->stride[d] * dtype_bytes(t->dtype);
      t->size[d] = 1;
    }
    launch_linear_rows(step, on);
  }
}

}  // namespace

int rows_ranges(int64_t n, int chunks) {
  int ranges = 1;
  while (ranges < 16 && chunks / ranges >= 8 && (ranges < 4 || n * ranges < 20480)) ranges *= 2;
  return ranges;
}

size_t linear_rows_workspace(const Step& step, const Card&) {
  const auto [x, weight, bias, residual, scale] = step.inputs<5>();
  const auto [y] = step.outputs<1>();
  expect_float(x, "x");
  expect_rows(weight);
  if (!scale) expect_float(weight, "weight");
  expect_float(residual, "residual");
  expect_float(y, "y");
  CHECK(weight.size[1] <= INT32_MAX / 4, "weight is too wide: ", shape(weight));
  return 0;
}

void launch_linear_rows(const Step& step, const Launch& on) {
  const auto [x, weight, bias, residual, scale, grid] = step.inputs<6>();
  const auto [y] = step.outputs<1>();
  RowsParams p{};
  p.x = rows_of(x);
  p.weight = weight.as<std::byte>();
  p.scale = scale.as<std::byte>();
  p.grid = grid.as<std::byte>();
  p.bias = bias.f32();
  p.residual = rows_of(residual);
  p.y = rows_of(y);
  p.ldw = weight.stride[0] * dtype_bytes(weight.dtype);
  p.ld_scale = scale.stride[0] * 4;
  p.ld_grid = grid.stride[0];
  p.m = row_count(x);
  p.n = weight.size[0];
  p.k = static_cast<int>(x.size[x.rank - 1]);
  p.row_bytes = static_cast<int>(weight.size[1] * dtype_bytes(weight.dtype));
  p.activation = static_cast<Activation>(step.attr[0].i);
  if (p.m == 0 || p.n == 0) return;
  if (std::max({p.x.rank, p.y.rank, p.residual.rank}) > 1) return launch_parts(step, on);
  p.ldx = p.x.rank > 0 ? p.x.stride[0] : 0;
  p.ldy = p.y.rank > 0 ? p.y.stride[0] : 0;
  p.ld_residual = p.residual.rank > 0 ? p.residual.stride[0] : 0;
  const bool wide = p.row_bytes % 16 == 0 && p.ldw % 16 == 0 && aligned(p.weight, 16);
  if (grid) {
    const bool both = wide && p.ld_grid % 8 == 0 && aligned(p.grid, 8);
    if (!launch_stream_where<StreamQuants<true>>(p, both, on)) launch_rows<Quants<true>>(p, both, on);
  } else if (scale) {
    if (!launch_stream_where<StreamQuants<false>>(p, wide, on)) launch_rows<Quants<false>>(p, wide, on);
  } else {
    with_float(weight, "weight", [&](auto type) {
      using T = decltype(type);
      if constexpr (sizeof(T) == 2)
        if (launch_stream_where<StreamFloats<T>>(p, wide, on)) return;
      launch_rows<Floats<T>>(p, wide, on);
    });
  }
}

}  // namespace vlm::cuda
