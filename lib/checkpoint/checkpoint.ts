import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { show, VLMambaError } from '../errors.ts';
import { nearest } from '../nearest.ts';
import { readSmallFile } from './regular_file.ts';
import { openSafetensors, type SafetensorsFile, type TensorInfo } from './safetensors.ts';
import { JsonError, JsonReader } from './strict_json.ts';

/** A tensor and the file that holds it. */
export type StoredTensor = TensorInfo & { file: SafetensorsFile };

export interface Checkpoint {
  dir: string;
  tensors: Map<string, StoredTensor>;
  warnings: string[];
}

/** A weight that a model wants, with the shape that the file must give it, number by number. */
export interface ExpectedTensor {
  name: string;
  /** Other names of the same weight, tried in this order where `name` is absent. */
  aliases?: readonly string[];
  shape: readonly number[];
  /** As the file spells them; by default those of floats. */
  dtypes?: readonly string[];
  optional?: boolean;
}

export const SINGLE = 'model.safetensors';
export const INDEX = 'model.safetensors.index.json';
const INDEX_BYTES = 2 ** 25;
const MAX_SHARDS = 4096;
const FLOATS = ['F32', 'F16', 'BF16'];
const LISTED = 10;
const SHARD_NAME = /^[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}\.safetensors$/;
/** Names that Windows gives to devices, with any extension. */
const DEVICE_NAME = /^(con|prn|aux|nul|com\d|lpt\d)\./i;

/**
 * Reads the headers of a checkpoint folder: `model.safetensors.index.json` and the shards it names, or else
 * `model.safetensors`. Where both are there the index wins. Shards are opened one at a time and closed again.
 * @throws VLMambaError ERR_CKPT_OPEN, ERR_CKPT_NOT_FOUND, ERR_SHARD_… or ERR_ST_…; the signal's reason when aborted
 */
export async function openCheckpoint(dir: string, { signal }: { signal?: AbortSignal } = {}): Promise<Checkpoint> {
  signal?.throwIfAborted();
  const entries = await list(dir);
  if (entries.has(INDEX)) return openShards(dir, entries, signal);
  if (entries.has(SINGLE)) {
    const file = await openSafetensors(join(dir, SINGLE), { signal });
    const tensors = new Map([...file.tensors].map(([name, tensor]) => [name, { ...tensor, file }]));
    return { dir, tensors, warnings: [...file.warnings] };
  }
  const other = [...entries].find((name) => /\.(safetensors|bin|pt|pth|gguf|h5|msgpack)$/.test(name));
  throw new VLMambaError(
    'ERR_CKPT_NOT_FOUND',
    `${dir}: has no ${SINGLE} and no ${INDEX}${other ? `; found ${show(other)}: convert or rename it` : ''}`,
    { details: { dir, found: other } },
  );
}

/**
 * Matches a checkpoint with the weights a model wants and gives them under the model's names. All that is wrong is reported
 * in one error. A shape must be equal, a transposed one is not. Tensors nobody asked for are a warning in
 * `checkpoint.warnings`, or an error with `strict`, unless a pattern of `ignore` matches.
 * @throws VLMambaError ERR_CKPT_MISSING, ERR_CKPT_SHAPE, ERR_CKPT_DTYPE or ERR_CKPT_EXTRA (the first that applies), with
 * `details.missing`, `.mismatched`, `.unsupported` and `.extra` in full
 */
