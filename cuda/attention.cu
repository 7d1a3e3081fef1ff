// y[i] = Σ_j softmax_j(scale q[i]·k[j]) v[j] for each head, without a mask (Vaswani et al. 2017, eq. 1)
// q, y: [b, l, h, d]    k, v: [b, m, h, d]    q, k, v alike f32 | f16 | bf16, y any of them; the last dimension contiguous,
// the others anywhere
//
// A block is some queries of a head; keys and values pass through shared memory in tiles, with a running maximum
// (Milakov & Gimelshein 2018, alg. 3), the products on the tensor cores. A query's bits don't depend on its block.
#include <cfloat>

#include "attention_mma.cuh"
#include "attention_wgmma.cuh"
#include "rows.cuh"

namespace vlm::cuda {
namespace {

struct Side {
  void* data;
  int64_t stride[3];  // of batch, row and head
  template <class T>
  __device__ T* head(int64_t b, int64_t h) const {
    return static_cast<T*>(data) + b * stride[0] + h * stride[2];
  }
};

struct Args {
  Side q, k, v, y;  // [b,l,h,d], k and v [b,m,h,d]
  Dtype y_dtype;
  int queries, keys, heads, d, blocks;  // l, m, h, d; blocks of a head
  float scale;                          // |scale| · log2(e), not 0: powers of 2 are cheaper than those of e
  uint32_t flip;                        // the bits that give q the sign of scale
  bool wide;                            // q, k and v can be moved 16 bytes at a time
  bool pairs;                           // y can be written two numbers at a time
};

// The numbers of a block. kD: the head's columns, padded with zeros.
template <class T, int kD>
struct Tile {
  static constexpr int kWarps = sizeof(T) == 4 && kD > 128 ? 2 : 4;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kQueries = kWarps * 16;
  static constexpr int kKeys = (kD > 128 ? 64 : 128) / sizeof(T);
  static constexpr int kPitch = kD + 16 / sizeof(T);  // spreads the rows over the banks
  static constexpr int kBytes = (kQueries + 4 * kKeys) * kPitch * sizeof(T);
  static_assert(kBytes <= 99 << 10, "a block of compute capability 8.6 has no more");
};

// Fills a tile with rows of a head, zeros beyond `rows` and `d`. A thread takes the same columns of several rows.
template <class T, int kD, int kRows>
__device__ void fill(T* tile, const T* from, int64_t stride, int rows, const Args& p) {
  using Shape = Tile<T, kD>;
  constexpr int kPack = 16 / sizeof(T), kStep = Shape::kThreads / (kD / kPack);
  const int row = threadIdx.x / (kD / kPack), column = threadIdx.x % (kD / kPack) * kPack;
  if (row >= kStep) return;
  tile += row * Shape::kPitch + column;
  from += row * stride + column;
  if (p.wide) {
    const bool inside = column < p.d;
#pragma unroll
    for (int r = 0; r < kRows; r += kStep)
      if (row + r < kRows) {
        const bool there = inside && row + r < rows;
        copy_async16(shared_address(tile + r * Shape::kPitch), there ? from + r * stride : p.q.data, there);
      }
  } else {
    for (int r = 0; row + r < kRows; r += kStep)
      for (int i = 0; i < kPack; i++)
        tile[r * Shape::kPitch + i] = row + r < rows && column + i < p.d ? from[r * stride + i] : T{};
  }
}

// A warp's 16 queries times one tile. Fragments are those of mma: lane 4g + t holds rows g and g + 8, and of each 8
// columns number 2t and 2t + 1.
template <class T, int kD>
struct Products {
  using Shape = Tile<T, kD>;
  static constexpr int kPitch = Shape::kPitch, kKeys = Shape::kKeys;
  uint32_t q[kD / 16][4];

  __device__ void take(const T* queries, uint32_t flip) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int c = 0; c < kD / 16; c++) {
      load_matrices(q[c], queries + lane % 16 * kPitch + c * 16 + lane / 16 * 8);
      for (uint32_t& x : q[c]) x ^= flip;
    }
  }

  // s = q kᵀ
  __device__ void scores(float (&s)[kKeys / 8][4], const T* k) const {
    const int lane = threadIdx.x % 32;
    k += (lane % 8 + lane / 16 * 8) * kPitch + lane / 8 % 2 * 8;
#pragma unroll
    for (int n = 0; n < kKeys / 8; n += 2) {
#pragma unroll
      for (int i = 0; i < 4; i++) s[n][i] = s[n + 1][i] = 0;
#pragma unroll
      for (int c = 0; c < kD / 16; c++) {
        uint32_t b[4];
        load_matrices(b, k + n * 8 * kPitch + c * 16);
        mma<T>(s[n], q[c], b[0], b[1]);
        mma<T>(s[n + 1], q[c], b[2], b[3]);
      }
    }
  }

