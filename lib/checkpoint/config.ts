import { join } from 'node:path';
import { show, VLMambaError } from '../errors.ts';
import { QUANT_BLOCK } from '../ops/quantised.ts';
import { Fields, isRecord, Report } from './fields.ts';
import { readSmallFile } from './regular_file.ts';
import { JsonError, type JsonRecord, parseJsonData } from './strict_json.ts';

/** The vision tower, as `vision_config` describes it. */
export interface VisionConfig {
  /** SigLIP has no class token, CLIP has one. */
  type: 'siglip' | 'clip';
  /** Width of a row. */
  hiddenSize: number;
  /** Width of the two-layer perceptron inside of a block. */
  intermediateSize: number;
  /** Blocks of the file; those behind the feature layer are not run. */
  numHiddenLayers: number;
  /** Heads of attention; they divide `hiddenSize`. */
  numAttentionHeads: number;
  /** Colours of a pixel. */
  numChannels: number;
  /** Side of the picture in pixels. Where `patchSize` does not divide it, the rest is not read. */
  imageSize: number;
  /** Side of a patch in pixels. */
  patchSize: number;
  /** `gelu` is the exact erf form. */
  hiddenAct: 'gelu' | 'gelu_pytorch_tanh' | 'quick_gelu';
  /** Added to the variance in norms. */
  layerNormEps: number;
}

/** The language model, as `text_config` describes it: Mamba (arXiv 2312.00752). */
export interface TextConfig {
  /** Width of a row. */
  hiddenSize: number;
  /** Width of a Mamba block inside, E. */
  intermediateSize: number;
  /** Numbers of state for each channel. */
  stateSize: number;
  /** Blocks. */
  numHiddenLayers: number;
  /** Rows of the embedding, padding included. */
  vocabSize: number;
  /** Positions that the convolution sees, the present one included: 2 to 4. */
  convKernel: number;
  /** Width that the time step is computed through. */
  timeStepRank: number;
  /** Added to the mean square in norms. */
  layerNormEps: number;
  /** Whether the projections in and out of a block have a bias. */
  useBias: boolean;
  /** Whether the convolution has one. */
  useConvBias: boolean;
  /** Whether logits are products with the embedding. */
  tieWordEmbeddings: boolean;
  /** Ids that end a text. */
  eosTokenIds: number[];
  /** The id that begins a text, where there is one; it is not added by itself. */
  bosTokenId: number | null;
  /** The id that fills rows up elsewhere; it is not used here. */
  padTokenId: number | null;
}

/** The multimodal connector. Type `mlp` has no VSS module and ignores its fields. */
export interface ConnectorConfig {
  /** What stands between the tower and the language model; docs/checkpoints.md has their tensors. */
  type: 'mlp' | 'vss-mlp' | 'vss-l2';
  /** `bsm`: rows and their reverse; `csm`: columns and their reverse too. */
  scan: 'bsm' | 'csm';
  /** Whether the directions have one set of weights or each its own. */
  weights: 'shared' | 'per-direction';
  /** How the directions are put together. */
  merge: 'sum' | 'mean';
  /** mlp, vss-mlp: width between the two linears; vss-l2: width of the VSS module. */
  hiddenSize: number;
  /** Numbers of state for each channel. */
  stateSize: number;
  /** Patches that the convolution sees along a direction. */
  convKernel: number;
  /** Width of the VSS module inside, as a multiple of its width outside. */
  expand: number;
  /** Width that the time step is computed through. */
  timeStepRank: number;
  /** The norm behind the VSS module. */
  norm: 'layer' | 'rms';
  /** What it adds to the variance, or the mean square. */
  normEps: number;
  /** `gelu` is the exact erf form. */
  hiddenAct: 'gelu' | 'gelu_pytorch_tanh';
}

/** A checkpoint's config.json, with the defaults for what is absent. */
export interface ModelConfig {
  /** null, like `connector`, for a checkpoint that only reads text. */
  vision: VisionConfig | null;
  /** The language model. */
  text: TextConfig;
  /** What stands between the two. */
  connector: ConnectorConfig | null;
  /** Index into the hidden states: 0 the embeddings, k what layer k gives; negative from the end. */
  visionFeatureLayer: number;
  /** `default` drops the class token. A SigLIP tower has none and is always `full`. */
  visionFeatureSelectStrategy: 'default' | 'full';
  /** What is odd about the file and did no harm. */
  warnings: string[];
}

