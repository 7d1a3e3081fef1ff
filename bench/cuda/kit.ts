import type { Device, DeviceBuffer } from '../../lib/device.ts';
import { Graph } from '../../lib/program.ts';
import { type Dtype, dtypeBytes, numel, type Tensor, tensorOf } from '../../lib/tensor.ts';
import { fill, half } from '../kit.ts';

export interface Argument {
  dtype?: Dtype;
  shape: number[];
  /** What to fill it with, from −1 … 1; an A, say, has to be below 0. */
  map?: (x: number) => number;
}

export interface KernelCase {
  args: Record<string, Argument>;
  record: (g: Graph, t: Record<string, Tensor>) => Record<string, Tensor | undefined>;
}

/** The second-level cache of a large GPU, several times over: what one copy leaves in it is gone when its turn comes again. */
const ROTATED = 256 * 2 ** 20;
const ROUNDS = 20;

/**
 * Microseconds of a step inside a replayed graph: the median over rounds of a program that repeats it over copies of its
 * arguments and results, so many that none is found in a cache.
 */
export async function time(device: Device, { args, record }: KernelCase): Promise<number> {
  const g = new Graph('bf16');
  const buffers: DeviceBuffer[] = [];
  const bytesOf = ({ dtype = 'f32', shape }: Argument) => numel(shape) * dtypeBytes(dtype);
  const each = Object.values(args).reduce((sum, arg) => sum + bytesOf(arg), 0);
  const copies = Math.max(4, Math.min(64, Math.ceil(ROTATED / each)));
  for (let copy = 0; copy < copies; copy++) {
    const tensors: Record<string, Tensor> = {};
    for (const [i, [name, arg]] of Object.entries(args).entries()) {
      const { dtype = 'f32', shape, map } = arg;
      const buffer = await device.alloc(bytesOf(arg), name);
      buffers.push(buffer);
      if (copy === 0) {
        const values = fill(numel(shape), i + 1);
        if (map) for (let k = 0; k < values.length; k++) values[k] = map(values[k]!);
        await device.write(buffer, dtype === 'f32' ? values : half(values));
      } else {
        await device.copy(buffers[i]!, 0, buffer, 0, buffer.bytes);
      }
      tensors[name] = tensorOf(buffer, dtype, shape);
    }
    for (const tensor of Object.values(record(g, tensors))) {
      if (!tensor || tensor.storage.name !== undefined) continue;
      const buffer = await device.alloc(tensor.storage.bytes, 'result');
      buffers.push(buffer);
      g.place(tensor, buffer);
    }
  }
  const program = await device.compile(g);
  const times: number[] = [];
  for (let i = 0; i < ROUNDS + 3; i++) {
    const ms = await program.time();
    if (i >= 3) times.push((ms * 1000) / copies);
  }
  program.drop();
  for (const buffer of buffers) buffer.free();
  return times.sort((a, b) => a - b)[times.length >> 1]!;
}

/** Bytes a second, read and written, that the driver's own copies reach: the limit that kernels are held against. */
export async function copyBandwidth(device: Device): Promise<number> {
  const bytes = 4 * 2 ** 30;
  const [from, to] = [await device.alloc(bytes, 'from'), await device.alloc(bytes, 'to')];
  const settle = () => device.read(to, 0, 4);
  let best = 0;
  for (let round = 0; round < 4; round++) {
    await settle();
    const start = performance.now();
    for (let i = 0; i < 8; i++) void device.copy(from, 0, to, 0, bytes);
    await settle();
    best = Math.max(best, (8 * 2 * bytes) / ((performance.now() - start) / 1000));
  }
  from.free();
  to.free();
  return best;
}
