// The kernel of the decode layers, with the bits of the kernels that run them one by one. A block a multiprocessor, all at
// the same time. A block has channels of its own, whose rows of in_proj and dt_proj, convolution, states and scan it does,
// and rows of x_proj and out_proj; what others need it sends (exchange.cuh): the convolution's output, x_proj's, the scan's,
// and the residual stream, which every block normalises for itself. Weights depend on nothing: those of the two large
// products come through rings (weight_ring.cuh), the small ones a layer ahead (small_weights.cuh).
#pragma once

#include "scan.cuh"
#include "small_weights.cuh"

namespace vlm::cuda {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// Keeps what is computed from it from being kept in a register all through the layers.
__device__ __forceinline__ int thread_index() {
  int t = threadIdx.x;
  asm volatile("" : "+r"(t));
  return t;
}

// Sums of ranges in their order.
__device__ __forceinline__ float add_ranges(const float* sums, int pitch, int ranges) {
  float part[16], sum = 0;
#pragma unroll
  for (int r = 0; r < 16; r++)
    if (r < ranges) part[r] = sums[r * pitch];
#pragma unroll
  for (int r = 0; r < 16; r++)
    if (r < ranges) sum += part[r];
  return sum;
}

template <class T>
__device__ __forceinline__ uint32_t bits_of(T v) {
  return *reinterpret_cast<const uint16_t*>(&v);
}

// Of the threads that work.
__device__ __forceinline__ void meet() { asm volatile("bar.sync 1, %0;" ::"n"(kThreads) : "memory"); }

// W: the weights of in_proj and out_proj, V: those of x_proj and dt_proj.
template <class T, class W, class V>
struct Block {
  static constexpr int kBytes = V::kScaled ? 1 : 2;  // of a number of x_proj and dt_proj
  const DecodeParams& p;
  const Mine& mine;
  const int32_t slot;
  WeightRing ring;
  RingPart in, out;
  int in_sums, out_sums;  // where the warp's sums of a product go

  __device__ Block(const DecodeParams& p, const Mine& mine, int32_t slot)
      : p(p),
        mine(mine),
        slot(slot),
        ring{p.ring, shared_address(at<uint64_t>(p.at.ring_barriers)) + threadIdx.x / kWarp * p.ring.barrier_bytes(),
             at<std::byte>(p.at.ring) + threadIdx.x / kWarp * p.ring.bytes()} {
    const int warp = threadIdx.x / kWarp;
    in = ring_part(p, mine, kX, warp), out = ring_part(p, mine, kOut, warp);
    in_sums = warp % p.in_ranges * p.channels + in.row - mine.c0;
    out_sums = warp % p.out_ranges * p.rows + out.row - mine.o0;
    for (int i = 0; i < kSmalls; i++) bring(static_cast<Small>(i), 0);
  }