export function resolveTensors(
  checkpoint: Checkpoint,
  expected: readonly ExpectedTensor[],
  { ignore = [], strict = false }: { ignore?: readonly RegExp[]; strict?: boolean } = {},
): Map<string, StoredTensor> {
  const { dir, tensors, warnings } = checkpoint;
  const found = new Map<string, StoredTensor>();
  const missing: ExpectedTensor[] = [];
  const mismatched: { name: string; expected: number[]; found: number[]; file: string }[] = [];
  const unsupported: { name: string; dtype: string; expected: readonly string[]; file: string }[] = [];
  const used = new Set<string>();
  for (const want of expected) {
    const tensor = [want.name, ...(want.aliases ?? [])]
      .map((name) => tensors.get(name))
      .find((hit) => hit !== undefined);
    if (tensor === undefined) {
      if (!want.optional) missing.push(want);
      continue;
    }
    const { name, shape, dtype, file } = tensor;
    used.add(name);
    if (!sameShape(shape, want.shape)) {
      mismatched.push({ name, expected: [...want.shape], found: shape, file: file.path });
    }
    const { dtypes = FLOATS } = want;
    if (!dtypes.includes(dtype)) unsupported.push({ name, dtype, expected: dtypes, file: file.path });
    found.set(want.name, tensor);
  }
  const unused = [...tensors.keys()].filter((name) => !used.has(name));
  const extra = unused.filter((name) => !ignore.some((pattern) => pattern.test(name)));

  const problems: string[] = [];
  const report = <T>(what: string, items: readonly T[], line: (item: T) => string): void => {
    if (items.length > 0)
      problems.push(`${items.length} ${what}: ${some(items.slice(0, LISTED).map(line), items.length)}`);
  };
  report('missing', missing, ({ name, shape }) => {
    const like = nearest(name, unused);
    return `${show(name, 200)} [${shape}]${like === undefined ? '' : ` (nearest: ${show(like, 200)})`}`;
  });
  report('of another shape', mismatched, (item) => {
    const transposed = sameShape([...item.found].reverse(), item.expected) ? ' (transposed)' : '';
    return `${show(item.name, 200)} expected [${item.expected}], found [${item.found}]${transposed} in ${item.file}`;
  });
  report('of a dtype that is not supported', unsupported, ({ name, dtype, expected, file }) => {
    const wanted =
      expected === FLOATS
        ? `convert it to BF16 (supported: ${FLOATS.join(', ')})`
        : `expected ${expected.join(' or ')}`;
    return `${show(name, 200)} is ${dtype} in ${file}, ${wanted}`;
  });
  if (strict) report('not part of the model', extra, (name) => show(name, 200));
  if (problems.length > 0) {
    const code =
      missing.length > 0
        ? 'ERR_CKPT_MISSING'
        : mismatched.length > 0
          ? 'ERR_CKPT_SHAPE'
          : unsupported.length > 0
            ? 'ERR_CKPT_DTYPE'
            : 'ERR_CKPT_EXTRA';
    throw new VLMambaError(code, `${dir}: the tensors do not fit the model: ${problems.join('; ')}`, {
      details: { dir, missing: missing.map(({ name }) => name), mismatched, unsupported, extra },
    });
  }
  if (extra.length > 0) {
    const names = extra.slice(0, LISTED).map((name) => show(name, 200));
    warnings.push(
      `${dir}: ${extra.length} tensors are not part of the model and not read: ${some(names, extra.length)}`,
    );
  }
  return found;
}

async function list(dir: string): Promise<Set<string>> {
  try {
    return new Set(await readdir(dir));
  } catch (cause) {
    const reason = (cause as NodeJS.ErrnoException).code ?? 'unknown error';
    const hint = reason === 'ENOTDIR' ? ' (a checkpoint is a folder, not a file)' : '';
    throw new VLMambaError('ERR_CKPT_OPEN', `${dir}: cannot be opened: ${reason}${hint}`, {
      details: { dir, reason },
      cause,
    });
  }
}

/**
 * The shards that an index names, each the name of a file beside it.
 * @throws VLMambaError ERR_SHARD_INDEX, ERR_SHARD_PATH
 */
export async function readShardNames(indexPath: string, signal?: AbortSignal): Promise<string[]> {
  const { weightMap } = await readIndex(indexPath, signal);
  return [...new Set(weightMap.values())];
}

async function readIndex(path: string, signal?: AbortSignal): Promise<ReturnType<typeof parseIndex>> {
  return parseIndex(await readSmallFile(path, { code: 'ERR_SHARD_INDEX', maxBytes: INDEX_BYTES, signal }), path);
}

