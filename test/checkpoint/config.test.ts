import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { parseConfig, readConfig, readGenerationConfig } from '../../lib/checkpoint/config.ts';
import type { JsonRecord } from '../../lib/checkpoint/strict_json.ts';
import { failure, scratch } from './hostile.ts';

const { dir, put } = scratch();
let folders = 0;
function folder(file: string, content: string | Uint8Array): string {
  const name = `config-${folders++}`;
  put(join(name, file), content);
  return join(dir, name);
}

const parse = (record: unknown) => parseConfig(record as JsonRecord, 'config.json');

const siglip = {
  model_type: 'siglip_vision_model',
  hidden_size: 48,
  intermediate_size: 100,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  image_size: 62,
  patch_size: 14,
};
const clip = { ...siglip, model_type: 'clip_vision_model', image_size: 70 };
const mamba = { model_type: 'mamba', hidden_size: 64, num_hidden_layers: 3, vocab_size: 512 };
const vss = { type: 'vss-l2', hidden_size: 40 };
type Part = Record<string, unknown>;
const whole = (text: Part = {}, vision: Part = {}, connector: Part = {}, root: Part = {}): Part => ({
  model_type: 'vl_mamba',
  text_config: { ...mamba, ...text },
  vision_config: { ...siglip, ...vision },
  connector_config: { ...vss, ...connector },
  ...root,
});

test('absent fields take the defaults of Hugging Face and of the format', () => {
  assert.equal(parse(whole()), {
    vision: {
      type: 'siglip',
      hiddenSize: 48,
      intermediateSize: 100,
      numHiddenLayers: 3,
      numAttentionHeads: 4,
      numChannels: 3,
      imageSize: 62,
      patchSize: 14,
      hiddenAct: 'gelu_pytorch_tanh',
      layerNormEps: 1e-6,
    },
    text: {
      hiddenSize: 64,
      intermediateSize: 128,
      stateSize: 16,
      numHiddenLayers: 3,
      vocabSize: 512,
      convKernel: 4,
      timeStepRank: 4,
      layerNormEps: 1e-5,
      useBias: false,
      useConvBias: true,
      tieWordEmbeddings: true,
      eosTokenIds: [0],
      bosTokenId: 0,
      padTokenId: 0,
    },
    connector: {
      type: 'vss-l2',
      scan: 'bsm',
      weights: 'shared',
      merge: 'sum',
      hiddenSize: 40,
      stateSize: 16,
      convKernel: 4,
      expand: 2,
      timeStepRank: 3,
      norm: 'layer',
      normEps: 1e-5,
      hiddenAct: 'gelu',
    },
    visionFeatureLayer: -2,
    visionFeatureSelectStrategy: 'full',
    warnings: [],
  });
  const { vision, text } = parse({
    model_type: 'vl_mamba',
    text_config: {},
    vision_config: { model_type: 'clip_vision_model' },
    connector_config: { type: 'mlp', hidden_size: 80 },
  });
  assert.equal(vision, {
    type: 'clip',
    hiddenSize: 768,
    intermediateSize: 3072,
    numHiddenLayers: 12,
    numAttentionHeads: 12,
    numChannels: 3,
    imageSize: 224,
    patchSize: 32,
    hiddenAct: 'quick_gelu',
    layerNormEps: 1e-5,
  });
  assert.equal([text.hiddenSize, text.numHiddenLayers, text.vocabSize, text.timeStepRank], [768, 32, 50_280, 48]);
});

