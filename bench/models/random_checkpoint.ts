/**
 * npm run random-checkpoint -- SIZE DIR
 *
 * Writes a checkpoint with random bf16 weights at a public size: what it answers is noise, how fast it does is not. SIZE is
 * one of 130m, 370m, 790m, 1.4b, 2.8b (language models), or vl-130m … vl-2.8b (with a SigLIP-SO400M tower and a VSS-L2
 * connector of width 1152), or siglip, clip (the tower, an MLP connector and a small language model).
 */
import { cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeSafetensors } from '../../lib/checkpoint/safetensors.ts';
import { numel } from '../../lib/tensor.ts';
import { toHalf } from '../../test/half.ts';
import { initial, weightShapes } from '../../test/models/checkpoint.ts';

const mamba = (hidden_size: number, num_hidden_layers: number) => ({
  model_type: 'mamba',
  hidden_size,
  num_hidden_layers,
  vocab_size: 50280,
  eos_token_id: 0,
  bos_token_id: 0,
  pad_token_id: 0,
});

const languages: Record<string, object> = {
  '130m': mamba(768, 24),
  '370m': mamba(1024, 48),
  '790m': mamba(1536, 48),
  '1.4b': mamba(2048, 48),
  '2.8b': mamba(2560, 64),
};

const towers = {
  siglip: {
    model_type: 'siglip_vision_model',
    hidden_size: 1152,
    intermediate_size: 4304,
    num_hidden_layers: 27,
    num_attention_heads: 16,
    image_size: 384,
    patch_size: 14,
    hidden_act: 'gelu_pytorch_tanh',
    layer_norm_eps: 1e-6,
  },
  clip: {
    model_type: 'clip_vision_model',
    hidden_size: 1024,
    intermediate_size: 4096,
    num_hidden_layers: 24,
    num_attention_heads: 16,
    image_size: 336,
    patch_size: 14,
    hidden_act: 'quick_gelu',
    layer_norm_eps: 1e-5,
  },
};

const vssL2 = {
  type: 'vss-l2',
  scan: 'bsm',
  hidden_size: 1152,
  state_size: 16,
  conv_kernel: 4,
  expand: 2,
  time_step_rank: 72,
  norm: 'layer',
  norm_eps: 1e-5,
  hidden_act: 'gelu',
};

function configOf(size: string): object {
  const text = languages[size.replace('vl-', '')];
  if (size in towers) {
    const tower = size as keyof typeof towers;
    return {
      model_type: 'vl_mamba',
      vision_config: towers[tower],
      text_config: mamba(256, 2),
      connector_config: { type: 'mlp', hidden_size: 256, hidden_act: 'gelu' },
      vision_feature_select_strategy: tower === 'clip' ? 'default' : 'full',
    };
  }
  if (!text)
    throw new Error(`no size ${size}: ${[...Object.keys(languages), ...Object.keys(towers)].join(', ')}, vl-…`);
  if (!size.startsWith('vl-')) return text;
  return {
    model_type: 'vl_mamba',
    vision_config: towers.siglip,
    text_config: text,
    connector_config: vssL2,
    vision_feature_select_strategy: 'full',
  };
}

const BLOCK = 1 << 20;

const blocks = new Map<number, Uint8Array>();

const bf16 = (list: Float32Array, scale = 1): Uint8Array =>
  new Uint8Array(Uint16Array.from(list, (v) => toHalf(v * scale, 'bf16')).buffer);

/** A large matrix repeats one block of values: making each number anew would take longer than writing it. */
function* values(name: string, shape: readonly number[]): Generator<Uint8Array> {
  const count = numel(shape);
  if (count <= BLOCK) {
    yield bf16(initial(name, shape));
    return;
  }
  const scale = Math.sqrt(1024 / numel(shape.slice(1)));
  const block = blocks.get(scale) ?? bf16(initial('block', [BLOCK / 1024, 1024]), scale);
  blocks.set(scale, block);
  for (let left = count * 2; left > 0; left -= block.length) yield block.subarray(0, Math.min(left, block.length));
}

const [size, dir] = process.argv.slice(2);
if (!size || !dir) throw new Error('npm run random-checkpoint -- SIZE DIR');
const config = configOf(size);
mkdirSync(dir, { recursive: true });
await writeSafetensors(
  join(dir, 'model.safetensors'),
  weightShapes(config).map(({ name, shape }) => ({ name, dtype: 'BF16', shape, data: () => values(name, shape) })),
);
writeFileSync(join(dir, 'config.json'), JSON.stringify(config, null, 1));
const vision = (config as { vision_config?: { image_size: number } }).vision_config;
if (vision) {
  const side = { height: vision.image_size, width: vision.image_size };
  const processor = {
    size: side,
    image_mean: [0.5, 0.5, 0.5],
    image_std: [0.5, 0.5, 0.5],
    image_aspect_ratio: 'squash',
  };
  writeFileSync(join(dir, 'preprocessor_config.json'), JSON.stringify(processor));
}
for (const file of ['tokenizer.json', 'tokenizer_config.json'])
  cpSync(join('test', 'fixtures', 'tokenizer', 'tiny', file), join(dir, file));
