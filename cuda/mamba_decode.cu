// The decode layers of a Mamba language model for one text as one kernel, with the bits of the kernels that run them one by
// one. A block a multiprocessor, all at the same time. A block has channels of its own, whose rows of in_proj and dt_proj,
// convolution, states and scan it does, and rows of x_proj and out_proj; what others need it sends (exchange.cuh): the
// convolution's output, x_proj's, the scan's, and the residual stream, which every block normalises for itself. Weights
// depend on nothing: those of the two large products come through rings (weight_ring.cuh), the small ones a layer ahead.
#include "mamba_decode.h"

#include <algorithm>

#include "conv.cuh"
#include "tensor_map.cuh"
#include "exchange.cuh"
#include "linear_rows.cuh"
#include "scan.cuh"
#include "weight_ring.cuh"

namespace vlm::cuda {
namespace {

constexpr int kWarps = 16, kThreads = kWarps * kWarp;
constexpr int kStates = 16;
constexpr int kNormPacks = 4;  // of four columns, that a thread of the norm has: norm.cuh

struct LayerArgs {
  const void *x_proj, *dt_proj;
  const float *norm, *conv_weight, *conv_bias, *A, *D, *delta_bias;
  float *conv_state, *ssm_state;
};

// Where things are in a block's shared memory.
struct Layout {
  int ring, ring_barriers, barriers, x_proj, dt_proj, norm, conv_weight, conv_bias, A, D, delta_bias, conv_state,
      ssm_state;
  int x, rank, B_C, sums, squares, u, z, h, layers, end;
};

struct DecodeParams {
  const LayerArgs* layers;
  const CUtensorMap* maps;  // [layers][in_proj, out_proj][low, high]
  Word *h_words, *u_words, *projected_words, *y_words;
  uint32_t* round;  // counts the tokens
  int count, d, e, rank, projected;
  RingProduct product[2];
  int in_ranges, out_ranges, x_ranges, x_range;
  int stages, stage_bytes, channels, rows;  // channels, rows: at most a block's
  const float* h;
  float* y;
  TensorArg slots;
  int64_t conv_slot, ssm_slot, slot_count;  // a slot's floats, and how many there are
  int norm_threads;
  float share, eps;
  Fault* fault;
  int conv_step;  // that reports what is wrong with the slots
  Layout at;
};

enum Small { kNormWeight, kConvWeights, kXWeight, kDtWeight, kScanWeights, kSmalls };

#if __CUDA_ARCH__ >= 900

constexpr int kHelper = kThreads - kWarp;  // the thread that starts the copies of small weights

__device__ constexpr int part_of(int n, int i, int parts) {
  return static_cast<int>(static_cast<int64_t>(n) * i / parts);
}
// Part i of n when the first parts get more.
__device__ constexpr int early_part(int n, int i, int parts) { return n - part_of(n, parts - i, parts); }

extern __shared__ __align__(128) std::byte shared[];

template <class T>
__device__ __forceinline__ T* at(int offset) {
  return reinterpret_cast<T*>(shared + offset);
}

// Keeps what is computed from it from being kept in a register all through the layers.
__device__ __forceinline__ int thread_index() {
  int t = threadIdx.x;
  asm volatile("" : "+r"(t));
  return t;
}

// Sums of ranges in their order.
template <int R>
__device__ __forceinline__ float add_up(const float* sums, int pitch) {
  float part[R], sum = 0;
#pragma unroll
  for (int r = 0; r < R; r++) part[r] = sums[r * pitch];
#pragma unroll
  for (int r = 0; r < R; r++) sum += part[r];
  return sum;
}
__device__ __forceinline__ float add_ranges(const float* sums, int pitch, int ranges) {
  switch (ranges) {
    case 16:
      return add_up<16>(sums, pitch);
    case 8:
      return add_up<8>(sums, pitch);
    case 4:
      return add_up<4>(sums, pitch);
    default:
      return add_up<1>(sums, pitch);
  }
}

template <class T>
__device__ __forceinline__ uint32_t bits_of(T v) {
  return *reinterpret_cast<const uint16_t*>(&v);
}

// What a block has of a layer.
struct Mine {
  int c0, channels, x0, x_rows, o0, rows;