test('every field that is given is taken', () => {
  const { text, vision, connector, visionFeatureLayer } = parse(
    whole(
      {
        intermediate_size: 256,
        expand: 4,
        state_size: 8,
        conv_kernel: 3,
        time_step_rank: 7,
        layer_norm_epsilon: 1e-3,
        use_bias: true,
        use_conv_bias: false,
        tie_word_embeddings: false,
        eos_token_id: [1, 2],
        bos_token_id: 3,
        pad_token_id: null,
      },
      { hidden_act: 'gelu', layer_norm_eps: 1e-4, num_channels: 3 },
      {
        type: 'vss-mlp',
        scan: 'csm',
        weights: 'per-direction',
        merge: 'mean',
        state_size: 9,
        conv_kernel: 2,
        expand: 1,
        time_step_rank: 5,
        norm: 'rms',
        norm_eps: 0.01,
        hidden_act: 'gelu_pytorch_tanh',
      },
      { vision_feature_layer: 0 },
    ),
  );
  assert.equal(text, {
    hiddenSize: 64,
    intermediateSize: 256,
    stateSize: 8,
    numHiddenLayers: 3,
    vocabSize: 512,
    convKernel: 3,
    timeStepRank: 7,
    layerNormEps: 1e-3,
    useBias: true,
    useConvBias: false,
    tieWordEmbeddings: false,
    eosTokenIds: [1, 2],
    bosTokenId: 3,
    padTokenId: null,
  });
  assert.equal([vision!.hiddenAct, vision!.layerNormEps], ['gelu', 1e-4]);
  assert.equal(connector, {
    type: 'vss-mlp',
    scan: 'csm',
    weights: 'per-direction',
    merge: 'mean',
    hiddenSize: 40,
    stateSize: 9,
    convKernel: 2,
    expand: 1,
    timeStepRank: 5,
    norm: 'rms',
    normEps: 0.01,
    hiddenAct: 'gelu_pytorch_tanh',
  });
  assert.is(visionFeatureLayer, 0);
});

test('"auto" and the ranks of the connector follow from the widths', () => {
  const { text } = parse(whole({ hidden_size: 66, intermediate_size: 'auto', time_step_rank: 'auto' }));
  assert.equal([text.intermediateSize, text.timeStepRank], [132, 5]);
  const rank = (connector: Part): number => parse(whole({}, {}, connector)).connector!.timeStepRank;
  assert.is(rank({ time_step_rank: 'auto' }), 3);
  assert.is(rank({ type: 'vss-mlp', hidden_size: 999 }), 3);
});

test('the spelling of state-spaces means the same', () => {
  const published = {
    d_model: 2560,
    n_layer: 64,
    vocab_size: 50_277,
    ssm_cfg: {},
    rms_norm: true,
    residual_in_fp32: true,
    fused_add_norm: true,
    pad_vocab_size_multiple: 8,
  };
  const { text, vision, connector } = parse(published);
  assert.is(vision, null);
  assert.is(connector, null);
  assert.equal(
    [text.hiddenSize, text.intermediateSize, text.numHiddenLayers, text.vocabSize, text.timeStepRank, text.stateSize],
    [2560, 5120, 64, 50_280, 160, 16],
  );
  const spelt = whole({
    hidden_size: undefined,
    num_hidden_layers: undefined,
    d_model: 64,
    n_layer: 3,
    vocab_size: 505,
    ssm_cfg: { layer: 'Mamba1', d_state: 8, d_conv: 3, expand: 4, dt_rank: 'auto', bias: true, conv_bias: false },
    tie_embeddings: false,
    attn_layer_idx: [],
    d_intermediate: 0,
  });
  const other = parse(JSON.parse(JSON.stringify(spelt))).text;
  assert.equal(
    [
      other.hiddenSize,
      other.numHiddenLayers,
      other.vocabSize,
      other.stateSize,
      other.convKernel,
      other.intermediateSize,
    ],
    [64, 3, 512, 8, 3, 256],
  );
  assert.equal(
    [other.timeStepRank, other.useBias, other.useConvBias, other.tieWordEmbeddings],
    [4, true, false, false],
  );
});

test('a language model on its own reads no pictures', () => {
  for (const record of [mamba, { model_type: 'vl_mamba', text_config: mamba }]) {
    const { vision, connector, text } = parse(record);
    assert.equal([vision, connector, text.hiddenSize], [null, null, 64]);
  }
});

