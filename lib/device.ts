import { type NativeBuffer, type NativeDevice, type NativeProgram, type NativeToken, native } from './binding.ts';
import { rangeError, show, typeError, VLMambaError } from './errors.ts';
import type { Graph } from './program.ts';
import { type Dtype, dtypeBytes, dtypes, numel, type Storage, type Tensor } from './tensor.ts';

/** Native errors say `code`, `message` and, inside a program, `step`: they come back here on the caller's stack. */
async function onStack<T>(promise: Promise<T>, graph?: Graph): Promise<T> {
  try {
    return await promise;
  } catch (error) {
    const { code = 'ERR_INTERNAL', message, step } = error as { code?: string; message: string; step?: number };
    const op = step === undefined ? undefined : graph?.opName(step);
    const where = op && code !== 'ERR_CANCELLED' ? `[${op}] ` : '';
    throw new VLMambaError(code, `${where}${message}`, { details: op ? { op, step } : {}, cause: error });
  }
}

/** The logits that a run has computed and no token could be drawn from, where that is why it failed. */
export function logitsLeft(error: unknown): Float32Array | undefined {
  if (!(error instanceof VLMambaError) || error.code !== 'ERR_NONFINITE_LOGITS') return undefined;
  const { leftover } = error.cause as { leftover?: ArrayBuffer };
  return leftover && new Float32Array(leftover);
}

/** Memory on a device that outlives programs: weights, recurrent state. */
export class DeviceBuffer implements Storage {
  constructor(
    readonly handle: NativeBuffer,
    readonly bytes: number,
    readonly name: string,
  ) {}

  /** Gives the memory back; programs that use it keep it until they are dropped. */
  free(): void {
    native().free(this.handle);
  }
}

/**
 * A flag that stops native work, and a count of what it has done. Bound to an AbortSignal it is cancelled with it; the
 * error is then the signal's reason.
 */
export class CancelToken {
  readonly handle: NativeToken = native().token();
  readonly #signal: AbortSignal | undefined;
  readonly #onAbort = () => this.cancel();

  constructor(signal?: AbortSignal) {
    this.#signal = signal;
    if (signal?.aborted) this.cancel();
    else signal?.addEventListener('abort', this.#onAbort, { once: true });
  }

  cancel(): void {
    native().cancel(this.handle);
  }

  /** Lets a chain end after the step that is going on. */
  halt(): void {
    native().halt(this.handle);
  }

  /** Bytes done so far. */
  get progress(): number {
    return native().progress(this.handle);
  }

  /** Stops listening to the signal. */
  release(): void {
    this.#signal?.removeEventListener('abort', this.#onAbort);
  }
}

/** Elements as f32, i32, u8, i8, or 16 bits of a float each. */
export type RunInput = Float32Array | Int32Array | Uint8Array | Int8Array | Uint16Array;
export type RunOutput = RunInput;

const arrays: Record<Dtype, { new (buffer: ArrayBuffer): RunOutput }> = {
  f32: Float32Array,
  f16: Uint16Array,
  bf16: Uint16Array,
  i32: Int32Array,
  u8: Uint8Array,
  i8: Int8Array,
};

/** What one step of a program took. */
export interface StepProfile {
  /** The name of its op. */
  op: string;
  /** Milliseconds. */
  ms: number;
  /** Bytes of the tensors it reads and writes, divided by the time: 10⁹ bytes a second. */
  gbps: number;
}

export interface RunOptions {
  token?: CancelToken | undefined;
  /** Read the inputs in place instead of copying them: only for arrays that nobody else writes or transfers. */
  borrow?: boolean;
}

/** How a program is run again and again: see `Program.chain`. */
export interface ChainOptions {
  /** Runs, at most. */
  steps: number;
  /** An output [n] i32, and the input of as many that it becomes. */
  token: string;
  ids: string;
  /** An input [n] i32 that grows by one. */
  position: string;
  /** The run that gives one of these tokens is the last. */
  stops: Int32Array;
  cancel?: CancelToken | undefined;
}

/** A recorded program on its device, ready to run any number of times. */
export class Program {
  constructor(
    readonly graph: Graph,
    readonly device: Device,
    readonly handle: NativeProgram,
  ) {}

  /** Runs once. Inputs and outputs go by the names they were recorded under. */
  async run(inputs: Record<string, RunInput> = {}, options: RunOptions = {}): Promise<Record<string, RunOutput>> {
    return this.#named(await this.#start(inputs, options, false));
  }