  __device__ explicit Mine(const DecodeParams& p) {
    const int i = blockIdx.x, blocks = gridDim.x;
    c0 = part_of(p.e / kQuad, i, blocks) * kQuad, channels = part_of(p.e / kQuad, i + 1, blocks) * kQuad - c0;
    x0 = part_of(p.projected, i, blocks), x_rows = part_of(p.projected, i + 1, blocks) - x0;
    o0 = part_of(p.d / kQuad, i, blocks) * kQuad, rows = part_of(p.d / kQuad, i + 1, blocks) * kQuad - o0;
  }
};

template <class T>
struct Block {
  const DecodeParams& p;
  const Mine mine;
  const int64_t slot;
  const uint32_t barriers;  // of the small weights
  WeightRing ring;
  int sums_at[2];  // where the warp's sums of a ring's product go

  __device__ Block(const DecodeParams& p, int64_t slot)
      : p(p), mine(p), slot(slot), barriers(shared_address(shared + p.at.barriers)) {
    const int warp = threadIdx.x / kWarp;
    ring.maps = p.maps, ring.layers = p.count, ring.stages = p.stages, ring.stage_bytes = p.stage_bytes;
    ring.product[0] = p.product[0], ring.product[1] = p.product[1];
    ring.memory = shared_address(shared + p.at.ring) + warp * p.stages * p.stage_bytes;
    ring.barriers = shared_address(shared + p.at.ring_barriers) + warp * p.stages * 8;
    // Of in_proj half of the warps do the rows of x, the others those of z.
    const int pieces = kWarps / p.in_ranges / 2, piece = warp / p.in_ranges, is_z = piece / pieces;
    const int first = early_part(mine.channels / kQuad, piece % pieces, pieces);
    ring.part[0] = {early_part(mine.channels / kQuad, piece % pieces + 1, pieces) - first,
                    is_z * p.e + mine.c0 + first * kQuad, warp % p.in_ranges * p.product[0].range};
    sums_at[0] = warp % p.in_ranges * 2 * p.channels + is_z * mine.channels + first * kQuad;
    const int rows = kWarps / p.out_ranges, begin = part_of(mine.rows / kQuad, warp / p.out_ranges, rows);
    ring.part[1] = {part_of(mine.rows / kQuad, warp / p.out_ranges + 1, rows) - begin, mine.o0 + begin * kQuad,
                    warp % p.out_ranges * p.product[1].range};
    sums_at[1] = warp % p.out_ranges * p.rows + begin * kQuad;
    if (threadIdx.x % kWarp == 0) {
      for (int s = 0; s < p.stages; s++) init_barrier(ring.barriers + 8 * s);
      for (int i = 0; i < kSmalls && threadIdx.x == kHelper; i++) init_barrier(barriers + 8 * i);
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    constexpr int kWords = sizeof(LayerArgs) / 8;
    for (int i = threadIdx.x; i < p.count * kWords; i += kThreads)
      at<uint64_t>(p.at.layers)[i] = reinterpret_cast<const uint64_t*>(p.layers)[i];
    __syncthreads();
    for (int i = 0; i < kSmalls; i++) bring(static_cast<Small>(i), 0);
    for (int s = 0; s < p.stages; s++) ring.fetch();
  }

  __device__ const LayerArgs& layer(int l) const { return at<const LayerArgs>(p.at.layers)[l]; }
  __device__ float* conv_state(int l) const { return layer(l).conv_state + slot * p.conv_slot + mine.c0 * kPast; }
  __device__ float* ssm_state(int l) const { return layer(l).ssm_state + slot * p.ssm_slot + mine.c0 * kStates; }

  // Starts the copies of a layer's small weights, or of its states. What they replace nobody reads any more.
  __device__ void bring(Small what, int l) const {
    if (l >= p.count || threadIdx.x != kHelper) return;
    const LayerArgs& y = layer(l);
    const uint32_t barrier = barriers + 8 * what;
    const auto copy = [&](int to, const void* from, int bytes) {
      asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                       shared_address(shared + to)),
                   "l"(from), "r"(bytes), "r"(barrier)
                   : "memory");
    };
    const int c = mine.channels, c0 = mine.c0;
    switch (what) {
      case kNormWeight:
        expect_bytes(barrier, p.d * 4);
        return copy(p.at.norm, y.norm, p.d * 4);
      case kConvWeights:
        expect_bytes(barrier, c * (kTaps + 1 + kPast) * 4);
        copy(p.at.conv_weight, y.conv_weight + c0 * kTaps, c * kTaps * 4);
        copy(p.at.conv_bias, y.conv_bias + c0, c * 4);
        return copy(p.at.conv_state, conv_state(l), c * kPast * 4);
      case kXWeight:
        expect_bytes(barrier, mine.x_rows * p.e * 2);
        if (mine.x_rows > 0)
          copy(p.at.x_proj, static_cast<const T*>(y.x_proj) + static_cast<int64_t>(mine.x0) * p.e,
               mine.x_rows * p.e * 2);
        return;
      case kDtWeight:
        expect_bytes(barrier, c * p.rank * 2);
        return copy(p.at.dt_proj, static_cast<const T*>(y.dt_proj) + static_cast<int64_t>(c0) * p.rank, c * p.rank * 2);
      default:
        expect_bytes(barrier, c * (2 * kStates + 2) * 4);
        copy(p.at.A, y.A + c0 * kStates, c * kStates * 4);
        copy(p.at.D, y.D + c0, c * 4);
        copy(p.at.delta_bias, y.delta_bias + c0, c * 4);
        return copy(p.at.ssm_state, ssm_state(l), c * kStates * 4);
    }
  }
  __device__ void await(Small what, int l) const { wait_barrier(barriers + 8 * what, l & 1); }

