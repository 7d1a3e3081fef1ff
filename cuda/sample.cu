// One token for each row of logits, from the ids below vocab_limit:
//   z = logits, those of seen tokens divided (positive) or multiplied (negative) by repetition_penalty
//   temperature 0: token = argmax z, the lowest id of equal ones
//   else, in the order "larger z first, then lower id", with p = softmax(z / temperature):
//     keep the first top_k; of these the ones with p >= min_p * max p, or, where min_p is 0,
//     the shortest beginning whose p add up to top_p of all; then
//     token = argmax over the kept of z / temperature + gumbel(seed, id, position)
//   logprob = log_softmax(z / temperature)[token] over all of the row; temperature 0 counts as 1
// logits: [b,v] f32    token: [b] i32    logprob: [b] f32
// params: [b,6] f32 = temperature, top_k (0: all), top_p (1: all), min_p (0: off),
//   repetition_penalty (1: none), vocab_limit (0: all)
// seed: [b,2] i32, the low word first    position: [b] i32, the place of the token to be drawn
// seen: [b,v] u8, or [slots,v] with slots: [b] i32; nonzero where a token occurred before; the
//   drawn one is marked
// Filters and their order: state-spaces/mamba utils/generation.py. top-p: Holtzman et al. 2020.
// min-p: Nguyen et al. 2024.
//
// Three kernels, a block for each slice of a row: `survey` finds the slice's largest logit and what is wrong with it,
// `cut` weighs the row by how far logits are below the largest, and its last block finds where the filters cut the row
// off, `draw` draws. The tokens are the CPU's, to the bit: the arithmetic in front of every comparison is the same
// (compiled without contraction), and weights are whole numbers.
#include <cfloat>

#include "conv.cuh"
#include "philox.h"

namespace vlm::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kEach = 4;                  // logits of a thread
constexpr int kSlice = kThreads * kEach;  // logits of a block
constexpr int kOwn = 2048 / kThreads;     // bins of a thread
constexpr int kBins = kOwn * kThreads;    // of a histogram; bin 0 is the best
constexpr int kListed = 4096;             // candidates that a block keeps in shared memory
constexpr int kIdBits = 24;               // of a key, under its order

struct Slice {
  uint64_t best;    // the key of the largest logit, or of the first that is neither finite nor -Inf
  float partition;  // Σ e^((z - largest of the slice) / temperature)
};

// Where the filters cut a row off, and the draw.
struct Progress {
  uint64_t cut;              // the key of the last one kept
  unsigned long long drawn;  // the best (score, id) so far
  uint32_t weighed, done;    // blocks
};

struct Sample {
  TensorArg logits;          // [b,v]
  TensorArg params;          // [b,6]
  TensorArg seed;            // [b,2]
  TensorArg position;        // [b]
  TensorArg seen;            // [b,v] or [slots,v]
  TensorArg slots;           // [b]
  TensorArg token;           // [b]
  TensorArg logprob;         // [b]
  Slice* slice;              // [b,slices]
  Progress* progress;        // [b]
  unsigned long long* mass;  // [b,kBins]
  uint32_t* count;           // [b,kBins]
  uint32_t slices;
  Fault* fault;
  int step;
};

// The CPU takes subnormal numbers for zero.
__device__ float flush(float x) { return fabsf(x) < FLT_MIN ? 0.f : x; }

// Whole numbers in the order of the floats, NaN beyond the infinities, -0 and 0 the same.
__device__ uint32_t order_of(float z) {
  const uint32_t bits = __float_as_uint(z + 0.f);
  return bits ^ (bits >> 31 ? ~0u : 0x80000000u);
}
__device__ float of_order(uint32_t order) { return __uint_as_float(order ^ (order >> 31 ? 0x80000000u : ~0u)); }

// In the order "larger first, then lower id"; wrong ones, which no token can be drawn from, come before all others.
constexpr uint32_t kWrong = ~0u;
__device__ uint64_t key_of(uint32_t order, int64_t id) {
  return static_cast<uint64_t>(order) << kIdBits | ((1 << kIdBits) - 1 - id);
}
__device__ uint64_t key_of(float z, int64_t id) { return key_of(order_of(z), id); }
__device__ int32_t id_of(uint64_t key) { return (1 << kIdBits) - 1 - static_cast<int32_t>(key & ((1 << kIdBits) - 1)); }
__device__ float logit_of(uint64_t key) { return of_order(static_cast<uint32_t>(key >> kIdBits)); }

