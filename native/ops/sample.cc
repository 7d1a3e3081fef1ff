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
//   drawn one is marked, unless the run fails
// Filters and their order: state-spaces/mamba utils/generation.py. top-p: Holtzman et al. 2020.
// min-p: Nguyen et al. 2024.
#define SIMD_FILE "ops/sample.cc"
#include <cfloat>
#include <climits>
#include <cstring>

#include "ops/rows.h"
#include "ops/slots.h"
#include "philox.h"
#include "simd/foreach.h"
#include "simd/vec.h"

#include "simd/math.h"

SIMD_BEGIN
namespace vlm::SIMD {

constexpr int64_t kBins = 2048, kBlock = 512;

// What a row is worked on with.
struct Desk {
  int64_t* histogram;  // [kBins]
  float* penalized;    // [v]
  int32_t* order;      // [v]
  float* mass;         // [v]
  int32_t* kept;       // [v]

  static size_t bytes(int64_t v) { return (kBins * 8 + 4 * v * 4 + 63) / 64 * 64; }
  Desk(std::byte* start, int64_t v) : histogram(reinterpret_cast<int64_t*>(start)) {
    penalized = reinterpret_cast<float*>(histogram + kBins);
    order = reinterpret_cast<int32_t*>(penalized + v);
    mass = reinterpret_cast<float*>(order + v);
    kept = reinterpret_cast<int32_t*>(mass + v);
  }
};

// A desk for each thread, or for each row where those are fewer.
SIMD_INLINE size_t desks_bytes(int64_t batch, int64_t v, int nth) {
  return (batch < nth ? batch : nth) * Desk::bytes(v);
}

// Whole numbers in the order of the floats, NaN beyond the infinities, -0 and 0 the same.
constexpr int32_t kInfinite = 0x7f800000, kMinusInfinite = ~kInfinite;
SIMD_INLINE int32_t order_of(float z) {
  const int32_t bits = std::bit_cast<int32_t>(z + 0.f);
  return bits ^ (bits >> 31 & 0x7fffffff);
}

struct Range {
  int32_t low = INT_MAX, high = INT_MIN;
  int64_t argmax = 0;
};

SIMD_INLINE Range range_of(const float* z, int64_t n) {
  Range all;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = begin + kBlock < n ? begin + kBlock : n;
    int32_t low = INT_MAX, high = INT_MIN;
    for (int64_t i = begin; i < end; i++) {
      const int32_t k = order_of(z[i]);
      low = k < low ? k : low;
      high = k > high ? k : high;
    }
    if (low < all.low) all.low = low;
    if (high > all.high) {
      all.high = high;
      all.argmax = begin;
    }
  }
  while (order_of(z[all.argmax]) != all.high) all.argmax++;
  return all;
}

// f(i, e^((z - top) / temperature)) for each vector of the row; e^ is 0 beyond its end.
template <class Use>
SIMD_INLINE void each_exp(const float* z, int64_t n, float top, float temperature, Use use) {
  const F peak = set(top), scale = set(temperature);
  int64_t i = 0;
  for (; i + F::N <= n; i += F::N) use(i, F::N, exp((load(z + i) - peak) / scale));
  if (i == n) return;
  float lanes[F::N] = {};
  store(lanes, exp((load(z + i, static_cast<int>(n - i)) - peak) / scale), static_cast<int>(n - i));
  use(i, static_cast<int>(n - i), load(lanes));
}

// The end of the shortest beginning, in the order "larger z first, then lower id", whose weights add up to the target:
// everything with a larger order than `order`, and of those equal to it the ids up to `id`.
struct Cut {
  int32_t order = INT_MIN;
  int64_t id = INT_MAX;
};

