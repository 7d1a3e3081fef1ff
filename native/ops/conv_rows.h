// The causal convolution of a block of channels: the lanes of a register are channels, x and y are [row][lane].
// Included once for each pass of foreach.h, after simd/{vec,math}.h.
SIMD_BEGIN
namespace vlm::SIMD {

// y = act(bias + Σ_k tap[k]·x[W-1-k rows before]) over the rows of a walk. `past` holds the W - 1 inputs before
// the first row, oldest first, and afterwards those before the next. y may be x: a row is read before it is written.
template <int W>
SIMD_INLINE void convolve(const Walk& walk, const float* x, int64_t x_row, float* y, int64_t y_row, const F* tap,
                          F bias, F* past, bool gated) {
  F window[W];
  for (int k = 0; k + 1 < W; k++) window[k] = past[k];
  int64_t corner = walk.start;
  for (int64_t turn = 0; turn < walk.turns; turn++, corner += walk.turn) {
    int64_t p = corner;
    for (int64_t i = 0; i < walk.run; i++, p += walk.step) {
      window[W - 1] = load(x + p * x_row);
      F sum = bias;
      for (int k = 0; k < W; k++) sum = fma(tap[k], window[k], sum);
      store(y + p * y_row, gated ? silu(sum) : sum);
      for (int k = 0; k + 1 < W; k++) window[k] = window[k + 1];
    }
  }
  for (int k = 0; k + 1 < W; k++) past[k] = window[k];
}

}  // namespace vlm::SIMD
SIMD_END