/** Defaults a checkpoint proposes for generating; what its file does not say is absent. */
export interface GenerationConfig {
  eosTokenIds?: number[];
  /** 0 is greedy. */
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
  maxNewTokens?: number;
  warnings: string[];
}

const FILE_BYTES = 2 ** 20;
const MAX_DEPTH = 32;
const MAX_LAYERS = 1024;
const MAX_WIDTH = 65_536;
const MAX_STATE = 1024;
const MAX_EXPAND = 16;
const MAX_VOCAB = 2 ** 22;
/** A sequence's recurrent state in bytes; the largest public Mamba has 24 MB. */
const MAX_STATE_BYTES = 2 ** 36;
const CONV_KERNELS = [2, 3, 4];
const EPS = { above: 0, max: 0.1 };
const DTYPES = ['float32', 'float16', 'bfloat16', null];
const NOT_VL_MAMBA = 'this is not a VL-Mamba model (model_type "vl_mamba", or "mamba" for text only)';

/**
 * Reads `config.json` of a checkpoint folder: Hugging Face's names or state-spaces' for the language model, Hugging Face's
 * defaults for what is absent. A `mamba` or state-spaces file on its own is a model that only reads text.
 * @throws VLMambaError ERR_CFG_FILE, ERR_CFG_JSON, ERR_CFG_MODEL, ERR_CFG_MISSING or ERR_CFG_VALUE; fields that are wrong
 * are reported together, with their paths in `details.problems`
 */
export async function readConfig(dir: string, { signal }: { signal?: AbortSignal } = {}): Promise<ModelConfig> {
  const path = join(dir, 'config.json');
  return parseConfig(await readConfigRecord(path, signal), path);
}

/** `readConfig` for a file that is parsed already; `path` names it in messages. */
export function parseConfig(record: JsonRecord, path: string): ModelConfig {
  checkModelType(record, path);
  const report = new Report(path);
  const root = new Fields(record, '', report);
  const isComposite = record.model_type === 'vl_mamba';
  checkQuantization(root);
  const text = isComposite ? root.object('text_config') : root;
  if (text === null) {
    report.add('text_config', 'is missing, expected the fields of a Mamba model', 'ERR_CFG_MISSING');
    report.throwIfAny();
  }
  const config: ModelConfig = {
    text: readText(text!, isComposite ? root.boolean('tie_word_embeddings', true) : true, report),
    vision: null,
    connector: null,
    visionFeatureLayer: -2,
    visionFeatureSelectStrategy: 'default',
    warnings: report.warnings,
  };
  if (isComposite) readPicturePath(config, root, report);
  report.throwIfAny();
  return config;
}

/**
 * Reads `generation_config.json`. Without the file nothing is proposed. `do_sample: false` means greedy.
 * @throws VLMambaError ERR_CFG_FILE, ERR_CFG_JSON or ERR_CFG_VALUE
 */
