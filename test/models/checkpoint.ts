import { cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseConfig } from '../../lib/checkpoint/config.ts';
import { type TensorSource, writeSafetensors } from '../../lib/checkpoint/safetensors.ts';
import type { JsonRecord } from '../../lib/checkpoint/strict_json.ts';
import { vlMambaParams } from '../../lib/models/vl_mamba.ts';
import { numel } from '../../lib/tensor.ts';
import { collect } from '../../lib/weights.ts';
import { fromHalf, toHalf } from '../half.ts';
import { random } from '../kit.ts';

export type StoredDtype = 'F32' | 'BF16' | 'F16';

export interface StoredWeight {
  shape: number[];
  /** The values after rounding to what the file stores. */
  data: Float32Array;
}

/** The names and shapes of everything that a model with this config reads. */
export const weightShapes = (config: object): { name: string; shape: number[] }[] =>
  collect(vlMambaParams(parseConfig(config as JsonRecord, 'config.json'))).flatMap(({ sources }) =>
    sources.map(({ name, shape }) => ({ name, shape: [...shape] })),
  );

const seedOf = (name: string): number => [...name].reduce((h, c) => (Math.imul(h, 31) + c.charCodeAt(0)) | 0, 7);

/** Values as training would start from: norms near 1, decays −1 … −n, time steps from 0.001 to 0.1. */
export function initial(name: string, shape: readonly number[]): Float32Array {
  const next = random(seedOf(name));
  const n = numel(shape);
  const last = shape.at(-1)!;
  const fanIn = numel(shape.slice(1)) || 1;
  const make = (f: (i: number) => number) => Float32Array.from({ length: n }, (_, i) => f(i));
  if (name.endsWith('A_log')) return make((i) => Math.log(1 + (i % last)) + 0.1 * next());
  if (name.endsWith('.D')) return make(() => 0.5 + next());
  if (name.endsWith('dt_proj.bias'))
    return make(() => {
      const dt = Math.exp(Math.log(0.001) + next() * Math.log(100));
      return dt + Math.log(-Math.expm1(-dt));
    });
  if (/norm\w*\.weight$/.test(name)) return make(() => 0.8 + 0.4 * next());
  if (/bias$|class_embedding$|position_embedding.weight$/.test(name)) return make(() => 0.4 * next() - 0.2);
  return make(() => (2 * next() - 1) * Math.sqrt(3 / fanIn));
}

function store(data: Float32Array, dtype: StoredDtype): { bytes: Uint8Array; data: Float32Array } {
  if (dtype === 'F32') return { bytes: new Uint8Array(data.buffer), data };
  const half = dtype === 'BF16' ? 'bf16' : 'f16';
  const halves = Uint16Array.from(data, (x) => toHalf(x, half));
  return { bytes: new Uint8Array(halves.buffer), data: Float32Array.from(halves, (bits) => fromHalf(bits, half)) };
}

export interface CheckpointOptions {
  config: object;
  dtype?: StoredDtype;
  preprocessor?: object;
  /** Changes what is written: leave tensors out, rename or reshape them, add more. */
  edit?: (sources: TensorSource[]) => TensorSource[];
}

/** Writes a small checkpoint with random weights; returns them as stored, by name. */
export async function writeCheckpoint(
  dir: string,
  { config, dtype = 'F32', preprocessor, edit = (sources) => sources }: CheckpointOptions,
): Promise<Map<string, StoredWeight>> {
  mkdirSync(dir, { recursive: true });
  const weights = new Map<string, StoredWeight>();
  const sources: TensorSource[] = weightShapes(config).map(({ name, shape }) => {
    const { bytes, data } = store(initial(name, shape), dtype);
    weights.set(name, { shape, data });
    return { name, dtype, shape, data: bytes };
  });
  await writeSafetensors(join(dir, 'model.safetensors'), edit(sources));
  writeFileSync(join(dir, 'config.json'), JSON.stringify(config));
  if (preprocessor) writeFileSync(join(dir, 'preprocessor_config.json'), JSON.stringify(preprocessor));
  for (const file of ['tokenizer.json', 'tokenizer_config.json'])
    cpSync(join('test', 'fixtures', 'tokenizer', 'tiny', file), join(dir, file));
  return weights;
}

export const tinyText = {
  model_type: 'mamba',
  vocab_size: 512,
  hidden_size: 48,
  state_size: 8,
  num_hidden_layers: 3,
  conv_kernel: 4,
  expand: 2,
  time_step_rank: 3,
  layer_norm_epsilon: 1e-5,
  eos_token_id: 0,
  bos_token_id: 0,
  pad_token_id: 0,
};

export const tinyVision = {
  siglip: {
    model_type: 'siglip_vision_model',
    hidden_size: 40,
    intermediate_size: 72,
    num_hidden_layers: 3,
    num_attention_heads: 4,
    image_size: 62,
    patch_size: 14,
    hidden_act: 'gelu_pytorch_tanh',
    layer_norm_eps: 1e-6,
  },
  clip: {
    model_type: 'clip_vision_model',
    hidden_size: 40,
    intermediate_size: 72,
    num_hidden_layers: 3,
    num_attention_heads: 4,
    image_size: 56,
    patch_size: 14,
    hidden_act: 'quick_gelu',
    layer_norm_eps: 1e-5,
  },
} as const;

export const tinyConnector = {
  type: 'vss-l2',
  scan: 'bsm',
  weights: 'shared',
  merge: 'sum',
  hidden_size: 36,
  state_size: 4,
  conv_kernel: 4,
  expand: 2,
  time_step_rank: 3,
  norm: 'layer',
  norm_eps: 1e-5,
  hidden_act: 'gelu',
};

/** The processor that goes with a tower: SigLIP squashes, CLIP crops. */
export const tinyPreprocessor = (tower: 'siglip' | 'clip') => {
  const side = tinyVision[tower].image_size;
  return tower === 'siglip'
    ? {
        image_processor_type: 'SiglipImageProcessor',
        size: { height: side, width: side },
        image_mean: [0.5, 0.5, 0.5],
        image_std: [0.5, 0.5, 0.5],
        image_aspect_ratio: 'squash',
      }
    : {
        image_processor_type: 'CLIPImageProcessor',
        size: { shortest_edge: side },
        crop_size: { height: side, width: side },
        image_mean: [0.48, 0.46, 0.41],
        image_std: [0.27, 0.26, 0.28],
        image_aspect_ratio: 'crop',
      };
};

export const tinyConfig = ({
  tower = 'siglip',
  connector = {},
  text = {},
}: {
  tower?: 'siglip' | 'clip';
  connector?: object;
  text?: object;
} = {}) => ({
  model_type: 'vl_mamba',
  vision_config: tinyVision[tower],
  text_config: { ...tinyText, ...text },
  connector_config: { ...tinyConnector, ...connector },
  vision_feature_layer: -2,
  vision_feature_select_strategy: tower === 'clip' ? 'default' : 'full',
});