  // o = o · keep + s v, keep being a number for each of the two rows
  __device__ void values(float (&o)[kD / 8][4], const float (&keep)[2], const float (&s)[kKeys / 8][4],
                         const T* v) const {
    const int lane = threadIdx.x % 32;
    v += lane % 16 * kPitch + lane / 16 * 8;
#pragma unroll
    for (int n = 0; n < kD / 8; n++)
      for (int i = 0; i < 4; i++) o[n][i] *= keep[i / 2];
#pragma unroll
    for (int j = 0; j < kKeys / 16; j++) {
      const uint32_t a[4] = {pack<T>(s[2 * j][0], s[2 * j][1]), pack<T>(s[2 * j][2], s[2 * j][3]),
                             pack<T>(s[2 * j + 1][0], s[2 * j + 1][1]), pack<T>(s[2 * j + 1][2], s[2 * j + 1][3])};
#pragma unroll
      for (int n = 0; n < kD / 8; n += 2) {
        uint32_t b[4];
        load_matrices_transposed(b, v + j * 16 * kPitch + n * 8);
        mma<T>(o[n], a, b[0], b[1]);
        mma<T>(o[n + 1], a, b[2], b[3]);
      }
    }
  }
};

// f32 as three products of tf32: x = big + small, and small · small is beyond the digits. Tensor cores cut their sums off
// rather than round them, so sums stay short and the small products have their own.
template <int kD>
struct Products<float, kD> {
  using Shape = Tile<float, kD>;
  static constexpr int kPitch = Shape::kPitch, kKeys = Shape::kKeys;
  const float* q;  // this lane's two rows, at its columns
  uint32_t flip;

  __device__ void take(const float* queries, uint32_t flip_sign) {
    const int lane = threadIdx.x % 32;
    q = queries + lane / 4 * kPitch + lane % 4 * 4;
    flip = flip_sign;
  }

  // The order of columns in a sum is free: lane 4g + t takes columns 4t … 4t + 3 of each 16, which lie side by side.
  __device__ void scores(float (&s)[kKeys / 8][4], const float* k) const {
    const int lane = threadIdx.x % 32;
    k += lane / 4 * kPitch + lane % 4 * 4;
    float rest[kKeys / 8][4] = {};
#pragma unroll
    for (int n = 0; n < kKeys / 8; n++)
      for (int i = 0; i < 4; i++) s[n][i] = 0;
#pragma unroll
    for (int c = 0; c < kD; c += 16) {
      const float4 top = *reinterpret_cast<const float4*>(q + c),
                   low = *reinterpret_cast<const float4*>(q + 8 * kPitch + c);
      const Split a[2][4] = {{split(top.x, flip), split(low.x, flip), split(top.y, flip), split(low.y, flip)},
                             {split(top.z, flip), split(low.z, flip), split(top.w, flip), split(low.w, flip)}};
#pragma unroll
      for (int n = 0; n < kKeys / 8; n++) {
        const float4 b = *reinterpret_cast<const float4*>(k + n * 8 * kPitch + c);
        mma_split(s[n], rest[n], a[0], split(b.x), split(b.y));
        mma_split(s[n], rest[n], a[1], split(b.z), split(b.w));
      }
    }
#pragma unroll
    for (int n = 0; n < kKeys / 8; n++)
      for (int i = 0; i < 4; i++) s[n][i] += rest[n][i];
  }

  // Of each 8 keys, lane 4g + t takes 2t and 2t + 1: the scores it holds.
  __device__ void values(float (&o)[kD / 8][4], const float (&keep)[2], const float (&s)[kKeys / 8][4],
                         const float* v) const {
    const int lane = threadIdx.x % 32;
    v += lane % 4 * 2 * kPitch + lane / 4;
    Split a[kKeys / 8][4];
#pragma unroll
    for (int j = 0; j < kKeys / 8; j++) {
      a[j][0] = split(s[j][0]);
      a[j][1] = split(s[j][2]);
      a[j][2] = split(s[j][1]);
      a[j][3] = split(s[j][3]);
    }
#pragma unroll
    for (int n = 0; n < kD / 8; n++) {
      float sum[4] = {}, rest[4] = {};
#pragma unroll
      for (int j = 0; j < kKeys / 8; j++)
        mma_split(sum, rest, a[j], split(v[j * 8 * kPitch + n * 8]), split(v[(j * 8 + 1) * kPitch + n * 8]));
      for (int i = 0; i < 4; i++) o[n][i] = fmaf(o[n][i], keep[i / 2], sum[i] + rest[i]);
    }
  }
};

