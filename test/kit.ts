import { suite as uvuSuite } from 'uvu';
import * as assert from 'uvu/assert';
import { Device, type RunInput } from '../lib/device.ts';
import { devices } from '../lib/devices.ts';
import { load as loadAnywhere } from '../lib/model.ts';
import { ops as allOps, embedding, sample } from '../lib/ops/index.ts';
import { Graph } from '../lib/program.ts';
import { type Dtype, reshape, type Tensor } from '../lib/tensor.ts';

/** Lengths around every vector width and tile, and those of the real towers. */
export const hardLengths = [1, 2, 3, 15, 16, 17, 63, 64, 65, 127, 129, 255, 257, 729, 1025, 2500].filter(
  // Under a tool that watches every access, the long ones take too long.
  (length) => length <= Number(process.env.VL_MAMBA_TEST_LONGEST ?? Number.POSITIVE_INFINITY),
);

/** A seeded generator of doubles in [0, 1): mulberry32. */
export function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** `n` floats, uniform in [low, high). */
export function floats(seed: number, n: number, low = -1, high = 1): Float32Array {
  const next = random(seed);
  return Float32Array.from({ length: n }, () => low + (high - low) * next());
}

export function relL2(got: ArrayLike<number>, want: ArrayLike<number>): number {
  if (got.length !== want.length) return Number.POSITIVE_INFINITY;
  let error = 0;
  let norm = 0;
  for (let i = 0; i < want.length; i++) {
    error += (got[i]! - want[i]!) ** 2;
    norm += want[i]! ** 2;
  }
  return Math.sqrt(error / Math.max(norm, 1e-30));
}

/** Relative L2 error; a NaN or infinity that isn't in both fails first. */
export function close(got: ArrayLike<number>, want: ArrayLike<number>, tolerance: number, what: string): void {
  assert.is(got.length, want.length, `${what}: length`);
  for (let i = 0; i < want.length; i++)
    if (!Number.isFinite(want[i]!) || !Number.isFinite(got[i]!))
      assert.ok(Object.is(Math.fround(want[i]!), got[i]), `${what}: [${i}] is ${got[i]}, expected ${want[i]}`);
  const error = relL2(got, want);
  assert.ok(error <= tolerance, `${what}: relative L2 error ${error.toExponential(2)} > ${tolerance}`);
}

/** Equal bytes. */
export function same(got: ArrayBufferView, want: ArrayBufferView, what: string): void {
  const bytes = (a: ArrayBufferView) => Buffer.from(a.buffer, a.byteOffset, a.byteLength);
  assert.is(bytes(got).compare(bytes(want)), 0, `${what}: bytes differ`);
}

/** The thrown error, for its code and message. */
export async function failure(
  run: () => unknown,
): Promise<Error & { code: string; details?: Record<string, unknown> }> {
  try {
    await run();
  } catch (error) {
    return error as Error & { code: string };
  }
  throw new Error('expected an error, nothing was thrown');
}

/** What the tests that hold on any device run on: test/run.ts says it. */
export const testDevice = process.env.VL_MAMBA_TEST_DEVICE === 'cuda' ? 'cuda:0' : 'cpu';
export const onCuda = testDevice !== 'cpu';
/** What `device: 'auto'` takes on this machine. */
export const autoDevice = devices().find(({ name, available }) => available && name !== 'cpu')?.name ?? 'cpu';

const open = new Map<number, Device>();

/** The device under test, on a CPU with a given number of threads, shared by a test file. */
export function device(threads = 2): Device {
  const key = onCuda ? 0 : threads;
  if (!open.has(key)) open.set(key, new Device({ name: testDevice, threads: key }));
  return open.get(key)!;
}

/** An eager op, on the device under test unless a test says otherwise. */
export const onDevice = <F extends (inputs: never, options: never) => unknown>(op: F): F =>
  ((inputs: never, options?: object) => op(inputs, { device: device(), ...options } as never)) as unknown as F;

/** The eager ops, each so. */
export const ops = Object.fromEntries(
  Object.entries(allOps).map(([name, op]) => [name, onDevice(op as never)]),
) as unknown as typeof allOps;

/** load(), on the device under test unless a test says otherwise. */
export const load: typeof loadAnywhere = (path, options) => loadAnywhere(path, { device: testDevice, ...options });

export interface Argument {
  dtype?: Dtype;
  shape: number[];
  data: RunInput;
}

/** Records a program over the arguments, runs it on a device, returns its outputs. */
export async function run(
  args: Record<string, Argument>,
  record: (g: Graph, t: Record<string, Tensor>) => Record<string, Tensor | undefined>,
  on: Device = device(),
): Promise<Record<string, Float32Array>> {
  const g = new Graph();
  const tensors = Object.fromEntries(
    Object.entries(args).map(([name, { dtype = 'f32', shape }]) => [name, g.input(name, dtype, shape)]),
  );
  for (const [name, tensor] of Object.entries(record(g, tensors))) if (tensor) g.output(name, tensor);
  const program = await on.compile(g);
  const results = await program.run(Object.fromEntries(Object.entries(args).map(([name, { data }]) => [name, data])));
  program.drop();
  return results as Record<string, Float32Array>;
}

/**
 * uvu's suite, with one difference: uvu takes an error's `details` for text and stops the file where they are data, as those
 * of VLMambaError are. Here such an error fails its test and nothing else.
 */
/** A model of `size` tokens that counts: after id comes id + 1, after the last one 0. For `first.length` texts at once. */
export function counting(first: number[] = [0], size = 100): { graph: Graph; inputs: Record<string, RunInput> } {
  const n = first.length;
  const graph = new Graph();
  const ids = graph.input('ids', 'i32', [n, 1]);
  const position = graph.input('position', 'i32', [n]);
  const params = graph.input('params', 'f32', [n, 6]);
  const seed = graph.input('seed', 'i32', [n, 2]);
  const weight = graph.input('weight', 'f32', [size, size]);
  const { y } = embedding(graph, { ids, weight });
  const { token, logprob } = sample(graph, { logits: reshape(y, [n, size]), params, seed, position });
  graph.output('token', token);
  graph.output('logprob', logprob);
  const next = new Float32Array(size * size);
  for (let id = 0; id < size; id++) next[id * size + ((id + 1) % size)] = 1;
  const inputs = {
    ids: Int32Array.from(first),
    position: new Int32Array(n),
    params: Float32Array.from(first.flatMap(() => [0, 0, 1, 0, 1, 0])),
    seed: new Int32Array(2 * n),
    weight: next,
  };
  return { graph, inputs };
}

export function suite(name?: string) {
  const inner = uvuSuite(name);
  const test = (title: string, run: () => unknown) =>
    inner(title, async () => {
      try {
        await run();
      } catch (error) {
        const { details, code, message, stack } = error as { details?: unknown } & Error & { code?: string };
        if (details === undefined || typeof details === 'string') throw error;
        throw Object.assign(new Error(`${code}: ${message}`), { stack });
      }
    });
  return Object.assign(test, {
    run: inner.run,
    skip: inner.skip,
    before: inner.before,
    after: inner.after,
  });
}

/** A file's tests where they need no name. */
export const test = suite();
