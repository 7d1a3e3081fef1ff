// The decode layers of a Mamba language model for one text as one kernel: what it is made for, where things go and its launch.
#include "mamba_decode.h"

#include <algorithm>

#include "linear_rows.cuh"
#include "mamba_decode.cuh"
#include "tensor_map.cuh"

namespace vlm::cuda {
namespace {

constexpr size_t align_up(size_t n, size_t to = 128) { return (n + to - 1) / to * to; }

CUtensorMap weight_map(const TensorArg& weight, int quads, int chunks) {
  CUtensorMap map;
  const int64_t bytes = dtype_bytes(weight.dtype), row = weight.size[1] * bytes;
  const cuuint64_t size[] = {static_cast<cuuint64_t>(kChunkBytes / bytes), static_cast<cuuint64_t>(weight.size[0]),
                             static_cast<cuuint64_t>(row / kChunkBytes)};
  const cuuint64_t stride[] = {static_cast<cuuint64_t>(row), kChunkBytes};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(kChunkBytes / bytes), static_cast<cuuint32_t>(quads * kQuad),
                            static_cast<cuuint32_t>(chunks)};
  const cuuint32_t step[] = {1, 1, 1};
  const CUresult status =
      encode_tiled()(&map, bytes == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_UINT16, 3, weight.data,
                     size, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE,
                     CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    throw Error("ERR_CUDA", text("cuTensorMapEncodeTiled: error ", static_cast<int>(status), " for ", shape(weight)));
  return map;
}

// How rows of a weight are cut into blocks of numbers, and those into chunks.
struct Cut {
  int columns, pieces;
  bool scaled;
  explicit Cut(Dtype t)
      : columns(t == Dtype::i8 || t == Dtype::u8 ? kQuantBlock : 32),
        pieces(t == Dtype::i8 ? 2 : 1),
        scaled(columns == kQuantBlock) {}
  int blocks(int k) const { return static_cast<int>(ceil_div(k, columns)); }
  // Into how many sums linear_rows divides a row.
  int ranges(int n, int k) const { return rows_ranges(n, (scaled ? 2 : 1) * blocks(k)); }
};

class Plan final : public MambaDecode {
 public:
  Plan(const DecodeRun& run, const Card& card) : run_(run), blocks_(card.multiprocessors) {
    const DecodeLayer& layer = run.layers[0];
    const auto blocks = [&](int64_t n) { return static_cast<int>(ceil_div(n, blocks_)); };
    p_.count = static_cast<int>(run.layers.size());
    p_.d = static_cast<int>(run.d), p_.e = static_cast<int>(run.e), p_.rank = static_cast<int>(run.rank);
    p_.projected = p_.rank + 2 * kStates;
    p_.channels = blocks(p_.e / kQuad) * kQuad, p_.rows = blocks(p_.d / kQuad) * kQuad;
    p_.in_ranges = large_.ranges(2 * p_.e, p_.d), p_.out_ranges = large_.ranges(p_.d, p_.e);
    p_.x_ranges = small_.ranges(p_.projected, p_.e), p_.x_blocks = small_.blocks(p_.e);
    p_.x_range = static_cast<int>(ceil_div(p_.x_blocks, p_.x_ranges));
    p_.in_blocks = large_.blocks(p_.d), p_.out_blocks = large_.blocks(p_.e), p_.rank_blocks = small_.blocks(p_.rank);
    const auto whole = [&](int blocks, int ranges) { return kWarps % ranges == 0 && blocks % ranges == 0; };
    fits_ = run.batch == 1 && run.states == kStates && p_.d % large_.columns == 0 && p_.e % large_.columns == 0 &&
            p_.rank % (small_.scaled ? 16 : 8) == 0 && (!small_.scaled || p_.out_blocks % 4 == 0) &&
            p_.e / kQuad >= blocks_ && p_.d / kQuad >= blocks_ && p_.channels <= kThreads &&
            p_.d <= kThreads * kNormPacks * 4 && blocks(p_.projected) <= 8 && whole(p_.in_blocks, p_.in_ranges) &&
            whole(p_.out_blocks, p_.out_ranges) && kWarps % p_.x_ranges == 0 && small_.ranges(p_.e, p_.rank) == 1 &&
            p_.channels <= kWarps * 8 && layer.conv_state.stride[0] % 4 == 0 && layer.ssm_state.stride[0] % 4 == 0 &&
            aligned();
    if (!fits_) return;
    const auto product = [&](int blocks, int ranges, int rows) {
      return RingWeight{blocks / ranges * large_.pieces, large_.pieces, rows / kQuad / blocks_ / (kWarps / ranges)};
    };
    p_.ring.weight[0] = product(p_.in_blocks, p_.in_ranges, p_.e);
    p_.ring.weight[1] = product(p_.out_blocks, p_.out_ranges, p_.d);
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
          *maps++ = weight_map(i ? y.out_proj.weight : y.in_proj.weight, std::max(p_.ring.weight[i].low + high, 1),
                               p_.ring.weight[i].step);
      *layers++ = {y.x_proj.weight.data,
                   y.dt_proj.weight.data,
                   y.norm.f32(),
                   y.conv_weight.f32(),
                   y.conv_bias.f32(),
                   y.A.f32(),
                   y.D.f32(),
                   y.delta_bias.f32(),
                   y.conv_state.f32(),
                   y.ssm_state.f32(),
                   y.in_proj.scale.f32(),
                   y.x_proj.scale.f32(),
                   y.dt_proj.scale.f32(),
                   y.out_proj.scale.f32(),
                   y.in_proj.grid.as<uint2>(),
                   y.out_proj.grid.as<uint2>()};
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
    config.blockDim = kAllThreads;
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
      for (const TensorArg* t :
           {&y.norm, &y.conv_weight, &y.conv_bias, &y.A, &y.D, &y.delta_bias, &y.conv_state, &y.ssm_state})
        if (!cuda::aligned(t->data, 16)) return false;
      return true;
    });
  }