export async function readGenerationConfig(
  dir: string,
  { vocabSize = MAX_VOCAB, signal }: { vocabSize?: number; signal?: AbortSignal } = {},
): Promise<GenerationConfig> {
  const path = join(dir, 'generation_config.json');
  let record: JsonRecord;
  try {
    record = await readConfigRecord(path, signal);
  } catch (error) {
    if (error instanceof VLMambaError && error.details.reason === 'ENOENT') return { warnings: [] };
    throw error;
  }
  const report = new Report(path);
  // Hugging Face writes null for what is not set.
  const set = Object.fromEntries(Object.entries(record).filter(([, value]) => value !== null)) as JsonRecord;
  const fields = new Fields(Object.assign(Object.create(null), set), '', report);
  const config: GenerationConfig = { warnings: report.warnings };
  if (fields.has('eos_token_id')) config.eosTokenIds = fields.tokenIds('eos_token_id', vocabSize, []);
  const sample = fields.boolean('do_sample', true);
  const temperature = fields.number('temperature', { min: 0, max: 100 }, 1);
  if (!sample) config.temperature = 0;
  else if (fields.has('temperature') || fields.has('do_sample')) config.temperature = temperature;
  const topK = fields.integer('top_k', 0, 2 ** 31 - 1, 0);
  if (fields.has('top_k')) config.topK = topK;
  const topP = fields.number('top_p', { above: 0, max: 1 }, 1);
  if (fields.has('top_p')) config.topP = topP;
  const minP = fields.number('min_p', { min: 0, max: 1 }, 0);
  if (fields.has('min_p')) config.minP = minP;
  const repetitionPenalty = fields.number('repetition_penalty', { above: 0, max: 100 }, 1);
  if (fields.has('repetition_penalty')) config.repetitionPenalty = repetitionPenalty;
  const maxNewTokens = fields.integer('max_new_tokens', 0, 2 ** 20, 0);
  if (fields.has('max_new_tokens')) config.maxNewTokens = maxNewTokens;
  // A total of prompt and answer, which a state-space model has no use for; a wild value still means a wrong file.
  fields.integer('max_length', 0, 2 ** 31 - 1, 0);
  fields.warnMisspelt();
  report.throwIfAny();
  return config;
}

/**
 * The object that a configuration file holds.
 * @throws VLMambaError ERR_CFG_FILE, ERR_CFG_JSON
 */
export async function readConfigRecord(path: string, signal?: AbortSignal): Promise<JsonRecord> {
  signal?.throwIfAborted();
  const bytes = await readSmallFile(path, { code: 'ERR_CFG_FILE', maxBytes: FILE_BYTES, signal });
  let data: unknown;
  try {
    data = parseJsonData(bytes, { maxDepth: MAX_DEPTH });
  } catch (error) {
    if (!(error instanceof JsonError)) throw error;
    throw new VLMambaError('ERR_CFG_JSON', `${path}: ${error.message}`, {
      details: { path, offset: error.offset },
      cause: error,
    });
  }
  if (isRecord(data)) return data;
  throw new VLMambaError('ERR_CFG_JSON', `${path}: must hold an object, found ${show(data)}`, { details: { path } });
}

function checkModelType(record: JsonRecord, path: string): void {
  const { model_type: type, architectures } = record;
  const refuse = (what: string): never => {
    throw new VLMambaError('ERR_CFG_MODEL', `${path}: ${what}: ${NOT_VL_MAMBA}`, { details: { path, found: type } });
  };
  if (type === undefined) {
    if (!('d_model' in record) || !('n_layer' in record)) refuse('model_type is missing');
  } else if (type !== 'vl_mamba' && type !== 'mamba') refuse(`model_type is ${show(type)}`);
  if (Array.isArray(architectures) && architectures.length > 0) {
    const isOurs = architectures.some((name) => typeof name === 'string' && /mamba/i.test(name));
    if (!isOurs) refuse(`architectures is ${show(architectures)}`);
  }
}

/** How matrices are quantised is read from their dtypes; what else the block says is that it is this package's format. */
function checkQuantization(root: Fields): void {
  const fields = root.object('quantization_config');
  fields?.choice('quant_method', ['vl_mamba']);
  fields?.choice('bits', [8, 4]);
  fields?.choice('group_size', [QUANT_BLOCK], QUANT_BLOCK);
}

/** Fields of a language model that say how it was trained or run elsewhere. */
const TEXT_NOT_READ = [
  'time_step_min',
  'time_step_max',
  'time_step_scale',
  'time_step_floor',
  'time_step_init_scheme',
  'use_cache',
];

