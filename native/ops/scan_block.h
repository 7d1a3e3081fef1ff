// The selective scan of a block of channels: the lanes of a register are channels, every buffer is [row][lane].
// Included once for each pass of foreach.h, after simd/{vec,math}.h and ops/block.h.

#ifndef VLM_SCAN_SCRATCH
#define VLM_SCAN_SCRATCH
#include "ops/directions.h"

namespace vlm {

constexpr float kLog2e = 1.44269504f;
constexpr int64_t kScanTile = 64;  // steps whose buffers stay in the first-level cache

// What one thread needs for blocks of `rows` steps with n states, for the widest registers, in whole cache lines.
inline size_t scan_scratch(int64_t rows, int64_t n) {
  constexpr int64_t lanes = 16;
  return static_cast<size_t>(rows * (3 * lanes + 2 * n) + 2 * n * lanes + 15) / 16 * 64;
}

}  // namespace vlm
#endif

SIMD_BEGIN
namespace vlm::SIMD {

struct ScanBlock {
  ScanBlock(std::byte* scratch, int64_t rows, int64_t states, int64_t channels)
      : lanes(channels < F::N ? channels : F::N), n(states) {
    float* p = reinterpret_cast<float*>(scratch);
    for (float** buffer : {&dt, &dtu, &y}) *buffer = p, p += rows * F::N;
    for (float** buffer : {&h, &rate}) *buffer = p, p += n * F::N;
    for (float** buffer : {&b_copy, &c_copy}) *buffer = p, p += rows * n;
  }

  void set_rates(Rows A) {
    load_rows(rate, F::N, A, lanes, n);
    for (int64_t s = 0; s < n; s++) store(rate + s * F::N, load(rate + s * F::N) * kLog2e);
  }

  void set_state(Rows from) {
    if (from.data) load_rows(h, F::N, from, lanes, n);
    for (int64_t s = 0; !from.data && s < n; s++) store(h + s * F::N, zero());
  }
  void get_state(Rows to) const { store_rows(to, h, F::N, lanes, n); }

  void set_channels(Rows delta_bias, Rows D) {
    const auto values = [&](Rows t) {
      float lane[F::N] = {};
      if (t.data) copy_2d(lane, 1, 0, t.data, t.row, 0, lanes, 1);
      return load(lane);
    };
    bias = values(delta_bias), skip = values(D), skips = D.data != nullptr;
  }

  // B and C are read where they are when the states of a step are neighbours, and copied otherwise.
  void set_projections(Rows B, Rows C, int64_t rows) {
    b = B.data, b_row = B.row, c = C.data, c_row = C.row;
    if (B.lane != 1) load_rows(b_copy, n, B, n, rows), b = b_copy, b_row = n;
    if (C.lane != 1) load_rows(c_copy, n, C, n, rows), c = c_copy, c_row = n;
  }

  // dt = softplus(delta + bias), dt·u, and y = D·u, or that added to what is there.
  void enter(Rows delta, Rows u, int64_t rows, bool positive, bool add) {
    load_rows(dt, F::N, delta, lanes, rows);
    load_rows(dtu, F::N, u, lanes, rows);
    for (int64_t i = 0; i < rows * F::N; i += F::N) {
      const F input = load(dtu + i), sum = load(dt + i) + bias, step = positive ? softplus(sum) : sum;
      const F before = add ? load(y + i) : zero();
      store(y + i, skips ? fma(skip, input, before) : before);
      store(dtu + i, step * input);
      store(dt + i, step);
    }
  }

  // The recurrence over the rows of a walk: h = exp(dt·A)·h + dt·u·B, y += C·h. Meanwhile memory fetches what is needed
  // `soon`.
  void advance(const Walk& walk, std::initializer_list<Rows> soon) {
    int64_t s = 0;
    for (; s + kStates <= n; s += kStates) advance_states<kStates>(walk, s, soon);
    for (; s + 4 <= n; s += 4) advance_states<4>(walk, s, soon);
    for (; s < n; s++) advance_states<1>(walk, s, soon);
  }

  // The recurrence of a single step, with states as lanes: A and the state stay as they lie in memory, n contiguous. Each
  // number is computed as advance() computes it.
  void advance_once(Rows A, Rows from, Rows to, const float* B, const float* C) {
    F sum = load(y);
    for (int64_t s = 0; s < n; s += F::N) {
      const F in = load_some(B + s, n - s);
      F state[F::N];
      for (int64_t c = 0; c < F::N; c++) {
        state[c] = zero();
        if (c >= lanes) continue;
        const F decay = exp2(set(dt[c]) * (load_some(A.data + c * A.lane + s, n - s) * kLog2e));
        const F before = from.data ? load_some(from.data + c * from.lane + s, n - s) : zero();
        state[c] = fma(decay, before, set(dtu[c]) * in);
        if (to.data) store_some(to.data + c * to.lane + s, state[c], n - s);
      }
      transpose(state);
      for (int64_t i = 0; i < F::N && s + i < n; i++) sum = fma(set(C[s + i]), state[i], sum);
    }
    store(y, sum);
  }

  // y·scale·silu(z), to where it belongs.
  void leave(Rows z, float scale, Rows to, int64_t rows) {
    if (z.data) load_rows(dt, F::N, z, lanes, rows);
    for (int64_t i = 0; i < rows * F::N; i += F::N) {
      const F sum = load(y + i) * scale;
      store(y + i, z.data ? sum * silu(load(dt + i)) : sum);
    }
    store_rows(to, y, F::N, lanes, rows);
  }

 private:
  // As many states as stay in registers beside what the loop needs.
#if SIMD_AVX512
  static constexpr int kStates = 16;
#else
  static constexpr int kStates = 8;
#endif

  int64_t lanes, n;        // channels in use, at most N; states of a channel
  F bias, skip;            // delta_bias and D of the channels
  bool skips;              // whether there is a D: 0·u is not nothing where u is infinite
  float *dt, *dtu, *y;     // [rows][N]: dt, dt·u, and the sum that becomes y
  float *h, *rate;         // [n][N]: the state, and A·log2 e
  float *b_copy, *c_copy;  // [rows][n]
  const float *b, *c;      // the states of row p start at p·b_row and p·c_row
  int64_t b_row, c_row;

  template <int S>
  void advance_states(const Walk& walk, int64_t first, std::initializer_list<Rows> soon) {
    F state[S];
    for (int s = 0; s < S; s++) state[s] = load(h + (first + s) * F::N);
    const float* a = rate + first * F::N;
    for (int64_t turn = 0; turn < walk.turns; turn++) {
      int64_t p = walk.start + turn * walk.turn;
      for (int64_t i = 0; i < walk.run; i++, p += walk.step) {
        const F step = load(dt + p * F::N), input = load(dtu + p * F::N);
        const float *in = b + p * b_row + first, *out = c + p * c_row + first;
        F sum = load(y + p * F::N);
        for (int s = 0; s < S; s++) {
          state[s] = fma(exp2(step * load(a + s * F::N)), state[s], input * set(in[s]));
          sum = fma(set(out[s]), state[s], sum);
        }
        store(y + p * F::N, sum);
        if (first == 0)
          for (const Rows& rows : soon) prefetch(rows, p);
      }
    }
    for (int s = 0; s < S; s++) store(h + (first + s) * F::N, state[s]);
  }
};

}  // namespace vlm::SIMD
SIMD_END
