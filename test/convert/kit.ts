import { cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TensorSource, writeSafetensors } from '../../lib/checkpoint/safetensors.ts';
import { type StoredDtype, tinyConfig, tinyPreprocessor, writeCheckpoint } from '../models/checkpoint.ts';

const TOKENIZER = join('test', 'fixtures', 'tokenizer', 'tiny');

export interface Parts {
  /** The model that the parts were taken from. */
  whole: string;
  vision: string;
  lm: string;
  connector: string;
  config: string;
}

export interface PartsOptions {
  tower?: 'siglip' | 'clip';
  dtype?: StoredDtype;
  connector?: object;
  /** A whole SigLIP or CLIP, text tower and all; the tower alone; the tower as transformers 5 writes it, without a prefix. */
  visionKind?: 'model' | 'tower' | 'bare';
  lmKind?: 'hf' | 'state-spaces';
  untied?: boolean;
}

const TOWER = 'vision_tower.vision_model.';
const PROJECTOR = 'multi_modal_projector.';
const LANGUAGE = 'language_model.';

const zeros = (name: string, shape: number[], dtype = 'F32'): TensorSource => ({
  name,
  dtype,
  shape,
  data: new Uint8Array(shape.reduce((n, d) => n * d, dtype === 'I64' ? 8 : 4)),
});

const json = (path: string, value: unknown) => writeFileSync(path, JSON.stringify(value));

/** Writes a small model under `dir`, and its parts as they lie in the folders that they come from. */
export async function writeParts(
  dir: string,
  {
    tower = 'siglip',
    dtype = 'F32',
    connector = {},
    visionKind = 'model',
    lmKind = 'hf',
    untied = false,
  }: PartsOptions = {},
): Promise<Parts> {
  const config = tinyConfig({ tower, connector, text: untied ? { tie_word_embeddings: false } : {} });
  const preprocessor = tinyPreprocessor(tower);
  const parts = {
    whole: join(dir, 'whole'),
    vision: join(dir, 'vision'),
    lm: join(dir, 'lm'),
    connector: join(dir, 'connector.safetensors'),
    config: join(dir, 'connector.json'),
  };
  let all: TensorSource[] = [];
  await writeCheckpoint(parts.whole, { config, dtype, preprocessor, edit: (sources) => (all = sources) });
  const under = (prefix: string, to: (path: string) => string) =>
    all.flatMap((source) =>
      source.name.startsWith(prefix) ? [{ ...source, name: to(source.name.slice(prefix.length)) }] : [],
    );

  mkdirSync(parts.vision, { recursive: true });
  const { model_type, ...vision } = config.vision_config;
  const positions = zeros('vision_model.embeddings.position_ids', [1, 16], 'I64');
  const blocks = [
    positions,
    ...under(TOWER, (path) => `vision_model.${path}`),
    zeros('vision_model.head.probe', [1, 1, 40]),
  ];
  if (visionKind === 'model') {
    const others = [zeros('text_model.embeddings.token_embedding.weight', [9, 8]), zeros('logit_scale', [])];
    await writeSafetensors(join(parts.vision, 'model.safetensors'), [...others, ...blocks]);
    json(join(parts.vision, 'config.json'), {
      architectures: [tower === 'clip' ? 'CLIPModel' : 'SiglipModel'],
      model_type: tower,
      text_config: { hidden_size: 8 },
      // What older configs carry along.
      vision_config: { model_type, ...vision, temperature: 1, id2label: { 0: 'LABEL_0' } },
    });
  } else {
    const bare = blocks.map((source) => ({ ...source, name: source.name.replace('vision_model.', '') }));
    await writeSafetensors(join(parts.vision, 'model.safetensors'), visionKind === 'bare' ? bare : blocks);
    json(join(parts.vision, 'config.json'), { architectures: ['VisionModel'], model_type, ...vision });
  }
  json(join(parts.vision, 'preprocessor_config.json'), preprocessor);

  mkdirSync(parts.lm, { recursive: true });
  for (const file of ['tokenizer.json', 'tokenizer_config.json']) cpSync(join(TOKENIZER, file), join(parts.lm, file));
  json(join(parts.lm, 'generation_config.json'), { eos_token_id: 0, temperature: 0 });
  const text = config.text_config;
  if (lmKind === 'hf') {
    await writeSafetensors(
      join(parts.lm, 'model.safetensors'),
      under(LANGUAGE, (path) => path),
    );
    json(join(parts.lm, 'config.json'), { architectures: ['MambaForCausalLM'], transformers_version: '4', ...text });
  } else {
    const sources = under(LANGUAGE, (path) => path.replace('backbone.embeddings.', 'backbone.embedding.'));
    const tied = sources.find(({ name }) => name === 'backbone.embedding.weight')!;
    await writeSafetensors(join(parts.lm, 'model.safetensors'), [...sources, { ...tied, name: 'lm_head.weight' }]);
    json(join(parts.lm, 'config.json'), {
      d_model: text.hidden_size,
      n_layer: text.num_hidden_layers,
      // Padded to 512 rows.
      vocab_size: 509,
      pad_vocab_size_multiple: 8,
      ssm_cfg: { d_state: text.state_size, dt_rank: text.time_step_rank },
      rms_norm: true,
      residual_in_fp32: true,
      fused_add_norm: true,
    });
  }

  const bare = tower === 'clip';
  await writeSafetensors(
    parts.connector,
    under(PROJECTOR, (path) => (bare ? path : `${PROJECTOR}${path}`)),
  );
  const { connector_config, vision_feature_layer, vision_feature_select_strategy } = config;
  json(parts.config, { connector_config, vision_feature_layer, vision_feature_select_strategy });
  return parts;
}