function readText(fields: Fields, tied: boolean, report: Report): TextConfig {
  const isStateSpaces = fields.has('d_model') || fields.has('n_layer') || fields.has('ssm_cfg');
  fields.choice('model_type', ['mamba'], 'mamba');
  fields.choice(['torch_dtype', 'dtype'], DTYPES, null);
  fields.choice('ssm_cfg.layer', ['Mamba1'], 'Mamba1');
  fields.choice('hidden_act', ['silu'], 'silu');
  fields.choice('rms_norm', [true], true);
  fields.choice('d_intermediate', [0], 0);
  fields.emptyList('attn_layer_idx');
  fields.object('ssm_cfg');

  const hiddenSize = fields.integer(['hidden_size', 'd_model'], 2, MAX_WIDTH, isStateSpaces ? 2560 : 768);
  const expand = fields.integer(['expand', 'ssm_cfg.expand'], 1, MAX_EXPAND, 2);
  const numHiddenLayers = fields.integer(['num_hidden_layers', 'n_layer'], 1, MAX_LAYERS, isStateSpaces ? 64 : 32);
  const stateSize = fields.integer(['state_size', 'ssm_cfg.d_state'], 1, MAX_STATE, 16);
  const convKernel = fields.choice(['conv_kernel', 'ssm_cfg.d_conv'], CONV_KERNELS, 4);
  const widest = MAX_WIDTH * MAX_EXPAND;
  const intermediateSize = fields.integerOrAuto('intermediate_size', 1, widest, expand * hiddenSize);
  const timeStepRank = fields.integerOrAuto(
    ['time_step_rank', 'ssm_cfg.dt_rank'],
    1,
    intermediateSize,
    Math.ceil(hiddenSize / 16),
  );
  const words = fields.integer('vocab_size', 1, MAX_VOCAB, isStateSpaces ? 50_277 : 50_280);
  const multiple = fields.integer('pad_vocab_size_multiple', 1, 65_536, isStateSpaces ? 8 : 1);
  const vocabSize = Math.ceil(words / multiple) * multiple;
  const text: TextConfig = {
    hiddenSize,
    intermediateSize,
    stateSize,
    numHiddenLayers,
    vocabSize,
    convKernel,
    timeStepRank,
    layerNormEps: fields.number('layer_norm_epsilon', EPS, 1e-5),
    useBias: fields.boolean(['use_bias', 'ssm_cfg.bias'], false),
    useConvBias: fields.boolean(['use_conv_bias', 'ssm_cfg.conv_bias'], true),
    tieWordEmbeddings: fields.boolean(['tie_word_embeddings', 'tie_embeddings'], tied),
    eosTokenIds: fields.tokenIds('eos_token_id', vocabSize, [0]),
    bosTokenId: fields.tokenId('bos_token_id', vocabSize, 0),
    padTokenId: fields.tokenId('pad_token_id', vocabSize, 0),
  };
  fields.warnMisspelt(TEXT_NOT_READ);
  if (!report.clean) return text;

  if (hiddenSize % 2 !== 0) {
    report.add(fields.path('hidden_size'), `must be even, found ${hiddenSize}`);
  }
  if (intermediateSize !== expand * hiddenSize) {
    report.warn(
      `${fields.path('intermediate_size')} is ${intermediateSize} and not expand · hidden_size, ${expand * hiddenSize}`,
    );
  }
  const stateBytes = numHiddenLayers * intermediateSize * (stateSize + convKernel - 1) * 4;
  if (stateBytes > MAX_STATE_BYTES) {
    report.add(
      fields.path('num_hidden_layers'),
      `and the widths ask for ${stateBytes} bytes of state, at most ${MAX_STATE_BYTES}`,
    );
  }
  return text;
}

/** The vision tower, the connector and what joins them; `config` keeps its nulls where a file has neither. */
function readPicturePath(config: ModelConfig, root: Fields, report: Report): void {
  const towerFields = root.object('vision_config');
  const connectorFields = root.object('connector_config');
  if ((towerFields === null) !== (connectorFields === null)) {
    if (towerFields === null) report.add('vision_config', 'is missing, connector_config is there', 'ERR_CFG_MISSING');
    else report.add('connector_config', 'is missing, vision_config is there', 'ERR_CFG_MISSING');
  }
  const layer = root.integer('vision_feature_layer', -MAX_LAYERS - 1, MAX_LAYERS, -2);
  const strategies = ['default', 'full'] as const;
  const strategy = root.choice('vision_feature_select_strategy', strategies, 'default');
  root.choice(['torch_dtype', 'dtype'], DTYPES, null);
  root.warnMisspelt();
  if (!towerFields || !connectorFields) return;

  const vision = readVision(towerFields, report);
  const connector = readConnector(connectorFields, vision);
  const layers = vision.numHiddenLayers;
  Object.assign(config, { vision, connector, visionFeatureLayer: layer });
  config.visionFeatureSelectStrategy = vision.type === 'siglip' ? 'full' : strategy;
  if (layer < -layers - 1 || layer > layers) {
    const rule = `must be an integer from ${-layers - 1} to ${layers}, the hidden states of ${layers} layers`;
    report.add('vision_feature_layer', `${rule}, found ${layer}`);
  }
  if (connector.type !== 'mlp' && config.visionFeatureSelectStrategy === 'full' && vision.type === 'clip') {
    const reason = 'the class token has no place in the grid that the connector scans';
    report.add(
      'vision_feature_select_strategy',
      `must be "default" with connector ${show(connector.type)} (${reason}), found "full"`,
    );
  }
}

