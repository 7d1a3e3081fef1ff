// The selective scan (see selective_scan.cu) along every direction of a height × width grid, merged where the patches
// are: y[p] = (Σ_k y_k[p], or its mean)·silu(z[p]), y_k the recurrence in the order of direction k (ops/directions.h;
// VL-Mamba, arXiv 2403.13600 §3.2). Everything is stored in patch order p = row·width + column, l = height·width.
// u, delta: [b,k,d,l]   A: [d,n] or [k,d,n]   B, C: [b,k,n,l]   D, delta_bias: [d] or [k,d]   z, y: [b,d,l], with any
// strides; u, delta, B, C, z and y f32, f16 or bf16, the rest f32.
//
// One scan walks all directions at once and leaves y_k in the workspace, f32, in the order of y's memory; a second kernel
// adds them in the order of k.
#include "scan.cuh"

namespace vlm::cuda {
namespace {

struct Merge {
  const float* sums;  // [b,k,outer,inner]
  Sequence z, y;      // row b; channel outer and step inner, or the other way round: `channel` is the inner one
  int64_t batch, outer, inner;
  int directions;
  float scale;
};

constexpr int kThreads = 256;

// N neighbours to a thread; E: the type of z and y.
template <class E, int N>
__global__ __launch_bounds__(kThreads) void merge_kernel(const Merge p) {
  wait_for_inputs();
  const int64_t packs = ceil_div(p.inner, N), all = p.batch * p.outer * packs;
  const int64_t e = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (e >= all) return;
  const int64_t inner = e % packs * N, outer = e / packs % p.outer, b = e / packs / p.outer, plane = p.outer * p.inner;
  const float* from = p.sums + b * p.directions * plane + outer * p.inner + inner;
  const auto index = [&](const Sequence& s) { return b * s.row + outer * s.step + inner * s.channel; };
  float sum[N] = {}, gate[N];
  for (int k = 0; k < p.directions; k++) {
    const auto part = *reinterpret_cast<const Pack<float, N>*>(from + k * plane);
#pragma unroll
    for (int i = 0; i < N; i++) sum[i] = k == 0 ? part.v[i] : sum[i] + part.v[i];
  }
#pragma unroll
  for (int i = 0; i < N; i++) gate[i] = p.scale;
  if constexpr (N == 1) {
    if (p.z.data) gate[0] *= silu(load_as<E>(p.z, index(p.z)));
    store_as<E>(p.y, index(p.y), sum[0] * gate[0]);
  } else {
    if (p.z.data) {
      const auto z = *reinterpret_cast<const Pack<E, N>*>(static_cast<const E*>(p.z.data) + index(p.z));
#pragma unroll
      for (int i = 0; i < N; i++) gate[i] *= silu(to_float(z.v[i]));
    }
    Pack<E, N> y;
#pragma unroll
    for (int i = 0; i < N; i++) y.v[i] = from_float<E>(sum[i] * gate[i]);
    *reinterpret_cast<Pack<E, N>*>(static_cast<E*>(p.y.data) + index(p.y)) = y;
  }
}

struct Problem {
  ScanProblem scan;
  Merge merge;
};

Problem problem(const Step& step) {
  const auto [u, delta, A, B, C, D, z, delta_bias] = step.inputs<8>();
  const auto [y] = step.outputs<1>();
  const int64_t height = step.attr[1].i, width = step.attr[2].i;
  const auto sequence = [](const TensorArg& t, const char* name) {
    with_float(t, name, [](auto) {});
    return Sequence{t.data, t.dtype, t.stride[0], t.stride[1], t.stride[2], t.stride[3]};
  };
  ScanProblem s;
  s.batch = u.size[0], s.groups = u.size[1], s.d = u.size[2], s.n = B.size[2], s.length = u.size[3];
  s.positive = step.attr[4].i != 0;
  s.u = sequence(u, "u"), s.delta = sequence(delta, "delta"), s.B = sequence(B, "B"), s.C = sequence(C, "C");
  const auto weight = [](const TensorArg& t, const char* name, int rank) {
    expect_dtype(t, name, Dtype::f32);
    const int own = t.rank > rank;
    return Weight{t.f32(), own ? t.stride[0] : 0, t.stride[own], rank > 1 ? t.stride[own + 1] : 0};
  };
  s.A = weight(A, "A", 2), s.D = weight(D, "D", 1), s.delta_bias = weight(delta_bias, "delta_bias", 1);
  s.walks = static_cast<int>(s.groups);
  for (int k = 0; k < s.walks; k++) s.walk[k] = patches(k, height, width);

  // The sums take the order of y's memory.
  const int64_t plane = s.d * s.length;
  const bool rows = y.stride[2] != 1 || y.stride[1] == 1;
  s.y = {nullptr, Dtype::f32, s.groups * plane, plane, rows ? 1 : s.length, rows ? s.d : 1};
  const auto picture = [&](const TensorArg& t, const char* name) {
    if (t) with_float(t, name, [](auto) {});
    return Sequence{t.data, t.dtype, t.stride[0], 0, t.stride[rows ? 1 : 2], t.stride[rows ? 2 : 1]};
  };
  const bool mean = step.attr[3].i != 0;
  return {s,
          {nullptr, picture(z, "z"), picture(y, "y"), s.batch, rows ? s.length : s.d, rows ? s.d : s.length, s.walks,
           mean ? 1.f / s.walks : 1.f}};
}

size_t sum_bytes(const ScanProblem& s) { return s.batch * s.groups * s.d * s.length * sizeof(float); }

}  // namespace

size_t workspace_selective_scan_2d(const Step& step, const Card&) {
  const ScanProblem scan = problem(step).scan;
  return sum_bytes(scan) + workspace_scan(scan);
}

void launch_selective_scan_2d(const Step& step, const Launch& on) {
  auto [scan, merge] = problem(step);
  scan.y.data = on.workspace;
  merge.sums = reinterpret_cast<const float*>(on.workspace);
  Launch scan_on = on;
  scan_on.workspace += sum_bytes(scan);
  launch_scan(scan, scan_on);
  constexpr int N = 4;
  const auto packed = [&](const Sequence& t) {
    return !t.data || (t.dtype == merge.y.dtype && t.channel == 1 && aligned(t.data, N * dtype_bytes(t.dtype)) &&
                       t.row % N == 0 && t.step % N == 0);
  };
  const auto go = [&](auto kernel, int n) {
    const int64_t threads = merge.batch * merge.outer * ceil_div(merge.inner, n);
    launch(kernel, dim3(static_cast<unsigned>(ceil_div(threads, kThreads))), dim3(kThreads), 0, on, merge);
  };
  if (merge.inner % N != 0 || !packed(merge.y) || !packed(merge.z)) return go(merge_kernel<Any, 1>, 1);
  with_float({.dtype = merge.y.dtype}, "y", [&](auto type) { go(merge_kernel<decltype(type), N>, N); });
}

}  // namespace vlm::cuda