// e^x for x <= 0: native/simd/math.h, operation for operation. Below -87 it is tiny here and there.
__device__ float exp_of(float x) {
  x = fmaxf(x, -87.f);
  const float n = rintf(x * 1.44269504f);
  const float r = fmaf(-n, -2.12194440e-4f, fmaf(-n, 0.693359375f, x));
  float p = 1.9841270e-4f;
  p = fmaf(p, r, 1.3888889e-3f);
  p = fmaf(p, r, 8.3333333e-3f);
  p = fmaf(p, r, 4.1666667e-2f);
  p = fmaf(p, r, 1.6666667e-1f);
  p = fmaf(p, r, 0.5f);
  p = fmaf(p, r, 1.f);
  return fmaf(p, r, 1.f) * __int_as_float((static_cast<int>(n) + 127) << 23);
}

__device__ bool whole(float f) { return f >= 0 && f <= 0x1p31f && f == truncf(f); }

// What a row is asked for, and its logits after the penalty.
struct Row {
  const float* logits;
  const uint8_t* seen;  // null: no penalty
  float temperature, top_p, min_p, penalty;
  int64_t top_k, limit;
  int wrong = -1;  // the first parameter that is out of its range
  float given;     // its value

  __device__ Row(const Sample& p, int64_t b) : logits(at<const float>(p.logits, b)), seen(nullptr) {
    float f[6];
#pragma unroll
    for (int i = 0; i < 6; i++) f[i] = flush(*at<const float>(p.params, b, i));
    const bool fine[6] = {f[0] >= 0 && f[0] <= FLT_MAX, whole(f[1]), f[2] > 0 && f[2] <= 1, f[3] >= 0 && f[3] <= 1,
                          f[4] > 0 && f[4] <= FLT_MAX,  whole(f[5])};
#pragma unroll
    for (int i = 5; i >= 0; i--)
      if (!fine[i]) wrong = i, given = *at<const float>(p.params, b, i);
    temperature = f[0], top_p = f[2], min_p = f[3], penalty = f[4];
    top_k = fine[1] ? static_cast<int64_t>(f[1]) : 0;
    limit = fine[5] ? static_cast<int64_t>(f[5]) : 0;
    if (limit == 0 || limit > p.logits.size[1]) limit = p.logits.size[1];
    if (!p.seen.data || penalty == 1) return;
    const int64_t row = slot_of(p.slots, b, p.seen.size[0]);
    if (row >= 0) seen = at<const uint8_t>(p.seen, row);
  }
  __device__ float logit(float given, int64_t id) const {
    const float z = flush(given);
    return seen && seen[id] ? flush(z > 0 ? z / penalty : z * penalty) : z;
  }
  __device__ float logit(int64_t id) const { return logit(logits[id], id); }
  // Of ids begin, begin + kThreads, …; all loads before the first use.
  template <int N>
  __device__ void load(int64_t begin, float (&z)[N]) const {
#pragma unroll
    for (int i = 0; i < N; i++) z[i] = begin + i * kThreads < limit ? logits[begin + i * kThreads] : 0;
#pragma unroll
    for (int i = 0; i < N; i++)
      if (begin + i * kThreads < limit) z[i] = logit(z[i], begin + i * kThreads);
  }
  __device__ float scale() const { return temperature > 0 ? temperature : 1; }
  __device__ bool greedy() const { return !(temperature > 0); }
  __device__ bool limits_count() const { return !greedy() && top_k > 0 && top_k < limit; }
  __device__ bool limits_mass() const { return !greedy() && min_p == 0 && top_p < 1; }
  __device__ bool cuts() const { return limits_count() || limits_mass(); }
};