  __device__ void await(Small what, int l) const { wait_barrier(small_barrier(p, what), l & 1); }
  // One thread brings what the next layer wants as soon as this one is done with its own.
  __device__ __forceinline__ void bring(Small what, int l) const {
    if (threadIdx.x == kThreads - kWarp && l < p.count) SmallWeights<W, V>{p, mine, slot}.bring(what, l);
  }

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
        WordPair words[kNormPacks][2] = {};
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
    meet();
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
    meet();
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
      const float now = to_float(from_float<T>(add_ranges(at<float>(p.at.x_sums) + c, p.channels, p.in_ranges)));
      const float* past = at<float>(p.at.conv_state) + c * kPast;
      const float p0 = past[0], p1 = past[1], p2 = past[2];
      const Pack<float, 4> taps = at<Pack<float, 4>>(p.at.conv_weight)[c];
      u = from_float<T>(convolve(taps.v, at<float>(p.at.conv_bias)[c], p0, p1, p2, now, true));
      at<float>(p.at.u)[c] = to_float(u);
      float* const after = conv_state_of(p, mine, l, slot) + c * kPast;
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
        *at<uint2>(p.at.wide + j * 8) = make_uint2(pair[i].a.value, pair[i].b.value);
      }
    }
  }

  // A warp's sums of up to 8 rows of x_proj or dt_proj, `k` long, over some blocks of them.
  template <bool Whole>
  __device__ __forceinline__ void small_sum(const std::byte* weight, const float* scale, int rows, int k, int x,
                                            int first, int count, float* to) const {
    const int lane = threadIdx.x % kWarp, row = min(lane / 4, rows - 1), q = lane % 4;
    const int bytes = k * kBytes, blocks = (k + V::kColumns - 1) / V::kColumns;
    float sums[4] = {};
#pragma unroll(V::kScaled ? 1 : 4)
    for (int block = first; block < first + count; block++) {
      uint4 w[1][V::kPieces];
#pragma unroll
      for (int i = 0; i < V::kPieces; i++) {
        const int j = (block * V::kPieces + i) * kChunkBytes + q * 16;
        w[0][i] = Whole || j < bytes ? *reinterpret_cast<const uint4*>(weight + static_cast<int64_t>(row) * bytes + j)
                                     : uint4{};
      }
      const RowScales with[1] = {{scale + row * blocks + block}};
      V::add(w, at<std::byte>(x) + block * V::kColumns * 2, with, sums);
    }
    put_sums(sums, 8, to);
  }

  __device__ void project(int l, uint32_t round) const {
    bring(kConvWeights, l + 1);
    const int t = thread_index(), warp = t / kWarp;
    if (mine.x_rows > 0 && warp < p.x_ranges)
      small_sum<true>(at<std::byte>(p.at.x_proj), at<float>(p.at.x_scale), mine.x_rows, p.e, p.at.wide,
                      warp * p.x_range, min(p.x_range, p.x_blocks - warp * p.x_range), at<float>(p.at.sums) + warp * 8);
    meet();
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
    meet();
    const int first = thread_index() / kWarp * 8;
    if (first < mine.channels)
      small_sum<false>(at<std::byte>(p.at.dt_proj) + first * p.rank * kBytes,
                       at<float>(p.at.dt_scale) + first * p.rank_blocks, mine.channels - first, p.rank, p.at.rank, 0,
                       (p.rank + V::kColumns - 1) / V::kColumns, at<float>(p.at.sums) + first);
    await(kScanWeights, l);
    meet();
    bring(kDtWeight, l + 1);
    bring(kInScales, l + 1);
  }

  // Four lanes to a channel, as selective_scan does a single step.
  __device__ void scan(int l, uint32_t round) const {
    const int t = thread_index(), q = t % 4;
#pragma unroll 1
    for (int c = t / 4; c - t % kWarp / 4 < mine.channels; c += kThreads / 4) {
      const bool valid = c < mine.channels;
      const int i = valid ? c : 0, part = i * 4 + q;
      const float z = to_float(from_float<T>(add_ranges(at<float>(p.at.z_sums) + i, p.channels, p.in_ranges)));
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
      const float y = fmaf(at<float>(p.at.D)[i], u, sum) * silu(z);
      send_channel(p.y_words, i, from_float<T>(y), valid, 4, round);
      if (valid) reinterpret_cast<Four*>(ssm_state_of(p, mine, l, slot))[part] = h;
    }
  }

  // Scales of a row of the warp's and the one 8 below it, of the warp's first block.
  __device__ void find_scales(RowScales (&with)[2], int scale, int grid, int blocks, const RingPart& part) const {
    if constexpr (W::kScaled)
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const int row = min(thread_index() % kWarp / 4 + 8 * r, max(part.quads * kQuad, 1) - 1);
        const int block = (part.row + row) * blocks + part.first / W::kPieces;
        with[r] = {at<float>(scale) + block, at<uint2>(grid) + block};
      }
  }

  // Adds `chunks` from the `first` on to the warp's sums of a product.
  __device__ __forceinline__ void product(int which, int first, int chunks, float (&sums)[4]) {
    const bool is_out = which == kOut;
    const RingPart part{is_out ? out.quads : in.quads, is_out ? out.row - mine.o0 : in.row - mine.c0,
                        first + (is_out ? out.first : in.first)};
    RowScales with[2];
    if constexpr (W::kScaled)
      find_scales(with, is_out ? p.at.out_scale : p.at.in_scale[which], is_out ? p.at.out_grid : p.at.in_grid[which],
                  is_out ? p.out_blocks : p.in_blocks, part);
    ring.template sum<W>(part.quads, is_out ? p.ring.weight[1].step : p.ring.weight[0].step, chunks,
                         at<std::byte>(is_out ? p.at.wide : p.at.x) + part.first * (W::kColumns * 2 / W::kPieces), with,
                         sums);
  }
  __device__ __forceinline__ void put(int which, const float (&sums)[4]) const {
    if (which == kOut)
      put_sums(sums, out.quads * kQuad, at<float>(p.at.sums) + out_sums);
    else
      put_sums(sums, in.quads * kQuad, at<float>(which == kX ? p.at.x_sums : p.at.z_sums) + in_sums);
  }

  // in_proj's rows of z are summed while the others' u is on its way, and then the others' dt, B and C.
  __device__ void run(int l, uint32_t round) {
    const int range = p.ring.weight[0].range;
    norm(l, round);
    if constexpr (W::kScaled) await(kInScales, l);
    float sums[4];
    // A loop, so that the instruction cache holds one product and not four.
#pragma unroll 1
    for (int turn = 0; turn < 4; turn++) {
      const bool is_x = turn == 0, first_z = turn == 1, second_z = turn == 2, is_out = turn == 3;
      const int which = is_x ? kX : is_out ? kOut : kZ;
      const int begin = second_z ? p.half : 0, end = is_out ? p.ring.weight[1].range : first_z ? p.half : range;
      if (!second_z)
#pragma unroll
        for (float& sum : sums) sum = 0;
      product(which, begin, end - begin, sums);
      if (!first_z) put(which, sums);
      if (is_out) break;
      if (is_x) {
        meet();
        convolution(l, round);
        continue;
      }
      if (second_z) {
        delta(l, round);
        scan(l, round);
      }
      gather(first_z ? p.u_words : p.y_words, round);
      if (first_z) await(kXWeight, l);
      if (second_z && W::kScaled) await(kOutScales, l);
      meet();
      if (first_z)
        project(l, round);
      else
        bring(kScanWeights, l + 1);
    }
    meet();
    bring(kOutScales, l + 1);
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

template <class T, class W, class V>
__global__ void __launch_bounds__(kAllThreads, 1) mamba_decode_kernel(const __grid_constant__ DecodeParams p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  const int32_t slot = *static_cast<const int32_t*>(p.slots.data);
  const bool outside = slot < 0 || slot >= p.slot_count;
  // All blocks find the same, so that none waits for one that has left.
  if (outside && blockIdx.x == 0 && threadIdx.x == 0)
    report(p.fault, p.conv_step, Trouble::slot_range, 0, slot, p.slot_count);
  if (outside || has_fault(p.fault)) return;
  const uint32_t tokens = *p.round;
  const Mine mine(p);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const uint32_t ring_barriers = shared_address(decode_memory + p.at.ring_barriers);
  if (threadIdx.x < kWarps) {
    for (int i = 0; i < 2 * p.ring.stages; i++)
      init_barrier(ring_barriers + threadIdx.x * p.ring.barrier_bytes() + 8 * i);
    for (int i = 0; i < kSmalls && threadIdx.x == 0; i++) init_barrier(small_barrier(p, i));
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  // Behind dt_proj's numbers there are zeros in a block.
  for (int i = threadIdx.x; i < (p.rank + 127) / 128 * 64; i += kAllThreads) at<uint32_t>(p.at.rank)[i] = 0;
  constexpr int kWords = sizeof(LayerArgs) / 8;
  for (int i = threadIdx.x; i < p.count * kWords; i += kAllThreads)
    at<uint64_t>(p.at.layers)[i] = reinterpret_cast<const uint64_t*>(p.layers)[i];
  __syncthreads();
  if (warp >= kWarps) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 32;");
    const int ring = (warp - kWarps) * kRingsOfFeeder + lane;
    if (lane >= kRingsOfFeeder) return;
    const RingPart part[] = {ring_part(p, mine, kX, ring), ring_part(p, mine, kZ, ring),
                             ring_part(p, mine, kOut, ring)};
    feed(p.ring, p.maps, p.count, part, shared_address(decode_memory + p.at.ring) + ring * p.ring.bytes(),
         ring_barriers + ring * p.ring.barrier_bytes());
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 112;");
    Block<T, W, V> block(p, mine, slot);
#pragma unroll 1
    for (int l = 0; l < p.count; l++) block.run(l, tokens * p.count + l + 1);
    // Everybody has read it, or block 0 would not have come to an end.
    if (blockIdx.x == 0 && threadIdx.x == 0) *p.round = tokens + 1;
  }
#endif
}

}  // namespace vlm::cuda
