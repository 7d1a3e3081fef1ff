import type { VisionConfig } from '../checkpoint/config.ts';
import { vitLayer, vitLayerParams } from '../nn/vit.ts';
import { patchEmbed } from '../ops/index.ts';
import type { Graph } from '../program.ts';
import type { Tensor } from '../tensor.ts';
import { type Loaded, matrix, vector } from '../weights.ts';

/** Patches in a picture; pixels beyond the last whole patch are not read. */
export const siglipRows = ({ imageSize, patchSize }: VisionConfig): number => Math.floor(imageSize / patchSize) ** 2;

/** The weights of Hugging Face's `siglip_vision_model`, up to and including block `layers` − 1. */
export function siglipParams(prefix: string, config: VisionConfig, layers: number) {
  const { hiddenSize: d, numChannels: c, patchSize: p } = config;
  return {
    embeddings: {
      patch_embedding: {
        weight: matrix(`${prefix}.embeddings.patch_embedding.weight`, [d, c, p, p], { fewestBits: 16 }),
        bias: vector(`${prefix}.embeddings.patch_embedding.bias`, [d]),
      },
      position_embedding: vector(`${prefix}.embeddings.position_embedding.weight`, [siglipRows(config), d]),
    },
    layers: Array.from({ length: layers }, (_, i) => vitLayerParams(`${prefix}.encoder.layers.${i}`, config)),
  };
}

/** SigLIP's tower (Zhai et al. 2023) without its last norm and pooling head. image: [b, 3, s, s]; result: [b, rows, d] f32. */
export function siglip(
  g: Graph,
  w: Loaded<ReturnType<typeof siglipParams>>,
  image: Tensor,
  config: VisionConfig,
): Tensor {
  const { patch_embedding, position_embedding: position } = w.embeddings;
  const x = patchEmbed(g, { image, ...patch_embedding, position }).y;
  return w.layers.reduce((h, layer) => vitLayer(g, layer, h, config), x);
}