test('tie_word_embeddings of the whole counts where the text has none', () => {
  const tied = (text: Part, root: Part): boolean => parse(whole(text, {}, {}, root)).text.tieWordEmbeddings;
  assert.is(tied({}, { tie_word_embeddings: false }), false);
  assert.is(tied({ tie_word_embeddings: true }, { tie_word_embeddings: false }), true);
});

test('the class token: dropped by default, kept with full, absent in SigLIP', () => {
  const strategy = (vision: Part, connector: Part, root: Part): string =>
    parse(whole({}, vision, connector, root)).visionFeatureSelectStrategy;
  const full = { vision_feature_select_strategy: 'full' };
  assert.is(strategy(clip, {}, {}), 'default');
  assert.is(strategy(clip, { type: 'mlp' }, full), 'full');
  assert.is(strategy({}, {}, full), 'full');
  assert.is(strategy({}, {}, { vision_feature_select_strategy: 'default' }), 'full');
});

const text = (field: string, value: unknown): Part => whole({ [field]: value });
const vision = (field: string, value: unknown): Part => whole({}, { [field]: value });
const connector = (field: string, value: unknown): Part => whole({}, {}, { [field]: value });
const root = (field: string, value: unknown): Part => whole({}, {}, {}, { [field]: value });
const each = (
  id: string,
  make: (field: string, value: unknown) => Part,
  field: string,
  values: unknown[],
  message: string,
): [string, Part, string][] =>
  values.map((value) => [`${id} ${field} ${JSON.stringify(value)}`, make(field, value), message]);

