import type { VisionConfig } from '../checkpoint/config.ts';
import { vitLayer, vitLayerParams } from '../nn/vit.ts';
import { layerNorm, patchEmbed } from '../ops/index.ts';
import type { Graph } from '../program.ts';
import type { Tensor } from '../tensor.ts';
import { type Loaded, matrix, vector } from '../weights.ts';

/** Patches in a picture and the class token in front of them. */
export const clipRows = ({ imageSize, patchSize }: VisionConfig): number => Math.floor(imageSize / patchSize) ** 2 + 1;

/** The weights of Hugging Face's `clip_vision_model`, up to and including block `layers` − 1. */
export function clipParams(prefix: string, config: VisionConfig, layers: number) {
  const { hiddenSize: d, numChannels: c, patchSize: p } = config;
  return {
    embeddings: {
      class_embedding: vector(`${prefix}.embeddings.class_embedding`, [d]),
      patch_embedding: {
        weight: matrix(`${prefix}.embeddings.patch_embedding.weight`, [d, c, p, p], { fewestBits: 16 }),
      },
      position_embedding: vector(`${prefix}.embeddings.position_embedding.weight`, [clipRows(config), d]),
    },
    // Spelled so in every checkpoint.
    pre_layrnorm: {
      weight: vector(`${prefix}.pre_layrnorm.weight`, [d]),
      bias: vector(`${prefix}.pre_layrnorm.bias`, [d]),
    },
    layers: Array.from({ length: layers }, (_, i) => vitLayerParams(`${prefix}.encoder.layers.${i}`, config)),
  };
}

/** CLIP's picture tower (Radford et al. 2021) without its last norm. image: [b, 3, s, s]; result: [b, rows, d] f32. */
export function clip(g: Graph, w: Loaded<ReturnType<typeof clipParams>>, image: Tensor, config: VisionConfig): Tensor {
  const { class_embedding: classEmbedding, patch_embedding, position_embedding: position } = w.embeddings;
  const x = patchEmbed(g, { image, ...patch_embedding, position, classEmbedding }).y;
  const h = layerNorm(g, { x, ...w.pre_layrnorm }, { eps: config.layerNormEps, dtype: 'f32' }).y;
  return w.layers.reduce((h, layer) => vitLayer(g, layer, h, config), h);
}