  // The whole row, summed as rms_norm does.
  __device__ void norm(int l, uint32_t round) const {
    const int t = thread_index(), lane = t % kWarp, step = p.norm_threads * 4;
    const bool takes_part = t < p.norm_threads;
    Pack<float, 4> s[kNormPacks];
    const auto each = [&](auto f) {
#pragma unroll
      for (int k = 0; k < kNormPacks; k++)
        if (const int j = t * 4 + k * step; j < p.d) f(s[k], j, k);
    };
    if (takes_part) {
      if (l == 0) {
        each([&](Pack<float, 4>& v, int j, int) { v = *reinterpret_cast<const Pack<float, 4>*>(p.h + j); });
      } else {
        WordPair words[kNormPacks][2];
        const auto* from = reinterpret_cast<const WordPair*>(p.h_words);
        each([&](auto&, int j, int k) { words[k][0] = look(from + j / 2), words[k][1] = look(from + j / 2 + 1); });
        each([&](Pack<float, 4>& v, int j, int k) {
#pragma unroll
          for (int i = 0; i < 2; i++) {
            receive(from + j / 2 + i, words[k][i], round - 1);
            v.v[2 * i] = __uint_as_float(words[k][i].a.value), v.v[2 * i + 1] = __uint_as_float(words[k][i].b.value);
          }
        });
      }
      float moment = 0;
      each([&](const Pack<float, 4>& v, int, int) {
#pragma unroll
        for (float x : v.v) moment = fmaf(x, x, moment);
      });
      for (int i = 16; i > 0; i /= 2) moment += __shfl_xor_sync(~0u, moment, i);
      if (lane == 0) at<float>(p.at.squares)[t / kWarp] = moment;
    }
    await(kNormWeight, l);
    __syncthreads();
    if (takes_part) {
      float sum = lane < p.norm_threads / kWarp ? at<float>(p.at.squares)[lane] : 0.f;
      for (int i = kWarps / 2; i > 0; i /= 2) sum += __shfl_xor_sync(~0u, sum, i);
      const float scale = rsqrtf(__shfl_sync(~0u, sum, 0) * p.share + p.eps);
      each([&](const Pack<float, 4>& v, int j, int) {
        const auto weight = *at<Pack<float, 4>>(p.at.norm + j * 4);
        Pack<T, 4> out;
#pragma unroll
        for (int i = 0; i < 4; i++) out.v[i] = from_float<T>(fmaf(v.v[i] * scale, weight.v[i], 0.f));
        *at<Pack<T, 4>>(p.at.x + j * 2) = out;
      });
    }
    if (l == 0)
      for (int i = t; i < mine.rows; i += kThreads) at<float>(p.at.h)[i] = p.h[mine.o0 + i];
    __syncthreads();
    bring(kNormWeight, l + 1);
  }