const integers = [-1, 0, 1.5, '24', 1e9, 'NaN', null, true, [], {}, 2n ** 70n];
const wrong: [id: string, record: Part, message: string][] = [
  ...each(
    'CF-02',
    text,
    'num_hidden_layers',
    integers.slice(0, -1),
    'text_config.num_hidden_layers must be an integer from 1 to 1024, found',
  ),
  ['CF-02 n_layer -1', { d_model: 64, n_layer: -1 }, 'n_layer must be an integer from 1 to 1024, found -1'],
  ['CF-02 a bigint', text('num_hidden_layers', integers.at(-1)), 'found 1180591620717411303424'],
  ...each('CF-03', text, 'hidden_size', [0, 2 ** 31, 63, -64], 'text_config.hidden_size must be'),
  ...each('CF-03', vision, 'hidden_size', [0, 2 ** 31], 'vision_config.hidden_size must be an integer from 1 to 65536'),
  ...each('CF-03', connector, 'hidden_size', [0, 2 ** 31, '40'], 'connector_config.hidden_size must be an integer'),
  ...each('CF-04', text, 'state_size', [0, 1e9, 1025], 'text_config.state_size must be an integer from 1 to 1024'),
  ...each('CF-04', connector, 'state_size', [0, 1e9], 'connector_config.state_size must be an integer from 1 to 1024'),
  ...each('CF-05', text, 'conv_kernel', [0, 1, 5, 1e6, '4'], 'text_config.conv_kernel must be one of 2, 3, 4, found'),
  ...each('CF-05', connector, 'conv_kernel', [0, 5], 'connector_config.conv_kernel must be one of 2, 3, 4, found'),
  ...each('CF-06', text, 'expand', [0.5, -2, 1e308, 0], 'text_config.expand must be an integer from 1 to 16'),
  ...each('CF-06', connector, 'expand', [0.5, -2, 1e308], 'connector_config.expand must be an integer'),
  ...each('CF-07', text, 'time_step_rank', [0, 129, 'automatic', 1.5], 'must be an integer from 1 to 128 or "auto"'),
  ...each('CF-07', connector, 'time_step_rank', [0, 81, ''], 'must be an integer from 1 to 80 or "auto"'),
  [
    'CF-08 a state of terabytes',
    whole({ hidden_size: 65_536, num_hidden_layers: 1024, state_size: 1024, expand: 16 }),
    'bytes of state, at most 68719476736',
  ],
  ...each(
    'CF-09',
    text,
    'layer_norm_epsilon',
    ['NaN', 0, -1e-5, 1e10, '1e-5', null],
    'text_config.layer_norm_epsilon must be a number above 0 and at most 0.1',
  ),
  ...each('CF-09', vision, 'layer_norm_eps', [0, 0.2], 'vision_config.layer_norm_eps must be a number above 0'),
  ...each('CF-09', connector, 'norm_eps', [0, -1], 'connector_config.norm_eps must be a number above 0'),
  ...each(
    'CF-11',
    text,
    'vocab_size',
    [2 ** 32, 0, -1, '512'],
    'text_config.vocab_size must be an integer from 1 to 4194304',
  ),
  ...each(
    'CF-13',
    vision,
    'image_size',
    [0, 1e6, -14, 13.5],
    'vision_config.image_size must be an integer from 1 to 4096',
  ),
  ...each('CF-13', vision, 'patch_size', [0, -1, 63, '14'], 'vision_config.patch_size must be'),
  ...each('CF-13', vision, 'num_channels', [1, 4, 0], 'vision_config.num_channels must be 3'),
  ...each('CF-13', vision, 'num_attention_heads', [0, 5, 49], 'vision_config.num_attention_heads must'),
  ...each(
    'CF-17',
    root,
    'torch_dtype',
    ['float8', 'auto', 5],
    'torch_dtype must be one of "float32", "float16", "bfloat16", null',
  ),
  ...each('CF-17', text, 'dtype', ['float8'], 'text_config.dtype must be one of'),
  ...each('', text, 'model_type', ['mamba2', 'falcon_mamba', 'llama'], 'text_config.model_type must be "mamba", found'),
  ...each('', text, 'hidden_act', ['gelu', 'relu', null], 'text_config.hidden_act must be "silu"'),
  ...each('', text, 'ssm_cfg', [{ layer: 'Mamba2' }], 'text_config.ssm_cfg.layer must be "Mamba1", found "Mamba2"'),
  ...each('', text, 'ssm_cfg', [5, []], 'text_config.ssm_cfg must be an object'),
  ...each('', text, 'rms_norm', [false], 'text_config.rms_norm must be true'),
  ...each('', text, 'attn_layer_idx', [[1, 2]], 'text_config.attn_layer_idx must be an empty list'),
  ...each('', text, 'd_intermediate', [256], 'text_config.d_intermediate must be 0'),
  ...each('', text, 'use_bias', [1, 'false', null], 'text_config.use_bias must be true or false'),
  ...each('', text, 'd_model', [128], 'text_config.d_model is 128, text_config.hidden_size is 64: they must agree'),
  ...each(
    '',
    text,
    'eos_token_id',
    [512, -1, 1.5, '0', [0, 512], Array(65).fill(0)],
    'text_config.eos_token_id must be an integer from 0 to 511',
  ),
  ...each(
    '',
    text,
    'bos_token_id',
    [512, -1, [0]],
    'text_config.bos_token_id must be an integer from 0 to 511 or null',
  ),
  ...each('', vision, 'model_type', ['siglip', 'dinov2', null], 'vision_config.model_type must be one of'),
  ...each('', vision, 'hidden_act', ['silu', 'gelu_new'], 'vision_config.hidden_act must be one of'),
  ...each(
    '',
    connector,
    'type',
    ['mlp2x_gelu', null, 1],
    'connector_config.type must be one of "mlp", "vss-mlp", "vss-l2"',
  ),
  ...each('', connector, 'scan', ['row', null], 'connector_config.scan must be one of "bsm", "csm"'),
  ...each('', connector, 'weights', ['own'], 'connector_config.weights must be one of'),
  ...each('', connector, 'merge', ['max'], 'connector_config.merge must be one of "sum", "mean"'),
  ...each('', connector, 'norm', ['batch'], 'connector_config.norm must be one of "layer", "rms"'),
  ...each('', connector, 'hidden_act', ['quick_gelu'], 'connector_config.hidden_act must be one of'),
  ...each(
    '',
    root,
    'vision_feature_layer',
    [4, -5, 1.5, '-2', [-2], 1e9],
    'vision_feature_layer must be an integer from',
  ),
  ...each(
    '',
    root,
    'vision_feature_select_strategy',
    ['cls', null],
    'vision_feature_select_strategy must be one of "default", "full"',
  ),
  [
    'a class token in the grid',
    whole({}, clip, {}, { vision_feature_select_strategy: 'full' }),
    'must be "default" with connector "vss-l2"',
  ],
  ...each('', root, 'text_config', ['x', 5, []], 'text_config must be an object'),
];
for (const [id, record, message] of wrong) {
  test(`${id} is refused`, async () => {
    const error = await failure(() => parse(record));
    assert.is(error.code, 'ERR_CFG_VALUE', error.stack);
    assert.match(error.message, message);
    assert.ok(error.message.startsWith('config.json: '));
  });
}