  // Boxes of as many chunks as make some kilobytes, and as many of them as there is room for.
  bool choose_stages(int room) {
    constexpr int kMostStages = 16, kBox = 3072, kUnderWay = 48 << 10;
    RingShape& ring = p_.ring;
    ring.stage_bytes = 0;
    for (auto& weight : ring.weight) {
      if (weight.low + 1 > kMostQuads) return false;
      const int chunk = (weight.low + 1) * kQuadBytes;
      for (int step = large_.pieces; step <= weight.range; step += large_.pieces)
        if (weight.range % step == 0 && chunk * step <= kBox) weight.step = step;
      ring.stage_bytes = std::max(ring.stage_bytes, chunk * weight.step);
    }
    const RingWeight& in = ring.weight[0];
    p_.half = in.range / in.step / 2 * in.step;
    for (ring.stages = kMostStages; ring.stages > 0; ring.stages--) {
      if (lay_out() > room) continue;
      ring.ahead = std::clamp(kUnderWay / (kWarps * ring.stage_bytes), 1, ring.stages);
      return true;
    }
    return false;
  }

  int lay_out() {
    Layout& at = p_.at;
    int end = 0;
    const auto take = [&](int bytes) { return std::exchange(end, static_cast<int>(align_up(end + bytes))); };
    at.ring = take(kWarps * p_.ring.bytes());
    at.ring_barriers = take(kWarps * p_.ring.barrier_bytes()), at.barriers = take(kSmalls * 8);
    const int x_rows = static_cast<int>(ceil_div(p_.projected, blocks_)), bytes = small_.scaled ? 1 : 2;
    at.x_proj = take(x_rows * p_.e * bytes), at.dt_proj = take(p_.channels * p_.rank * bytes);
    if (large_.scaled) {
      for (int z = 0; z < 2; z++) at.in_scale[z] = take(p_.channels * p_.in_blocks * 4);
      at.out_scale = take(p_.rows * p_.out_blocks * 4), at.x_scale = take(x_rows * p_.out_blocks * 4);
      at.dt_scale = take(p_.channels * p_.rank_blocks * 4);
    }
    if (run_.large == Dtype::u8) {
      for (int z = 0; z < 2; z++) at.in_grid[z] = take(p_.channels * p_.in_blocks * 8);
      at.out_grid = take(p_.rows * p_.out_blocks * 8);
    }
    at.norm = take(p_.d * 4);
    at.conv_weight = take(p_.channels * kTaps * 4), at.conv_bias = take(p_.channels * 4);
    at.A = take(p_.channels * kStates * 4), at.D = take(p_.channels * 4), at.delta_bias = take(p_.channels * 4);
    at.conv_state = take(p_.channels * kPast * 4), at.ssm_state = take(p_.channels * kStates * 4);
    at.x = take(p_.d * 2), at.wide = take(p_.e * 2),
    at.rank = take(static_cast<int>(align_up(p_.rank, kQuantBlock)) * 2), at.B_C = take(2 * kStates * 4);
    at.x_sums = take(p_.in_ranges * p_.channels * 4), at.z_sums = take(p_.in_ranges * p_.channels * 4);
    at.sums =
        take(std::max({p_.out_ranges * p_.rows, p_.x_ranges * 8, static_cast<int>(align_up(p_.channels, 8))}) * 4);
    at.squares = take(kWarps * 4);
    at.u = take(p_.channels * 4), at.h = take(p_.rows * 4);
    at.layers = take(p_.count * static_cast<int>(sizeof(LayerArgs)));
    return at.end = end;
  }

  // Blocks wait for one another, so all have to be there.
  bool resident() const {
    int blocks = 0;
    VLM_CUDA(cudaFuncSetAttribute(kernel(), cudaFuncAttributeMaxDynamicSharedMemorySize, p_.at.end));
    VLM_CUDA(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel(), kAllThreads, p_.at.end));
    return blocks > 0;
  }

  using Kernel = void (*)(const DecodeParams);
  Kernel kernel() const {
    if (run_.large == Dtype::i8) return mamba_decode_kernel<bf16, Quants<false>, Quants<false>>;
    if (run_.large == Dtype::u8) return mamba_decode_kernel<bf16, Quants<true>, Quants<false>>;
    if (run_.dtype == Dtype::f16) return mamba_decode_kernel<f16, Floats<f16>, Floats<f16>>;
    return mamba_decode_kernel<bf16, Floats<bf16>, Floats<bf16>>;
  }

  size_t layers_at() const { return 4 * p_.count * sizeof(CUtensorMap); }
  size_t round_at() const { return align_up(layers_at() + p_.count * sizeof(LayerArgs)); }
  size_t words() const { return round_at() + 128; }

  const DecodeRun run_;
  const Cut large_{run_.large}, small_{run_.small};
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