// The running softmax of a lane's two rows, 4 lanes having a row together; `top` is scaled.
struct Softmax {
  float top[2] = {-INFINITY, -INFINITY}, total[2] = {};

  // Scores of a tile, of which `keys` are there, become their powers; what was summed so far counts keep times.
  template <int kN>
  __device__ void take(float (&s)[kN][4], int keys, float scale, float (&keep)[2]) {
    if (keys < kN * 8) {
#pragma unroll
      for (int n = 0; n < kN; n++)
        for (int i = 0; i < 4; i++)
          if (n * 8 + threadIdx.x % 4 * 2 + i % 2 >= keys) s[n][i] = -INFINITY;
    }
#pragma unroll
    for (int row = 0; row < 2; row++) {
      float high = -INFINITY;
#pragma unroll
      for (int n = 0; n < kN; n++) high = fmaxf(high, fmaxf(s[n][row * 2], s[n][row * 2 + 1]));
      high = fmaxf(high, __shfl_xor_sync(~0u, high, 1));
      high = fmaxf(top[row], fmaxf(high, __shfl_xor_sync(~0u, high, 2)) * scale);
      keep[row] = power2(top[row] - high);
      top[row] = high;
      total[row] *= keep[row];
#pragma unroll
      for (int n = 0; n < kN; n++) {
        for (int i = row * 2; i < row * 2 + 2; i++) s[n][i] = power2(fmaf(s[n][i], scale, -high));
        total[row] += s[n][row * 2] + s[n][row * 2 + 1];
      }
    }
  }
};

// A warp's 16 rows of y, from query `first` on.
template <int kN>
__device__ void finish(const Args& p, int64_t b, int64_t h, int first, const float (&o)[kN][4], Softmax softmax) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int row = 0; row < 2; row++) {
    float& total = softmax.total[row];
    total += __shfl_xor_sync(~0u, total, 1);
    total += __shfl_xor_sync(~0u, total, 2);
    const float share = 1.f / total;
    const int query = first + lane / 4 + row * 8;
    if (query >= p.queries) continue;
    const auto write = [&](auto type) {
      using Y = decltype(type);
      Y* const y = p.y.head<Y>(b, h) + query * p.y.stride[1];
#pragma unroll
      for (int n = 0; n < kN; n++) {
        const int c = n * 8 + lane % 4 * 2;
        const Pack<Y, 2> two{from_float<Y>(o[n][row * 2] * share), from_float<Y>(o[n][row * 2 + 1] * share)};
        if (p.pairs && c < p.d) {
          *reinterpret_cast<Pack<Y, 2>*>(y + c) = two;
        } else {
          if (c < p.d) y[c] = two.v[0];
          if (c + 1 < p.d) y[c + 1] = two.v[1];
        }
      }
    };
    if (p.y_dtype == Dtype::f32)
      write(float{});
    else if (p.y_dtype == Dtype::f16)
      write(f16{});
    else
      write(bf16{});
  }
}