const without = (record: Part, field: string): Part => JSON.parse(JSON.stringify({ ...record, [field]: undefined }));
for (const [name, record, message] of [
  ['text_config', without(whole(), 'text_config'), 'text_config is missing'],
  ['text_config null', root('text_config', null), 'text_config is missing'],
  ['vision_config', without(whole(), 'vision_config'), 'vision_config is missing, connector_config is there'],
  ['connector_config', without(whole(), 'connector_config'), 'connector_config is missing, vision_config is there'],
  [
    'vision_config.model_type',
    whole({}, { model_type: undefined }),
    'vision_config.model_type is missing, expected one of',
  ],
  ['connector_config.type', whole({}, {}, { type: undefined }), 'connector_config.type is missing'],
  [
    'connector_config.hidden_size',
    whole({}, {}, { hidden_size: undefined }),
    'connector_config.hidden_size is missing',
  ],
] as const) {
  test(`CF-01: ${name} is missing`, async () => {
    const error = await failure(() => parse(record));
    assert.is(error.code, 'ERR_CFG_MISSING');
    assert.match(error.message, message);
  });
}

for (const record of [
  {},
  { model_type: 'llama' },
  { model_type: 'mamba2', d_model: 64, n_layer: 2 },
  { model_type: null },
  { d_model: 64 },
  { ...whole(), architectures: ['LlamaForCausalLM'] },
]) {
  test(`CF-18: ${JSON.stringify(record).slice(0, 60)} is no VL-Mamba model`, async () => {
    const error = await failure(() => parse(record));
    assert.is(error.code, 'ERR_CFG_MODEL');
    assert.match(error.message, 'not a VL-Mamba model');
  });
}

test('several problems are reported together, at most ten in words', async () => {
  const record = whole({ hidden_size: 0, num_hidden_layers: -1 }, { patch_size: 'x' }, { scan: 'z' });
  const error = await failure(() => parse(record));
  const fields = [
    'text_config.hidden_size',
    'text_config.num_hidden_layers',
    'vision_config.patch_size',
    'connector_config.scan',
  ];
  assert.equal(
    (error.details.problems as { field: string }[]).map(({ field }) => field),
    fields,
  );
  for (const field of fields) assert.match(error.message, field);
  const names = [
    'hidden_size',
    'intermediate_size',
    'num_hidden_layers',
    'num_attention_heads',
    'image_size',
    'patch_size',
  ];
  const zeros = Object.fromEntries(names.map((name) => [name, 0]));
  const many = await failure(() => parse(whole({ ...zeros, state_size: 0, expand: 0, vocab_size: 0 }, zeros, zeros)));
  assert.match(many.message, /; and [1-9] more$/);
  assert.ok((many.details.problems as unknown[]).length > 10);
});