// The largest or the sum over the threads of a warp or a block, for all of them.
struct Largest {
  __device__ uint64_t operator()(uint64_t x) const {
    const uint32_t high = __reduce_max_sync(~0u, static_cast<uint32_t>(x >> 32));
    const uint32_t low = __reduce_max_sync(~0u, high == x >> 32 ? static_cast<uint32_t>(x) : 0);
    return static_cast<uint64_t>(high) << 32 | low;
  }
};
struct Sum {
  template <class T>
  __device__ T operator()(T x) const {
    for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(~0u, x, d);
    return x;
  }
};
template <class Warp, class T>
__device__ T over_block(Warp warp, T x) {
  __shared__ T partial[kThreads / 32];
  x = warp(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
  return warp(threadIdx.x % 32 < kThreads / 32 ? partial[threadIdx.x % 32] : T{});
}

// Whether this block is the last one of its row, which then sees what the others wrote.
__device__ bool last_block(uint32_t* arrived, uint32_t blocks) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(arrived, 1) + 1 == blocks;
  __syncthreads();
  if (last) __threadfence();
  return last;
}

__global__ void __launch_bounds__(kThreads, 2) survey(const __grid_constant__ Sample p) {
  wait_for_inputs();
  const int64_t b = blockIdx.x / p.slices;
  const uint32_t nth = blockIdx.x % p.slices;
  const int64_t begin = static_cast<int64_t>(nth) * kSlice + threadIdx.x;
  float z[kEach];
#pragma unroll
  for (int i = 0; i < kEach; i++)
    if (begin + i * kThreads < p.logits.size[1]) z[i] = *at<const float>(p.logits, b, begin + i * kThreads);

  const Row row(p, b);
  if (blockIdx.x == 0 && p.slots.data) slots_fit(p.slots, p.seen.size[0], p.fault, p.step);
  if (nth == 0 && threadIdx.x == 0) {
    p.progress[b] = {};
    if (row.wrong >= 0) report(p.fault, p.step, Trouble::sampling_parameter, b, row.wrong, 0, row.given);
  }
  if (row.wrong >= 0) return;
  if (row.cuts())
    for (uint32_t i = nth * kThreads + threadIdx.x; i < kBins; i += p.slices * kThreads)
      p.mass[b * kBins + i] = 0, p.count[b * kBins + i] = 0;

  uint64_t best = 0;
#pragma unroll
  for (int i = 0; i < kEach; i++) {
    const int64_t id = begin + i * kThreads;
    z[i] = id < row.limit ? row.logit(z[i], id) : -INFINITY;
    const uint64_t key = key_of(z[i] < INFINITY ? order_of(z[i]) : kWrong, id);
    if (id < row.limit && key > best) best = key;
  }
  best = over_block(Largest(), best);
  const float top = logit_of(best), scale = row.scale();
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kEach; i++)
    if (z[i] > -INFINITY) sum += exp_of((z[i] - top) / scale);
  sum = over_block(Sum(), sum);
  if (threadIdx.x == 0) p.slice[b * p.slices + nth] = {best, sum};
}

// The key of a row's largest logit. Every warp looks for itself.
__device__ uint64_t best_of(const Sample& p, int64_t b) {
  uint64_t best = 0;
  for (uint32_t i = threadIdx.x % 32; i < p.slices; i += 32) best = max(best, p.slice[b * p.slices + i].best);
  return Largest()(best);
}
__device__ bool fine(uint64_t best) { return best >> kIdBits != kWrong && logit_of(best) > -INFINITY; }

// How far a logit is below the top, as the exponent of what is drawn from.
__device__ float exponent(float z, float top, float temperature) { return flush(flush(z - top) / temperature); }

// The same in bins that grow with the distance: 128 for each doubling of 1 + distance.
__device__ int bin_of(float z, float top, float temperature) {
  const uint32_t bits = __float_as_uint(1.f - exponent(z, top, temperature));
  return static_cast<int>(min((bits - 0x3f800000u) >> 16, static_cast<uint32_t>(kBins - 1)));
}
// Below 2^38 each: rows have at most 2^24 of them, so their sum stays below 2^62.
__device__ unsigned long long mass_of(float z, float top, float temperature) {
  return static_cast<unsigned long long>(exp_of(exponent(z, top, temperature)) * 0x1p38f);
}

// The first bin at which the weights add up to the target, and what is missing without it. For the whole block; weight is
// asked once for each bin.
struct Found {
  int bin;
  unsigned long long missing;
};
template <class Weight>
__device__ Found find(unsigned long long target, Weight weight) {
  __shared__ unsigned long long warps[kThreads / 32];
  __shared__ Found found;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  unsigned long long own[kOwn], sum = 0;
#pragma unroll
  for (int i = 0; i < kOwn; i++) sum += own[i] = weight(kOwn * threadIdx.x + i);
  unsigned long long end = sum;
  for (int d = 1; d < 32; d *= 2) {
    const unsigned long long before = __shfl_up_sync(~0u, end, d);
    if (lane >= d) end += before;
  }
  if (lane == 31) warps[warp] = end;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kThreads / 32; i++)
    if (i < warp) end += warps[i];
  unsigned long long before = end - sum;