  /**
   * Runs again and again, each time with the token that the last run gave, without waiting for JavaScript in between, until
   * anything else is asked of the device. `take`, which must not throw, gets the outputs of one or more further runs, one after another.
   */
  async chain(
    inputs: Record<string, RunInput>,
    { steps, token, ids, position, stops, cancel }: ChainOptions,
    take: (results: Record<string, RunOutput>) => void,
  ): Promise<void> {
    const place = (ports: { name: string }[], wanted: string) => ports.findIndex(({ name }) => name === wanted);
    const numbers = [
      steps,
      place(this.graph.outputs, token),
      place(this.graph.inputs, ids),
      place(this.graph.inputs, position),
    ];
    const device = this.device.handle;
    const list = this.#list(inputs);
    const named = (...buffers: ArrayBuffer[]) => take(this.#named(buffers));
    await onStack(
      native().runChain(device, this.handle, list, cancel?.handle ?? null, numbers, stops, named),
      this.graph,
    );
  }

  /** Runs and says what each step took. A GPU runs twice: step by step, and as a whole. */
  async profile(inputs: Record<string, RunInput> = {}): Promise<StepProfile[]> {
    const { steps, bytes } = await this.#timed(inputs);
    return Array.from(bytes, (n, i) => ({ op: this.graph.opName(i)!, ms: steps[i]!, gbps: n / steps[i]! / 1e6 }));
  }

  /** Milliseconds of a run as a whole, by the device's own clock. */
  async time(inputs: Record<string, RunInput> = {}): Promise<number> {
    return (await this.#timed(inputs)).steps.at(-1)!;
  }

  /** Gives back what the program holds on the device. */
  drop(): void {
    native().drop(this.handle);
  }

  toString(): string {
    return String(this.graph);
  }

  /** Milliseconds of each step and, last, of the whole; bytes of each step. */
  async #timed(inputs: Record<string, RunInput>): Promise<{ steps: Float64Array; bytes: Float64Array }> {
    const [steps, bytes] = (await this.#start(inputs, {}, true)).slice(-2).map((buffer) => new Float64Array(buffer));
    return { steps: steps!, bytes: bytes! };
  }

  #named(results: ArrayBuffer[]): Record<string, RunOutput> {
    return Object.fromEntries(
      this.graph.outputs.map(({ name, tensor }, i) => [name, new arrays[tensor.dtype](results[i]!)]),
    );
  }

  /** The inputs in the program's order. */
  #list(inputs: Record<string, RunInput>): RunInput[] {
    return this.graph.inputs.map(({ name, tensor }) => {
      const array = inputs[name];
      if (!(array instanceof arrays[tensor.dtype]))
        throw typeError('ERR_ARG_TYPE', `input ${name} must be a ${arrays[tensor.dtype].name}, got ${show(array)}`);
      if (array.length !== numel(tensor.shape))
        throw rangeError(
          'ERR_ARG_SHAPE',
          `input ${name} must have ${numel(tensor.shape)} elements, got ${array.length}`,
        );
      return array;
    });
  }

  #start(inputs: Record<string, RunInput>, { token, borrow = false }: RunOptions, profile: boolean) {
    const list = this.#list(inputs);
    return onStack(
      native().run(this.device.handle, this.handle, list, token?.handle ?? null, borrow, profile),
      this.graph,
    );
  }
}

/** A piece of a file and where it goes; see native/load.h. */
export interface LoadSegment {
  /** Of the tensor, for messages. */
  name: string;
  /** Bytes from the start of the file. */
  offset: number;
  elements: number;
  from: Dtype;
  to: Dtype;
  /** neg_exp stores −eˣ: A_log becomes A. */
  transform: 'none' | 'neg_exp';
  buffer: DeviceBuffer;
  /** Bytes from the start of the buffer. */
  at: number;
  /** What the numbers have to be, where they are read as stored: the parts of a quantised matrix. */
  rule?: (typeof rules)[number];
  /** Where floats become i8 or u8: the length of a row, and where scales and grids go, in bytes from the start of the buffer. */
  scales?: { columns: number; at: number; gridAt: number };
  /** Where i8 or u8 go into lines of sixteen rows, as `inLines` says: the length of a row, and the first one's number. */
  lines?: { columns: number; row: number };
}

const rules = ['any', 'weights', 'scales', 'grids'] as const;

export interface FileIdentity {
  dev: bigint;
  ino: bigint;
  size: bigint;
  mtimeNs: bigint;
}

export interface DeviceOptions {
  /** `cpu`, the default, or `cuda:N`, the GPU of that number. */
  name?: 'cpu' | `cuda:${number}`;
  /** CPU threads; by default one for each physical core that the process may use. */
  threads?: number;
  /** On a GPU: false launches every step by itself instead of replaying the program as one graph. For debugging. */
  graph?: boolean;
  /** On a GPU: repeat every step on the CPU and fail at the first whose results differ (ERR_VERIFY). For debugging. */
  verify?: boolean;
}

