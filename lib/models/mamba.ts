import type { TextConfig } from '../checkpoint/config.ts';
import type { DeviceBuffer } from '../device.ts';
import { type MambaState, mambaBlock, mambaBlockParams } from '../nn/mamba_block.ts';
import { embedding, linear, rmsNorm } from '../ops/index.ts';
import type { Graph } from '../program.ts';
import { reshape, slice, type Tensor, tensorOf } from '../tensor.ts';
import { type Loaded, matrix, vector } from '../weights.ts';

/**
 * The weights of Hugging Face's `MambaForCausalLM`, or of state-spaces' checkpoints, which call the embedding
 * `embedding`. A model that only reads text may have them without the `language_model.` in front.
 */
export function mambaParams(prefix: string, config: TextConfig) {
  const { hiddenSize: d, vocabSize: v } = config;
  const named = (path: string) => ({ name: `${prefix}${path}`, aliases: [path] });
  const table = named('backbone.embeddings.weight');
  const old = named('backbone.embedding.weight');
  const norm = (path: string) => {
    const { name, aliases } = named(path);
    return { weight: vector(name, [d], { aliases }) };
  };
  const head = named('lm_head.weight');
  return {
    // Its rows are looked up too, and of a tied model it is the head as well: 8 bits at least.
    embeddings: {
      weight: matrix(table.name, [v, d], {
        aliases: [old.name, ...table.aliases, ...old.aliases],
        fewestBits: 8,
      }),
    },
    layers: Array.from({ length: config.numHiddenLayers }, (_, i) => ({
      norm: norm(`backbone.layers.${i}.norm.weight`),
      mixer: mambaBlockParams((path) => named(`backbone.layers.${i}.mixer.${path}`), config),
    })),
    norm_f: norm('backbone.norm_f.weight'),
    lm_head: config.tieWordEmbeddings ? undefined : { weight: matrix(head.name, [v, d], { ...head, fewestBits: 8 }) },
  };
}

type Weights = Loaded<ReturnType<typeof mambaParams>>;

/** Floats of recurrent state that one sequence needs, however long it is. */
export const stateFloats = ({
  numHiddenLayers,
  intermediateSize: e,
  stateSize: n,
  convKernel: w,
}: TextConfig): number => numHiddenLayers * e * (n + w - 1);

/** Views of a buffer that holds the state of `slots` sequences, one after the other. */
export function stateViews(buffer: DeviceBuffer, slots: number, config: TextConfig): MambaState[] {
  const { numHiddenLayers, intermediateSize: e, stateSize: n, convKernel: w } = config;
  const slot = stateFloats(config);
  const view = (width: number, offset: number) =>
    tensorOf(buffer, 'f32', [slots, e, width], { strides: [slot, width, 1], offset });
  return Array.from({ length: numHiddenLayers }, (_, i) => {
    const at = i * e * (n + w - 1);
    return { conv: view(w - 1, at), ssm: view(n, at + e * (w - 1)) };
  });
}

/**
 * The layers of a Mamba language model. ids [b, l] i32, an id below 0 being a row of `rows` [r, d] f32 (a picture's);
 * slots [b] i32. Returns the residual stream [b, l, d] f32, which stays f32 whatever the weights are.
 */
export function mamba(
  g: Graph,
  w: Weights,
  { ids, rows, slots }: { ids: Tensor; rows: Tensor | undefined; slots: Tensor },
  state: readonly MambaState[],
  config: TextConfig,
): Tensor {
  const h = embedding(g, { ids, rows, ...w.embeddings }, { width: config.hiddenSize }).y;
  return w.layers.reduce((h, { norm, mixer }, i) => {
    const x = rmsNorm(g, { x: h, ...norm }, { eps: config.layerNormEps }).y;
    return mambaBlock(g, mixer, x, h, state[i]!, slots, config);
  }, h);
}

/** The next token's logits [b, v] f32 after the last position of h [b, l, d]. */
export function head(g: Graph, w: Weights, h: Tensor, { layerNormEps: eps, hiddenSize: d }: TextConfig): Tensor {
  const [b, l] = h.shape as [number, number, number];
  const last = rmsNorm(g, { x: slice(h, 1, l - 1, l), ...w.norm_f }, { eps }).y;
  return linear(g, { x: reshape(last, [b, d]), ...(w.lm_head ?? w.embeddings) }, { dtype: 'f32' }).y;
}