#pragma unroll
  for (int i = 0; i < kOwn; before += own[i++])
    if (before < target && target <= before + own[i])
      found = {static_cast<int>(kOwn * threadIdx.x) + i, target - before};
  __syncthreads();
  const Found result = found;
  __syncthreads();
  return result;
}

// The logits of one bin, which are listed where there is room for them, and looked for in the row again otherwise.
struct Candidates {
  float top;
  int bin;
  float low, high;      // the bin's logits are between them, and perhaps a few others
  int64_t listed = -1;  // -1: no room
  uint64_t least = 0;   // keys below it do not count

  __device__ Candidates(const Row& row, float top, int bin) : top(top), bin(bin) {
    const auto distance = [](int bin) { return __uint_as_float(0x3f800000u + (static_cast<uint32_t>(bin) << 16)); };
    const float near = row.temperature * (distance(bin) - 1.f), far = row.temperature * (distance(bin + 1) - 1.f);
    const float slack = 1e-5f * (fabsf(top) + far + row.temperature);
    high = top - near + slack;
    low = bin + 1 < kBins ? top - far - slack : -INFINITY;
  }
  __device__ bool has(const Row& row, float z) const {
    return !(z > high) && !(z < low) && bin_of(z, top, row.temperature) == bin;
  }
  // use(z, key)
  template <class Use>
  __device__ void each(const Row& row, const int32_t* list, Use use) const {
    for (int64_t i = threadIdx.x; i < (listed >= 0 ? listed : row.limit); i += kThreads) {
      const int64_t id = listed >= 0 ? list[i] : i;
      const float z = row.logit(id);
      const uint64_t key = key_of(z, id);
      if (key >= least && (listed >= 0 || has(row, z))) use(z, key);
    }
  }
};

__device__ Candidates gather(const Row& row, float top, int bin, int64_t size, int32_t* list) {
  constexpr int kAhead = 16;
  __shared__ int listed;
  Candidates all(row, top, bin);
  if (size > kListed) return all;
  __syncthreads();
  if (threadIdx.x == 0) listed = 0;
  __syncthreads();
  for (int64_t begin = threadIdx.x; begin < row.limit; begin += kAhead * kThreads) {
    float z[kAhead];
    row.load(begin, z);
#pragma unroll
    for (int i = 0; i < kAhead; i++)
      if (begin + i * kThreads < row.limit && all.has(row, z[i]))
        list[atomicAdd(&listed, 1)] = static_cast<int32_t>(begin + i * kThreads);
  }
  __syncthreads();
  all.listed = listed;
  return all;
}