  // Two channels of T go as one word.
  __device__ void send_channel(Word* words, int c, T v, bool valid, int lanes_apart, uint32_t round) const {
    const uint32_t low = bits_of(v), high = __shfl_xor_sync(~0u, low, lanes_apart);
    if (valid && c % 2 == 0 && threadIdx.x % lanes_apart == 0) send(words + (mine.c0 + c) / 2, low | high << 16, round);
  }

  __device__ void convolution(int l, uint32_t round) const {
    await(kConvWeights, l);
    const int c = thread_index();
    const bool valid = c < mine.channels;
    T u{};
    if (valid) {
      const float* sums = at<float>(p.at.sums) + c;
      const float now = to_float(from_float<T>(add_ranges(sums, 2 * p.channels, p.in_ranges)));
      at<float>(p.at.z)[c] = to_float(from_float<T>(add_ranges(sums + mine.channels, 2 * p.channels, p.in_ranges)));
      const float* past = at<float>(p.at.conv_state) + c * kPast;
      const float p0 = past[0], p1 = past[1], p2 = past[2];
      const Pack<float, 4> taps = at<Pack<float, 4>>(p.at.conv_weight)[c];
      u = from_float<T>(convolve(taps.v, at<float>(p.at.conv_bias)[c], p0, p1, p2, now, true));
      at<float>(p.at.u)[c] = to_float(u);
      float* const after = conv_state(l) + c * kPast;
      after[0] = p1, after[1] = p2, after[2] = now;
    }
    send_channel(p.u_words, c, u, valid, 1, round);
  }

  // All channels of u or y to where products read x.
  __device__ void gather(const Word* words, uint32_t round) const {
    constexpr int N = 3;
    const auto* from = reinterpret_cast<const WordPair*>(words);
#pragma unroll 1
    for (int base = thread_index(); base < p.e / 4; base += N * kThreads) {
      WordPair pair[N];
#pragma unroll
      for (int i = 0; i < N; i++)
        if (base + i * kThreads < p.e / 4) pair[i] = look(from + base + i * kThreads);
#pragma unroll
      for (int i = 0; i < N; i++) {
        const int j = base + i * kThreads;
        if (j >= p.e / 4) break;
        receive(from + j, pair[i], round);
        *at<uint2>(p.at.x + j * 8) = make_uint2(pair[i].a.value, pair[i].b.value);
      }
    }
  }

  // A warp's sums of up to 8 rows of a weight that is in shared memory as it is in memory.
  __device__ void small_sum(const std::byte* weight, int rows, int k, int x, int first, int chunks, float* to) const {
    const int lane = threadIdx.x % kWarp, g = lane / 4, q = lane % 4;
    const std::byte* const w = weight + static_cast<int64_t>(min(g, rows - 1)) * k * 2;
    float sums[4] = {};
#pragma unroll 4
    for (int chunk = first; chunk < first + chunks; chunk++) {
      const int j = chunk * kChunk + q * 8;
      uint4 a{}, b{};
      if (j < k) a = *at<uint4>(x + j * 2), b = *reinterpret_cast<const uint4*>(w + j * 2);
      mma<T>(sums, a.x, 0, a.y, 0, b.x, b.y);
      mma<T>(sums, a.z, 0, a.w, 0, b.z, b.w);
    }
    if (lane < 4) *reinterpret_cast<float2*>(to + 2 * lane) = make_float2(sums[0], sums[1]);
  }