template <class T, int kD>
__global__ void __launch_bounds__(Tile<T, kD>::kThreads) attend(const __grid_constant__ Args p) {
  wait_for_inputs();
  using Shape = Tile<T, kD>;
  constexpr int kKeys = Shape::kKeys, kTile = kKeys * Shape::kPitch;
  extern __shared__ __align__(1024) std::byte shared[];
  T* const queries = reinterpret_cast<T*>(shared);
  T* const tiles = queries + Shape::kQueries * Shape::kPitch;  // k, v of even tiles, then of odd ones

  const int first = blockIdx.x % p.blocks * Shape::kQueries, head = blockIdx.x / p.blocks;
  const int64_t b = head / p.heads, h = head % p.heads;
  const T* const k = p.k.head<T>(b, h);
  const T* const v = p.v.head<T>(b, h);
  const auto fetch = [&](int key) {
    T* const tile = tiles + key / kKeys % 2 * 2 * kTile;
    fill<T, kD, kKeys>(tile, k + key * p.k.stride[1], p.k.stride[1], p.keys - key, p);
    fill<T, kD, kKeys>(tile + kTile, v + key * p.v.stride[1], p.v.stride[1], p.keys - key, p);
    copies_commit();
  };
  fill<T, kD, Shape::kQueries>(queries, p.q.head<T>(b, h) + first * p.q.stride[1], p.q.stride[1], p.queries - first, p);
  fetch(0);
  copies_wait<0>();
  __syncthreads();

  const int warp = threadIdx.x / 32;
  Products<T, kD> products;
  products.take(queries + warp * 16 * Shape::kPitch, p.flip);
  Softmax softmax;
  float o[kD / 8][4] = {};
  for (int key = 0; key < p.keys; key += kKeys) {
    if (key + kKeys < p.keys) fetch(key + kKeys);
    const T* const tile = tiles + key / kKeys % 2 * 2 * kTile;
    float s[kKeys / 8][4], keep[2];
    products.scores(s, tile);
    softmax.take(s, p.keys - key, p.scale, keep);
    products.values(o, keep, s, tile + kTile);
    copies_wait<0>();
    __syncthreads();
  }
  finish(p, b, h, first + warp * 16, o, softmax);
}

// The same on Hopper: a thread has tiles copied by the tensor copy engine, each of one or two warpgroups has 64 queries. While
// a tile's powers are taken, the next one's scores and the last one's values are multiplied.
// In shared memory a row is 64 columns, swizzled; columns past the 64th lie in a second part.
template <int kD>
struct HopperTile {
  static constexpr int kQueries = 64, kKeys = kD == 64 ? 80 : 96, kMaxWarpgroups = 2,
                       kThreads = kMaxWarpgroups * 128 + 128;
  static constexpr int kParts = static_cast<int>(ceil_div(kD, 64)), kRowBytes = 128;
  static constexpr int kSteps = static_cast<int>(ceil_div(kD, 16));
  static constexpr int kPart = kKeys * kRowBytes, kQueryPart = kQueries * kRowBytes;
  static constexpr int kStageBytes = 2 * kParts * kPart, kQueryBytes = kParts * kQueryPart;
  static constexpr int kStages = 4;
  // Two barriers a stage: it is full, it is empty; one for each warpgroup's queries.
  static constexpr int kBytes = kStages * (kStageBytes + 2 * 8) + kMaxWarpgroups * (kQueryBytes + 8);
};

struct HopperArgs {
  CUtensorMap q, k, v;  // boxes of 64 columns and a tile's rows of a head
  Args args;
};

