// y[i,c] = act(Σ_j x[i,j] weight[c,j] + bias[c]) + residual[i,c]
// x: [rows…, k]    weight: [n, k] f32, f16 or bf16, or quantised    bias: [n] f32    residual, y: [rows…, n], may be the same
// x and y f32, f16 or bf16, the residual f32 or as y; x is rounded to the weight's type, products are summed in f32.
// Quantised: weight [n, k] i8 with scale [n, ⌈k/128⌉] f32, or weight [n, ⌈k/128⌉·64] u8 with that scale and grid
// [n, ⌈k/128⌉·4, 2] i8. With many rows of x they become bf16 first, some columns of y at a time.
#include "dequantise.cuh"
#include "linear_mma.cuh"
#include "linear_rows.cuh"
#include "linear_wgmma.cuh"

namespace vlm::cuda {
namespace {

// Rows of 16-byte chunks, which copies can take: x and the weights where they are not so already.
struct PackParams {
  Rows from;
  void* to;  // [rows, ld] T
  int64_t rows, k, ld;
  bool wide;
};

template <class T>
__global__ void pack_kernel(const __grid_constant__ PackParams p) {
  wait_for_inputs();
  constexpr int N = 16 / sizeof(T);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  const int64_t j = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * N;
  if (i >= p.rows || j >= p.ld) return;
  const int64_t at = p.from.row(i) + j;
  Pack<T, N> out;
  if (p.wide && j + N <= p.k) {
    for (int q = 0; q < N; q += 4) {
      const auto v = read<4>(p.from, at + q);
      for (int e = 0; e < 4; e++) out.v[q + e] = from_float<T>(v.v[e]);
    }
  } else {
    for (int e = 0; e < N; e++) out.v[e] = from_float<T>(j + e < p.k ? read<1>(p.from, at + e).v[0] : 0.f);
  }
  store_pack(static_cast<T*>(p.to) + i * p.ld + j, out);
}

template <class T>
void pack(const Rows& from, void* to, int64_t rows, int64_t k, int64_t ld, const Launch& on) {
  constexpr int N = 16 / sizeof(T);
  const dim3 block(32, 8), grid(static_cast<unsigned>(ceil_div(rows, 8)), static_cast<unsigned>(ceil_div(ld / N, 32)));
  launch(pack_kernel<T>, grid, block, 0, on, PackParams{from, to, rows, k, ld, from.packs(4)});
}

// An operand as the kernels take it: one stride, of 16-byte multiples.
struct Operand {
  bool packed;
  int64_t ld;
  size_t bytes;  // of workspace

