import type { ModelConfig, VisionConfig } from '../checkpoint/config.ts';
import type { Graph } from '../program.ts';
import { slice, type Tensor } from '../tensor.ts';
import type { Loaded } from '../weights.ts';
import { clip, clipParams, clipRows } from './clip.ts';
import { connector, connectorParams } from './connector.ts';
import { mambaParams } from './mamba.ts';
import { siglip, siglipParams, siglipRows } from './siglip.ts';

/** Weights in a checkpoint that no program reads: the blocks behind the feature layer, the tower's head, a tied lm_head. */
export const unread: readonly RegExp[] = [
  /^vision_tower\.vision_model\.(encoder\.layers\.\d+|post_layernorm|head|embeddings\.position_ids)(\.|$)/,
  /^(language_model\.)?lm_head\.weight$/,
];

/** Blocks of the tower that run: hidden state k is what block k − 1 leaves, and a negative index counts from the end. */
export const towerLayers = ({ vision, visionFeatureLayer: layer }: ModelConfig): number =>
  layer < 0 ? vision!.numHiddenLayers + 1 + layer : layer;

const TOWER = 'vision_tower.vision_model';
const PROJECTOR = 'multi_modal_projector';
const LANGUAGE = 'language_model.';

export function vlMambaParams(config: ModelConfig) {
  const { vision, connector: projector, text } = config;
  return {
    vision: vision && {
      siglip: vision.type === 'siglip' ? siglipParams(TOWER, vision, towerLayers(config)) : undefined,
      clip: vision.type === 'clip' ? clipParams(TOWER, vision, towerLayers(config)) : undefined,
    },
    connector:
      vision &&
      projector &&
      connectorParams(PROJECTOR, projector, { vision: vision.hiddenSize, text: text.hiddenSize }),
    language: mambaParams(LANGUAGE, text),
  };
}

export type VlMambaWeights = Loaded<ReturnType<typeof vlMambaParams>>;

/** The side of the square grid of patches. */
const gridSide = ({ imageSize, patchSize }: VisionConfig): number => Math.floor(imageSize / patchSize);

/** CLIP's class token goes unless the config keeps every row; SigLIP has none. */
const dropsClassToken = ({ vision, visionFeatureSelectStrategy: strategy }: ModelConfig): boolean =>
  vision!.type === 'clip' && strategy === 'default';

/** Rows that a picture takes in the prompt. */
export function pictureRows(config: ModelConfig): number {
  const vision = config.vision!;
  return vision.type === 'siglip' ? siglipRows(vision) : clipRows(vision) - (dropsClassToken(config) ? 1 : 0);
}

/**
 * What the language model reads for a picture (arXiv 2403.13600, Fig. 1): tower, feature layer, connector.
 * image: [1, 3, s, s] f32; result: [1, rows, d_lm] f32.
 */
export function pictureEmbeds(g: Graph, w: VlMambaWeights, image: Tensor, config: ModelConfig): Tensor {
  const vision = config.vision!;
  const { siglip: siglipWeights, clip: clipWeights } = w.vision!;
  const all = siglipWeights ? siglip(g, siglipWeights, image, vision) : clip(g, clipWeights!, image, vision);
  const features = dropsClassToken(config) ? slice(all, 1, 1, all.shape[1]!) : all;
  const side = gridSide(vision);
  return connector(g, w.connector!, features, side, side, config.connector!);
}
