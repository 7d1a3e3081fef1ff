import { Device, type RunInput, type RunOutput } from '../device.ts';
import { checkDeviceName, type DeviceName, sharedDevice } from '../devices.ts';
import { checkSignal, rangeError, show, typeError } from '../errors.ts';
import { Graph, opTable } from '../program.ts';
import { type Dtype, numel, type Tensor } from '../tensor.ts';

/** A tensor in JavaScript memory. 16-bit floats are Uint16Arrays of their bits, with `dtype` saying which. */
export interface TensorData<T extends RunInput = RunInput> {
  /** The elements, the last axis running fastest. */
  data: T;
  /** Sizes of the axes; their product is the length of `data`. */
  shape: readonly number[];
  /** What the bits of a Uint16Array are. */
  dtype?: 'f16' | 'bf16';
}

/** What every eager op takes besides its own options. */
export interface EagerOptions {
  /** Where it runs; `auto` by default. */
  device?: DeviceName | Device;
  /** Ends the work; the call rejects with its reason. */
  signal?: AbortSignal;
}

type Arguments<I> = { [K in keyof I]: I[K] extends Tensor ? TensorData : TensorData | null | undefined };
/** Optional where the op has defaults for all of its options. */
type Options<O> = undefined extends O
  ? [options?: NonNullable<O> & EagerOptions]
  : [options: NonNullable<O> & EagerOptions];
/** On a GPU, results of 16-bit activations are Uint16Arrays of their bits, with their `dtype`. */
type Results<R> = { [K in keyof R]: { data: Float32Array; shape: number[]; dtype?: 'f16' | 'bf16' } };

/** The device eager ops run on. */
const deviceOf = async (which: EagerOptions['device'] = 'auto'): Promise<Device> => {
  if (which instanceof Device) return which;
  checkDeviceName(which);
  return sharedDevice(which);
};

/** The 16 bits that activations have on a GPU: those of the first input that is no weight and has 16. */
const activationsOf = (given: [string, { dtype: Dtype }][]): Dtype =>
  given.find(([name, { dtype }]) => name !== 'weight' && (dtype === 'f16' || dtype === 'bf16'))?.[1].dtype ?? 'f32';

const camel = (name: string) => name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());

/** The names an op's inputs and options go by in JavaScript: `delta_bias?` is deltaBias. */
function namesOf(op: string): { inputs: string[]; required: string[]; options: string[] } {
  const { inputs, attrs } = opTable().get(op)!;
  return {
    inputs: inputs.map(({ name }) => camel(name)),
    required: inputs.filter(({ optional }) => !optional).map(({ name }) => camel(name)),
    options: attrs.map(({ name }) => camel(name)),
  };
}

/** The array types and what of them is read; a subclass's own constructor is never called. */
const kinds = [
  { type: Float32Array, dtype: 'f32' },
  { type: Int32Array, dtype: 'i32' },
  { type: Uint8Array, dtype: 'u8' },
  { type: Int8Array, dtype: 'i8' },
  { type: Uint16Array, dtype: undefined },
] as const;

function kindOf(
  op: string,
  name: string,
  { data, dtype }: TensorData,
): { dtype: Dtype; type: new (from: RunInput) => RunInput } {
  // A proxy and an object that only inherits from an array are instances, but no views.
  const kind = ArrayBuffer.isView(data) ? kinds.find(({ type }) => data instanceof type) : undefined;
  const found = kind?.dtype ?? (kind && (dtype === 'f16' || dtype === 'bf16') ? dtype : undefined);
  if (kind && found) return { dtype: found, type: kind.type };
  throw typeError(
    'ERR_ARG_TYPE',
    `[${op}] ${name}.data must be a Float32Array, Int32Array, Uint8Array, Int8Array, or a Uint16Array with dtype 'f16' or 'bf16', got ${show(data)}`,
  );
}

/** No dimension is longer: sizes and strides stay far from where numbers lose their last digits. */
const MAX_SIZE = 2 ** 31 - 1;

