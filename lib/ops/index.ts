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

/** `await ops.rmsNorm({ x, weight }, { eps: 1e-5 })`: one op on typed arrays. */
export const ops = {
  activation: eager('activation', activation),
  attention: eager('attention', attention),
  causalConv1d: eager('causal_conv1d', causalConv1d),
  causalConv1d2d: eager('causal_conv1d_2d', causalConv1d2d),
  crossMerge: eager('cross_merge', crossMerge, ['height', 'width']),
  crossScan: eager('cross_scan', crossScan),
  embedding: eager('embedding', embedding),
  layerNorm: eager('layer_norm', layerNorm),
  linear: eager('linear', linear),
  patchEmbed: eager('patch_embed', patchEmbed),
  rmsNorm: eager('rms_norm', rmsNorm),
  selectiveScan: eager('selective_scan', selectiveScan),
  selectiveScan2d: eager('selective_scan_2d', selectiveScan2d),
};
