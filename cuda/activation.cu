// y = act(x), element by element: silu(x) = x·sigmoid(x), gelu(x) = x·Φ(x) (Hendrycks & Gimpel 2016), its tanh and
// sigmoid approximations
// x, y: [rows…, d] f32 | f16 | bf16
#include "activation.cuh"
#include "rows.cuh"

namespace vlm::cuda {
namespace {

struct Args {
  Rows x, y;        // [rows…, d]
  int64_t d;        // columns
  unsigned blocks;  // of a row
  Activation activation;
};

constexpr int kThreads = 256, kPacks = 4;

// A block is kThreads · kPacks · N columns of a row.
template <int N>
__global__ void __launch_bounds__(kThreads) apply(const __grid_constant__ Args p) {
  wait_for_inputs();
  constexpr int kStep = kThreads * N, kColumns = kStep * kPacks;
  const unsigned row = blockIdx.x / p.blocks;
  const int64_t first = static_cast<int64_t>(blockIdx.x % p.blocks) * kColumns;
  const int j = threadIdx.x * N, d = static_cast<int>(min(p.d - first, static_cast<int64_t>(kColumns)));
  Pack<float, N> v[kPacks];
  load<N>(p.x, p.x.row(row) + first, j, kStep, d, v);
  for (auto& pack : v)
    for (float& x : pack.v) x = activate(p.activation, x);
  store<N>(p.y, p.y.row(row) + first, j, kStep, d, v);
}

}  // namespace

size_t workspace_activation(const Step& step, const Card&) {
  expect_float(step.in[0], "x");
  expect_float(step.out[0], "y");
  return 0;
}

void launch_activation(const Step& step, const Launch& on) {
  const TensorArg &x = step.in[0], &y = step.out[0];
  Args p{rows_of(x), rows_of(y), x.size[x.rank - 1], 1, static_cast<Activation>(step.attr[0].i)};
  int64_t rows = row_count(x);
  if (rows * p.d == 0) return;
  const auto gapless = [&](const Rows& t) { return t.rank == 0 || (t.rank == 1 && t.stride[0] == p.d); };
  if (gapless(p.x) && gapless(p.y)) {
    p.d *= rows;
    p.x.rank = p.y.rank = 0;
    rows = 1;
  }
  const bool wide = p.d % 4 == 0 && p.x.packs(4) && p.y.packs(4);
  p.blocks = static_cast<unsigned>(ceil_div(p.d, kThreads * kPacks * (wide ? 4 : 1)));
  launch(wide ? apply<4> : apply<1>, static_cast<unsigned>(rows * p.blocks), kThreads, 0, on, p);
}

}  // namespace vlm::cuda