/** Checks one argument and copies it: what the caller changes afterwards has no effect. */
function argument(op: string, name: string, value: TensorData): { dtype: Dtype; shape: number[]; data: RunInput } {
  if (typeof value !== 'object')
    throw typeError('ERR_ARG_TYPE', `[${op}] ${name} must be { data, shape }, got ${show(value)}`);
  const { data, shape: given, dtype } = value;
  const shape: number[] = Array.isArray(given) ? Array.from(given) : [];
  if (shape.length < 1 || shape.length > 5)
    throw typeError('ERR_ARG_SHAPE', `[${op}] ${name}.shape must be an array of 1 to 5 sizes, got ${show(given)}`);
  for (const size of shape)
    if (!Number.isInteger(size) || size < 0 || size > MAX_SIZE)
      throw rangeError(
        'ERR_ARG_SHAPE',
        `[${op}] ${name}.shape must hold whole numbers up to ${MAX_SIZE}, got ${show(shape)}`,
      );
  const { dtype: found, type } = kindOf(op, name, { data, shape, dtype });
  if (!(data.buffer instanceof ArrayBuffer))
    throw typeError('ERR_ARG_TYPE', `[${op}] ${name}.data must not be shared memory: copy it first`);
  let copy: RunInput;
  try {
    copy = new type(data);
  } catch {
    copy = new type(0 as never); // detached
  }
  if (copy.length !== numel(shape))
    throw rangeError(
      'ERR_ARG_SHAPE',
      `[${op}] ${name}.data has ${copy.length} elements, its shape [${shape}] has ${numel(shape)}` +
        (copy.length === 0 ? ' (was its buffer transferred?)' : ''),
    );
  return { dtype: found, shape, data: copy };
}

/** Turns the function that records an op into one that runs it on typed arrays. */
export function eager<I extends object, O, R extends object>(
  op: string,
  record: (g: Graph, inputs: I, options: O) => R,
  /** Options that aren't attributes of the op in native/ops.def. */
  more: readonly string[] = [],
): (inputs: Arguments<I>, ...options: Options<O>) => Promise<Results<R>> {
  return async (inputs, ...[options]) => {
    if (typeof inputs !== 'object' || inputs === null)
      throw typeError('ERR_ARG_TYPE', `[${op}] inputs must be an object of tensors, got ${show(inputs)}`);
    const names = namesOf(op);
    if (typeof (options ?? {}) !== 'object')
      throw typeError('ERR_ARG_TYPE', `[${op}] options must be an object, got ${show(options)}`);
    const { device: which, signal, ...rest }: EagerOptions = options ?? {};
    const settings = [...names.options, ...more];
    for (const name of Object.keys(rest))
      if (!settings.includes(name))
        throw typeError(
          'ERR_ARG_NAME',
          `[${op}] has no option ${show(name)}: ${[...settings, 'device', 'signal'].join(', ')}`,
        );
    checkSignal(op, signal);
    signal?.throwIfAborted();
    const given: [string, ReturnType<typeof argument>][] = [];
    for (const [name, value] of Object.entries(inputs) as [string, TensorData | null | undefined][]) {
      if (!names.inputs.includes(name))
        throw typeError('ERR_ARG_NAME', `[${op}] has no input ${show(name)}: ${names.inputs.join(', ')}`);
      if (value === undefined || value === null) continue;
      given.push([name, argument(op, name, value)]);
    }
    for (const name of names.required)
      if (!given.some(([key]) => key === name)) throw typeError('ERR_ARG_TYPE', `[${op}] ${name} is missing`);
    const device = await deviceOf(which);
    const g = new Graph(device.cuda ? activationsOf(given) : 'f32');
    const tensors = Object.fromEntries(given.map(([name, { dtype, shape }]) => [name, g.input(name, dtype, shape)]));
    const data = Object.fromEntries(given.map(([name, { data }]) => [name, data]));
    const recorded = Object.entries(record(g, tensors as I, rest as O)) as [string, Tensor | undefined][];
    for (const [name, tensor] of recorded) if (tensor) g.output(name, tensor);
    const program = await device.compile(g);
    try {
      const results: Record<string, RunOutput> = await program.run(data, { borrow: true });
      signal?.throwIfAborted();
      return Object.fromEntries(
        g.outputs.map(({ name, tensor: { shape, dtype } }) => [
          name,
          { data: results[name], shape: [...shape], ...((dtype === 'f16' || dtype === 'bf16') && { dtype }) },
        ]),
      ) as Results<R>;
    } finally {
      program.drop();
    }
  };
}