template <class T, int kD>
__global__ void __launch_bounds__(HopperTile<kD>::kThreads, 1) attend_hopper(const __grid_constant__ HopperArgs a) {
#if __CUDA_ARCH_FEAT_SM90_ALL
  using Shape = HopperTile<kD>;
  constexpr int kKeys = Shape::kKeys, kStages = Shape::kStages, kParts = Shape::kParts, kPart = Shape::kPart;
  constexpr int kPacks = kD / 8, kN = kKeys / 8;
  const Args& p = a.args;
  extern __shared__ __align__(1024) std::byte shared[];  // as the swizzle has it
  const uint32_t tiles = shared_address(shared), all_queries = tiles + kStages * Shape::kStageBytes,
                 barriers = all_queries + Shape::kMaxWarpgroups * Shape::kQueryBytes;
  const auto stage = [&](int tile) { return tiles + tile % kStages * Shape::kStageBytes; };
  const auto full = [&](int tile) { return barriers + tile % kStages * 16; };
  const auto empty = [&](int tile) { return full(tile) + 8; };
  const auto queries = [&](int warpgroup) { return all_queries + warpgroup * Shape::kQueryBytes; };
  const auto asked = [&](int warpgroup) { return barriers + kStages * 16 + warpgroup * 8; };

  const int warpgroups = blockDim.x / 128 - 1, warpgroup = threadIdx.x / 128;
  const int head = blockIdx.x / p.blocks, block = blockIdx.x % p.blocks * warpgroups * Shape::kQueries;
  const int b = head / p.heads, h = head % p.heads;
  const int count = (p.keys + kKeys - 1) / kKeys;

  if (threadIdx.x == 0) {
    asm volatile("prefetch.tensormap [%0];\nprefetch.tensormap [%1];\nprefetch.tensormap [%2];" ::"l"(&a.q), "l"(&a.k),
                 "l"(&a.v)
                 : "memory");
    for (int s = 0; s < kStages; s++) {
      barrier_init(full(s), 1);
      barrier_init(empty(s), warpgroups);
    }
    for (int w = 0; w < warpgroups; w++) barrier_init(asked(w), 1);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  wait_for_inputs();

  if (warpgroup == warpgroups) {
    give_registers<40>();
    if (threadIdx.x % 128 == 0) {
      const auto copy = [&](uint32_t to, int part_bytes, const CUtensorMap& map, int row, uint32_t barrier) {
        for (int part = 0; part < kParts; part++) copy_rows(to + part * part_bytes, map, part * 64, h, row, b, barrier);
      };
      for (int tile = 0; tile < count; tile++) {
        if (tile >= kStages) barrier_wait(empty(tile), (tile / kStages + 1) % 2);
        if (tile == 0)
          for (int w = 0; w < warpgroups; w++) {
            barrier_expect(asked(w), Shape::kQueryBytes);
            copy(queries(w), Shape::kQueryPart, a.q, block + w * Shape::kQueries, asked(w));
          }
        barrier_expect(full(tile), Shape::kStageBytes);
        copy(stage(tile), kPart, a.k, tile * kKeys, full(tile));
        copy(stage(tile) + kParts * kPart, kPart, a.v, tile * kKeys, full(tile));
      }
    }
  } else {
    take_registers<232>();
    Softmax softmax;
    float o[kPacks][4] = {}, even[kN][4], odd[kN][4];
    const uint32_t own = queries(warpgroup);
    const auto scores = [&](float(&s)[kN][4], int tile) {
      barrier_wait(full(tile), tile / kStages % 2);
      wgmma_fence();
#pragma unroll
      for (int c = 0; c < Shape::kSteps; c++)
        wgmma<T, kKeys>(reinterpret_cast<float(&)[kN * 4]>(s), descriptor(own + c / 4 * Shape::kQueryPart + c % 4 * 32),
                        descriptor(stage(tile) + c / 4 * kPart + c % 4 * 32), c > 0);
      wgmma_commit();
    };
    // Of the scores `now`, with the products under way that were started before: the last tile's values, the next one's
    // scores where there is one.
    const auto values = [&](float(&now)[kN][4], int tile, bool last) {
      float keep[2];
      softmax.take(now, p.keys - tile * kKeys, p.scale, keep);
      pin(now);
      stay_above(softmax.total[0] + softmax.total[1]);
      if (last)
        wgmma_wait<0>();
      else
        wgmma_wait<1>();
      pin(o);
      if (tile > 0 && threadIdx.x % 128 == 0) barrier_arrive(empty(tile - 1));
#pragma unroll
      for (int n = 0; n < kPacks; n++)
        for (int i = 0; i < 4; i++) o[n][i] *= keep[i / 2];
      uint32_t powers[kKeys / 16][4];
#pragma unroll
      for (int j = 0; j < kKeys / 16; j++)
        for (int i = 0; i < 4; i++)
          powers[j][i] = pack<T>(now[2 * j + i / 2][i % 2 * 2], now[2 * j + i / 2][i % 2 * 2 + 1]);
      wgmma_fence();
#pragma unroll
      for (int j = 0; j < kKeys / 16; j++)
        wgmma<T, 1>(o, powers[j], rows_summed(stage(tile) + kParts * kPart + j * 2048, kPart), true);
      wgmma_commit();
    };
    const auto scored = [&](float(&s)[kN][4]) {
      wgmma_wait<1>();
      pin(s);
    };

    barrier_wait(asked(warpgroup), 0);
    scores(even, 0);
    wgmma_wait<0>();
    pin(even);
    int tile = 0;
    for (; tile + 2 < count; tile += 2) {
      scores(odd, tile + 1);
      values(even, tile, false);
      scored(odd);
      scores(even, tile + 2);
      values(odd, tile + 1, false);
      scored(even);
    }
    if (tile + 1 < count) {
      scores(odd, tile + 1);
      values(even, tile, false);
      scored(odd);
      values(odd, tile + 1, true);
    } else {
      values(even, tile, true);
    }
    wgmma_wait<0>();
    pin(o);
    finish(p, b, h, block + warpgroup * Shape::kQueries + threadIdx.x % 128 / 32 * 16, o, softmax);
  }
#endif
}

// How many warpgroups share a block: those that fill the card best, more rather than fewer, for they read less.
int warpgroups(int64_t queries, int64_t heads, int multiprocessors) {
  int best = 1;
  int64_t least = INT64_MAX;
  for (int n = 1; n <= 2; n++) {
    const int64_t blocks = ceil_div(queries, n * 64) * heads, cost = ceil_div(blocks, multiprocessors) * n;
    if (cost <= least) {
      least = cost;
      best = n;
    }
  }
  return best;
}

// The rows of a head, 64 columns at a time, zeros beyond the last column and row.
template <class T>
CUtensorMap rows_map(const TensorArg& t, int box_rows) {
  const int64_t size[] = {t.size[3], t.size[2], t.size[1], t.size[0]};
  const int64_t stride[] = {t.stride[2], t.stride[1], t.stride[0]};
  const int box[] = {64, 1, box_rows, 1};
  return tensor_map<4>(t.data, dtype_of<T>, size, stride, box);
}

template <class T, int kD>
void launch_hopper(Args p, const TensorArg& q, const TensorArg& k, const TensorArg& v, const Launch& on) {
  using Shape = HopperTile<kD>;
  const int64_t heads = k.size[0] * k.size[2];
  const int n = warpgroups(p.queries, heads, on.card.multiprocessors);
  p.blocks = static_cast<int>(ceil_div(p.queries, n * 64));
  launch(attend_hopper<T, kD>, static_cast<unsigned>(p.blocks * heads), (n + 1) * 128, Shape::kBytes, on,
         HopperArgs{rows_map<T>(q, Shape::kQueries), rows_map<T>(k, Shape::kKeys), rows_map<T>(v, Shape::kKeys), p});
}

template <class T, int kD>
void launch_tile(Args p, int64_t heads, const Launch& on) {
  using Shape = Tile<T, kD>;
  p.blocks = static_cast<int>(ceil_div(p.queries, Shape::kQueries));
  launch(attend<T, kD>, static_cast<unsigned>(p.blocks * heads), Shape::kThreads, Shape::kBytes, on, p);
}

}  // namespace

