import type { Device, Program, RunInput } from '../lib/device.ts';
import { Graph } from '../lib/program.ts';
import { type Dtype, type Tensor, tensorOf } from '../lib/tensor.ts';

export { machine } from '../lib/cli/machine.ts';

export interface Row {
  name: string;
  ms: number;
  /** 10⁹ bytes a second and 10⁹ operations a second, where they mean something. */
  gbps?: number;
  gflops?: number;
  /** Microseconds, on a GPU: the measured time, the least that the machine allows, the aim, and the best peer's (known figures). */
  us?: number;
  floor?: number;
  aim?: number;
  peer?: number;
}

/** A seeded fill, fast enough for weights: uniform in [-1, 1). */
export function fill(n: number, seed = 1): Float32Array {
  const out = new Float32Array(n);
  let state = seed >>> 0;
  for (let i = 0; i < n; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    out[i] = state / 2 ** 31 - 1;
  }
  return out;
}

/** bf16 by cutting the lower bits off. */
export function half(data: Float32Array): Uint16Array {
  const bits = new Uint16Array(data.buffer);
  const out = new Uint16Array(data.length);
  for (let i = 0; i < out.length; i++) out[i] = bits[2 * i + 1]!;
  return out;
}

export interface Case {
  args: Record<string, { dtype?: Dtype; shape: number[]; data: RunInput }>;
  record: (g: Graph, t: Record<string, Tensor>) => Record<string, Tensor | undefined>;
}

/**
 * Times the steps of a program inside native code: the median over `rounds` runs after warming up. Arguments live in
 * device buffers, so nothing is copied between runs.
 */
export async function time(device: Device, { args, record }: Case, rounds = 15): Promise<number> {
  const g = new Graph();
  const tensors: Record<string, Tensor> = {};
  const buffers = [];
  for (const [name, { dtype = 'f32', shape, data }] of Object.entries(args)) {
    const buffer = await device.alloc(data.byteLength, name);
    await device.write(buffer, data);
    buffers.push(buffer);
    tensors[name] = tensorOf(buffer, dtype, shape);
  }
  record(g, tensors);
  const program: Program = await device.compile(g);
  const times: number[] = [];
  for (let i = 0; i < rounds + 3; i++) {
    const total = (await program.profile()).reduce((sum, step) => sum + step.ms, 0);
    if (i >= 3) times.push(total);
  }
  program.drop();
  for (const buffer of buffers) buffer.free();
  return times.sort((a, b) => a - b)[times.length >> 1]!;
}
