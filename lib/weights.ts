import type { Checkpoint, ExpectedTensor, StoredTensor } from './checkpoint/checkpoint.ts';
import { resolveTensors } from './checkpoint/checkpoint.ts';
import type { CancelToken, Device, DeviceBuffer, LoadSegment } from './device.ts';
import { VLMambaError } from './errors.ts';
import type { QuantisedWeight } from './ops/quantised.ts';
import { type Part, type PartName, type Quantised, quantisedAs, quantisedParts, SUFFIXES } from './quantised.ts';
import { type Dtype, dtypeBytes, numel, type Tensor, tensorOf } from './tensor.ts';

/** Where a weight, or a part of one, comes from. */
interface Source extends ExpectedTensor {
  transform: LoadSegment['transform'];
}

/** The fewest bits that a matrix is asked to do with; 16 is one that no product reads, so that it stays as it is. */
type FewestBits = 4 | 8 | 16;

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
    readonly fewestBits: FewestBits = 16,
  ) {}
}

interface ParamOptions {
  aliases?: readonly string[];
  /** The shape in the file, where it isn't that of the weight: conv1d.weight is stored as [d,1,w]. */
  stored?: readonly number[];
  transform?: LoadSegment['transform'];
  fewestBits?: FewestBits;
}

const source = (name: string, shape: readonly number[], { aliases, stored, transform }: ParamOptions): Source => ({
  name,
  aliases,
  shape: stored ?? shape,
  transform: transform ?? 'none',
});

/** A matrix that a product reads: kept in the bits it has, or in as few as were asked for and are allowed to it. */
export const matrix = (name: string, shape: readonly number[], options: ParamOptions = {}): Param =>
  new Param(name, shape, 'matrix', [source(name, shape, options)], options.fewestBits ?? 4);

/** A norm, a bias, a convolution, an A: small, and f32 whatever the file holds. */
export const vector = (name: string, shape: readonly number[], options: ParamOptions = {}): Param =>
  new Param(name, shape, 'f32', [source(name, shape, options)]);

/** One matrix or vector out of several that lie in the file under names of their own, e.g. q, k and v. */
export function stacked(
  kind: 'matrix' | 'f32',
  names: readonly string[],
  shape: readonly number[],
  fewestBits?: FewestBits,
): Param {
  const [rows, ...rest] = shape as [number, ...number[]];
  return new Param(
    names[0]!,
    [rows * names.length, ...rest],
    kind,
    names.map((name) => source(name, shape, {})),
    fewestBits,
  );
}

/** Leaves that are Params become Tensors, with `scale` and `grid` beside a `weight` that has them; undefined stays. */
export type Loaded<T> = T extends Param
  ? Tensor
  : T extends undefined
    ? undefined
    : { readonly [K in keyof T]: Loaded<T[K]> } & (T extends { weight: Param }
        ? Omit<QuantisedWeight, 'weight'>
        : unknown);

/** The Params of a tree, in its order. */
export function collect(tree: unknown, found: Param[] = []): Param[] {
  if (tree instanceof Param) found.push(tree);
  else if (typeof tree === 'object' && tree !== null) for (const child of Object.values(tree)) collect(child, found);
  return found;
}

type Parts = Partial<Record<PartName, Tensor>>;

function replace(tree: unknown, tensors: Map<Param, Parts>): unknown {
  if (Array.isArray(tree)) return tree.map((child) => replace(child, tensors));
  if (typeof tree !== 'object' || tree === null) return tree;
  return Object.fromEntries(
    Object.entries(tree).flatMap(([key, child]) => {
      if (!(child instanceof Param)) return [[key, replace(child, tensors)]];
      const { weight, ...scales } = tensors.get(child)!;
      return [[key, weight], ...Object.entries(scales)];
    }),
  );
}

const dtypeOf = (stored: { dtype: string }): Dtype => stored.dtype.toLowerCase() as Dtype;

/** What matrices are kept as: one of these, or null for what is stored. */
export type WeightDtype = 'f32' | 'f16' | 'bf16' | Quantised | null;

