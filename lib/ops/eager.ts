import { native } from '../binding.ts';
import { Device, type RunInput, type RunOutput } from '../device.ts';
import { rangeError, show, typeError } from '../errors.ts';
import { Graph } from '../program.ts';
import { type Dtype, numel, type Tensor } from '../tensor.ts';

/** A tensor in JavaScript memory. 16-bit floats are Uint16Arrays of their bits, with `dtype` saying which. */
export interface TensorData<T extends RunInput = RunInput> {
  data: T;
  shape: readonly number[];
  dtype?: 'f16' | 'bf16';
}

/** What every eager op takes besides its own options. */
export interface EagerOptions {
  device?: 'auto' | 'cpu' | Device;
  signal?: AbortSignal;
}

type Arguments<I> = { [K in keyof I]: I[K] extends Tensor ? TensorData : TensorData | null | undefined };
/** Optional where the op has defaults for all of its options. */
type Options<O> = undefined extends O
  ? [options?: NonNullable<O> & EagerOptions]
  : [options: NonNullable<O> & EagerOptions];
type Results<R> = { [K in keyof R]: { data: Float32Array; shape: number[] } };

let shared: Device | undefined;

/** The device eager ops run on unless told otherwise: opened once, on all cores; it doesn't keep the process alive. */
function device(which: EagerOptions['device']): Device {
  if (which instanceof Device) return which;
  if (which !== undefined && which !== 'auto' && which !== 'cpu')
    throw rangeError('ERR_ARG_DEVICE', `device must be 'auto', 'cpu' or a Device, got ${show(which)}`);
  shared ??= new Device();
  return shared;
}

const camel = (name: string) => name.replace('?', '').replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());

/** The names an op's inputs go by in JavaScript: `delta_bias?` is deltaBias. */
function inputNames(op: string): string[] {
  const schema = native()
    .schema()
    .find(({ name }) => name === op)!;
  return schema.inputs.split(' ').map(camel);
}

function dtypeOf(op: string, name: string, { data, dtype }: TensorData): Dtype {
  if (data instanceof Float32Array) return 'f32';
  if (data instanceof Int32Array) return 'i32';
  if (data instanceof Uint8Array) return 'u8';
  if (data instanceof Uint16Array && (dtype === 'f16' || dtype === 'bf16')) return dtype;
  throw typeError(
    'ERR_ARG_TYPE',
    `[${op}] ${name}.data must be a Float32Array, Int32Array, Uint8Array, or a Uint16Array with dtype 'f16' or 'bf16', got ${show(data)}`,
  );
}

/** Checks one argument and reads it once: what the caller changes afterwards has no effect. */
function argument(op: string, name: string, value: TensorData): { dtype: Dtype; shape: number[]; data: RunInput } {
  if (typeof value !== 'object')
    throw typeError('ERR_ARG_TYPE', `[${op}] ${name} must be { data, shape }, got ${show(value)}`);
  const { data, shape: given, dtype } = value;
  if (!Array.isArray(given) || given.length < 1 || given.length > 5)
    throw typeError('ERR_ARG_SHAPE', `[${op}] ${name}.shape must be an array of 1 to 5 sizes, got ${show(given)}`);
  const shape: number[] = Array.from(given);
  for (const size of shape)
    if (!Number.isSafeInteger(size) || size < 0)
      throw rangeError('ERR_ARG_SHAPE', `[${op}] ${name}.shape must hold whole numbers, got ${show(shape)}`);
  const found = dtypeOf(op, name, { data, shape, dtype });
  if (!(data.buffer instanceof ArrayBuffer))
    throw typeError('ERR_ARG_TYPE', `[${op}] ${name}.data must not be shared memory: copy it first`);
  if (data.length !== numel(shape))
    throw rangeError(
      'ERR_ARG_SHAPE',
      `[${op}] ${name}.data has ${data.length} elements, its shape [${shape}] has ${numel(shape)}` +
        (data.length === 0 ? ' (was its buffer transferred?)' : ''),
    );
  return { dtype: found, shape, data };
}

/** Turns the function that records an op into one that runs it on typed arrays. */
export function eager<I extends object, O, R extends object>(
  op: string,
  record: (g: Graph, inputs: I, options: O) => R,
): (inputs: Arguments<I>, ...options: Options<O>) => Promise<Results<R>> {
  return async (inputs, ...[options]) => {
    if (typeof inputs !== 'object' || inputs === null)
      throw typeError('ERR_ARG_TYPE', `[${op}] inputs must be an object of tensors, got ${show(inputs)}`);
    const { device: which, signal, ...rest }: EagerOptions = options ?? {};
    signal?.throwIfAborted();
    const g = new Graph();
    const tensors: Record<string, Tensor> = {};
    const data: Record<string, RunInput> = {};
    const known = inputNames(op);
    for (const [name, value] of Object.entries(inputs) as [string, TensorData | null | undefined][]) {
      if (!known.includes(name))
        throw typeError('ERR_ARG_NAME', `[${op}] has no input ${show(name)}: ${known.join(', ')}`);
      if (value === undefined || value === null) continue;
      const checked = argument(op, name, value);
      tensors[name] = g.input(name, checked.dtype, checked.shape);
      data[name] = checked.data.slice();
    }
    for (const name of known.slice(0, requiredInputs(op)))
      if (!tensors[name]) throw typeError('ERR_ARG_TYPE', `[${op}] ${name} is missing`);
    const recorded = Object.entries(record(g, tensors as I, rest as O)) as [string, Tensor | undefined][];
    for (const [name, tensor] of recorded) if (tensor) g.output(name, tensor);
    const program = await device(which).compile(g);
    try {
      const results: Record<string, RunOutput> = await program.run(data, { borrow: true });
      signal?.throwIfAborted();
      return Object.fromEntries(
        g.outputs.map(({ name, tensor }) => [name, { data: results[name], shape: [...tensor.shape] }]),
      ) as Results<R>;
    } finally {
      program.drop();
    }
  };
}

/** Required inputs come first in native/ops.def. */
function requiredInputs(op: string): number {
  const schema = native()
    .schema()
    .find(({ name }) => name === op)!;
  return schema.inputs.split(' ').filter((name) => !name.endsWith('?')).length;
}
