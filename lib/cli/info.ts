import { stderr, stdout } from 'node:process';
import { openCheckpoint, type StoredTensor } from '../checkpoint/checkpoint.ts';
import { readConfig } from '../checkpoint/config.ts';
import { Engine } from '../engine.ts';
import { locate } from '../hub/index.ts';
import type { DownloadProgress } from '../hub/pull.ts';
import { checkFolder } from '../model.ts';
import { pictureRows, unread, vlMambaParams } from '../models/vl_mamba.ts';
import { numel } from '../tensor.ts';
import { planWeights } from '../weights.ts';
import { modelFolder } from './bundled.ts';
import { ProgressBar } from './progress.ts';
import { bytes, count, table } from './text.ts';

/** What a folder holds, from its config and the headers of its files: nothing is loaded. */
export async function info(name: string, { json }: { json?: boolean }, signal: AbortSignal): Promise<void> {
  const bar = new ProgressBar(`fetching ${name}`, stderr.isTTY === true);
  const onProgress = ({ loaded, total }: DownloadProgress) => bar.draw(loaded, total);
  const { path } = await locate(modelFolder(name), { signal, onProgress }).finally(() => bar.clear());
  await checkFolder(path);
  const config = await readConfig(path, { signal });
  const checkpoint = await openCheckpoint(path, { signal });
  const { params, stored, parameters } = planWeights(checkpoint, vlMambaParams(config), unread);
  const matrices = params.filter(({ kind }) => kind === 'matrix').reduce((sum, param) => sum + numel(param.shape), 0);
  const small = (parameters - matrices) * 4;
  const { vision, connector, text } = config;
  const facts = {
    path,
    files: [...new Set([...checkpoint.tensors.values()].map(({ file }) => file.path))].length,
    dtypes: [...new Set([...stored.values()].map(({ dtype }) => dtype))],
    parameters,
    vision: vision && {
      type: vision.type,
      hiddenSize: vision.hiddenSize,
      layers: vision.numHiddenLayers,
      imageSize: vision.imageSize,
      patchSize: vision.patchSize,
      rows: pictureRows(config),
    },
    connector: connector && {
      type: connector.type,
      scan: connector.scan,
      weights: connector.weights,
      merge: connector.merge,
    },
    text: {
      hiddenSize: text.hiddenSize,
      layers: text.numHiddenLayers,
      stateSize: text.stateSize,
      vocabSize: text.vocabSize,
    },
    memory: { stored: weightBytes(stored, small), f32: matrices * 4 + small, bf16: matrices * 2 + small },
    stateBytes: Engine.stateBytes(config),
    warnings: [...config.warnings, ...checkpoint.warnings],
  };
  if (json) {
    stdout.write(`${JSON.stringify(facts)}\n`);
    return;
  }
  const rows: [string, string][] = [
    [
      'vision',
      vision
        ? `${vision.type}, ${vision.numHiddenLayers} layers of ${vision.hiddenSize}, ${vision.imageSize} px in patches of ${vision.patchSize}`
        : 'none: reads text only',
    ],
    [
      'connector',
      connector
        ? [
            connector.type,
            ...(connector.type === 'mlp' ? [] : [connector.scan, connector.weights, connector.merge]),
          ].join(', ')
        : 'none',
    ],
    [
      'language',
      `mamba, ${text.numHiddenLayers} layers of ${text.hiddenSize}, state ${text.stateSize}, vocabulary ${count(text.vocabSize)}`,
    ],
    ['parameters', count(parameters)],
    ['stored', `${facts.dtypes.join(', ')} in ${facts.files} file${facts.files === 1 ? '' : 's'}`],
    [
      'memory',
      `${bytes(facts.memory.stored)} as stored, ${bytes(facts.memory.bf16)} in bf16, ${bytes(facts.memory.f32)} in f32`,
    ],
    ['a picture', vision ? `${count(pictureRows(config))} positions of the prompt` : 'none'],
    ['a conversation', `${bytes(facts.stateBytes)} of state, however long it is`],
    ...facts.warnings.map((warning): [string, string] => ['note', warning]),
  ];
  stdout.write(table(rows));
}

const weightBytes = (stored: Map<string, StoredTensor>, small: number): number =>
  [...stored.values()].filter(({ shape }) => shape.length > 1).reduce((sum, tensor) => sum + tensor.bytes, 0) + small;
