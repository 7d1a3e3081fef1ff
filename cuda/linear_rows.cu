// y[i,c] = act(Σ_j x[i,j] weight[c,j] + bias[c]) + residual[i,c]
// x: [rows…, k]    weight: [n, k] f32, f16 or bf16    bias: [n] f32    residual, y: [rows…, n], may be the same
// x and y f32, f16 or bf16, the residual f32 or as y; x is rounded to the weight's type, products are summed in f32.
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
#include "mma.cuh"
#include "rows.cuh"

namespace vlm::cuda {
namespace {

struct RowsParams {
  Rows x;              // [m, k]
  const void* weight;  // [n, k]
  const float* bias;   // [n]
  Rows residual, y;    // [m, n]
  int64_t ldx, ldw, ld_residual, ldy;
  int64_t m, n;
  int k, chunks;      // chunks: of 64 bytes, in a row of weight
  int range;          // chunks that a warp sums
  int stage;          // of them, how many have their x in shared memory at a time
  int cluster;        // blocks that share the ranges of k
  int log_rows;       // of x, that a block takes
  bool copies, wide;  // x can be copied as it is, 16 bytes at a time; or at least be read 4 elements at a time
  bool early;         // weights first, and x when what is in front of the launch has ended
  bool pairs;         // two columns of y and the residual can be moved as one
  Activation activation;
};

constexpr int kWarp = 32;
constexpr int kChunkBytes = 64;  // of a row: 16 for each of the 4 lanes that share it
template <class T>
constexpr int kUnit = 16 / sizeof(T);  // elements of 16 bytes

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

// A warp's sums of 8·H rows of x and 8·R of weight. Lane 4·g + q has 16 bytes of row g of weight in a chunk, the q-th.
template <class T, int H, int R>
struct Sums {
  float v[(H + 1) / 2][R][4] = {};