async function openShards(dir: string, entries: Set<string>, signal?: AbortSignal): Promise<Checkpoint> {
  const indexPath = join(dir, INDEX);
  const { weightMap, totalSize } = await readIndex(indexPath, signal);
  const shards = [...new Set(weightMap.values())];
  await checkPresent(dir, shards, indexPath);

  const warnings: string[] = [];
  if (entries.has(SINGLE) && !shards.includes(SINGLE)) {
    warnings.push(`${join(dir, SINGLE)}: not read, ${INDEX} beside it names the shards`);
  }
  const tensors = new Map<string, StoredTensor>();
  const problems: string[] = [];
  let total = 0;
  for (const shard of shards) {
    const file = await openSafetensors(join(dir, shard), { signal });
    warnings.push(...file.warnings);
    for (const [name, tensor] of file.tensors) {
      const mapped = weightMap.get(name);
      if (mapped === shard) tensors.set(name, { ...tensor, file });
      else if (mapped === undefined) problems.push(`${show(name, 200)} is in ${shard} and not in the index`);
      else problems.push(`${show(name, 200)} is in ${shard}, the index says ${mapped}`);
      total += tensor.bytes;
    }
  }
  for (const [name, shard] of weightMap) {
    if (!tensors.has(name)) problems.push(`${show(name, 200)} is not in ${shard}, where the index says it is`);
  }
  if (problems.length > 0) {
    throw new VLMambaError(
      'ERR_SHARD_MAP',
      `${indexPath}: the index does not fit the shards: ${some(problems.slice(0, LISTED), problems.length)}`,
      { details: { path: indexPath, problems } },
    );
  }
  if (totalSize !== undefined && totalSize !== total) {
    warnings.push(`${indexPath}: metadata.total_size is ${show(totalSize)}, the tensors have ${total} bytes`);
  }
  return { dir, tensors, warnings };
}

function parseIndex(bytes: Uint8Array, path: string): { weightMap: Map<string, string>; totalSize: unknown } {
  const weightMap = new Map<string, string>();
  const shards = new Set<string>();
  let totalSize: unknown;
  const fail = (message: string, code = 'ERR_SHARD_INDEX', cause?: unknown): never => {
    throw new VLMambaError(code, `${path}: ${message}`, { details: { path }, cause });
  };
  try {
    const json = new JsonReader(bytes, { maxDepth: 8 });
    if (json.peek() !== 'object') fail('expected an object with "weight_map"');
    json.object((field) => {
      if (field === 'metadata' && json.peek() === 'object') {
        json.object((key) => {
          if (key === 'total_size') totalSize = json.data();
          else json.skip();
        });
      } else if (field === 'weight_map') {
        if (json.peek() !== 'object') fail('weight_map must be an object of tensor names and shard names');
        json.object((name) => {
          if (json.peek() !== 'string') fail(`weight_map[${show(name, 200)}] must be a shard's name`);
          const shard = json.string();
          if (!SHARD_NAME.test(shard) || DEVICE_NAME.test(shard)) {
            const rule = 'the name of a .safetensors file in the same folder';
            fail(`weight_map[${show(name, 200)}] must be ${rule}, found ${show(shard, 200)}`, 'ERR_SHARD_PATH');
          }
          weightMap.set(name, shard);
          if (shards.add(shard).size > MAX_SHARDS) fail(`names more than ${MAX_SHARDS} shards`);
        });
      } else json.skip();
    });
    json.end();
  } catch (error) {
    if (!(error instanceof JsonError)) throw error;
    fail(error.message, 'ERR_SHARD_INDEX', error);
  }
  if (weightMap.size === 0) fail('weight_map is missing or empty');
  return { weightMap, totalSize };
}

async function checkPresent(dir: string, shards: readonly string[], indexPath: string): Promise<void> {
  const missing: string[] = [];
  for (const shard of shards) {
    try {
      await stat(join(dir, shard));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') missing.push(shard);
    }
  }
  if (missing.length === 0) return;
  throw new VLMambaError(
    'ERR_SHARD_MISSING',
    `${indexPath}: ${missing.length} of ${shards.length} shards are missing: ${some(missing.slice(0, LISTED), missing.length)} (incomplete download?)`,
    { details: { path: indexPath, missing } },
  );
}

const some = (shown: readonly string[], count: number): string =>
  shown.join(', ') + (count > shown.length ? ` and ${count - shown.length} more` : '');

const sameShape = (a: readonly number[], b: readonly number[]): boolean =>
  a.length === b.length && a.every((dim, axis) => dim === b[axis]);