size_t workspace_attention(const Step& step, const Card&) {
  const auto [q, k, v] = step.inputs<3>();
  expect_float(q, "q");
  check_dtype(k, "k", q.dtype);
  check_dtype(v, "v", q.dtype);
  expect_float(step.out[0], "y");
  CHECK(q.size[3] <= 256, "a head must have at most 256 columns, got ", shape(q));
  CHECK(q.size[1] <= 1 << 30 && k.size[1] <= 1 << 30, "too many rows: ", shape(q), ", ", shape(k));
  return 0;
}

void launch_attention(const Step& step, const Launch& on) {
  const auto [q, k, v] = step.inputs<3>();
  const TensorArg& y = step.out[0];
  if (y.numel() == 0) return;
  const auto side = [](const TensorArg& t) { return Side{t.data, {t.stride[0], t.stride[1], t.stride[2]}}; };
  const float scale = step.attr[0].f * 1.44269504f;
  const uint32_t flip = scale >= 0 ? 0 : q.dtype == Dtype::f32 ? 0x80000000 : 0x80008000;
  const auto wide = [](const TensorArg& t) {
    return t.size[3] * dtype_bytes(t.dtype) % 16 == 0 && rows_of(t).packs(16 / dtype_bytes(t.dtype));
  };
  const Args p{side(q),
               side(k),
               side(v),
               side(y),
               y.dtype,
               static_cast<int>(q.size[1]),
               static_cast<int>(k.size[1]),
               static_cast<int>(q.size[2]),
               static_cast<int>(q.size[3]),
               0,
               fmaxf(fabsf(scale), FLT_MIN),
               flip,
               wide(q) && wide(k) && wide(v),
               y.size[3] % 2 == 0 && rows_of(y).packs(2)};
  with_float(q, "q", [&](auto type) {
    using T = decltype(type);
    if constexpr (sizeof(T) == 2)
      if (on.card.arch == 90 && p.wide && !p.flip && encode_tiled()) {
        if (p.d == 64) return launch_hopper<T, 64>(p, q, k, v, on);
        if (p.d == 72) return launch_hopper<T, 72>(p, q, k, v, on);
      }
    const auto tile = p.d <= 64    ? launch_tile<T, 64>
                      : p.d <= 80  ? launch_tile<T, 80>
                      : p.d <= 128 ? launch_tile<T, 128>
                                   : launch_tile<T, 256>;
    tile(p, q.size[0] * q.size[2], on);
  });
}

}  // namespace vlm::cuda
