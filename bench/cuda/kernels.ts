import type { Device } from '../../lib/device.ts';
import { crossMerge } from '../../lib/ops/cross_merge.ts';
import { crossScan } from '../../lib/ops/cross_scan.ts';
import { attention, causalConv1d, linear, selectiveScan, selectiveScan2d } from '../../lib/ops/index.ts';
import { index, reshape, slice, type Tensor, transpose } from '../../lib/tensor.ts';
import type { Row } from '../kit.ts';
import { copyBandwidth, type KernelCase, time } from './kit.ts';

const turn = (t: Tensor) => transpose(t, t.shape.length - 2, t.shape.length - 1);
const N = 16;
const decay = (x: number) => -4 - 3 * x;

/** bf16 u and z in, bf16 y out, delta, B and C in f32 as the products in front leave them; token by token. */
function scan(b: number, d: number, l: number, groups = 1): KernelCase {
  return {
    args: {
      u: { dtype: 'bf16', shape: [b, l, d] },
      z: { dtype: 'bf16', shape: [b, l, d] },
      delta: { dtype: 'bf16', shape: [b, l, d] },
      BC: { shape: [b, l, groups, 2 * N] },
      A: { shape: [d, N], map: decay },
      D: { shape: [d] },
      deltaBias: { shape: [d] },
      state: { shape: [b, d, N] },
    },
    record: (g, { u, z, delta, BC, A, D, deltaBias, state }) => {
      const states = (from: number) => transpose(transpose(slice(BC!, 3, from, from + N), 1, 2), 2, 3);
      const { y } = selectiveScan(
        g,
        {
          u: turn(u!),
          delta: turn(delta!),
          z: turn(z!),
          A: A!,
          B: states(0),
          C: states(N),
          D,
          deltaBias,
          lastState: state,
        },
        { deltaSoftplus: true },
      );
      return { y };
    },
  };
}

function scan2d(d: number, side: number): KernelCase {
  const l = side * side;
  return {
    args: {
      u: { dtype: 'bf16', shape: [1, 4, l, d] },
      delta: { dtype: 'bf16', shape: [1, 4, l, d] },
      z: { dtype: 'bf16', shape: [1, l, d] },
      BC: { shape: [1, 4, l, 2 * N] },
      A: { shape: [d, N], map: decay },
      D: { shape: [d] },
      deltaBias: { shape: [d] },
    },
    record: (g, { u, delta, z, BC, A, D, deltaBias }) =>
      selectiveScan2d(
        g,
        {
          u: turn(u!),
          delta: turn(delta!),
          z: turn(z!),
          A: A!,
          B: turn(slice(BC!, 3, 0, N)),
          C: turn(slice(BC!, 3, N, 2 * N)),
          D,
          deltaBias,
        },
        { scan: 'csm', height: side, width: side, merge: 'sum', deltaSoftplus: true },
      ),
  };
}

const conv = (l: number, d = 5120): KernelCase => ({
  args: { x: { dtype: 'bf16', shape: [1, l, d] }, weight: { shape: [d, 4] }, bias: { shape: [d] } },
  record: (g, { x, weight, bias }) => ({
    y: causalConv1d(g, { x: turn(x!), weight: weight!, bias }, { activation: 'silu' }).y,
  }),
});

const product = (m: number, n: number, k: number): KernelCase => ({
  args: { x: { dtype: 'bf16', shape: m === 1 ? [1, k] : [1, m, k] }, weight: { dtype: 'bf16', shape: [n, k] } },
  record: (g, { x, weight }) => linear(g, { x: x!, weight: weight! }),
});

const attend = (b: number, l: number, h: number, d: number): KernelCase => ({
  args: { qkv: { dtype: 'bf16', shape: [b, l, 3 * h * d] } },
  record: (g, { qkv }) => {
    const part = (i: number) => index(reshape(qkv!, [b, l, 3, h, d]), 2, i);
    return attention(g, { q: part(0), k: part(1), v: part(2) });
  },
});

interface Entry extends KernelCase {
  name: string;
  /** Bytes that have to be moved, exponentials and multiply-adds that have to be made. */
  bytes: number;
  exps?: number;
  flops?: number;
  /** Microseconds: what we aim for, and what the best known implementation took on an H200 (reference figures). */
  aim?: number;
  peer?: number;
}

const scanEntry = (b: number, d: number, l: number, aim?: number, peer?: number, groups = 1): Entry => ({
  name: `selective_scan b${b} d${d} n16 L${l}${groups > 1 ? ` g${groups}` : ''}`,
  bytes: b * l * (4 * d * 2 + groups * 2 * N * 4) + d * N * 4,
  exps: b * l * d * N,
  ...(aim && { aim }),
  ...(peer && { peer }),
  ...scan(b, d, l, groups),
});

const convEntry = (l: number, aim: number, peer: number): Entry => ({
  name: `causal_conv1d d5120 w4 L${l}`,
  bytes: 2 * 2 * l * 5120,
  aim,
  peer,
  ...conv(l),
});