// The key of the candidate at which the weights add up to the target, in the order of the keys: kBins intervals of the
// keys are weighed, and then the one that it is in, until it is alone.
template <class Weight>
__device__ uint64_t select(const Candidates& from, const Row& row, const int32_t* list, unsigned long long target,
                           unsigned long long* histogram, Weight weight) {
  __shared__ uint64_t one;
  __shared__ int count;
  uint64_t low = ~uint64_t{0}, high = 0;
  from.each(row, list, [&](float, uint64_t key) { low = min(low, key), high = max(high, key); });
  low = ~over_block(Largest(), ~low), high = over_block(Largest(), high);
  for (;;) {
    const int shift = max(64 - __clzll(high - low) - 11, 0);
    for (int i = threadIdx.x; i < kBins; i += kThreads) histogram[i] = 0;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    from.each(row, list, [&](float z, uint64_t key) {
      if (key >= low && key <= high) atomicAdd(&histogram[kBins - 1 - ((key - low) >> shift)], weight(z));
    });
    __syncthreads();
    const Found found = find(target, [&](int bin) { return histogram[bin]; });
    target = found.missing;
    low += static_cast<uint64_t>(kBins - 1 - found.bin) << shift;
    high = low + (uint64_t{1} << shift) - 1;
    if (shift == 0) return low;
    from.each(row, list, [&](float, uint64_t key) {
      if (key >= low && key <= high && atomicAdd(&count, 1) == 0) one = key;
    });
    __syncthreads();
    if (count == 1) return one;
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kThreads, 2) cut(const __grid_constant__ Sample p) {
  wait_for_inputs();
  const int64_t b = blockIdx.x / p.slices;
  const uint32_t nth = blockIdx.x % p.slices;
  const Row row(p, b);
  if (row.wrong >= 0 || (nth > 0 && !row.cuts())) return;
  const uint64_t best = best_of(p, b);
  if (!fine(best)) {
    if (nth > 0 || threadIdx.x > 0) return;
    if (best >> kIdBits == kWrong)
      report(p.fault, p.step, Trouble::nonfinite_logit, b, id_of(best), 0, row.logit(id_of(best)));
    else
      report(p.fault, p.step, Trouble::no_logit, b, row.limit);
    return;
  }
  if (!row.cuts()) return;

  // In two halves of a mass, so that sums over a slice have room in 32 bits.
  constexpr int kHalf = 19;
  __shared__ union {
    struct {
      uint32_t count[kBins], low[kBins], high[kBins];
    };
    unsigned long long narrow[kBins];
  } histogram;
  __shared__ int32_t list[kListed];
  const float top = logit_of(best), temperature = row.temperature;
  for (int i = threadIdx.x; i < kBins; i += kThreads) histogram.count[i] = histogram.low[i] = histogram.high[i] = 0;
  __syncthreads();
  const int64_t begin = static_cast<int64_t>(nth) * kSlice + threadIdx.x;
  float z[kEach];
  row.load(begin, z);
#pragma unroll
  for (int i = 0; i < kEach; i++) {
    if (begin + i * kThreads >= row.limit) continue;
    const int bin = bin_of(z[i], top, temperature);
    const unsigned long long mass = mass_of(z[i], top, temperature);
    atomicAdd(&histogram.count[bin], 1);
    atomicAdd(&histogram.low[bin], static_cast<uint32_t>(mass & ((1 << kHalf) - 1)));
    atomicAdd(&histogram.high[bin], static_cast<uint32_t>(mass >> kHalf));
  }
  __syncthreads();
  unsigned long long* masses = p.mass + b * kBins;
  uint32_t* counts = p.count + b * kBins;
  for (int i = threadIdx.x; i < kBins; i += kThreads) {
    if (histogram.count[i] == 0) continue;
    atomicAdd(&counts[i], histogram.count[i]);
    atomicAdd(&masses[i], (static_cast<unsigned long long>(histogram.high[i]) << kHalf) + histogram.low[i]);
  }
  if (!last_block(&p.progress[b].weighed, p.slices)) return;

  Found end{kBins, 0};
  Candidates from(row, top, 0);
  unsigned long long left = 0;  // the mass that the first cut leaves in its bin
  const auto mass = [&](float z) { return mass_of(z, top, temperature); };
  if (row.limits_count()) {
    end = find(row.top_k, [&](int bin) { return __ldcg(counts + bin); });
    from = gather(row, top, end.bin, __ldcg(counts + end.bin), list);
    from.least = select(from, row, list, end.missing, histogram.narrow, [](float) { return 1ull; });
    from.each(row, list, [&](float z, uint64_t) { left += mass(z); });
    left = over_block(Sum(), left);
  }
  if (row.limits_mass()) {
    const auto in_bin = [&](int bin) { return bin < end.bin ? __ldcg(masses + bin) : bin == end.bin ? left : 0ull; };
    unsigned long long own = 0;
#pragma unroll
    for (int i = 0; i < kOwn; i++) own += in_bin(kOwn * threadIdx.x + i);
    const unsigned long long total = over_block(Sum(), own);
    const auto target = static_cast<unsigned long long>(ceil(static_cast<double>(total) * row.top_p));
    const Found last = find(target, in_bin);
    if (last.bin != end.bin) from = gather(row, top, last.bin, __ldcg(counts + last.bin), list);
    from.least = select(from, row, list, last.missing, histogram.narrow, mass);
  }
  if (threadIdx.x == 0) p.progress[b].cut = from.least;
}

__global__ void __launch_bounds__(kThreads, 2) draw(const __grid_constant__ Sample p) {
  wait_for_inputs();
  const int64_t b = blockIdx.x / p.slices;
  const uint32_t nth = blockIdx.x % p.slices;
  const Row row(p, b);
  if (row.wrong >= 0 || (row.greedy() && nth > 0) || has_fault(p.fault)) return;
  const uint64_t best = best_of(p, b);
  const float top = logit_of(best);
  Progress& progress = p.progress[b];
  int32_t token = id_of(best);
  if (!row.greedy()) {
    const float least = row.min_p > 0 ? top + row.temperature * natural_log(row.min_p) : -INFINITY;
    const auto key0 = static_cast<uint32_t>(*at<const int32_t>(p.seed, b, 0));
    const auto key1 = static_cast<uint32_t>(*at<const int32_t>(p.seed, b, 1));
    const auto place = static_cast<uint32_t>(*at<const int32_t>(p.position, b));
    const int64_t begin = static_cast<int64_t>(nth) * kSlice + threadIdx.x;
    const uint64_t cut = progress.cut;
    float z[kEach];
    row.load(begin, z);
    uint64_t drawn = 0;
#pragma unroll
    for (int i = 0; i < kEach; i++) {
      const int64_t id = begin + i * kThreads;
      if (id >= row.limit || key_of(z[i], id) < cut || !(z[i] >= least)) continue;
      const float noise = gumbel(philox(key0, key1, static_cast<uint32_t>(id), place));
      drawn = max(drawn, key_of(exponent(z[i], top, row.temperature) + noise, id));
    }
    drawn = over_block(Largest(), drawn);
    if (threadIdx.x == 0 && drawn) atomicMax(&progress.drawn, drawn);
    if (!last_block(&progress.done, p.slices)) return;
    token = id_of(__ldcg(&progress.drawn));
  }
  if (threadIdx.x >= 32) return;
  float partition = 0;
  for (uint32_t i = threadIdx.x; i < p.slices; i += 32) {
    const Slice& slice = p.slice[b * p.slices + i];
    if (slice.partition > 0) partition += slice.partition * exp_of((logit_of(slice.best) - top) / row.scale());
  }
  partition = Sum()(partition);
  if (threadIdx.x > 0) return;
  *at<int32_t>(p.token, b) = token;
  *at<float>(p.logprob, b) = (row.logit(token) - top) / row.scale() - natural_log(partition);
  if (p.seen.data) at<uint8_t>(p.seen, slot_of(p.slots, b, p.seen.size[0]))[token] = 1;
}

struct Layout {
  size_t slice, progress, mass, count, bytes;

  Layout(int64_t batch, int64_t slices) {
    slice = 0;
    progress = slice + batch * slices * sizeof(Slice);
    mass = progress + batch * sizeof(Progress);
    count = mass + batch * kBins * sizeof(unsigned long long);
    bytes = count + batch * kBins * sizeof(uint32_t);
  }
};

}  // namespace