test('CF-01: a misspelt field is a warning with the name that is near', () => {
  const { warnings } = parse(whole({ num_hidden_layer: 5, state_size: undefined, stat_size: 3 }, {}, { scann: 'csm' }));
  assert.equal(warnings, [
    'config.json: text_config.stat_size is not known and not read; is it state_size?',
    'config.json: connector_config.scann is not known and not read; is it scan?',
  ]);
  const fields = { torch_dtype: 'bfloat16', transformers_version: '4.57.6', image_token_index: 5 };
  const more = { ...fields, time_step_min: 0.001, time_step_scale: 1, use_cache: true };
  assert.equal(parse(whole(more, fields, fields, fields)).warnings, []);
});

test('an inner width that is not expand · hidden_size is taken, with a warning', () => {
  const { text, warnings } = parse(whole({ intermediate_size: 100 }));
  assert.is(text.intermediateSize, 100);
  assert.is(warnings.length, 1);
  assert.match(warnings[0]!, 'text_config.intermediate_size is 100 and not expand · hidden_size, 128');
});

test('CF-19: code and addresses in a file are not looked at', () => {
  const hostile = {
    auto_map: { AutoModel: 'evil--modeling.py' },
    trust_remote_code: true,
    _name_or_path: 'http://127.0.0.1/x',
    vision_tower: '../../x',
  };
  assert.equal(parse(whole(hostile, hostile, hostile, hostile)), parse(whole()));
});

const badFiles: [name: string, content: string | Uint8Array, code: string, message: string][] = [
  ['nothing', '', 'ERR_CFG_JSON', 'unexpected end at byte 0'],
  ['a list', '[]', 'ERR_CFG_JSON', 'must hold an object'],
  ['null', 'null', 'ERR_CFG_JSON', 'must hold an object'],
  [
    'a duplicate key',
    '{"model_type":"mamba","model_type":"vl_mamba"}',
    'ERR_CFG_JSON',
    '"model_type" occurs twice at byte 22',
  ],
  ['a depth of 100,000', `{"x":${'['.repeat(100_000)}`, 'ERR_CFG_JSON', 'nested deeper than 32'],
  ['invalid UTF-8', Buffer.from([0x7b, 0xff]), 'ERR_CFG_JSON', 'invalid UTF-8 at byte 1'],
  ['a byte order mark', '\ufeff{}', 'ERR_CFG_JSON', 'byte order mark'],
  ['a trailing comma', '{"model_type":"mamba",}', 'ERR_CFG_JSON', 'at byte 22'],
  ['over 1 MB', `{"model_type":"mamba"${' '.repeat(2 ** 20)}}`, 'ERR_CFG_FILE', 'more than the 1048576'],
];
for (const [name, content, code, message] of badFiles) {
  test(`CF-20: a file with ${name} is refused`, async () => {
    const path = folder('config.json', content);
    const error = await failure(() => readConfig(path));
    assert.is(error.code, code);
    assert.ok(error.message.startsWith(join(path, 'config.json')), error.message);
    assert.match(error.message, message);
  });
}

test('CF-20: a file that is absent, or a folder, is refused', async () => {
  const absent = await failure(() => readConfig(join(dir, 'absent')));
  assert.is(absent.code, 'ERR_CFG_FILE');
  assert.is(absent.details.reason, 'ENOENT');
  assert.is((await failure(() => readConfig(folder('config.json/x', '')))).code, 'ERR_CFG_FILE');
});

test('CF-21: __proto__ and constructor change no prototype', async () => {
  const hostile = `{"__proto__":{"polluted":1,"hidden_size":2},"constructor":{"prototype":{"polluted":1}}`;
  const path = folder('config.json', `${hostile},"model_type":"vl_mamba","text_config":${hostile}}}`);
  const { text } = await readConfig(path);
  assert.is(text.hiddenSize, 768);
  assert.is(({} as Part).polluted, undefined);
});

