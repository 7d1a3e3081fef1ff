import type { VisionConfig } from '../checkpoint/config.ts';
import { attention, layerNorm, linear } from '../ops/index.ts';
import type { Graph } from '../program.ts';
import { reshape, slice, type Tensor } from '../tensor.ts';
import { type Loaded, matrix, stacked, vector } from '../weights.ts';

/** What the blocks of SigLIP and CLIP are made of. b batch, l rows, d width, f width of the MLP. */
export type ViTConfig = Pick<
  VisionConfig,
  'hiddenSize' | 'intermediateSize' | 'numAttentionHeads' | 'hiddenAct' | 'layerNormEps'
>;

/** The weights of `encoder.layers.{i}` under `prefix`, q, k and v as one matrix. */
export function vitLayerParams(prefix: string, { hiddenSize: d, intermediateSize: f }: ViTConfig) {
  const norm = (name: string) => ({
    weight: vector(`${prefix}.${name}.weight`, [d]),
    bias: vector(`${prefix}.${name}.bias`, [d]),
  });
  const dense = (name: string, to: number, from: number) => ({
    weight: matrix(`${prefix}.${name}.weight`, [to, from], { fewestBits: 8 }),
    bias: vector(`${prefix}.${name}.bias`, [to]),
  });
  const qkv = ['q_proj', 'k_proj', 'v_proj'].map((name) => `${prefix}.self_attn.${name}`);
  return {
    layer_norm1: norm('layer_norm1'),
    qkv_proj: {
      weight: stacked(
        'matrix',
        qkv.map((name) => `${name}.weight`),
        [d, d],
        8,
      ),
      bias: stacked(
        'f32',
        qkv.map((name) => `${name}.bias`),
        [d],
      ),
    },
    out_proj: dense('self_attn.out_proj', d, d),
    layer_norm2: norm('layer_norm2'),
    fc1: dense('mlp.fc1', f, d),
    fc2: dense('mlp.fc2', d, f),
  };
}

/** x + attention(norm(x)), then x + mlp(norm(x)) (Dosovitskiy et al. 2020, eq. 2–3). x, result: [b, l, d] f32. */
export function vitLayer(
  g: Graph,
  w: Loaded<ReturnType<typeof vitLayerParams>>,
  x: Tensor,
  { hiddenSize: d, numAttentionHeads: heads, hiddenAct, layerNormEps: eps }: ViTConfig,
): Tensor {
  const [b, l] = x.shape as [number, number, number];
  const qkv = linear(g, { x: layerNorm(g, { x, ...w.layer_norm1 }, { eps }).y, ...w.qkv_proj }).y;
  const [q, k, v] = [0, 1, 2].map((part) =>
    reshape(slice(qkv, 2, part * d, (part + 1) * d), [b, l, heads, d / heads]),
  ) as [Tensor, Tensor, Tensor];
  // Where the products around this one have 16 bits or fewer, so has it.
  const products = ['bf16', 'i8', 'u8'].includes(w.qkv_proj.weight.dtype) ? 'bf16' : 'f32';
  const mixed = attention(g, { q, k, v }, { scale: (d / heads) ** -0.5, products }).y;
  const h = linear(g, { x: reshape(mixed, [b, l, d]), ...w.out_proj, residual: x }).y;
  const up = linear(
    g,
    { x: layerNorm(g, { x: h, ...w.layer_norm2 }, { eps }).y, ...w.fc1 },
    { activation: hiddenAct },
  ).y;
  return linear(g, { x: up, ...w.fc2, residual: h }).y;
}
