import { stderr, stdout } from 'node:process';
import { modelFolder } from '../bundled.ts';
import { type Checkpoint, openCheckpoint } from '../checkpoint/checkpoint.ts';
import { type ModelConfig, readConfig } from '../checkpoint/config.ts';
import { Engine } from '../engine.ts';
import { locate } from '../hub/index.ts';
import type { DownloadProgress } from '../hub/pull.ts';
import { checkFolder } from '../model.ts';
import { pictureRows, unread, vlMambaParams } from '../models/vl_mamba.ts';
import { numel } from '../tensor.ts';
import { collect, type Param, planWeights, type WeightDtype, type WeightPlan, weightBytes } from '../weights.ts';
import { ProgressBar } from './progress.ts';
import { columns } from './style.ts';
import { bytes, count, table } from './text.ts';

/** What a checkpoint holds, from its config and the headers of its files: nothing is loaded. */
export async function info(name: string, { json }: { json?: boolean }, signal: AbortSignal): Promise<void> {
  const bar = new ProgressBar(`fetching ${name}`, stderr.isTTY === true);
  const onProgress = ({ loaded, total }: DownloadProgress) => bar.draw(loaded, total);
  const { path, warnings } = await locate(modelFolder(name), { signal, onProgress }).finally(() => bar.clear());
  await checkFolder(path);
  const config = await readConfig(path, { signal });
  const checkpoint = await openCheckpoint(path, { signal });
  const facts = gather(path, config, checkpoint);
  facts.warnings.unshift(...warnings);
  stdout.write(json ? `${JSON.stringify(facts)}\n` : table(rows(facts, config), columns(stdout)));
}

type Facts = ReturnType<typeof gather>;

function gather(path: string, config: ModelConfig, checkpoint: Checkpoint) {
  const { vision, connector, text } = config;
  const plan = planWeights(checkpoint, vlMambaParams(config), unread);
  const { tree, params, stored, parameters } = plan;
  const files = new Map([...checkpoint.tensors.values()].map(({ file }) => [file.path, file.size]));
  const part = (branch: unknown) => ({
    parameters: elements(collect(branch)),
    memory: memory(collect(branch), plan),
  });
  return {
    path,
    files: files.size,
    fileBytes: sum([...files.values()]),
    dtypes: [...new Set([...stored.values()].map(({ dtype }) => dtype))],
    parameters,
    vision: vision && {
      type: vision.type,
      hiddenSize: vision.hiddenSize,
      layers: vision.numHiddenLayers,
      imageSize: vision.imageSize,
      patchSize: vision.patchSize,
      rows: pictureRows(config),
      ...part(tree.vision),
    },
    connector: connector && {
      type: connector.type,
      scan: connector.scan,
      weights: connector.weights,
      merge: connector.merge,
      ...part(tree.connector),
    },
    text: {
      hiddenSize: text.hiddenSize,
      layers: text.numHiddenLayers,
      stateSize: text.stateSize,
      vocabSize: text.vocabSize,
      ...part(tree.language),
    },
    /** Bytes of weights once loaded with each `dtype`. */
    memory: memory(params, plan),
    /** What matrices are stored in, where those are fewer than 16 bits. */
    quantised: plan.quantised,
    /** Bytes that the files hold and the model does not read. */
    unreadBytes:
      sum([...checkpoint.tensors.values()].map((tensor) => tensor.bytes)) -
      sum([...stored.values()].map((tensor) => tensor.bytes)),
    stateBytes: Engine.stateBytes(config),
    warnings: [...config.warnings, ...checkpoint.warnings],
  };
}

const sum = (numbers: readonly number[]): number => numbers.reduce((total, n) => total + n, 0);
const elements = (params: readonly Param[]): number => sum(params.map(({ shape }) => numel(shape)));

const DTYPES = ['f32', 'bf16', 'f16', 'int8', 'int4'] as const;

/** Bytes as stored, and with each `dtype` that it can be loaded with. */
function memory(params: readonly Param[], { stored, quantised }: WeightPlan<object>) {
  const as = (dtype: WeightDtype) => sum(params.map((param) => weightBytes(param, stored, dtype)));
  const others = quantised ? [] : DTYPES.map((dtype) => [dtype, as(dtype)] as const);
  return { stored: as(null), ...(Object.fromEntries(others) as Partial<Record<(typeof DTYPES)[number], number>>) };
}

function rows(facts: Facts, { vision, connector, text }: ModelConfig): [string, string][] {
  const size = (part: { parameters: number; memory: { stored: number } }) =>
    `; ${count(part.parameters)} parameters, ${bytes(part.memory.stored)}`;
  const towerText = vision
    ? `${vision.type}, ${vision.numHiddenLayers} layers of ${vision.hiddenSize}, ${vision.imageSize} px in patches of ${vision.patchSize}${size(facts.vision!)}`
    : 'none: reads text only';
  const kind = connector && [
    connector.type,
    ...(connector.type === 'mlp' ? [] : [connector.scan, connector.weights, connector.merge]),
  ];
  const { stored, f32, bf16, int8, int4 } = facts.memory;
  const loaded = Object.entries({ f32, 'bf16 or f16': bf16, int8, int4 }).flatMap(([dtype, size]) =>
    size === undefined ? [] : [`, ${bytes(size)} in ${dtype}`],
  );
  return [
    ['vision', towerText],
    ['connector', kind ? kind.join(', ') + size(facts.connector!) : 'none'],
    [
      'language',
      `mamba, ${text.numHiddenLayers} layers of ${text.hiddenSize}, state ${text.stateSize}, vocabulary ${count(text.vocabSize)}${size(facts.text)}`,
    ],
    ['parameters', count(facts.parameters)],
    [
      'files',
      `${facts.dtypes.join(', ')} in ${facts.files} file${facts.files === 1 ? '' : 's'}, ${bytes(facts.fileBytes)}${facts.unreadBytes > 0 ? `, of which ${bytes(facts.unreadBytes)} are not read` : ''}`,
    ],
    ['memory', `${bytes(stored)} as stored${loaded.join('')}`],
    ['a picture', vision ? `${count(facts.vision!.rows)} positions of the prompt` : 'none'],
    ['a session', `${bytes(facts.stateBytes)} of state, however long it is`],
    ['folder', facts.path],
    ...facts.warnings.map((warning): [string, string] => ['note', warning]),
  ];
}
