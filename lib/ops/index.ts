/** Every op: the functions that record a step of a program, and `ops`, which runs a single one on typed arrays. */
import { activation } from './activation.ts';
import { attention } from './attention.ts';
import { causalConv1d } from './causal_conv1d.ts';
import { causalConv1d2d } from './causal_conv1d_2d.ts';
import { crossMerge } from './cross_merge.ts';
import { crossScan } from './cross_scan.ts';
import { eager } from './eager.ts';
import { embedding } from './embedding.ts';
import { layerNorm } from './layer_norm.ts';
import { linear } from './linear.ts';
import { patchEmbed } from './patch_embed.ts';
import { rmsNorm } from './rms_norm.ts';
import { sample } from './sample.ts';
import { selectiveScan } from './selective_scan.ts';
import { selectiveScan2d } from './selective_scan_2d.ts';

export {
  activation,
  attention,
  causalConv1d,
  causalConv1d2d,
  embedding,
  layerNorm,
  linear,
  patchEmbed,
  rmsNorm,
  sample,
  selectiveScan,
  selectiveScan2d,
};

/**
 * `await ops.rmsNorm({ x, weight }, { eps: 1e-5 })`: one op on typed arrays.
 *
 * Every op takes its inputs by name, each as `{ data, shape }`, and its options, and resolves to its outputs by name. Arguments are
 * checked and copied. Rejects with a TypeError or RangeError: ERR_ARG_NAME, ERR_ARG_TYPE, ERR_ARG_SHAPE, ERR_OP_….
 */
export const ops = {
  /** y = act(x): `gelu` (the erf form), `gelu_pytorch_tanh`, `quick_gelu` or `silu`; any shape. */
  activation: eager('activation', activation),
  /** Softmax attention without a mask: q [b, l, h, dh], k, v [b, m, h, dh], y [b, l, h, dh]. */
  attention: eager('attention', attention),
  /** Causal depthwise convolution over positions: x [b, d, l], weight [d, w], w from 2 to 4. */
  causalConv1d: eager('causal_conv1d', causalConv1d),
  /** The same along each direction of a grid of patches: x [b, d, h·w], y [b, k, d, h·w]. */
  causalConv1d2d: eager('causal_conv1d_2d', causalConv1d2d),
  /** Puts the directions of a scan back in their places and adds them up: ys [b, k, c, h·w], y [b, c, h, w]. */
  crossMerge: eager('cross_merge', crossMerge, ['height', 'width']),
  /** A grid of patches in the order of each direction: x [b, c, h, w], xs [b, k, c, h·w]. */
  crossScan: eager('cross_scan', crossScan),
  /** Rows of a table: ids [b, l] i32, weight [rows, d], y [b, l, d]. */
  embedding: eager('embedding', embedding),
  /** Layer norm over the last axis, with an optional residual that is added first. */
  layerNorm: eager('layer_norm', layerNorm),
  /** y = act(x·Wᵀ + bias) + residual: x [rows…, k], weight [n, k] in f32, f16 or bf16. */
  linear: eager('linear', linear),
  /** Patches of a picture as rows: image [b, c, h, w], weight [d, c, p, p], y [b, rows, d]. */
  patchEmbed: eager('patch_embed', patchEmbed),
  /** Root-mean-square norm over the last axis, with an optional residual that is added first. */
  rmsNorm: eager('rms_norm', rmsNorm),
  /** The selective scan of Mamba (arXiv 2312.00752): u, delta [b, d, l], A [d, n], B, C [b, g, n, l]. */
  selectiveScan: eager('selective_scan', selectiveScan),
  /** The same along each direction of a grid, merged: u, delta [b, k, d, h·w], y [b, d, h·w]. */
  selectiveScan2d: eager('selective_scan_2d', selectiveScan2d),
};
