/** 16-bit activations, which only a GPU has: its results beside the CPU's in f32, on the same numbers. */
import * as assert from 'uvu/assert';
import { Device } from '../../lib/device.ts';
import { devices } from '../../lib/devices.ts';
import { crossMerge } from '../../lib/ops/cross_merge.ts';
import { crossScan } from '../../lib/ops/cross_scan.ts';
import {
  activation,
  attention,
  causalConv1d,
  causalConv1d2d,
  layerNorm,
  linear,
  rmsNorm,
  selectiveScan,
  selectiveScan2d,
} from '../../lib/ops/index.ts';
import { Graph } from '../../lib/program.ts';
import { reshape, slice, type Tensor, transpose } from '../../lib/tensor.ts';
import { fromHalf, type Half, toHalf } from '../half.ts';
import { floats, hardLengths, relL2, suite } from '../kit.ts';

type Tensors = Record<string, Tensor>;

interface Case {
  name: string;
  /** Activations: in 16 bits on the GPU. */
  halves: Record<string, number[]>;
  /** What is f32 on both. */
  f32?: Record<string, number[]>;
  /** Weights of products: 16 bits on both. */
  matrices?: Record<string, number[]>;
  record(g: Graph, t: Tensors): Record<string, Tensor | undefined>;
}

const turn = (t: Tensor) => transpose(t, t.shape.length - 2, t.shape.length - 1);
const longest = hardLengths.at(-1)!;
const lengths = [1, 2, 65, 729, 1025].filter((length) => length <= longest);

const cases: Case[] = [
  ...lengths.flatMap((l): Case[] => [
    {
      name: `linear of ${l} rows`,
      halves: { x: [1, l, 160] },
      f32: { bias: [96], residual: [1, l, 96] },
      matrices: { weight: [96, 160] },
      record: (g, { x, bias, residual, weight }) => ({
        y: linear(g, { x: x!, weight: weight!, bias }, { activation: 'silu' }).y,
        added: linear(g, { x: x!, weight: weight!, bias, residual }).y,
        wide: linear(g, { x: x!, weight: weight! }, { dtype: 'f32' }).y,
      }),
    },
    {
      name: `norms of ${l} rows`,
      halves: { x: [l, 130] },
      f32: { r: [l, 130], weight: [130], bias: [130] },
      record: (g, { x, r, weight, bias }) => ({
        rms: rmsNorm(g, { x: r!, weight: weight! }).y,
        layer: layerNorm(g, { x: r!, weight: weight!, bias }).y,
        both: layerNorm(g, { x: x!, weight: weight!, bias, residual: r }).y,
      }),
    },
    {
      name: `activation of ${l} rows`,
      halves: { x: [l, 33] },
      record: (g, { x }) => ({ y: activation(g, { x: x! }, { activation: 'gelu' }).y }),
    },
    {
      name: `causal_conv1d, ${l} tokens`,
      halves: { x: [2, l, 40] },
      f32: { weight: [40, 4], bias: [40], state: [2, 40, 3] },
      record: (g, { x, weight, bias, state }) => {
        const { y, finalState } = causalConv1d(
          g,
          { x: turn(x!), weight: weight!, bias, initialState: state },
          { activation: 'silu' },
        );
        return { y: turn(y), finalState };
      },
    },
    ...(['f32', 'halves'] as const).map(
      (delta): Case => ({
        name: `selective_scan, ${l} tokens, delta among the ${delta}`,
        halves: { u: [2, l, 40], z: [2, l, 40], ...(delta === 'halves' && { delta: [2, l, 40] }) },
        f32: {
          ...(delta === 'f32' && { delta: [2, l, 40] }),
          A: [40, 16],
          BC: [2, l, 32],
          D: [40],
          deltaBias: [40],
          state: [2, 40, 16],
        },
        record: (g, { u, z, delta, A, BC, D, deltaBias, state }) => {
          const group = (from: number) => reshapeGroup(turn(slice(BC!, 2, from, from + 16)));
          const { y, lastState } = selectiveScan(
            g,
            {
              u: turn(u!),
              delta: turn(delta!),
              A: A!,
              B: group(0),
              C: group(16),
              D,
              z: turn(z!),
              deltaBias,
              initialState: state,
            },
            { deltaSoftplus: true },
          );
          return { y: turn(y), lastState };
        },
      }),
    ),
  ]),
  ...([1, 2, 27] as const).flatMap((side): Case[] =>
    (['bsm', 'csm'] as const).flatMap((scan): Case[] => {
      const k = scan === 'bsm' ? 2 : 4;
      const l = side * (side + 1);
      const grid = { scan, height: side, width: side + 1 };
      return [
        {
          name: `causal_conv1d_2d ${scan} ${side} × ${side + 1}`,
          halves: { x: [1, l, 36] },
          f32: { weight: [36, 4], bias: [36] },
          record: (g, { x, weight, bias }) => ({
            y: turn(causalConv1d2d(g, { x: turn(x!), weight: weight!, bias }, { ...grid, activation: 'silu' }).y),
          }),
        },
        {
          name: `selective_scan_2d ${scan} ${side} × ${side + 1}`,
          halves: { u: [1, k, l, 36], z: [1, l, 36] },
          f32: { delta: [1, k, l, 36], A: [36, 16], BC: [1, k, l, 32], D: [36], deltaBias: [36] },
          record: (g, { u, z, delta, A, BC, D, deltaBias }) => ({
            y: turn(
              selectiveScan2d(
                g,
                {
                  u: turn(u!),
                  delta: turn(delta!),
                  A: A!,
                  B: turn(slice(BC!, 3, 0, 16)),
                  C: turn(slice(BC!, 3, 16, 32)),
                  D,
                  z: turn(z!),
                  deltaBias,
                },
                { ...grid, merge: 'sum', deltaSoftplus: true },
              ).y,
            ),
          }),
        },
        {
          name: `cross_scan and cross_merge ${scan} ${side} × ${side + 1}`,
          halves: { x: [1, 36, side, side + 1], ys: [1, k, 36, l] },
          record: (g, { x, ys }) => ({
            xs: crossScan(g, { x: x! }, { scan }).xs,
            y: crossMerge(g, { ys: ys! }, grid).y,
          }),
        },
      ];
    }),
  ),
  ...([64, 72] as const).flatMap((d) =>
    [...lengths, ...(longest > 577 ? [577] : [])].map(
      (l): Case => ({
        name: `attention, ${l} rows, heads of ${d}`,
        halves: { qkv: [1, l, 3 * 2 * d] },
        record: (g, { qkv }) => {
          const part = (i: number) => reshape(slice(qkv!, 2, i * 2 * d, (i + 1) * 2 * d), [1, l, 2, d]);
          return { y: attention(g, { q: part(0), k: part(1), v: part(2) }, { scale: d ** -0.5 }).y };
        },
      }),
    ),
  ),
];