  __device__ void project(int l, uint32_t round) const {
    gather(p.u_words, round);
    await(kXWeight, l);
    __syncthreads();
    bring(kConvWeights, l + 1);
    const int t = thread_index(), warp = t / kWarp;
    if (mine.x_rows > 0 && warp < p.x_ranges)
      small_sum(shared + p.at.x_proj, mine.x_rows, p.e, p.at.x, warp * p.x_range, p.x_range,
                at<float>(p.at.sums) + warp * 8);
    __syncthreads();
    bring(kXWeight, l + 1);
    if (t < mine.x_rows)
      send(p.projected_words + mine.x0 + t, __float_as_uint(add_ranges(at<float>(p.at.sums) + t, 8, p.x_ranges)),
           round);
  }

  __device__ void delta(int l, uint32_t round) const {
#pragma unroll 1
    for (int i = thread_index(); i < p.projected / 2; i += kThreads) {
      const auto* from = reinterpret_cast<const WordPair*>(p.projected_words) + i;
      WordPair pair = look(from);
      receive(from, pair, round);
      const float a = __uint_as_float(pair.a.value), b = __uint_as_float(pair.b.value);
      if (2 * i < p.rank)
        *at<Pack<T, 2>>(p.at.rank + i * 4) = {from_float<T>(a), from_float<T>(b)};
      else
        *at<float2>(p.at.B_C + (2 * i - p.rank) * 4) = make_float2(a, b);
    }
    await(kDtWeight, l);
    __syncthreads();
    const int first = thread_index() / kWarp * 8;
    if (first < mine.channels)
      small_sum(shared + p.at.dt_proj + first * p.rank * 2, mine.channels - first, p.rank, p.at.rank, 0,
                (p.rank + kChunk - 1) / kChunk, at<float>(p.at.sums) + first);
    await(kScanWeights, l);
    __syncthreads();
    bring(kDtWeight, l + 1);
  }

  // Four lanes to a channel, as selective_scan does a single step.
  __device__ void scan(int l, uint32_t round) const {
    const int t = thread_index(), q = t % 4;
#pragma unroll 1
    for (int c = t / 4; c - t % kWarp / 4 < mine.channels; c += kThreads / 4) {
      const bool valid = c < mine.channels;
      const int i = valid ? c : 0, part = i * 4 + q;
      const float u = at<float>(p.at.u)[i],
                  dt = softplus(0.f + at<float>(p.at.sums)[i] + at<float>(p.at.delta_bias)[i]);
      const float x = dt * u;
      using Four = Pack<float, 4>;
      const Four A = at<Four>(p.at.A)[part], B = at<Four>(p.at.B_C)[q], C = at<Four>(p.at.B_C)[4 + q];
      Four h = at<Four>(p.at.ssm_state)[part];
#pragma unroll
      for (int s = 0; s < 4; s++) h.v[s] = fmaf(exp2_fast(dt * (A.v[s] * kLog2e)), h.v[s], x * B.v[s]);
      float sum = dot(C.v, h.v);
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      const float y = fmaf(at<float>(p.at.D)[i], u, sum) * silu(at<float>(p.at.z)[i]);
      send_channel(p.y_words, i, from_float<T>(y), valid, 4, round);
      if (valid) reinterpret_cast<Four*>(ssm_state(l))[part] = h;
    }
  }