test('an aborted signal rejects with its reason', async () => {
  const signal = AbortSignal.abort(new Error('enough'));
  const path = folder('config.json', JSON.stringify(mamba));
  assert.is(await failure(() => readConfig(path, { signal })), signal.reason);
  assert.is(await failure(() => readGenerationConfig(path, { signal })), signal.reason);
});

const generation = (content: unknown, vocabSize?: number) =>
  readGenerationConfig(folder('generation_config.json', JSON.stringify(content)), { vocabSize });

test('generation_config.json: nothing without the file, and only what it says', async () => {
  assert.equal(await readGenerationConfig(dir), { warnings: [] });
  assert.equal(await generation({ transformers_version: '4.57.6', bos_token_id: 0, top_k: null }), { warnings: [] });
  assert.equal(
    await generation({
      eos_token_id: 5,
      do_sample: true,
      temperature: 0.7,
      top_k: 40,
      top_p: 0.9,
      min_p: 0.05,
      repetition_penalty: 1.1,
      max_new_tokens: 64,
      max_length: 2048,
    }),
    {
      eosTokenIds: [5],
      temperature: 0.7,
      topK: 40,
      topP: 0.9,
      minP: 0.05,
      repetitionPenalty: 1.1,
      maxNewTokens: 64,
      warnings: [],
    },
  );
  assert.equal((await generation({ eos_token_id: [5, 6] })).eosTokenIds, [5, 6]);
});

test('generation_config.json: do_sample decides about the temperature', async () => {
  assert.is((await generation({ do_sample: false, temperature: 0.7 })).temperature, 0);
  assert.is((await generation({ do_sample: true })).temperature, 1);
  assert.is((await generation({ temperature: 0.7 })).temperature, 0.7);
  assert.is((await generation({ temperature: 0 })).temperature, 0);
});

const wild: [field: string, values: unknown[]][] = [
  ['temperature', ['NaN', -1, 1e9, '0.7', [], true]],
  ['top_k', [-1, 1.5, 2 ** 32, '5']],
  ['top_p', [0, -0.1, 1.0001, '1']],
  ['min_p', [-0.1, 1.1, 'x']],
  ['repetition_penalty', [0, -1, 1e9, 'x']],
  ['max_new_tokens', [-1, 1.5, 1e9, 2 ** 53]],
  ['max_length', [1e18, -1]],
  ['do_sample', [0, 'true']],
  ['eos_token_id', [-1, 512, 1.5, '0', Array(100_000).fill(0), [[0]]]],
];
for (const [field, values] of wild) {
  for (const value of values) {
    test(`CF-22: ${field} ${JSON.stringify(value).slice(0, 20)} is refused`, async () => {
      const error = await failure(() => generation({ [field]: value }, 512));
      assert.is(error.code, 'ERR_CFG_VALUE');
      assert.match(error.message, `generation_config.json: ${field} must be`);
      assert.ok(error.message.length < 500);
    });
  }
}

test('GP-18: a misspelt field is a warning', async () => {
  const { warnings } = await generation({ temprature: 0.7 });
  assert.is(warnings.length, 1);
  assert.match(warnings[0]!, 'is it temperature?');
});

const golden = join('..', 'shared', 'golden');
if (existsSync(golden)) {
  test('the reference checkpoints parse', async () => {
    const siglip = await readConfig(join(golden, 'siglip-vssl2-bsm'));
    assert.equal([siglip.vision!.imageSize, siglip.connector!.type, siglip.warnings.length], [62, 'vss-l2', 0]);
    const clip = await readConfig(join(golden, 'clip-mlp'));
    assert.equal([clip.vision!.type, clip.connector!.type, clip.warnings.length], ['clip', 'mlp', 0]);
  });
}

test.run();