const reshapeGroup = (t: Tensor): Tensor => ({
  ...t,
  shape: [t.shape[0]!, 1, t.shape[1]!, t.shape[2]!],
  strides: [t.strides[0]!, 0, t.strides[1]!, t.strides[2]!],
});

/** Runs a case on a device; activations in 16 bits, or as the same numbers in f32. */
async function outcome({ halves, f32 = {}, matrices = {}, record }: Case, device: Device, dtype: Half, wide: boolean) {
  const g = new Graph(wide ? 'f32' : dtype);
  const tensors: Tensors = {};
  const data: Record<string, Float32Array | Uint16Array> = {};
  let seed = 1;
  const values = (name: string, shape: number[]) => {
    const n = shape.reduce((a, b) => a * b, 1);
    return name === 'A' ? floats(seed++, n, -8, -0.2) : floats(seed++, n, -1, 1);
  };
  for (const [name, shape] of [...Object.entries(halves), ...Object.entries(matrices)]) {
    const half = Uint16Array.from(values(name, shape), (x) => toHalf(x, dtype));
    const keep = wide && name in halves;
    tensors[name] = g.input(name, keep ? 'f32' : dtype, shape);
    data[name] = keep ? Float32Array.from(half, (h) => fromHalf(h, dtype)) : half;
  }
  for (const [name, shape] of Object.entries(f32)) {
    tensors[name] = g.input(name, 'f32', shape);
    data[name] = values(name, shape);
  }
  for (const [name, tensor] of Object.entries(record(g, tensors))) {
    if (!tensor) continue;
    // What the record returns may be a view of the value, turned: the value itself is what is compared.
    g.output(name, { ...tensor, shape: [tensor.shape.reduce((a, b) => a * b, 1)], strides: [1] });
  }
  const program = await device.compile(g);
  const results = await program.run(data);
  const again = await program.run(data);
  for (const [name, result] of Object.entries(results))
    assert.equal(again[name], result, `${name}: the same bytes again`);
  program.drop();
  return Object.fromEntries(
    Object.entries(results).map(([name, result]) => [
      name,
      result instanceof Uint16Array ? Float32Array.from(result, (h) => fromHalf(h, dtype)) : (result as Float32Array),
    ]),
  );
}

const test = suite('16-bit activations');
const available = devices()[1]!.available;
let cpu: Device;
let cuda: Device;
test.before(() => {
  if (!available) return;
  cpu = new Device();
  cuda = new Device({ name: 'cuda:0' });
});
for (const one of cases)
  for (const dtype of ['bf16', 'f16'] as const) {
    const title = `${one.name}, ${dtype}`;
    if (!available) {
      test.skip(title);
      continue;
    }
    test(title, async () => {
      const want = await outcome(one, cpu, dtype, true);
      const got = await outcome(one, cuda, dtype, false);
      for (const name of Object.keys(want)) {
        const error = relL2(got[name]!, want[name]!);
        assert.ok(error <= (dtype === 'bf16' ? 6e-3 : 1e-3), `${name}: relative L2 error ${error.toExponential(2)}`);
      }
    });
  }
test.run();