// Narrows the order of the last one down, 11 bits at a time: how much weight has each value of these bits? Weights are
// whole numbers, so that their sums do not depend on an order of addition.
template <class Weight>
SIMD_INLINE Cut beginning(const int32_t* order, int64_t n, int64_t* histogram, int64_t target, Weight weight) {
  uint64_t found = 0;
  for (const int shift : {21, 10, 0}) {
    std::memset(histogram, 0, kBins * sizeof *histogram);
    const int above = shift == 21 ? 32 : shift == 10 ? 21 : 10;
    const uint64_t digits = (uint64_t{1} << (above - shift)) - 1;
    for (int64_t i = 0; i < n; i++) {
      const uint64_t place = static_cast<uint32_t>(order[i]) ^ 0x80000000u;
      if (place >> above == found >> above) histogram[place >> shift & digits] += weight(i);
    }
    uint64_t digit = digits;
    for (; digit > 0 && histogram[digit] < target; digit--) target -= histogram[digit];
    found |= digit << shift;
  }
  Cut cut{static_cast<int32_t>(static_cast<uint32_t>(found) ^ 0x80000000u), INT_MAX};
  for (int64_t i = 0; i < n && target > 0; i++) {
    if (order[i] != cut.order) continue;
    target -= weight(i);
    cut.id = i;
  }
  return cut;
}

SIMD_INLINE bool within(const Cut& cut, int32_t order, int64_t id) {
  return order > cut.order || (order == cut.order && id <= cut.id);
}

struct Params {
  float temperature, top_p, min_p, penalty;
  int64_t top_k, limit;
};

SIMD_INLINE bool whole(float f) { return f >= 0 && f <= 0x1p31f && f == static_cast<float>(static_cast<int64_t>(f)); }

// False when a number is out of its range; the run has failed then.
bool read_params(const TensorArg& params, int64_t b, int64_t v, Worker& w, Params& out) {
  float p[6];
  for (int i = 0; i < 6; i++) p[i] = params.f32()[b * params.stride[0] + i * params.stride[1]];
  const struct {
    bool fine;
    const char *name, *range;
  } rules[] = {{p[0] >= 0 && p[0] <= FLT_MAX, "temperature", "a finite number, 0 or more"},
               {whole(p[1]), "top_k", "a whole number from 0 to 2^31"},
               {p[2] > 0 && p[2] <= 1, "top_p", "above 0 and at most 1"},
               {p[3] >= 0 && p[3] <= 1, "min_p", "from 0 to 1"},
               {p[4] > 0 && p[4] <= FLT_MAX, "repetition_penalty", "a finite number above 0"},
               {whole(p[5]), "vocab_limit", "a whole number from 0 to 2^31"}};
  for (int i = 0; i < 6; i++) {
    if (rules[i].fine) continue;
    w.fail("ERR_OP_ARG", "params, row ", b, ": ", rules[i].name, " must be ", rules[i].range, ", got ", p[i]);
    return false;
  }
  out = {p[0], p[2], p[3], p[4], static_cast<int64_t>(p[1]), static_cast<int64_t>(p[5])};
  if (out.limit == 0 || out.limit > v) out.limit = v;
  return true;
}

void penalize(float* z, const uint8_t* seen, int64_t n, float penalty) {
  auto one = [&](int64_t i) {
    if (seen[i]) z[i] = z[i] > 0 ? z[i] / penalty : z[i] * penalty;
  };
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    uint64_t eight;
    std::memcpy(&eight, seen + i, 8);
    if (eight)
      for (int64_t j = i; j < i + 8; j++) one(j);
  }
  for (; i < n; i++) one(i);
}

