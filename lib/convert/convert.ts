import { join, resolve } from 'node:path';
import { type Checkpoint, type ExpectedTensor, resolveTensors, type StoredTensor } from '../checkpoint/checkpoint.ts';
import { type ModelConfig, readGenerationConfig } from '../checkpoint/config.ts';
import { readTensor } from '../checkpoint/safetensors.ts';
import { type SizedTensor, writeSharded } from '../checkpoint/sharded.ts';
import { refuseExisting, writeWholeFolder } from '../checkpoint/whole_folder.ts';
import { VLMambaError } from '../errors.ts';
import { readPreprocessConfig } from '../image/config.ts';
import { unread, vlMambaParams } from '../models/vl_mamba.ts';
import { readChatTemplate } from '../text/chat_template.ts';
import { loadTokenizer } from '../text/tokenizer.ts';
import { collect } from '../weights.ts';
import { composeConfig } from './config.ts';
import { checkSpace, exists, readFiles, SHARD_BYTES, TEXT_FILES, type Written, writeFiles } from './files.ts';
import { connectorPart, languagePart, visionPart } from './parts.ts';

export interface ConvertOptions {
  /** A SigLIP or CLIP folder. */
  vision: string;
  /** A Mamba folder. */
  lm: string;
  /** A safetensors file. */
  connector: string;
  /** A config.json of the whole, in which `vision_config` and `text_config` may be left out. */
  config: string;
  /** A folder with tokenizer.json, where `lm` has none. */
  tokenizer?: string;
  /** Most bytes of a file of weights. */
  shardBytes?: number;
  signal?: AbortSignal;
  onBytes?: (done: number, total: number) => void;
}

/**
 * Puts a checkpoint together out of its parts. Everything is checked before anything is written; weights are copied bit by bit
 * and pass through memory in pieces; the folder appears when it is whole.
 * @throws VLMambaError ERR_CONVERT_…, ERR_CFG_…, ERR_CKPT_…, ERR_ST_…, ERR_TOK_…; the signal's reason
 */
export async function convert(out: string, options: ConvertOptions): Promise<Written> {
  const { vision, lm, connector, tokenizer = lm, shardBytes = SHARD_BYTES, signal, onBytes } = options;
  await refuseExisting(out);
  const { record, config } = await composeConfig(options.config, { vision, lm }, signal);
  const tensors = new Map([
    ...(await visionPart(vision, signal)),
    ...(await connectorPart(connector, signal)),
    ...(await languagePart(lm, config.text.tieWordEmbeddings, signal)),
  ]);
  const checkpoint = { dir: `${vision}, ${connector} and ${lm}`, tensors, warnings: [...config.warnings] };
  checkTensors(checkpoint, config);
  const copies = await checkFiles({ vision, lm, tokenizer }, config, signal);
  const total = [...tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  await checkSpace(out, total);

  const files: string[] = [];
  let done = 0;
  const source = ([name, tensor]: [string, StoredTensor]): SizedTensor => ({
    ...tensor,
    name,
    data: async function* () {
      for await (const piece of readTensor(tensor.file, tensor, signal)) {
        yield piece;
        onBytes?.((done += piece.length), total);
      }
    },
  });
  await writeWholeFolder(out, async (dir) => {
    files.push(...(await writeFiles(dir, record, copies)));
    files.push(...(await writeSharded(dir, [...tensors].map(source), { shardBytes, signal })));
    signal?.throwIfAborted();
  });
  return { path: resolve(out), files, bytes: total, warnings: checkpoint.warnings };
}

/** All that the config asks for is there in its shape, and nothing else; blocks that only another feature layer reads too. */
function checkTensors(checkpoint: Checkpoint, config: ModelConfig): void {
  const sources = (config: ModelConfig): ExpectedTensor[] =>
    collect(vlMambaParams(config)).flatMap((param) => [...param.sources]);
  const read = sources(config);
  const names = new Set(read.map(({ name }) => name));
  const deeper = sources({ ...config, visionFeatureLayer: config.vision!.numHiddenLayers });
  const more = deeper.filter(({ name }) => !names.has(name)).map((source) => ({ ...source, optional: true }));
  resolveTensors(checkpoint, [...read, ...more], { ignore: unread, strict: true });
}

/** Reads the small files as `load` will; returns those that are copied. */
async function checkFiles(
  { vision, lm, tokenizer }: { vision: string; lm: string; tokenizer: string },
  { text, vision: tower }: ModelConfig,
  signal?: AbortSignal,
): Promise<Map<string, Uint8Array>> {
  const generation = await readGenerationConfig(lm, { vocabSize: text.vocabSize, signal });
  if (!(await exists(join(tokenizer, 'tokenizer.json'))))
    throw new VLMambaError(
      'ERR_TOK_FILE',
      `${tokenizer}: has no tokenizer.json; --tokenizer names the folder of another model that has it`,
    );
  await loadTokenizer(tokenizer, { rows: text.vocabSize, eosTokenIds: generation.eosTokenIds ?? text.eosTokenIds });
  await readChatTemplate(tokenizer);
  await readPreprocessConfig(vision, tower!.imageSize);
  return new Map([
    ...(await readFiles(tokenizer, TEXT_FILES, signal)),
    ...(await readFiles(vision, ['preprocessor_config.json'], signal)),
    ...(await readFiles(lm, ['generation_config.json'], signal)),
  ]);
}