/** The weights that a model wants and the tensors of a checkpoint that they are. */
export interface WeightPlan<T> {
  tree: T;
  params: Param[];
  /** By the model's names; scales and grids too. */
  stored: Map<string, StoredTensor>;
  parameters: number;
  /** What the checkpoint's matrices are stored as, where any has fewer than 16 bits. */
  quantised: Quantised | null;
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
  const expected = params.flatMap((param) => param.sources.flatMap((source) => tensorsOf(param, source, checkpoint)));
  const stored = resolveTensors(checkpoint, expected, { ignore: [...ignore] });
  const found = params.map((param) => storedAs(param, stored, checkpoint.dir));
  return {
    tree,
    params,
    stored,
    parameters: params.reduce((sum, param) => sum + numel(param.shape), 0),
    quantised: found.includes('int4') ? 'int4' : found.includes('int8') ? 'int8' : null,
  };
}

/** The tensors that a part of a weight is stored as: whether it is quantised is read from the file. */
function tensorsOf(param: Param, source: Source, { tensors }: Checkpoint): ExpectedTensor[] {
  const { name, aliases = [], shape } = source;
  const found = [name, ...aliases].map((name) => tensors.get(name)).find((tensor) => tensor !== undefined);
  const quantised = param.fewestBits < 16 && found ? quantisedAs(found.dtype) : undefined;
  if (quantised === undefined) return [source];
  return quantisedParts(quantised, shape).map(({ name: part, dtype, shape }) => ({
    name: name + SUFFIXES[part],
    aliases: aliases.map((alias) => alias + SUFFIXES[part]),
    shape,
    dtypes: [dtype.toUpperCase()],
  }));
}

function storedAs({ sources }: Param, stored: Map<string, StoredTensor>, dir: string): Quantised | undefined {
  const [first, ...others] = sources.map(({ name }) => stored.get(name)!);
  const kind = quantisedAs(first!.dtype);
  for (const { name, dtype, file } of others)
    if (quantisedAs(dtype) !== kind)
      throw new VLMambaError(
        'ERR_CKPT_DTYPE',
        `${dir}: the tensors do not fit the model: ${name} is ${dtype} in ${file.path} and ${first!.name} ${first!.dtype}: both must be quantised alike, or neither`,
        { details: { dir, unsupported: [{ name, dtype, file: file.path }] } },
      );
  return kind;
}

/** What matrices of floats are made while they are read, if anything. */
export const quantisedAsked = (dtype: WeightDtype): Quantised | null =>
  dtype === 'int8' || dtype === 'int4' ? dtype : null;

/** Parts of a weight begin at whole cache lines. */
const ALIGNMENT = 64;

/** What a weight of this shape is made of in memory, when matrices are kept as `dtype`, those of few bits in `lines` or as in a file. */
export function partsOf(
  { kind, sources, fewestBits }: Param,
  shape: readonly number[],
  stored: Map<string, StoredTensor>,
  dtype: WeightDtype,
  lines: boolean,
): PlacedPart[] {
  const first = stored.get(sources[0]!.name)!;
  const asked = quantisedAsked(dtype);
  const fewer = asked && fewestBits < 16 ? (fewestBits === 8 ? 'int8' : asked) : null;
  const quantised = quantisedAs(first.dtype) ?? fewer;
  const kept = kind === 'f32' ? 'f32' : asked || !dtype ? dtypeOf(first) : (dtype as Dtype);
  const parts: Part[] = quantised
    ? quantisedParts(quantised, shape, { lines })
    : [{ name: 'weight', dtype: kept, shape: [...shape] }];
  let end = 0;
  return parts.map((part) => {
    const at = Math.ceil(end / ALIGNMENT) * ALIGNMENT;
    const bytes = numel(part.shape) * dtypeBytes(part.dtype);
    end = at + bytes;
    return { ...part, at, bytes };
  });
}

/** A part and the bytes that it is in its weight's memory. */
interface PlacedPart extends Part {
  at: number;
  bytes: number;
}

const endOf = (parts: PlacedPart[]): number => parts.at(-1)!.at + parts.at(-1)!.bytes;

/** Bytes that a weight takes in memory. */
export const weightBytes = (param: Param, stored: Map<string, StoredTensor>, dtype: WeightDtype): number =>
  endOf(partsOf(param, param.shape, stored, dtype, true));

export interface LoadWeightsOptions {
  dtype: WeightDtype;
  token?: CancelToken;
}

/** What loading came to: the weights in the shape of the tree they were asked in, and what holds them. */
export interface LoadedWeights<T> {
  weights: Loaded<T>;
  buffers: DeviceBuffer[];
  bytes: number;
  parameters: number;
  quantised: Quantised | null;
}