  __device__ void run(int l, uint32_t round) {
    norm(l, round);
    ring.sum<T>(0, shared + p.at.x, at<float>(p.at.sums) + sums_at[0]);
    __syncthreads();
    convolution(l, round);
    project(l, round);
    delta(l, round);
    scan(l, round);
    gather(p.y_words, round);
    __syncthreads();
    bring(kScanWeights, l + 1);
    ring.sum<T>(1, shared + p.at.x, at<float>(p.at.sums) + sums_at[1]);
    __syncthreads();
    const int t = thread_index();
    if (t >= mine.rows) return;
    float& h = at<float>(p.at.h)[t];
    h = add_ranges(at<float>(p.at.sums) + t, p.rows, p.out_ranges) + h;
    if (l + 1 < p.count)
      send(p.h_words + mine.o0 + t, __float_as_uint(h), round);
    else
      p.y[mine.o0 + t] = h;
  }
};
#endif

template <class T>
__global__ void __launch_bounds__(kThreads, 1) mamba_decode_kernel(const __grid_constant__ DecodeParams p) {
#if __CUDA_ARCH__ >= 900
  const int32_t slot = *static_cast<const int32_t*>(p.slots.data);
  const bool outside = slot < 0 || slot >= p.slot_count;
  // All blocks find the same, so that none waits for one that has left.
  if (outside && blockIdx.x == 0 && threadIdx.x == 0)
    report(p.fault, p.conv_step, Trouble::slot_range, 0, slot, p.slot_count);
  if (outside || has_fault(p.fault)) return;
  const uint32_t tokens = *p.round;
  Block<T> block(p, slot);
#pragma unroll 1
  for (int l = 0; l < p.count; l++) block.run(l, tokens * p.count + l + 1);
  // Everybody has read it, or block 0 would not have come to an end.
  if (blockIdx.x == 0 && threadIdx.x == 0) *p.round = tokens + 1;
#endif
}

constexpr size_t align_up(size_t n, size_t to = 128) { return (n + to - 1) / to * to; }

CUtensorMap weight_map(const TensorArg& weight, int quads, int chunks) {
  CUtensorMap map;
  const auto n = static_cast<cuuint64_t>(weight.size[0]), k = static_cast<cuuint64_t>(weight.size[1]);
  const cuuint64_t size[] = {kChunk, n, k / kChunk}, stride[] = {k * 2, kChunk * 2};
  const cuuint32_t box[] = {kChunk, static_cast<cuuint32_t>(quads * kQuad), static_cast<cuuint32_t>(chunks)};
  const cuuint32_t step[] = {1, 1, 1};
  const CUresult status = encode_tiled()(
      &map, weight.dtype == Dtype::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 3,
      weight.data, size, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    throw Error("ERR_CUDA", text("cuTensorMapEncodeTiled: error ", static_cast<int>(status), " for ", shape(weight)));
  return map;
}

class Plan final : public MambaDecode {
 public:
  Plan(const DecodeRun& run, const Card& card) : run_(run), blocks_(card.multiprocessors) {
    const DecodeLayer& layer = run.layers[0];
    const auto blocks = [&](int64_t n) { return static_cast<int>(ceil_div(n, blocks_)); };
    p_.count = static_cast<int>(run.layers.size());
    p_.d = static_cast<int>(run.d), p_.e = static_cast<int>(run.e), p_.rank = static_cast<int>(run.rank);
    p_.projected = p_.rank + 2 * kStates;
    p_.channels = blocks(p_.e / kQuad) * kQuad, p_.rows = blocks(p_.d / kQuad) * kQuad;
    const int in_chunks = p_.d / kChunk, chunks = p_.e / kChunk;
    p_.in_ranges = rows_ranges(2 * p_.e, in_chunks), p_.out_ranges = rows_ranges(p_.d, chunks);
    p_.x_ranges = rows_ranges(p_.projected, chunks), p_.x_range = chunks / p_.x_ranges;
    fits_ = run.batch == 1 && run.states == kStates && p_.d % kChunk == 0 && p_.e % kChunk == 0 && p_.rank % 8 == 0 &&
            p_.e / kQuad >= blocks_ && p_.d / kQuad >= blocks_ && p_.channels <= kThreads / 4 * 4 &&
            p_.d <= kThreads * kNormPacks * 4 && blocks(p_.projected) <= 8 &&
            (p_.in_ranges == 4 || p_.in_ranges == 8) && p_.out_ranges >= 4 && p_.x_ranges >= 4 &&
            in_chunks % p_.in_ranges == 0 && chunks % p_.out_ranges == 0 && chunks % p_.x_ranges == 0 &&
            rows_ranges(p_.e, static_cast<int>(ceil_div(p_.rank, kChunk))) == 1 && p_.channels <= kWarps * 8 &&
            layer.conv_state.stride[0] % 4 == 0 && layer.ssm_state.stride[0] % 4 == 0 && aligned();
    if (!fits_) return;
    p_.product[0] = {in_chunks / p_.in_ranges, 1, p_.e / kQuad / blocks_ / (kWarps / p_.in_ranges / 2)};
    p_.product[1] = {chunks / p_.out_ranges, 1, p_.d / kQuad / blocks_ / (kWarps / p_.out_ranges)};
    p_.h = run.h.f32(), p_.y = run.y.f32(), p_.slots = run.slots;
    p_.conv_slot = layer.conv_state.stride[0], p_.ssm_slot = layer.ssm_state.stride[0];
    p_.slot_count = layer.conv_state.size[0];
    p_.norm_threads = static_cast<int>(ceil_div(ceil_div(p_.d, kNormPacks * 4), kWarp) * kWarp);
    p_.share = 1.f / static_cast<float>(p_.d), p_.eps = run.eps, p_.conv_step = run.first + 2;
    fits_ = choose_stages(static_cast<int>(card.shared_bytes)) && resident();
  }

  bool fits() const { return fits_; }

  std::vector<std::byte> contents() const override {
    std::vector<std::byte> image(words() + (align_up(p_.d, 2) + align_up(p_.projected, 2) + p_.e) * sizeof(Word));
    auto* maps = reinterpret_cast<CUtensorMap*>(image.data());
    auto* layers = reinterpret_cast<LayerArgs*>(image.data() + layers_at());
    for (const DecodeLayer& y : run_.layers) {
      for (int i = 0; i < 2; i++)
        for (int high = 0; high < 2; high++)
          *maps++ = weight_map(i ? y.out_proj : y.in_proj, std::max(p_.product[i].low + high, 1), p_.product[i].step);
      *layers++ = {y.x_proj.data, y.dt_proj.data, y.norm.f32(),       y.conv_weight.f32(), y.conv_bias.f32(),
                   y.A.f32(),     y.D.f32(),      y.delta_bias.f32(), y.conv_state.f32(),  y.ssm_state.f32()};
    }
    return image;
  }

  void launch(std::byte* memory, const Launch& on) const override {
    DecodeParams p = p_;
    p.maps = reinterpret_cast<const CUtensorMap*>(memory);
    p.layers = reinterpret_cast<const LayerArgs*>(memory + layers_at());
    p.round = reinterpret_cast<uint32_t*>(memory + round_at());
    p.h_words = reinterpret_cast<Word*>(memory + words());
    p.projected_words = p.h_words + align_up(p.d, 2);
    p.u_words = p.projected_words + align_up(p.projected, 2);
    p.y_words = p.u_words + p.e / 2;
    p.fault = on.fault;
    cudaLaunchAttribute cooperative{};
    cooperative.id = cudaLaunchAttributeCooperative;
    cooperative.val.cooperative = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = static_cast<unsigned>(blocks_);
    config.blockDim = kThreads;
    config.dynamicSmemBytes = p.at.end;
    config.stream = on.stream;
    config.attrs = &cooperative;
    config.numAttrs = 1;
    VLM_CUDA(cudaLaunchKernelEx(&config, kernel(), p));
  }

 private:
  // What the copy engine reads begins at 16 bytes.
  bool aligned() const {
    return std::all_of(run_.layers.begin(), run_.layers.end(), [](const DecodeLayer& y) {
      for (const TensorArg* t : {&y.norm, &y.conv_weight, &y.conv_bias, &y.A, &y.D, &y.delta_bias, &y.conv_state,
                                 &y.ssm_state, &y.x_proj, &y.dt_proj})
        if (!cuda::aligned(t->data, 16)) return false;
      return true;
    });
  }

  // Boxes of as many chunks as make some kilobytes, and as many of them as there is room for.
  bool choose_stages(int room) {
    constexpr int kMostStages = 8, kBox = 3072;
    for (RingProduct& product : p_.product)
      for (int step = 1; step <= product.range; step++)
        if (product.range % step == 0 && (product.low + 1) * step * kQuadBytes <= kBox) product.step = step;
    p_.stage_bytes = 0;
    for (const RingProduct& product : p_.product)
      p_.stage_bytes = std::max(p_.stage_bytes, (product.low + 1) * product.step * kQuadBytes);
    for (const RingProduct& product : p_.product)
      if (product.low + 1 > kMostQuads) return false;
    for (p_.stages = kMostStages; p_.stages > 0; p_.stages--)
      if (lay_out() <= room) return true;
    return false;
  }

  int lay_out() {
    Layout& at = p_.at;
    int end = 0;
    const auto take = [&](int bytes) { return std::exchange(end, static_cast<int>(align_up(end + bytes))); };
    at.ring = take(kWarps * p_.stages * p_.stage_bytes);
    at.ring_barriers = take(kWarps * p_.stages * 8), at.barriers = take(kSmalls * 8);
    at.x_proj = take(static_cast<int>(ceil_div(p_.projected, blocks_)) * p_.e * 2);
    at.dt_proj = take(p_.channels * p_.rank * 2), at.norm = take(p_.d * 4);
    at.conv_weight = take(p_.channels * kTaps * 4), at.conv_bias = take(p_.channels * 4);
    at.A = take(p_.channels * kStates * 4), at.D = take(p_.channels * 4), at.delta_bias = take(p_.channels * 4);
    at.conv_state = take(p_.channels * kPast * 4), at.ssm_state = take(p_.channels * kStates * 4);
    at.x = take(std::max(p_.d, p_.e) * 2), at.rank = take(p_.rank * 2), at.B_C = take(2 * kStates * 4);
    at.sums = take(std::max({p_.in_ranges * 2 * p_.channels, p_.out_ranges * p_.rows, p_.x_ranges * 8,
                             static_cast<int>(align_up(p_.channels, 8))}) *
                   4);
    at.squares = take(kWarps * 4);
    at.u = take(p_.channels * 4), at.z = take(p_.channels * 4), at.h = take(p_.rows * 4);
    at.layers = take(p_.count * static_cast<int>(sizeof(LayerArgs)));
    return at.end = end;
  }

  // Blocks wait for one another, so all have to be there.
  bool resident() const {
    int blocks = 0;
    VLM_CUDA(cudaFuncSetAttribute(kernel(), cudaFuncAttributeMaxDynamicSharedMemorySize, p_.at.end));
    VLM_CUDA(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel(), kThreads, p_.at.end));
    return blocks > 0;
  }

  using Kernel = void (*)(const DecodeParams);
  Kernel kernel() const { return run_.dtype == Dtype::f16 ? mamba_decode_kernel<f16> : mamba_decode_kernel<bf16>; }

  size_t layers_at() const { return 4 * p_.count * sizeof(CUtensorMap); }
  size_t round_at() const { return align_up(layers_at() + p_.count * sizeof(LayerArgs)); }
  size_t words() const { return round_at() + 128; }

  const DecodeRun run_;
  const int blocks_;
  DecodeParams p_{};
  bool fits_ = false;
};

}  // namespace

std::unique_ptr<MambaDecode> MambaDecode::make(const DecodeRun& run, const Card& card) {
  if (card.arch != 90 || !encode_tiled()) return nullptr;
  auto plan = std::make_unique<Plan>(run, card);
  if (!plan->fits()) return nullptr;
  return plan;
}

}  // namespace vlm::cuda
