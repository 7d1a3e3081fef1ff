import { native, type OpSchema } from './binding.ts';
import { rangeError, show } from './errors.ts';
import {
  contiguous,
  type Dtype,
  describe,
  dtypeBytes,
  dtypes,
  isContiguous,
  numel,
  type Storage,
  type Tensor,
  tensorOf,
} from './tensor.ts';

/** Memory of one run of a program, or, once it has a home, of a buffer that outlives it. */
class Value implements Storage {
  home: Storage | undefined;

  constructor(
    readonly bytes: number,
    readonly id: number,
  ) {}
}

const home = (storage: Storage): Storage => (storage instanceof Value && storage.home) || storage;

type AttrKind = 'bool' | 'i32' | 'f32' | readonly string[];

interface Op {
  id: number;
  name: string;
  inputs: { name: string; optional: boolean }[];
  outputs: { name: string; optional: boolean }[];
  attrs: { name: string; kind: AttrKind }[];
}

const names = (list: string) =>
  list
    .split(' ')
    .filter(Boolean)
    .map((name) => ({ name: name.replace('?', ''), optional: name.endsWith('?') }));

const attrKind = (text: string): AttrKind =>
  text === 'bool' || text === 'i32' || text === 'f32' ? text : text.split('|');

const parse = (schema: OpSchema, id: number): Op => ({
  id,
  name: schema.name,
  inputs: names(schema.inputs),
  outputs: names(schema.outputs),
  attrs: schema.attrs
    .split(' ')
    .filter(Boolean)
    .map((attr) => {
      const [name, kind] = attr.split(':') as [string, string];
      return { name, kind: attrKind(kind) };
    }),
});

let table: Map<string, Op> | undefined;

/** The ops of native/ops.def by name. */
export function opTable(): Map<string, Op> {
  table ??= new Map(
    native()
      .schema()
      .map((line, id) => [line.name, parse(line, id)]),
  );
  return table;
}

const float = new Float32Array(1);
const bits = new Int32Array(float.buffer);

function encodeAttr(op: Op, { name, kind }: Op['attrs'][number], value: unknown): number {
  const fail = (expected: string) =>
    rangeError('ERR_OP_ATTR', `[${op.name}] ${name} must be ${expected}, got ${show(value)}`);
  if (kind === 'bool') {
    if (typeof value !== 'boolean') throw fail('true or false');
    return value ? 1 : 0;
  }
  if (kind === 'i32') {
    if (!Number.isInteger(value) || (value as number) !== ((value as number) | 0)) throw fail('a 32-bit integer');
    return value as number;
  }
  if (kind === 'f32') {
    if (typeof value !== 'number') throw fail('a number');
    float[0] = value;
    return bits[0]!;
  }
  const i = kind.indexOf(value as string);
  if (i < 0) throw fail(kind.join(' | '));
  return i;
}

export type Tensors = Record<string, Tensor | undefined>;
export type Attrs = Record<string, unknown>;

interface Step {
  op: Op;
  tensors: (Tensor | undefined)[];
  attrs: number[];
}

interface Port {
  name: string;
  tensor: Tensor;
}

/** A recorded program as native code reads it: see native/program.h for the words. */
export interface Encoded {
  words: Int32Array;
  buffers: Storage[];
}

const MAGIC = 0x564c4d50;
const VERSION = 1;

/**
 * Records a program: a flat list of ops over tensors of fixed shapes. Nothing is computed here; a shape that doesn't fit
 * is thrown by the function that records the op. `String(graph)` prints the list.
 */
export class Graph {
  readonly inputs: Port[] = [];
  readonly outputs: Port[] = [];
  readonly #values: Value[] = [];
  readonly #steps: Step[] = [];

  /**
   * @param activations what norms and products write, and so what is read between the weights: f32, or on a GPU the 16 bits
   *   of the weights. States, the residual stream, A and delta are f32 all the same.
   */
  constructor(readonly activations: Dtype = 'f32') {}

  /** The dtypes that an activation may have. */
  get floats(): readonly Dtype[] {
    return this.activations === 'f32' ? ['f32'] : ['f32', this.activations];
  }

  /** A tensor that the caller fills at every run. */
  input(name: string, dtype: Dtype, shape: readonly number[]): Tensor {
    const tensor = this.empty(dtype, shape);
    this.inputs.push({ name, tensor });
    return tensor;
  }

  /** A tensor that the caller gets back from every run. */
  output(name: string, tensor: Tensor): void {
    if (!(home(tensor.storage) instanceof Value) || !isContiguous(tensor) || tensor.offset !== 0)
      throw rangeError('ERR_SHAPE', `output ${name} must be the beginning of a value of the program, without gaps`);
    this.outputs.push({ name, tensor });
  }