// Writes the ids that pass the filters to desk.kept, ascending, and returns how many there are.
int64_t filter(const float* z, float top, const Params& p, const Desk& desk) {
  const int64_t n = p.limit;
  int32_t* order = desk.order;
  for (int64_t i = 0; i < n; i++) order[i] = order_of(z[i]);
  Cut cut;
  if (p.top_k > 0 && p.top_k < n) cut = beginning(order, n, desk.histogram, p.top_k, [](int64_t) { return 1; });
  float least = -INFINITY;
  if (p.min_p > 0) {
    least = top + p.temperature * natural_log(p.min_p);  // p >= min_p * max p
  } else if (p.top_p < 1) {
    float* mass = desk.mass;
    each_exp(z, n, top, p.temperature, [&](int64_t i, int m, F e) { store(mass + i, e, m); });
    // Masses are at most 1 and rows have at most 2^24 of them: the sum stays below 2^62.
    auto weight = [&](int64_t i) { return static_cast<int64_t>(mass[i] * 0x1p38f); };
    int64_t total = 0;
    for (int64_t i = 0; i < n; i++) {
      mass[i] = within(cut, order[i], i) ? mass[i] : 0.f;
      total += weight(i);
    }
    const auto target = static_cast<int64_t>(std::ceil(static_cast<double>(total) * p.top_p));
    cut = beginning(order, n, desk.histogram, target < 1 ? 1 : target, weight);
  }
  int64_t count = 0;
  for (int64_t i = 0; i < n; i++) {
    desk.kept[count] = static_cast<int32_t>(i);
    count += within(cut, order[i], i) & (z[i] >= least);
  }
  return count;
}

int32_t draw(const float* z, float top, float temperature, const int32_t* kept, int64_t count, const int32_t* seed,
             int64_t seed_stride, int32_t position) {
  constexpr int kLanes = 64;
  const auto key0 = static_cast<uint32_t>(seed[0]), key1 = static_cast<uint32_t>(seed[seed_stride]);
  const auto place = static_cast<uint32_t>(position);
  float best = -INFINITY;
  int32_t token = kept[0];
  for (int64_t begin = 0; begin < count; begin += kLanes) {
    const int m = static_cast<int>(count - begin < kLanes ? count - begin : kLanes);
    uint32_t id[kLanes] = {};
    float score[kLanes];
    for (int j = 0; j < m; j++) {
      id[j] = static_cast<uint32_t>(kept[begin + j]);
      score[j] = z[id[j]];
    }
    for (int j = m; j < kLanes; j++) score[j] = -INFINITY;
    for (int j = 0; j < kLanes; j++)
      score[j] = (score[j] - top) / temperature + gumbel(philox(key0, key1, id[j], place));
    for (int j = 0; j < m; j++)
      if (score[j] > best) {
        best = score[j];
        token = static_cast<int32_t>(id[j]);
      }
  }
  return token;
}

// False when no token can be drawn from z; the run has failed then.
bool check_finite(const float* z, int64_t n, const Range& range, int64_t b, Worker& w) {
  auto fine = [](int32_t order) { return order < kInfinite && order >= kMinusInfinite; };
  if (!fine(range.high) || !fine(range.low)) {
    int64_t i = 0;
    while (fine(order_of(z[i]))) i++;
    w.fail("ERR_NONFINITE_LOGITS", "logits, row ", b, ": the logit of token ", i, " is ", z[i] > 0 ? "+Inf" : "NaN");
    return false;
  }
  if (range.high > kMinusInfinite) return true;
  w.fail("ERR_NONFINITE_LOGITS", "logits, row ", b, ": the logits of all ", n, " tokens are -Inf");
  return false;
}

// log Σ e^((z - top) / temperature), added up in blocks: a long row loses no digits.
float log_partition(const float* z, int64_t n, float top, float temperature) {
  double total = 0;
  for (int64_t i = 0; i < n; i += kBlock) {
    F sums = zero();
    each_exp(z + i, n - i < kBlock ? n - i : kBlock, top, temperature, [&](int64_t, int, F e) { sums = sums + e; });
    total += sum(sums);
  }
  return natural_log(static_cast<float>(total));
}