/** What matrices are to be kept as, made sure of: a checkpoint that is quantised can't be anything else any more. */
export function checkWeightDtype({ quantised }: WeightPlan<object>, dtype: WeightDtype, dir: string): WeightDtype {
  if (quantised === null) return dtype;
  if (dtype === null || dtype === quantised) return null;
  throw new VLMambaError(
    'ERR_QUANT_DTYPE',
    `${dir}: is quantised to ${quantised} and can't be read as ${dtype}; use dtype 'auto', or the checkpoint that it was made from`,
    { details: { dir, stored: quantised, asked: dtype } },
  );
}

/**
 * Puts the weights of a model on a device, making matrices of 8 or 4 bits on the way where they are asked for.
 * @throws VLMambaError ERR_ST_CHANGED, ERR_ST_READ, ERR_OUT_OF_MEMORY, ERR_CANCELLED, ERR_QUANT_VALUES
 */
export async function loadWeights<T extends object>(
  device: Device,
  { tree, params, stored, parameters, quantised }: WeightPlan<T>,
  { dtype, token }: LoadWeightsOptions,
): Promise<LoadedWeights<T>> {
  const tensors = new Map<Param, Parts>();
  const buffers: DeviceBuffer[] = [];
  const files = new Map<StoredTensor['file'], LoadSegment[]>();
  try {
    for (const param of params) {
      const { buffer, views, segments } = await place(device, param, stored, dtype, !device.cuda);
      buffers.push(buffer);
      tensors.set(param, views);
      for (const [file, list] of segments) files.set(file, [...(files.get(file) ?? []), ...list]);
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
    quantised: quantised ?? quantisedAsked(dtype),
  };
}

/** Memory for a weight, views of its parts, and what has to be read of each file to fill them. */
export async function place(
  device: Device,
  param: Param,
  stored: Map<string, StoredTensor>,
  dtype: WeightDtype,
  lines: boolean,
): Promise<{ buffer: DeviceBuffer; views: Parts; segments: Map<StoredTensor['file'], LoadSegment[]> }> {
  const parts = partsOf(param, param.shape, stored, dtype, lines);
  const buffer = await device.alloc(endOf(parts), param.name);
  const views = Object.fromEntries(
    parts.map(({ name, dtype, shape, at }) => [
      name,
      tensorOf(buffer, dtype, shape, { offset: at / dtypeBytes(dtype) }),
    ]),
  ) as Parts;
  const segments = new Map<StoredTensor['file'], LoadSegment[]>();
  for (const [i, { name, shape, transform }] of param.sources.entries()) {
    // Sources are alike and follow one another, so each part of the weight is theirs in a row.
    const own = partsOf(param, shape, stored, dtype, false);
    const spread = lines && own.length > 1 && shape.length === 2;
    const at = own.map(({ bytes }, part) => parts[part]!.at + (spread && part === 0 ? 0 : i * bytes));
    const read = (part: PlacedPart, more: Partial<LoadSegment>) => {
      const { name: found, file, offset, dtype: from } = stored.get(name + SUFFIXES[part.name])!;
      const place = { buffer, at: at[own.indexOf(part)]! };
      const as = { from: dtypeOf({ dtype: from }), to: part.dtype, transform };
      const rows = spread && part === own[0] ? { lines: { columns: shape.at(-1)!, row: i * shape[0]! } } : {};
      const segment = { name: found, offset, elements: numel(part.shape), ...as, ...place, ...rows, ...more };
      segments.set(file, [...(segments.get(file) ?? []), segment]);
    };
    if (quantisedAs(stored.get(name)!.dtype)) for (const part of own) read(part, { rule: ruleOf(part) });
    else if (own.length === 1) read(own[0]!, {});
    else {
      const [, scaleAt, gridAt = 0] = at;
      const scales = { columns: shape.at(-1)!, at: scaleAt!, gridAt };
      read(own[0]!, { elements: numel(shape), scales });
    }
  }
  return { buffer, views, segments };
}

/** What the numbers of a part have to be; any four bits are a weight. */
const ruleOf = ({ name, dtype }: Part): LoadSegment['rule'] =>
  name === 'scale' ? 'scales' : name === 'grid' ? 'grids' : dtype === 'i8' ? 'weights' : 'any';
