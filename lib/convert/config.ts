import { join } from 'node:path';
import { type ModelConfig, parseConfig, readConfigRecord } from '../checkpoint/config.ts';
import { isRecord, Report } from '../checkpoint/fields.ts';
import type { JsonData, JsonRecord } from '../checkpoint/strict_json.ts';
import { show, VLMambaError } from '../errors.ts';

/** Older configs carry a whole model's settings for generating text along with a tower's few fields. */
const TOWER_FIELDS = [
  ...['hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads', 'num_channels'],
  ...['image_size', 'patch_size', 'hidden_act', 'layer_norm_eps'],
];
const NOT_OF_A_PART = ['architectures', 'transformers_version', '_name_or_path'];

export interface ComposedConfig {
  /** For config.json. */
  record: JsonRecord;
  config: ModelConfig;
}

/**
 * The config of a whole out of `file`, which has the connector's fields and may have all others, and the parts' own. What both
 * say must agree.
 * @throws VLMambaError ERR_CFG_…
 */
export async function composeConfig(
  file: string,
  { vision, lm }: { vision: string; lm: string },
  signal?: AbortSignal,
): Promise<ComposedConfig> {
  const given = await readConfigRecord(file, signal);
  const tower = await readPart(vision, towerConfig, given.vision_config, signal);
  const text = await readPart(lm, textConfig, given.text_config, signal);
  const record = {
    model_type: 'vl_mamba',
    ...given,
    vision_config: given.vision_config ?? tower!,
    text_config: given.text_config ?? text!,
  } as JsonRecord;
  const config = parseConfig(record, file);
  const asFound = parseConfig(
    { ...record, vision_config: tower ?? record.vision_config!, text_config: text ?? record.text_config! },
    file,
  );
  const report = new Report(file);
  compare(report, 'vision_config', config.vision!, asFound.vision!, vision);
  compare(report, 'text_config', config.text, asFound.text, lm);
  report.throwIfAny();
  return { record, config };
}

/** A part's own config, or undefined where it has none and `given` stands in for it. */
async function readPart(
  dir: string,
  pick: (record: JsonRecord, path: string) => JsonRecord,
  given: JsonData | undefined,
  signal?: AbortSignal,
): Promise<JsonRecord | undefined> {
  const path = join(dir, 'config.json');
  try {
    return pick(await readConfigRecord(path, signal), path);
  } catch (error) {
    if (given !== undefined && error instanceof VLMambaError && error.details.reason === 'ENOENT') return undefined;
    throw error;
  }
}

function towerConfig(record: JsonRecord, path: string): JsonRecord {
  const own = isRecord(record.vision_config) ? record.vision_config : record;
  const found = own.model_type ?? record.model_type;
  const [, family] = /^(siglip|clip)(_vision_model)?$/.exec(String(found)) ?? [];
  if (family === undefined)
    throw new VLMambaError('ERR_CFG_MODEL', `${path}: model_type ${show(found)} is not SigLIP or CLIP`, {
      details: { path, found },
    });
  const fields = TOWER_FIELDS.filter((name) => own[name] !== undefined);
  return { model_type: `${family}_vision_model`, ...Object.fromEntries(fields.map((name) => [name, own[name]!])) };
}

function textConfig(record: JsonRecord, path: string): JsonRecord {
  const own = isRecord(record.text_config) ? record.text_config : record;
  // Says what is wrong with it in its own file's name.
  parseConfig({ model_type: 'mamba', ...own }, path);
  return {
    model_type: 'mamba',
    ...Object.fromEntries(Object.entries(own).filter(([name]) => !NOT_OF_A_PART.includes(name))),
  };
}

function compare(report: Report, part: string, given: object, found: object, dir: string): void {
  for (const [name, value] of Object.entries(given)) {
    const other = (found as Record<string, unknown>)[name];
    if (JSON.stringify(value) === JSON.stringify(other)) continue;
    const field = name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    report.add(
      `${part}.${field}`,
      `is ${show(value)}, ${join(dir, 'config.json')} says ${show(other)}: they must agree`,
    );
  }
}