  // xs: the chunk of x, [rows][4]
  __device__ void add(const uint4* xs, int rows, const uint4 (&w)[R]) {
    const int g = threadIdx.x / 4, q = threadIdx.x % 4;
    uint4 x[H + H % 2] = {};
#pragma unroll
    for (int h = 0; h < H; h++) x[h] = xs[((8 * h + g) & (rows - 1)) * 4 + q];
#pragma unroll
    for (int h = 0; h < H; h += 2)
#pragma unroll
      for (int r = 0; r < R; r++) mma<T>(v[h / 2][r], x[h].x, x[h + 1].x, x[h].y, x[h + 1].y, w[r].x, w[r].y);
#pragma unroll
    for (int h = 0; h < H; h += 2)
#pragma unroll
      for (int r = 0; r < R; r++) mma<T>(v[h / 2][r], x[h].z, x[h + 1].z, x[h].w, x[h + 1].w, w[r].z, w[r].w);
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

template <int R>
struct Sums<float, 1, R> {
  float v[R][8] = {};

  __device__ void add(const uint4* xs, int rows, const uint4 (&w)[R]) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const uint4 x = xs[(i & (rows - 1)) * 4 + threadIdx.x % 4];
#pragma unroll
      for (int r = 0; r < R; r++) {
        v[r][i] = fmaf(__uint_as_float(x.x), __uint_as_float(w[r].x), v[r][i]);
        v[r][i] = fmaf(__uint_as_float(x.y), __uint_as_float(w[r].y), v[r][i]);
        v[r][i] = fmaf(__uint_as_float(x.z), __uint_as_float(w[r].z), v[r][i]);
        v[r][i] = fmaf(__uint_as_float(x.w), __uint_as_float(w[r].w), v[r][i]);
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
template <class T, int H, int R, bool Wide>
struct RowsTraits {
  static constexpr int kStep = H == 1 ? 4 : 2, kDepth = H == 1 && Wide ? 8 : 4;
  static constexpr int kThreads = H == 1 ? 640 : 704;
};

template <class T, int H, int R, bool Wide>
__global__ void __launch_bounds__(RowsTraits<T, H, R, Wide>::kThreads)
    linear_rows_kernel(const __grid_constant__ RowsParams p) {
  using Traits = RowsTraits<T, H, R, Wide>;
  constexpr int kDepth = Traits::kDepth, kStep = Traits::kStep, kChunk = kChunkBytes / sizeof(T);
  extern __shared__ uint4 shared[];
  const int lane = threadIdx.x, g = lane / 4, q = lane % 4;
  const int wk = threadIdx.y, warps_k = blockDim.y, wn = threadIdx.z, warps_n = blockDim.z;
  const int rank = blockIdx.x, rows = 1 << p.log_rows;
  const int64_t first_column = static_cast<int64_t>(blockIdx.z) * (warps_n * R * 8);
  const int64_t first_row = static_cast<int64_t>(blockIdx.y) << p.log_rows;
  const int begin = (rank * warps_k + wk) * p.range, count = min(p.range, p.chunks - begin);

  const int at = begin * kChunk + q * kUnit<T>;  // where this lane's part of the first chunk is
  const int whole = min(count, static_cast<int>(ceil_div(p.k - at, kChunk)));  // chunks that it has a part in
  const T* weight[R];
#pragma unroll
  for (int r = 0; r < R; r++)
    weight[r] = static_cast<const T*>(p.weight) + min(first_column + (wn * R + r) * 8 + g, p.n - 1) * p.ldw + at;

  uint4* const xs = shared + wk * p.stage * rows * 4;          // [stage][rows][4] for each of the warps along k
  uint4* const rings = shared + warps_k * p.stage * rows * 4;  // [kDepth][R][32] for each warp
  uint4* const ring = rings + (wn * warps_k + wk) * kDepth * R * kWarp + lane;
  const auto fetch = [&](int chunk) {
    if constexpr (Wide) {
#pragma unroll
      for (int s = 0; s < kStep; s++) {
        if (chunk + s >= count) break;
#pragma unroll
        for (int r = 0; r < R; r++)
          copy_unit<true>(ring + ((chunk + s) % kDepth * R + r) * kWarp, weight[r] + (chunk + s) * kChunk,
                          chunk + s < whole);
      }
    }
    copies_commit();
  };
  const auto fetch_first = [&] {
#pragma unroll
    for (int d = 0; d < kDepth; d += kStep) fetch(d);
  };
  if (p.early) fetch_first();
  wait_for_inputs();

  Sums<T, H, R> sums;
  for (int first = 0; first < p.range; first += p.stage) {
    const int last = min(first + p.stage, count);
    if (first > 0) __syncthreads();
    const auto each_unit = [&](auto&& put) {
#pragma unroll 2
      for (int u = wn * kWarp + lane; u < (last - first) * rows * 4; u += warps_n * kWarp) {
        const int64_t i = first_row + (u / 4 & (rows - 1));
        const int j = (first + (u >> (p.log_rows + 2))) * kChunk + at;
        if (i < p.m) put(xs + u, i * p.ldx + j, p.k - j);
      }
    };
    if (p.copies)
      each_unit([&](uint4* to, int64_t at, int left) {
        copy_unit<false>(to, reinterpret_cast<const T*>(p.x.data) + (left > 0 ? at : 0), left > 0);
      });
    else
      each_unit([&](uint4* to, int64_t at, int left) { convert_unit<T>(to, p.x, p.wide, at, left); });
    copies_commit();
    if (first == 0 && !p.early) {
      fetch_first();
      copies_wait<kDepth / kStep>();
    } else {
      copies_wait<0>();
    }
    if (warps_n == 1)
      __syncwarp();
    else
      __syncthreads();
    const auto add = [&](int chunk) {
      uint4 w[R];
#pragma unroll
      for (int r = 0; r < R; r++) {
        if constexpr (Wide) {
          w[r] = ring[(chunk % kDepth * R + r) * kWarp];
        } else {
          T unit[kUnit<T>] = {};
          for (int e = 0; e < kUnit<T> && at + chunk * kChunk + e < p.k; e++) unit[e] = weight[r][chunk * kChunk + e];
          w[r] = *reinterpret_cast<const uint4*>(unit);
        }
      }
      sums.add(xs + (chunk - first) * rows * 4, rows, w);
    };
    for (int chunk = first; chunk < last; chunk += kStep) {
      copies_wait<kDepth / kStep - 1>();
      if (chunk + kStep <= last) {
#pragma unroll
        for (int s = 0; s < kStep; s++) add(chunk + s);
      } else {
#pragma unroll 1
        for (int s = chunk; s < last; s++) add(s);
      }
      fetch(chunk + kDepth);
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
  constexpr int kRing = kDepth * R * kWarp * 2;
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
};

// One wave of blocks where that can be, else blocks of 8 warps.
RowsTile rows_tile(int64_t m, int64_t n, int ranges, bool tensor_cores, const Card& card) {
  const int64_t tiles = ceil_div(n, 16);
  if (m > 8 && tensor_cores && card.arch >= 90) {
    // Clusters leave some multiprocessors without work.
    const int cluster = std::min(ranges, 8), warps_k = ranges / cluster, halves = m <= 16 ? 2 : m <= 32 ? 4 : 8;
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

template <class T>
void launch_rows(RowsParams p, const Rows& weight, const Launch& on) {
  constexpr int unit = kUnit<T>;
  const bool wide = p.k % unit == 0 && weight.packs(unit);
  p.chunks = static_cast<int>(ceil_div(p.k, 4 * unit));
  const int ranges = rows_ranges(p.n, p.chunks);
  RowsTile t = rows_tile(p.m, p.n, ranges, sizeof(T) == 2 && wide, on.card);
  p.range = static_cast<int>(ceil_div(p.chunks, ranges));
  p.cluster = t.cluster;
  p.log_rows = std::bit_width(static_cast<unsigned>(std::min<int64_t>(p.m, 8 * t.halves) - 1));
  p.copies = p.x.dtype == dtype_of<T> && p.k % unit == 0 && p.x.packs(unit);
  p.wide = p.k % unit == 0 && p.x.packs(4);
  p.pairs = p.n % 2 == 0 && p.y.packs(2) && p.residual.packs(2);

  const dim3 grid(t.cluster, static_cast<unsigned>(ceil_div(p.m, 1 << p.log_rows)),
                  static_cast<unsigned>(ceil_div(p.n, t.warps_n * t.r * 8)));
  const dim3 block(kWarp, t.warps_k, t.warps_n);
  p.early = on.card.arch >= 90 && on.fixed_weight && grid.x * grid.y * grid.z <= 2u * on.card.multiprocessors;
  const auto go = [&](auto* kernel, int depth, int step) {
    const int rings = t.warps_k * t.warps_n * depth * t.r * kWarp * 16, chunk = (t.warps_k * kChunkBytes) << p.log_rows;
    const int room = (static_cast<int>(on.card.shared_bytes) - rings) / chunk;
    p.stage = p.range <= room ? p.range : std::max(room / step, 1) * step;
    launch_cluster(kernel, grid, block, rings + chunk * p.stage, on, p);
  };
  const auto with = [&]<int H, int R, bool Wide>() {
    go(linear_rows_kernel<T, H, R, Wide>, RowsTraits<T, H, R, Wide>::kDepth, RowsTraits<T, H, R, Wide>::kStep);
  };
  if (!wide) return with.template operator()<1, 1, false>();
  if constexpr (sizeof(T) == 2) {
    if (t.halves == 8) return with.template operator()<8, 2, true>();
    if (t.halves == 4) return with.template operator()<4, 2, true>();
    if (t.halves == 2) return with.template operator()<2, 2, true>();
    if (t.r == 2) return with.template operator()<1, 2, true>();
  }
  with.template operator()<1, 1, true>();
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
  const auto [x, weight, bias, residual] = step.inputs<4>();
  const auto [y] = step.outputs<1>();
  expect_float(x, "x");
  expect_float(weight, "weight");
  expect_float(residual, "residual");
  expect_float(y, "y");
  CHECK(weight.size[1] <= INT32_MAX / 2, "weight is too wide: ", shape(weight));
  return 0;
}

void launch_linear_rows(const Step& step, const Launch& on) {
  const auto [x, weight, bias, residual] = step.inputs<4>();
  const auto [y] = step.outputs<1>();
  RowsParams p{};
  p.x = rows_of(x);
  p.weight = weight.data;
  p.bias = bias.f32();
  p.residual = rows_of(residual);
  p.y = rows_of(y);
  p.ldw = weight.stride[0];
  p.m = row_count(x);
  p.n = weight.size[0];
  p.k = static_cast<int>(weight.size[1]);
  p.activation = static_cast<Activation>(step.attr[0].i);
  if (p.m == 0 || p.n == 0) return;
  if (std::max({p.x.rank, p.y.rank, p.residual.rank}) > 1) return launch_parts(step, on);
  p.ldx = p.x.rank > 0 ? p.x.stride[0] : 0;
  p.ldy = p.y.rank > 0 ? p.y.stride[0] : 0;
  p.ld_residual = p.residual.rank > 0 ? p.residual.stride[0] : 0;
  with_float(weight, "weight", [&](auto type) { launch_rows<decltype(type)>(p, rows_of(weight), on); });
}

}  // namespace vlm::cuda
