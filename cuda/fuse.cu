#include "fuse.h"

#include <algorithm>
#include <optional>

#include "extent.h"

namespace vlm::cuda {
namespace {

enum Id : int32_t {
#define OP(name, inputs, outputs, attrs) name,
#include "ops.def"
#undef OP
};

// A layer as recorded by lib/nn/mamba_block.ts, one step a line.
constexpr int32_t kLayer[kLayerSteps] = {rms_norm, linear, causal_conv1d, linear, linear, selective_scan, linear};
enum Place { kNorm, kInProj, kConv, kXProj, kDtProj, kScan, kOutProj };
// What hands on what inside: the step that writes, the one that reads, and which of its inputs.
struct Edge {
  int from, to, input;
};
constexpr Edge kEdges[] = {{kNorm, kInProj, 0}, {kInProj, kConv, 0}, {kConv, kXProj, 0}, {kXProj, kDtProj, 0},
                           {kConv, kScan, 0},   {kDtProj, kScan, 1}, {kXProj, kScan, 3}, {kXProj, kScan, 4},
                           {kInProj, kScan, 6}, {kScan, kOutProj, 0}};

// [rows, n] with neighbouring columns and rows `pitch` apart, whatever other dimensions of 1 there are.
bool is_rows(const TensorArg& t, Dtype dtype, int64_t rows, int64_t n, int64_t pitch) {
  if (!t || t.dtype != dtype || t.numel() != rows * n) return false;
  int64_t want[2] = {rows, n}, stride[2] = {pitch, 1};
  int at = 0;
  for (int i = 0; i < t.rank; i++) {
    if (t.size[i] == 1) continue;
    while (at < 2 && want[at] == 1) at++;
    if (at == 2 || t.size[i] != want[at] || t.stride[i] != stride[at]) return false;
    at++;
  }
  return true;
}
bool is_vector(const TensorArg& t, int64_t n) { return is_rows(t, Dtype::f32, 1, n, n); }
bool starts_at_16(const TensorArg& t) { return reinterpret_cast<uintptr_t>(t.data) % 16 == 0; }
// n rows of k numbers, as linear takes them.
bool is_matrix(const DecodeMatrix& m, Dtype dtype, int64_t n, int64_t k) {
  const auto& [weight, scale, grid] = m;
  const int64_t blocks = quant_blocks(k), width = dtype == Dtype::u8 ? blocks * (kQuantBlock / 2) : k;
  if (!is_rows(weight, dtype, n, width, width) || !starts_at_16(weight)) return false;
  if (dtype != Dtype::i8 && dtype != Dtype::u8) return !scale && !grid;
  if (!is_rows(scale, Dtype::f32, n, blocks, blocks) || !starts_at_16(scale)) return false;
  if (dtype == Dtype::i8) return !grid;
  return grid && grid.dtype == Dtype::i8 && grid.numel() == n * blocks * 8 && grid.reach() == grid.numel() &&
         starts_at_16(grid);
}
// Of the product's step.
DecodeMatrix matrix(const Step& linear) { return {linear.in[1], linear.in[4], linear.in[5]}; }
// [slots, e, width], of which both the step's input and its output are the same.
bool is_state(const TensorArg& in, const TensorArg& out, int64_t e, int64_t width) {
  return in && out && in.data == out.data && in.dtype == Dtype::f32 && in.rank == 3 && in.size[1] == e &&
         in.size[2] == width && in.stride[1] == width && in.stride[2] == 1;
}
bool is_part(const TensorArg& part, const TensorArg& whole, int64_t column) {
  return part.data == whole.as<std::byte>() + column * dtype_bytes(whole.dtype);
}
bool none(std::initializer_list<TensorArg> absent) {
  return std::none_of(absent.begin(), absent.end(), [](const TensorArg& t) { return static_cast<bool>(t); });
}

// The layer that begins with the first of these steps, as a run of one.
std::optional<DecodeRun> match(std::span<const Step> s) {
  if (s.size() < kLayerSteps) return {};
  for (int i = 0; i < kLayerSteps; i++)
    if (s[i].op != kLayer[i]) return {};
  const auto [h, norm, norm_residual] = s[kNorm].inputs<3>();
  const auto [x, norm_sum] = s[kNorm].outputs<2>();
  const auto [in_x, in_weight, in_bias, in_residual] = s[kInProj].inputs<4>();
  const auto [conv_x, conv_weight, conv_bias, conv_initial, conv_slots] = s[kConv].inputs<5>();
  const auto [u, conv_state] = s[kConv].outputs<2>();
  const auto [x_x, x_weight, x_bias, x_residual] = s[kXProj].inputs<4>();
  const auto [dt_x, dt_weight, dt_bias, dt_residual] = s[kDtProj].inputs<4>();
  const auto [scan_u, delta, A, B, C, D, z, delta_bias, scan_initial, scan_slots] = s[kScan].inputs<10>();
  const auto [scan_y, ssm_state] = s[kScan].outputs<2>();
  const auto [out_x, out_weight, out_bias, out_residual] = s[kOutProj].inputs<4>();
  const TensorArg &xz = s[kInProj].out[0], &dbc = s[kXProj].out[0], &dt = s[kDtProj].out[0], &y = s[kOutProj].out[0];
  if (!none({norm_residual, norm_sum, in_bias, in_residual, x_bias, x_residual, dt_bias, dt_residual, out_bias}))
    return {};
  for (int i : {kInProj, kXProj, kDtProj, kOutProj})
    if (s[i].attr[0].i != static_cast<int>(Activation::none)) return {};
  if (s[kConv].attr[0].i == 0 || s[kScan].attr[0].i == 0) return {};

  const DecodeMatrix in_proj = matrix(s[kInProj]), x_proj = matrix(s[kXProj]), dt_proj = matrix(s[kDtProj]),
                     out_proj = matrix(s[kOutProj]);
  DecodeRun run{.first = 0,
                .h = h,
                .y = y,
                .slots = conv_slots,
                .dtype = x.dtype,
                .large = in_weight.dtype,
                .small = x_weight.dtype,
                .eps = s[kNorm].attr[0].f};
  const int64_t d = run.d = norm.numel(), e = run.e = in_weight.size[0] / 2, n = run.states = A.size[1],
                r = run.rank = dt_weight.size[1], b = run.batch = d > 0 ? h.numel() / d : 0, xs = r + 2 * n;
  const Dtype T = run.dtype, F = Dtype::f32, L = run.large, S = run.small;
  const bool quantised = L == Dtype::i8 || L == Dtype::u8;
  const bool fits =
      (quantised ? T == Dtype::bf16 && S == Dtype::i8 : (T == Dtype::f16 || T == Dtype::bf16) && L == T && S == T) &&
      is_rows(h, F, b, d, d) && is_vector(norm, d) && is_rows(x, T, b, d, d) && is_part(in_x, x, 0) &&
      is_rows(in_x, T, b, d, d) && is_matrix(in_proj, L, 2 * e, d) && is_rows(xz, T, b, 2 * e, 2 * e) &&  //
      is_part(conv_x, xz, 0) && is_rows(conv_x, T, b, e, 2 * e) && is_rows(conv_weight, F, e, 4, 4) &&    //
      is_vector(conv_bias, e) && is_state(conv_initial, conv_state, e, 3) && is_rows(u, T, b, e, e) &&    //
      is_part(x_x, u, 0) && is_rows(x_x, T, b, e, e) && is_matrix(x_proj, S, xs, e) && is_rows(dbc, F, b, xs, xs) &&
      is_part(dt_x, dbc, 0) && is_rows(dt_x, F, b, r, xs) && is_matrix(dt_proj, S, e, r) && is_rows(dt, F, b, e, e) &&
      is_part(scan_u, u, 0) && is_rows(scan_u, T, b, e, e) && is_part(delta, dt, 0) && is_rows(delta, F, b, e, e) &&
      is_rows(A, F, e, n, n) && is_part(B, dbc, r) && is_rows(B, F, b, n, xs) && is_part(C, dbc, r + n) &&
      is_rows(C, F, b, n, xs) && is_vector(D, e) && is_part(z, xz, e) && is_rows(z, T, b, e, 2 * e) &&       //
      is_vector(delta_bias, e) && is_state(scan_initial, ssm_state, e, n) && is_rows(scan_y, T, b, e, e) &&  //
      is_part(out_x, scan_y, 0) && is_rows(out_x, T, b, e, e) && is_matrix(out_proj, L, d, e) &&             //
      is_part(out_residual, h, 0) && is_rows(out_residual, F, b, d, d) && is_rows(y, F, b, d, d) &&          //
      conv_slots && is_rows(conv_slots, Dtype::i32, 1, b, b) && scan_slots.data == conv_slots.data &&
      conv_state.size[0] == ssm_state.size[0];
  if (!fits) return {};
  run.layers.push_back(
      {in_proj, x_proj, dt_proj, out_proj, norm, conv_weight, conv_bias, delta_bias, A, D, conv_state, ssm_state});
  return run;
}

bool continues(const DecodeRun& run, const DecodeRun& next) {
  const auto &a = run.layers.back(), &b = next.layers.front();
  return next.h.data == run.y.data && next.batch == run.batch && next.d == run.d && next.e == run.e &&
         next.rank == run.rank && next.states == run.states && next.dtype == run.dtype && next.large == run.large &&
         next.small == run.small && next.eps == run.eps && next.slots.data == run.slots.data &&
         a.conv_state.stride == b.conv_state.stride && a.ssm_state.stride == b.ssm_state.stride &&
         a.conv_state.size == b.conv_state.size;
}

// Whether a step of the run hands `input` of step `reader` what it should, so that nobody misses it in memory.
bool is_inside(const DecodeRun& run, size_t writer, size_t reader, int input) {
  const int count = kLayerSteps * static_cast<int>(run.layers.size());
  const int from = static_cast<int>(writer) - run.first, to = static_cast<int>(reader) - run.first;
  if (to >= count) return false;
  if (from % kLayerSteps == kOutProj) return (to == from + 1 && input == 0) || (to == from + kLayerSteps && input == 3);
  return std::any_of(std::begin(kEdges), std::end(kEdges), [&](const Edge& e) {
    return from / kLayerSteps == to / kLayerSteps && from % kLayerSteps == e.from && to % kLayerSteps == e.to &&
           input == e.input;
  });
}

// Whether what `reader` finds at `read` comes from a step of the run that would not write it any more.
bool misses(const DecodeRun& run, std::span<const Step> steps, const Extent& read, size_t reader, int input) {
  const size_t first = run.first, last = first + kLayerSteps * run.layers.size() - 1;
  for (size_t s = reader; s-- > first;) {
    const bool handed = s <= last && s != last;
    for (const TensorArg& t : steps[s].out) {
      if (!t || !meet(extent(t), read)) continue;
      const bool is_state = s <= last && &t == &steps[s].out[1];
      if (handed && !is_state && !is_inside(run, s, reader, input)) return true;
      if (t.reach() == t.numel() && covers(extent(t), read)) return false;
    }
  }
  return false;
}

bool is_closed(const DecodeRun& run, std::span<const Step> steps, std::span<const Port> outputs, const Extent& arena) {
  const size_t first = run.first, end = first + kLayerSteps * run.layers.size();
  for (size_t s = first; s + 1 < end; s++)
    if (!covers(arena, extent(steps[s].out[0]))) return false;
  for (size_t s = first; s < steps.size(); s++)
    for (int i = 0; i < kMaxInputs; i++)
      if (const TensorArg& t = steps[s].in[i]; t && meet(extent(t), arena) && misses(run, steps, extent(t), s, i))
        return false;
  return std::none_of(outputs.begin(), outputs.end(), [&](const Port& port) {
    const auto* begin = static_cast<const std::byte*>(port.memory);
    return misses(run, steps, {begin, begin + port.bytes}, steps.size(), 0);
  });
}

}  // namespace

std::vector<DecodeRun> find_decode_runs(std::span<const Step> steps, std::span<const Port> outputs, Port arena) {
  std::vector<DecodeRun> runs;
  const auto* begin = static_cast<const std::byte*>(arena.memory);
  for (size_t s = 0; s < steps.size();) {
    std::optional<DecodeRun> run = match(steps.subspan(s));
    if (!run) {
      s++;
      continue;
    }
    run->first = static_cast<int>(s);
    for (s += kLayerSteps; s < steps.size(); s += kLayerSteps) {
      const std::optional<DecodeRun> next = match(steps.subspan(s));
      if (!next || !continues(*run, *next)) break;
      run->layers.push_back(next->layers[0]);
      run->y = next->y;
    }
    if (is_closed(*run, steps, outputs, {begin, begin + arena.bytes})) runs.push_back(std::move(*run));
  }
  return runs;
}

}  // namespace vlm::cuda
