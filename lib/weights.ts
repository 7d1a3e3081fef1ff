import type { Checkpoint, ExpectedTensor, StoredTensor } from './checkpoint/checkpoint.ts';
import { resolveTensors } from './checkpoint/checkpoint.ts';
import type { CancelToken, Device, DeviceBuffer, LoadSegment } from './device.ts';
import { type Dtype, dtypeBytes, numel, type Tensor, tensorOf } from './tensor.ts';

/** Where a weight, or a part of one, comes from. */
interface Source extends ExpectedTensor {
  transform: LoadSegment['transform'];
}

/**
 * A weight as a model wants it: its sources follow one another along the first axis. Matrices keep the dtype they are
 * stored in (or the one that load() was asked for); everything else is f32.
 */
export class Param {
  constructor(
    readonly name: string,
    readonly shape: readonly number[],
    readonly kind: 'matrix' | 'f32',
    readonly sources: readonly Source[],
  ) {}
}

interface ParamOptions {
  aliases?: readonly string[];
  /** The shape in the file, where it isn't that of the weight: conv1d.weight is stored as [d,1,w]. */
  stored?: readonly number[];
  transform?: LoadSegment['transform'];
}

const source = (name: string, shape: readonly number[], { aliases, stored, transform }: ParamOptions): Source => ({
  name,
  aliases,
  shape: stored ?? shape,
  transform: transform ?? 'none',
});

/** A matrix that a product reads: kept in its 16 bits. */
export const matrix = (name: string, shape: readonly number[], options: ParamOptions = {}): Param =>
  new Param(name, shape, 'matrix', [source(name, shape, options)]);

/** A norm, a bias, a convolution, an A: small, and f32 whatever the file holds. */
export const vector = (name: string, shape: readonly number[], options: ParamOptions = {}): Param =>
  new Param(name, shape, 'f32', [source(name, shape, options)]);

/** One matrix or vector out of several that lie in the file under names of their own, e.g. q, k and v. */
export function stacked(kind: 'matrix' | 'f32', names: readonly string[], shape: readonly number[]): Param {
  const [rows, ...rest] = shape as [number, ...number[]];
  return new Param(
    names[0]!,
    [rows * names.length, ...rest],
    kind,
    names.map((name) => source(name, shape, {})),
  );
}

/** Leaves that are Params become Tensors; undefined stays. */
export type Loaded<T> = T extends Param
  ? Tensor
  : T extends undefined
    ? undefined
    : { readonly [K in keyof T]: Loaded<T[K]> };

/** The Params of a tree, in its order. */
export function collect(tree: unknown, found: Param[] = []): Param[] {
  if (tree instanceof Param) found.push(tree);
  else if (typeof tree === 'object' && tree !== null) for (const child of Object.values(tree)) collect(child, found);
  return found;
}

function replace(tree: unknown, tensors: Map<Param, Tensor>): unknown {
  if (tree instanceof Param) return tensors.get(tree);
  if (Array.isArray(tree)) return tree.map((child) => replace(child, tensors));
  if (typeof tree === 'object' && tree !== null)
    return Object.fromEntries(Object.entries(tree).map(([key, child]) => [key, replace(child, tensors)]));
  return tree;
}

const dtypeOf = (stored: StoredTensor): Dtype => stored.dtype.toLowerCase() as Dtype;

/** The weights that a model wants and the tensors of a checkpoint that they are. */
export interface WeightPlan<T> {
  tree: T;
  params: Param[];
  /** By the model's names. */
  stored: Map<string, StoredTensor>;
  parameters: number;
}

/**
 * Matches a tree of Params with a checkpoint; nothing is read yet. `ignore` are names that the model knows and does not
 * read, e.g. the last block of a tower. Missing, wrongly shaped and wrongly typed tensors are reported all at once.
 * @throws VLMambaError ERR_CKPT_…
 */
export function planWeights<T extends object>(
  checkpoint: Checkpoint,
  tree: T,
  ignore: readonly RegExp[],
): WeightPlan<T> {
  const params = collect(tree);
  const sources = params.flatMap((param) => [...param.sources]);
  const stored = resolveTensors(checkpoint, sources, { ignore: [...ignore] });
  return { tree, params, stored, parameters: params.reduce((sum, param) => sum + numel(param.shape), 0) };
}

export interface LoadWeightsOptions {
  /** The dtype of the matrices; null keeps what is stored. */
  dtype: 'f32' | 'f16' | 'bf16' | null;
  token?: CancelToken;
}

/** What loading came to: the weights in the shape of the tree they were asked in, and what holds them. */
export interface LoadedWeights<T> {
  weights: Loaded<T>;
  buffers: DeviceBuffer[];
  bytes: number;
  parameters: number;
}

/**
 * Puts the weights of a model on a device.
 * @throws VLMambaError ERR_ST_CHANGED, ERR_ST_READ, ERR_OUT_OF_MEMORY, ERR_CANCELLED
 */
export async function loadWeights<T extends object>(
  device: Device,
  { tree, params, stored, parameters }: WeightPlan<T>,
  { dtype, token }: LoadWeightsOptions,
): Promise<LoadedWeights<T>> {
  const tensors = new Map<Param, Tensor>();
  const buffers: DeviceBuffer[] = [];
  const files = new Map<StoredTensor['file'], LoadSegment[]>();
  try {
    for (const param of params) {
      const first = stored.get(param.sources[0]!.name)!;
      const kept: Dtype = param.kind === 'f32' ? 'f32' : (dtype ?? dtypeOf(first));
      const buffer = await device.alloc(numel(param.shape) * dtypeBytes(kept), param.name);
      buffers.push(buffer);
      tensors.set(param, tensorOf(buffer, kept, param.shape));
      let at = 0;
      for (const { name, shape, transform } of param.sources) {
        const tensor = stored.get(name)!;
        const { file, offset } = tensor;
        const elements = numel(shape);
        const segments = files.get(file) ?? [];
        files.set(file, segments);
        segments.push({ offset, elements, from: dtypeOf(tensor), to: kept, transform, buffer, at });
        at += elements * dtypeBytes(kept);
      }
    }
    for (const [file, segments] of files) {
      segments.sort((a, b) => a.offset - b.offset);
      await device.load(file.path, file.identity, segments, token);
    }
  } catch (error) {
    for (const buffer of buffers) buffer.free();
    throw error;
  }
  return {
    weights: replace(tree, tensors) as Loaded<T>,
    buffers,
    bytes: buffers.reduce((sum, buffer) => sum + buffer.bytes, 0),
    parameters,
  };
}
