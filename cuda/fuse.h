// Which steps of a program are layers of a Mamba language model that read one token of each text, so that one kernel
// can run them all (mamba_decode.cu).
#pragma once

#include <span>
#include <vector>

#include "backend.h"
#include "op.h"

namespace vlm::cuda {

constexpr int kLayerSteps = 7;

// A weight as stored, or quantised: in int8 with a scale, in int4 with a scale and a grid.
struct DecodeMatrix {
  TensorArg weight, scale, grid;
};

struct DecodeLayer {
  DecodeMatrix in_proj, x_proj, dt_proj, out_proj;
  TensorArg norm, conv_weight, conv_bias, delta_bias, A, D;
  TensorArg conv_state, ssm_state;  // [slots, e, …]
};

// Layers that follow one another: steps first … first + kLayerSteps · layers.size() - 1.
struct DecodeRun {
  int first;
  std::vector<DecodeLayer> layers;
  TensorArg h, y;  // [batch, d] f32, the residual stream in front and behind
  TensorArg slots;
  int64_t batch, d, e, rank, states;
  Dtype dtype;         // of activations, and of weights that are not quantised
  Dtype large, small;  // of in_proj and out_proj, of x_proj and dt_proj
  float eps;
};

// `arena` is what only this program reads, and only while it runs: what layers hand on inside need not be there after
// them unless another step or an output reads it.
std::vector<DecodeRun> find_decode_runs(std::span<const Step> steps, std::span<const Port> outputs, Port arena);

}  // namespace vlm::cuda