function openCard(ordinal: number, graph: boolean, verify: boolean): NativeDevice {
  try {
    return native().openCuda(ordinal, graph, verify);
  } catch (error) {
    const { code = 'ERR_INTERNAL', message } = error as Error & { code?: string };
    throw new VLMambaError(code, `device cuda:${ordinal}: ${message}; use device 'cpu' or 'auto'`, { cause: error });
  }
}

/** A device: a thread that does what it is asked in order, and the memory it works on. */
export class Device {
  readonly name: string;
  readonly handle: NativeDevice;
  readonly threads: number;

  /** A GPU is opened by the first thing that is asked of it, which fails when that is not possible: see `openDevice`. */
  constructor({ name = 'cpu', threads = 0, graph = true, verify = false }: DeviceOptions = {}) {
    if (!Number.isInteger(threads) || threads < 0 || threads > 1024)
      throw rangeError('ERR_ARG_THREADS', `threads must be an integer from 1 to 1024, got ${show(threads)}`);
    this.name = name;
    this.threads = threads || native().machine().threads;
    this.handle = name === 'cpu' ? native().open(threads) : openCard(Number(name.slice('cuda:'.length)), graph, verify);
  }

  /** Whether this is a GPU: then activations may have the 16 bits of the weights, and long texts are read in long pieces. */
  get cuda(): boolean {
    return this.name !== 'cpu';
  }

  /** Zero-filled memory. */
  async alloc(bytes: number, name: string): Promise<DeviceBuffer> {
    return new DeviceBuffer(await onStack(native().alloc(this.handle, bytes)), bytes, name);
  }

  async compile(graph: Graph): Promise<Program> {
    const { words, buffers } = graph.encode();
    const handles = buffers.map((buffer) => (buffer as DeviceBuffer).handle);
    return new Program(graph, this, await onStack(native().compile(this.handle, words, handles), graph));
  }

  /** Copies the array's bytes to a buffer, from `offset` bytes on. */
  write(buffer: DeviceBuffer, data: RunInput, offset = 0): Promise<void> {
    return onStack(native().write(this.handle, buffer.handle, offset, data));
  }

  read(buffer: DeviceBuffer, offset = 0, bytes = buffer.bytes - offset): Promise<ArrayBuffer> {
    return onStack(native().read(this.handle, buffer.handle, offset, bytes));
  }

  copy(from: DeviceBuffer, fromOffset: number, to: DeviceBuffer, toOffset: number, bytes: number): Promise<void> {
    return onStack(native().copy(this.handle, from.handle, fromOffset, to.handle, toOffset, bytes));
  }

  zero(buffer: DeviceBuffer, offset = 0, bytes = buffer.bytes - offset): Promise<void> {
    return onStack(native().fill(this.handle, buffer.handle, offset, bytes, 0));
  }

  /** Reads pieces of a file whose header was read before; fails when it isn't the same file any more. */
  async load(
    path: string,
    { dev, ino, size, mtimeNs }: FileIdentity,
    segments: LoadSegment[],
    token?: CancelToken,
  ): Promise<void> {
    const buffers = [...new Set(segments.map((s) => s.buffer))];
    const words = segments.flatMap((s) => [
      s.offset,
      s.elements,
      dtypes.indexOf(s.from),
      dtypes.indexOf(s.to),
      s.transform === 'neg_exp' ? 1 : 0,
      buffers.indexOf(s.buffer),
      s.at,
      rules.indexOf(s.rule ?? 'any'),
      s.lines?.columns ?? s.scales?.columns ?? 0,
      s.scales?.at ?? 0,
      s.scales?.gridAt ?? 0,
      s.lines ? 1 : 0,
      s.lines?.row ?? 0,
    ]);
    const handles = buffers.map((buffer) => buffer.handle);
    const identity = BigInt64Array.of(dev, ino, size, mtimeNs);
    const numbers = Float64Array.from(words);
    await onStack(
      native()
        .load(this.handle, path, identity, numbers, handles, token?.handle ?? null, this.threads)
        .catch((error) => {
          if (error.step !== undefined)
            error.message = `${path}: tensor ${show(segments[error.step]!.name, 200)} ${error.message}`;
          throw error;
        }),
    );
  }

  /** Cancels what runs, refuses what waits, and ends the thread. Idempotent. */
  dispose(): Promise<void> {
    return native().close(this.handle);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}

/** Bytes of a tensor with no gaps. */
export const tensorBytes = (t: Tensor): number => numel(t.shape) * dtypeBytes(t.dtype);