  Operand(const Rows& t, Dtype dtype, int64_t rows, int64_t k) {
    const int64_t chunk = 16 / dtype_bytes(dtype);
    const int64_t own = t.rank > 0 ? t.stride[0] : ceil_div(k, chunk) * chunk;
    packed = t.dtype != dtype || t.rank > 1 || own < k || own % chunk != 0 || !aligned(t.data, 16);
    ld = packed ? ceil_div(k, chunk) * chunk : own;
    bytes = packed ? static_cast<size_t>(ceil_div(rows * ld * dtype_bytes(dtype), 256) * 256) : 0;
  }
};

Product product_of(const Step& step) {
  const auto [x, weight, bias, residual, scale] = step.inputs<5>();
  const auto [y] = step.outputs<1>();
  expect_float(x, "x");
  expect_rows(weight);
  if (!scale) expect_float(weight, "weight");
  expect_float(y, "y");
  expect_float(residual, "residual");
  return {.m = row_count(x),
          .n = weight.size[0],
          .k = x.size[x.rank - 1],
          .x = rows_of(x),
          .weight = rows_of(weight),
          .bias = bias.f32(),
          .residual = rows_of(residual),
          .y = rows_of(y),
          .activation = static_cast<Activation>(step.attr[0].i)};
}

// The product with some columns of quantised weights, those from `first` on.
Product product_of(const Step& step, const Panels& panels, int64_t first, void* weight) {
  Product p = product_of(step);
  p.n = std::min(panels.rows, p.n - first);
  p.weight = panels.weight(weight);
  if (p.bias) p.bias += first;
  for (Rows* t : {&p.residual, &p.y})
    if (*t) t->data += first * dtype_bytes(t->dtype);
  return p;
}

// One row of each text, or few in all, as decoding has them.
bool rows_form(const Step& step) {
  const TensorArg& x = step.in[0];
  return x.rank < 2 || x.size[x.rank - 2] == 1 || (x.rank == 2 && x.size[0] <= 256);
}

// The wgmma form stores four columns at once.
bool wgmma_takes(const Product& p) {
  const bool residual = !p.residual || p.residual.dtype == Dtype::f32 || p.residual.dtype == p.y.dtype;
  return p.k > 0 && residual && Finish(p).packs && encode_tiled();
}

// A tile of the wgmma form: 64 · groups rows, `columns` columns, in clusters of blocks that share what they read, or of
// `splits` blocks that share a long k.
struct Tile {
  int groups, columns, cluster_m = 1, cluster_n = 1, splits = 1;
};

// The cheapest tile in cycles: whole waves of blocks, each at the pace of the tensor cores or of what it reads from L2.
// Whether k is split depends on the weight's size alone, so that a row's bits don't depend on how many rows there are.
Tile choose_tile(int64_t m, int64_t n, int64_t k, int multiprocessors) {
  if (n <= 256 && k >= 1024) {
    // Clusters of eight blocks fit on about three quarters of the multiprocessors.
    const int64_t clusters = multiprocessors * 3 / 4 / kWgmmaParts, columns = ceil_div(n, 192);
    if (ceil_div(m, 64) * columns <= clusters) return {.groups = 1, .columns = 192, .splits = 8};
    return {.groups = 2, .columns = 192, .splits = ceil_div(m, 128) * columns <= clusters ? 8 : 4};
  }
  Tile best{};
  int64_t least = 0, fewest = 0;
  for (const Tile t : {Tile{2, 256}, Tile{2, 208, 2, 1}, Tile{2, 192, 2, 1}, Tile{2, 160, 2, 1}, Tile{2, 128, 2, 1},
                       Tile{2, 192, 1, 2}, Tile{2, 160, 1, 2}, Tile{2, 128, 1, 2}, Tile{1, 128, 4, 1}}) {
    const int64_t rows = 64 * t.groups, cluster = t.cluster_m * t.cluster_n;
    const int64_t tiles = ceil_div(m, rows * t.cluster_m) * ceil_div(n, t.columns * t.cluster_n) * cluster;
    const int64_t waves = ceil_div(tiles, multiprocessors / cluster * cluster);
    const int64_t products = rows * t.columns / 32 * 9 / 8, reads = (rows + t.columns) * 128 / 56;
    const int64_t cycles = waves * (ceil_div(k, kWgmmaK) * std::max(products, reads) + 1500 + rows * t.columns / 7);
    // Of equals the one with fewer tiles: what they read and multiply for nothing costs others bandwidth and power.
    if (best.groups == 0 || cycles < least || (cycles == least && tiles < fewest))
      best = t, least = cycles, fewest = tiles;
  }
  return best;
}

template <class T>
void launch_wgmma(const Product& p, const Matrix& x, const Matrix& weight, bool early, const Launch& on) {
  const Tile t = choose_tile(p.m, p.n, p.k, on.card.multiprocessors);
  const auto go = [&]<class Traits>() {
    launch_wgmma<Traits>(x, weight, p.k, t.cluster_m, t.cluster_n, early, Finish(p), on);
  };
  if (t.splits == 4)
    go.template operator()<WgmmaTraits<T, 2, 192, 4>>();
  else if (t.splits == 8 && t.groups == 2)
    go.template operator()<WgmmaTraits<T, 2, 192, 8>>();
  else if (t.splits == 8)
    go.template operator()<WgmmaTraits<T, 1, 192, 8>>();
  else if (t.groups == 1)
    go.template operator()<WgmmaTraits<T, 1, 128>>();
  else if (t.columns == 128)
    go.template operator()<WgmmaTraits<T, 2, 128>>();
  else if (t.columns == 160)
    go.template operator()<WgmmaTraits<T, 2, 160>>();
  else if (t.columns == 192)
    go.template operator()<WgmmaTraits<T, 2, 192>>();
  else if (t.columns == 208)
    go.template operator()<WgmmaTraits<T, 2, 208>>();
  else
    go.template operator()<WgmmaTraits<T, 2, 256>>();
}

}  // namespace

size_t product_workspace(const Product& p, const Card&) {
  CHECK(p.m < int64_t{1} << 30 && p.n < int64_t{1} << 22, "linear can't do ", p.m, " rows and ", p.n, " columns");
  return Operand(p.x, p.weight.dtype, p.m, p.k).bytes + Operand(p.weight, p.weight.dtype, p.n, p.k).bytes;
}

void launch_product(const Product& p, const Launch& on) {
  if (p.m == 0 || p.n == 0) return;
  with_float({.dtype = p.weight.dtype}, "weight", [&](auto type) {
    using T = decltype(type);
    const Operand x(p.x, dtype_of<T>, p.m, p.k), w(p.weight, dtype_of<T>, p.n, p.k);
    void* packed_x = on.workspace;
    void* packed_w = on.workspace + x.bytes;
    if (x.packed) pack<T>(p.x, packed_x, p.m, p.k, x.ld, on);
    if (w.packed) pack<T>(p.weight, packed_w, p.n, p.k, w.ld, on);
    const Matrix a{x.packed ? packed_x : p.x.data, x.ld}, b{w.packed ? packed_w : p.weight.data, w.ld};
    if constexpr (sizeof(T) == 2)
      if (on.card.arch == 90 && wgmma_takes(p)) return launch_wgmma<T>(p, a, b, on.fixed_weight && !w.packed, on);
    const MmaParams params{.x = a.data, .weight = b.data, .ldx = a.ld, .ldw = b.ld, .k = p.k, .finish = Finish(p)};
    if (ceil_div(p.m, 128) * ceil_div(p.n, 128) >= on.card.multiprocessors)
      launch_mma<MmaTraits<T, 128, 128, 2, 4>>(params, on);
    else
      launch_mma<MmaTraits<T, 64, 64, 2, 2>>(params, on);
  });
}

size_t workspace_linear(const Step& step, const Card& card) {
  if (rows_form(step)) return linear_rows_workspace(step, card);
  if (!step.in[4]) return product_workspace(product_of(step), card);
  const Panels panels(step);
  return panels.bytes() + product_workspace(product_of(step, panels, 0, nullptr), card);
}

void launch_linear(const Step& step, const Launch& on) {
  if (rows_form(step)) return launch_linear_rows(step, on);
  if (!step.in[4]) return launch_product(product_of(step), on);
  const Panels panels(step);
  Launch behind = on;
  behind.workspace += panels.bytes();
  behind.fixed_weight = false;  // the step before the product writes it
  for (int64_t first = 0; first < step.in[1].size[0]; first += panels.rows) {
    panels.dequantise(first, on.workspace, on);
    launch_product(product_of(step, panels, first, on.workspace), behind);
  }
}

}  // namespace vlm::cuda