function readVision(fields: Fields, report: Report): VisionConfig {
  const model = fields.choice('model_type', ['siglip_vision_model', 'clip_vision_model']);
  const type = model === 'clip_vision_model' ? 'clip' : 'siglip';
  fields.choice(['torch_dtype', 'dtype'], DTYPES, null);
  const acts = ['gelu', 'gelu_pytorch_tanh', 'quick_gelu'] as const;
  const vision: VisionConfig = {
    type,
    hiddenSize: fields.integer('hidden_size', 1, MAX_WIDTH, 768),
    intermediateSize: fields.integer('intermediate_size', 1, MAX_WIDTH * MAX_EXPAND, 3072),
    numHiddenLayers: fields.integer('num_hidden_layers', 1, MAX_LAYERS, 12),
    numAttentionHeads: fields.integer('num_attention_heads', 1, MAX_LAYERS, 12),
    numChannels: fields.choice('num_channels', [3], 3),
    imageSize: fields.integer('image_size', 1, 4096, 224),
    patchSize: fields.integer('patch_size', 1, 4096, type === 'clip' ? 32 : 16),
    hiddenAct: fields.choice('hidden_act', acts, type === 'clip' ? 'quick_gelu' : 'gelu_pytorch_tanh'),
    layerNormEps: fields.number('layer_norm_eps', EPS, type === 'clip' ? 1e-5 : 1e-6),
  };
  fields.warnMisspelt();
  if (!report.clean) return vision;
  if (vision.hiddenSize % vision.numAttentionHeads !== 0) {
    report.add(
      fields.path('num_attention_heads'),
      `must divide hidden_size ${vision.hiddenSize}, found ${vision.numAttentionHeads}`,
    );
  }
  if (vision.patchSize > vision.imageSize) {
    report.add(fields.path('patch_size'), `must be at most image_size ${vision.imageSize}, found ${vision.patchSize}`);
  }
  return vision;
}

function readConnector(fields: Fields, vision: VisionConfig): ConnectorConfig {
  const type = fields.choice('type', ['mlp', 'vss-mlp', 'vss-l2']);
  const hiddenSize = fields.integer('hidden_size', 1, MAX_WIDTH);
  const expand = fields.integer('expand', 1, MAX_EXPAND, 2);
  const width = type === 'vss-mlp' ? vision.hiddenSize : hiddenSize;
  const connector: ConnectorConfig = {
    type,
    scan: fields.choice('scan', ['bsm', 'csm'], 'bsm'),
    weights: fields.choice('weights', ['shared', 'per-direction'], 'shared'),
    merge: fields.choice('merge', ['sum', 'mean'], 'sum'),
    hiddenSize,
    stateSize: fields.integer('state_size', 1, MAX_STATE, 16),
    convKernel: fields.choice('conv_kernel', CONV_KERNELS, 4),
    expand,
    timeStepRank: fields.integerOrAuto('time_step_rank', 1, expand * width, Math.ceil(width / 16)),
    norm: fields.choice('norm', ['layer', 'rms'], 'layer'),
    normEps: fields.number('norm_eps', EPS, 1e-5),
    hiddenAct: fields.choice('hidden_act', ['gelu', 'gelu_pytorch_tanh'], 'gelu'),
  };
  fields.warnMisspelt();
  return connector;
}