void sample(const Step& step, Worker& w) {
  const auto [logits, params, seed, position, seen, slots] = step.inputs<6>();
  const auto [token, logprob] = step.outputs<2>();
  const int64_t batch = logits.size[0], v = logits.size[1];
  if (!slots_fit(slots, seen, {}, w, w.scratch + desks_bytes(batch, v, w.nth))) return;
  w.each(batch, 1, [&](int64_t b, int64_t) {
    const Desk desk(w.scratch + (batch < w.nth ? b : w.ith) * Desk::bytes(v), v);
    int32_t& drawn = token.as<int32_t>()[b * token.stride[0]];
    Params p;
    if (!read_params(params, b, v, w, p)) return void(drawn = -1);
    const float* z = row(logits, b);
    if (seen && p.penalty != 1) {
      std::memcpy(desk.penalized, z, p.limit * sizeof *z);
      penalize(desk.penalized, row<uint8_t>(seen, state_row(slots, b)), p.limit, p.penalty);
      z = desk.penalized;
    }
    const Range range = range_of(z, p.limit);
    if (!check_finite(z, p.limit, range, b, w)) return void(drawn = -1);

    const float top = z[range.argmax], temperature = p.temperature > 0 ? p.temperature : 1;
    int32_t chosen = static_cast<int32_t>(range.argmax);
    if (p.temperature > 0) {
      const int64_t count = filter(z, top, p, desk);
      chosen = draw(z, top, temperature, desk.kept, count, seed.as<int32_t>() + b * seed.stride[0], seed.stride[1],
                    position.as<int32_t>()[b * position.stride[0]]);
    }
    drawn = chosen;
    logprob.f32()[b * logprob.stride[0]] =
        (z[chosen] - top) / temperature - log_partition(z, p.limit, top, temperature);
  });
  if (!seen) return;
  w.sync();  // a run that fails marks nothing, so that it can be drawn from the same logits again
  const auto token_of = [&](int64_t b) { return token.as<int32_t>()[b * token.stride[0]]; };
  for (int64_t b = 0; b < batch; b++)
    if (token_of(b) < 0) return;
  for (int64_t b = w.ith; b < batch; b += w.nth) row<uint8_t>(seen, state_row(slots, b))[token_of(b)] = 1;
}

}  // namespace vlm::SIMD
SIMD_END

#if SIMD_ONCE
namespace vlm {

size_t prepare_sample(const Step& step, int nth) {
  const auto [logits, params, seed, position, seen, slots] = step.inputs<6>();
  const auto [token, logprob] = step.outputs<2>();
  check_given(logits, "logits");
  check_dtype(logits, "logits", Dtype::f32);
  check_size(logits, "logits", {-1, -1});
  check_rows(logits, "logits");
  const int64_t b = logits.size[0], v = logits.size[1];
  CHECK(v > 0 && v <= 1 << 24, "logits must be [b,v] with v from 1 to 2^24, got ", shape(logits));
  auto check = [](const TensorArg& t, const char* name, Dtype dtype, std::initializer_list<int64_t> size) {
    check_given(t, name);
    check_dtype(t, name, dtype);
    check_size(t, name, size);
  };
  check(params, "params", Dtype::f32, {b, 6});
  check(seed, "seed", Dtype::i32, {b, 2});
  check(position, "position", Dtype::i32, {b});
  if (seen) {
    check(seen, "seen", Dtype::u8, {slots ? -1 : b, v});
    check_rows(seen, "seen");
  }
  CHECK(!slots || seen, "slots chooses rows of seen: it needs seen");
  if (slots) check(slots, "slots", Dtype::i32, {b});
  check(token, "token", Dtype::i32, {b});
  check(logprob, "logprob", Dtype::f32, {b});
  for (const auto& [t, name] : {std::pair(token, "token"), std::pair(logprob, "logprob"), std::pair(seen, "seen")}) {
    check_apart(logits, "logits", t, name);
    check_apart(slots, "slots", t, name);
  }
  return SIMD::desks_bytes(b, v, nth) + slot_scratch(slots, seen, {}, nth);
}

SIMD_KERNELS(sample)

}  // namespace vlm
#endif