  /** Memory for a result. */
  empty(dtype: Dtype, shape: readonly number[], strides: readonly number[] = contiguous(shape)): Tensor {
    const value = new Value(numel(shape) * dtypeBytes(dtype), this.#values.length);
    this.#values.push(value);
    return tensorOf(value, dtype, shape, { strides });
  }

  /** Makes a result live in a buffer on the device instead of in the program's own memory. */
  place(tensor: Tensor, buffer: Storage): void {
    const { storage } = tensor;
    if (!(storage instanceof Value) || storage.home || storage.bytes !== buffer.bytes)
      throw rangeError('ERR_SHAPE', `${describe(tensor)} does not fill a buffer of ${buffer.bytes} bytes`);
    storage.home = buffer;
  }

  /** Appends a step. `inputs`, `outputs` and `attrs` go by their names in native/ops.def. */
  push(name: string, inputs: Tensors, outputs: Tensors, attrs: Attrs = {}): void {
    const op = opTable().get(name);
    if (!op) throw rangeError('ERR_OP_NAME', `no op is called ${show(name)}`);
    const pick = (given: Tensors, wanted: Op['inputs'], what: string) => {
      for (const key of Object.keys(given))
        if (!wanted.some((w) => w.name === key))
          throw rangeError('ERR_OP_ARG', `[${name}] has no ${what} ${show(key)}`);
      return wanted.map((w) => {
        const tensor = given[w.name];
        if (!tensor && !w.optional) throw rangeError('ERR_OP_ARG', `[${name}] ${what} ${w.name} is missing`);
        return tensor;
      });
    };
    this.#steps.push({
      op,
      tensors: [...pick(inputs, op.inputs, 'input'), ...pick(outputs, op.outputs, 'output')],
      attrs: op.attrs.map((attr) => encodeAttr(op, attr, attrs[attr.name])),
    });
  }

  /** The name of the op at a step. */
  opName(step: number): string | undefined {
    return this.#steps[step]?.op.name;
  }

  get steps(): number {
    return this.#steps.length;
  }

  encode(): Encoded {
    const words: number[] = [];
    const wide = (n: number) => words.push(n | 0, Math.floor(n / 2 ** 32) | 0);
    const buffers = new Map<Storage, number>();
    const tensors = new Map<Tensor, number>();
    const add = (t: Tensor) => {
      if (!tensors.has(t)) tensors.set(t, tensors.size);
      const place = home(t.storage);
      if (!(place instanceof Value) && !buffers.has(place)) buffers.set(place, buffers.size);
    };
    for (const port of [...this.inputs, ...this.outputs]) add(port.tensor);
    for (const step of this.#steps) for (const t of step.tensors) if (t) add(t);

    words.push(MAGIC, VERSION, this.#values.length, buffers.size, tensors.size);
    words.push(this.inputs.length, this.outputs.length, this.#steps.length);
    for (const value of this.#values) wide(value.home ? 0 : value.bytes);
    for (const t of tensors.keys()) {
      const place = home(t.storage);
      words.push(place instanceof Value ? place.id : -1 - buffers.get(place)!);
      words.push(dtypes.indexOf(t.dtype), t.shape.length);
      wide(t.offset);
      for (let i = 0; i < t.shape.length; i++) {
        wide(t.shape[i]!);
        wide(t.strides[i]!);
      }
    }
    for (const port of [...this.inputs, ...this.outputs]) words.push(tensors.get(port.tensor)!);
    for (const step of this.#steps)
      words.push(step.op.id, ...step.tensors.map((t) => (t ? tensors.get(t)! : -1)), ...step.attrs);
    return { words: Int32Array.from(words), buffers: [...buffers.keys()] };
  }

  toString(): string {
    const ids = new Map<Tensor, string>();
    const label = (t: Tensor): string => {
      if (!(t.storage instanceof Value)) return t.storage.name ?? 'buffer';
      const id = `%${t.storage.id}`;
      const whole = t.offset === 0 && numel(t.shape) * dtypeBytes(t.dtype) === t.storage.bytes;
      return whole ? id : `${id}[${t.shape.join(',')}]`;
    };
    for (const { name, tensor } of this.inputs) ids.set(tensor, name);
    const lines = [`program  steps=${this.#steps.length}  values=${this.#values.length}`];
    for (const { name, tensor } of this.inputs) lines.push(`${label(tensor)} = input ${name}  ${describe(tensor)}`);
    for (const { op, tensors, attrs } of this.#steps) {
      const given = op.inputs.flatMap((input, i) => (tensors[i] ? [`${input.name}=${label(tensors[i]!)}`] : []));
      const results = tensors.slice(op.inputs.length).filter((t) => t !== undefined);
      const settings = op.attrs.map(({ name, kind }, i) => {
        bits[0] = attrs[i]!;
        const value =
          kind === 'f32' ? Number(float[0]!.toPrecision(6)) : Array.isArray(kind) ? kind[attrs[i]!] : attrs[i];
        return ` ${name}=${value}`;
      });
      lines.push(
        `${results.map(label).join(', ')} = ${op.name}(${given.join(', ')})${settings.join('')}  ${results.map(describe).join(', ')}`,
      );
    }
    for (const { name, tensor } of this.outputs) lines.push(`output ${name} = ${label(tensor)}  ${describe(tensor)}`);
    return lines.join('\n');
  }
}