size_t workspace_sample(const Step& step, const Card&) {
  expect_dtype(step.in[0], "logits", Dtype::f32);
  return Layout(step.in[0].size[0], ceil_div(step.in[0].size[1], kSlice)).bytes;
}

void launch_sample(const Step& step, const Launch& on) {
  const auto [logits, params, seed, position, seen, slots] = step.inputs<6>();
  const auto [token, logprob] = step.outputs<2>();
  const int64_t batch = logits.size[0], slices = ceil_div(logits.size[1], kSlice);
  const Layout layout(batch, slices);
  const auto part = [&](auto* type, size_t at) { return reinterpret_cast<decltype(type)>(on.workspace + at); };
  const Sample p{logits,
                 params,
                 seed,
                 position,
                 seen,
                 slots,
                 token,
                 logprob,
                 part(static_cast<Slice*>(nullptr), layout.slice),
                 part(static_cast<Progress*>(nullptr), layout.progress),
                 part(static_cast<unsigned long long*>(nullptr), layout.mass),
                 part(static_cast<uint32_t*>(nullptr), layout.count),
                 static_cast<uint32_t>(slices),
                 on.fault,
                 on.step};
  const uint32_t blocks = grid_of(batch * slices);
  for (const auto kernel : {survey, cut, draw}) launch(kernel, blocks, kThreads, 0, on, p);
}

}  // namespace vlm::cuda