const productEntry = (name: string, m: number, n: number, k: number, peer?: number): Entry => ({
  name: `linear ${name} m${m} ${n}×${k}`,
  bytes: 2 * (n * k + m * (n + k)),
  flops: 2 * m * n * k,
  ...(peer && { peer }),
  ...product(m, n, k),
});

const cells = 2304 * 27 * 27 * 2;
const entries: Entry[] = [
  scanEntry(1, 5120, 256, 9, 24.7),
  scanEntry(1, 5120, 729, 24, 146),
  scanEntry(1, 5120, 1024, 30, 93.4),
  scanEntry(1, 5120, 8192, 210, 894),
  scanEntry(1, 5120, 65536, 1600, 7312),
  scanEntry(8, 5120, 1024, 200, 694),
  scanEntry(1, 9216, 729, 42, 265, 4),
  scanEntry(1, 1536, 2048),
  scanEntry(1, 5120, 1),
  scanEntry(8, 5120, 1),
  scanEntry(64, 5120, 1),
  {
    name: 'selective_scan_2d csm d2304 27×27',
    bytes: 10 * cells,
    exps: 4 * 729 * 2304 * N,
    aim: 48,
    peer: 295,
    ...scan2d(2304, 27),
  },
  convEntry(729, 4.5, 5.8),
  convEntry(1024, 5.5, 6.1),
  convEntry(8192, 42, 45.8),
  convEntry(65536, 330, 371),
  {
    name: 'cross_scan csm 2304×27×27',
    bytes: 5 * cells,
    aim: 5,
    peer: 24.2,
    args: { x: { dtype: 'bf16', shape: [1, 2304, 27, 27] } },
    record: (g, { x }) => crossScan(g, { x: x! }, { scan: 'csm' }),
  },
  {
    name: 'cross_merge csm 2304×27×27',
    bytes: 5 * cells,
    aim: 5,
    peer: 5.4,
    args: { ys: { dtype: 'bf16', shape: [1, 4, 2304, 729] } },
    record: (g, { ys }) => crossMerge(g, { ys: ys! }, { scan: 'csm', height: 27, width: 27 }),
  },
  ...(
    [
      ['in_proj', 10240, 2560, [15.1, 15.3, 16.5, 61.6, 84.8, 168]],
      ['out_proj', 2560, 5120, [9.5, 8.0, 9.4, 31.4, 42.5, 80]],
      ['x_proj', 192, 5120, [6.3, 6.5, 6.7, 8.8, 9.3, 10.7]],
      ['dt_proj', 5120, 160, [2.7, 2.6, 2.8, 6.4, 7.0, 11.6]],
      ['lm_head', 50280, 2560, [65, 67, 68, 309, 403, 797]],
      ['qkv', 3456, 1152, [4.2, 3.9, 4.4, 11.1, 12.7, 25.6]],
      ['fc1', 4304, 1152, [4.6, 4.2, 4.5, 12.6, 16.3, 32.4]],
      ['fc2', 1152, 4304, [6.4, 6.4, 7.5, 15.5, 24.4, 30.2]],
    ] as const
  ).flatMap(([name, n, k, peers]) =>
    [1, 729, 1024, 2048].map((m) => productEntry(name, m, n, k, peers[[1, 8, 64, 729, 1024, 2048].indexOf(m)])),
  ),
  ...[1, 8].flatMap((b): Entry[] =>
    (
      [
        [729, 72, 'SigLIP'],
        [577, 64, 'CLIP-L'],
      ] as const
    ).map(([l, d, tower]) => ({
      name: `attention ${tower} b${b} ${l} rows, 16 heads of ${d}`,
      bytes: 2 * b * l * 16 * d * 4,
      flops: 4 * b * l * l * 16 * d,
      ...attend(b, l, 16, d),
    })),
  ),
];

/** The kernel table: microseconds beside the larger of what memory, the exponential units and the tensor cores allow. */
export default async function* (device: Device, words: readonly string[]): AsyncGenerator<Row> {
  const bandwidth = await copyBandwidth(device);
  // ex2 at 16 a clock and multiprocessor, and a matrix product of 8192³ in bf16, both of an H200 at 1980 MHz.
  const [exps, flops] = [16 * 132 * 1.98e9, 790e12];
  yield { name: 'limit: copy, read and written', ms: 0, gbps: bandwidth / 1e9 };
  for (const { name, bytes, exps: e = 0, flops: f = 0, aim, peer, ...one } of entries) {
    if (words.length > 0 && !words.some((word) => name.includes(word))) continue;
    const us = await time(device, one);
    const floor = 1e6 * Math.max(bytes / bandwidth, e / exps, f / flops);
    yield {
      name,
      ms: us / 1000,
      gbps: bytes / us / 1e3,
      ...(f && { gflops: f / us / 1e3 }),
      us,
      floor,
      ...(aim && { aim }),
      ...(peer && { peer }),
    };
  }
}
