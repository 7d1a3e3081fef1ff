import { rangeError } from './errors.ts';

/** Element types, in the order of native/step.h. */
export const dtypes = ['f32', 'f16', 'bf16', 'i32', 'u8', 'i8'] as const;
export type Dtype = (typeof dtypes)[number];

const widths: Record<Dtype, number> = { f32: 4, f16: 2, bf16: 2, i32: 4, u8: 1, i8: 1 };

export const dtypeBytes = (dtype: Dtype): number => widths[dtype];

/** Memory that tensors look at: a value of one program run, or a buffer on a device. Told apart by identity. */
export interface Storage {
  readonly bytes: number;
  readonly name?: string;
}

/**
 * A view of a storage: no data, no methods. `strides` and `offset` count elements. Made by a Graph or by a device, viewed
 * by the functions below.
 */
export interface Tensor {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly strides: readonly number[];
  readonly offset: number;
  readonly storage: Storage;
}

export const numel = (shape: readonly number[]): number => shape.reduce((n, size) => n * size, 1);

/** Row-major strides. */
export function contiguous(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length);
  let step = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = step;
    step *= shape[i]!;
  }
  return strides;
}

export function isContiguous(t: Tensor): boolean {
  const expected = contiguous(t.shape);
  return numel(t.shape) === 0 || t.shape.every((size, i) => size <= 1 || t.strides[i] === expected[i]);
}

/** A tensor over a whole storage, or over a part of it from `offset` elements on. */
export function tensorOf(
  storage: Storage,
  dtype: Dtype,
  shape: readonly number[],
  { strides = contiguous(shape), offset = 0 }: { strides?: readonly number[]; offset?: number } = {},
): Tensor {
  return Object.freeze({ dtype, shape: [...shape], strides: [...strides], offset, storage });
}

const view = (t: Tensor, change: Partial<Tensor>): Tensor => Object.freeze({ ...t, ...change });

/** "f32 [1,729,1152]" */
export const describe = (t: { dtype: Dtype; shape: readonly number[] }): string => `${t.dtype} [${t.shape.join(',')}]`;

/** Elements [begin, end) along one axis. */
export function slice(t: Tensor, axis: number, begin: number, end: number): Tensor {
  const size = t.shape[axis];
  if (size === undefined || !(begin >= 0 && begin <= end && end <= size))
    throw rangeError('ERR_SHAPE', `slice ${begin}:${end} of axis ${axis} of ${describe(t)}`);
  return view(t, { shape: t.shape.with(axis, end - begin), offset: t.offset + begin * t.strides[axis]! });
}

/** One element along an axis, which disappears. */
export function index(t: Tensor, axis: number, i: number): Tensor {
  const one = slice(t, axis, i, i + 1);
  return view(one, { shape: t.shape.toSpliced(axis, 1), strides: t.strides.toSpliced(axis, 1) });
}

/** The same elements with two axes exchanged: no copy, only strides. */
export function transpose(t: Tensor, a: number, b: number): Tensor {
  const swap = (list: readonly number[]) => list.with(a, list[b]!).with(b, list[a]!);
  return view(t, { shape: swap(t.shape), strides: swap(t.strides) });
}

/** Another shape over the same elements; the axes that are split or joined must be contiguous. */
export function reshape(t: Tensor, shape: readonly number[]): Tensor {
  if (numel(shape) !== numel(t.shape)) throw rangeError('ERR_SHAPE', `${describe(t)} does not reshape to [${shape}]`);
  if (isContiguous(t)) return view(t, { shape: [...shape], strides: contiguous(shape) });
  // Strided in front: match the last axes first and let what is left in front keep its stride.
  const strides = new Array<number>(shape.length).fill(0);
  let from = t.shape.length - 1;
  let left = t.shape[from] ?? 1;
  let step = t.strides[from] ?? 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    const size = shape[i]!;
    if (size === 1) {
      strides[i] = step;
      continue;
    }
    while (left === 1 && from > 0) {
      from--;
      left = t.shape[from]!;
      step = t.strides[from]!;
    }
    while (left % size !== 0 && from > 0 && t.strides[from - 1] === step * left) {
      from--;
      left *= t.shape[from]!;
    }
    if (left % size !== 0) throw rangeError('ERR_SHAPE', `a view of ${describe(t)} does not reshape to [${shape}]`);
    strides[i] = step;
    step *= size;
    left /= size;
  }
  return view(t, { shape: [...shape], strides });
}

/** Strides for a new tensor of `shape` whose memory is ordered as that of `like` (same rank). */
export function stridesLike(like: Tensor, shape: readonly number[] = like.shape): number[] {
  const axes = like.shape.map((_, i) => i).sort((a, b) => like.strides[b]! - like.strides[a]! || a - b);
  const strides = new Array<number>(shape.length);
  let step = 1;
  for (const axis of axes.reverse()) {
    strides[axis] = step;
    step *= shape[axis]!;
  }
  return strides;
}

/** A new axis of size 1 in front of `axis`. */
export function unsqueeze(t: Tensor, axis: number): Tensor {
  return view(t, { shape: t.shape.toSpliced(axis, 0, 1), strides: t.strides.toSpliced(axis, 0, 0) });
}
