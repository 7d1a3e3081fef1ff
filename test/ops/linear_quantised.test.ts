import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { TensorData } from '../../lib/ops/eager.ts';
import { linear } from '../../lib/ops/index.ts';
import { inLines } from '../../lib/ops/quantised.ts';
import { slice } from '../../lib/tensor.ts';
import { type Argument, close, device, failure, floats, onCuda, ops, random, run, same } from '../kit.ts';
import { activations } from '../reference/activation.ts';
import { linear as plain } from '../reference/linear.ts';
import { BLOCK, blocksOf, dequantised, products as roundedProducts, unpackInt4 } from '../reference/quantised.ts';
import { seen } from './weights.ts';

type Bits = 'int8' | 'int4';

interface Quantised {
  /** weight, scale and, in int4, grid as linear takes them, for a program or alone. */
  args: Record<string, Argument>;
  data: { weight: TensorData; scale: TensorData; grid?: TensorData };
  values: Int8Array;
  scale: Float32Array;
}

/** What the products are to be. A GPU rounds x to bf16, and the numbers of a block are whole ones until their sum is made. */
function products(x: Float32Array, values: Int8Array, scale: Float32Array, k: number, n: number): Float64Array {
  if (!onCuda) return roundedProducts(x, values, scale, k, n);
  const blocks = blocksOf(k);
  const near = seen(x, 'bf16');
  return Float64Array.from({ length: (x.length / Math.max(k, 1)) * n }, (_, at) => {
    const [i, c] = [Math.floor(at / n), at % n];
    let y = 0;
    for (let j = 0; j < k; j++) y += near[i * k + j]! * values[c * k + j]! * scale[c * blocks + Math.floor(j / BLOCK)]!;
    return y;
  });
}
const tolerance = onCuda ? 1e-6 : 5e-7;

/** Weights, the extremes of their numbers among them. */
function quantised(bits: Bits, seed: number, n: number, k: number): Quantised {
  const next = random(seed);
  const whole = (low: number, high: number) => low + Math.floor(next() * (high - low + 1));
  const blocks = blocksOf(k);
  const scale = { shape: [n, blocks], data: floats(seed + 1, n * blocks, 0.001, 0.02) };
  if (bits === 'int8') {
    const data = Int8Array.from({ length: n * k }, () => whole(-127, 127));
    data.set([-127, 127, 0].slice(0, data.length));
    const weight = { dtype: 'i8' as const, shape: [n, k], data };
    return {
      args: { weight, scale },
      data: { weight: { shape: [n, k], data }, scale },
      values: data,
      scale: scale.data,
    };
  }
  const data = Uint8Array.from({ length: (n * blocks * BLOCK) / 2 }, () => whole(0, 255));
  const grid = new Int8Array(n * blocks * 4 * 2);
  for (let i = 0; i < grid.length; i += 2) {
    const step = whole(1, 16);
    grid.set(i % 8 ? [step, whole(-127, 127 - 15 * step)] : [16, i % 16 ? -127 : -113], i);
  }
  const weight = { shape: [n, (blocks * BLOCK) / 2], data };
  const grids = { shape: [n, blocks * 4, 2], data: grid };
  return {
    args: { weight: { dtype: 'u8', ...weight }, scale, grid: { dtype: 'i8', ...grids } },
    data: { weight, scale, grid: grids },
    values: unpackInt4(data, grid, n, k),
    scale: scale.data,
  };
}

const all: readonly Bits[] = ['int8', 'int4'];
const lengths = [1, 2, 3, 31, 32, 33, 63, 64, 65, 127, 128, 129, 160, 191, 192, 255, 257, 1152, 2560, 4304];

for (const bits of all)
  for (const k of lengths)
    test(`${bits}, width ${k}`, async () => {
      for (const [m, n] of k > 1000
        ? [
            [1, 9],
            [7, 6],
          ]
        : [
            [1, 9],
            [2, 16],
            [3, 17],
            [4, 33],
            [5, 2],
            [6, 5],
            [7, 6],
          ]) {
        const x = { shape: [m!, k], data: floats(k + m!, m! * k) };
        const w = quantised(bits, k, n!, k);
        const { y } = await ops.linear({ x, ...w.data });
        assert.equal(y.shape, [m, n]);
        close(y.data, products(x.data, w.values, w.scale, k, n!), tolerance, `${m} rows, ${n} columns`);
      }
    });

for (const bits of all)
  for (const m of [1, 13, 48, 200])
    test(`${bits}, ${m} rows and every place of a column`, async () => {
      const k = 161;
      for (const n of [1, 15, 16, 17, 63, 64, 65, 129]) {
        const x = { shape: [m, k], data: floats(m, m * k) };
        const w = quantised(bits, n, n, k);
        const { y } = await ops.linear({ x, ...w.data });
        close(y.data, products(x.data, w.values, w.scale, k, n), tolerance, `n ${n}`);
      }
    });

for (const bits of all)
  for (const [k, n] of [
    [1601, 150],
    [1616, 200],
  ] as const)
    test(`${bits}, width ${k}: a row alone has the bytes it has among others, on 1 and 2 threads`, async () => {
      const w = quantised(bits, 1, n, k);
      for (const m of [2, 4, 5, 6, 7, 12, 13, 64, 193, onCuda ? 256 : 1025]) {
        const x = floats(m, m * k);
        const [one, two] = await Promise.all(
          [1, 2].map((threads) =>
            run({ x: { shape: [m, k], data: x }, ...w.args }, (g, t) => linear(g, t as never), device(threads)),
          ),
        );
        same(one!.y!, two!.y!, `${m} rows, threads`);
        for (const i of [0, m >> 1, m - 1]) {
          const { y } = await ops.linear({ x: { shape: [1, k], data: x.slice(i * k, (i + 1) * k) }, ...w.data });
          same(y.data, one!.y!.subarray(i * n, (i + 1) * n), `row ${i} of ${m}`);
        }
      }
    });

for (const bits of onCuda ? [] : all)
  test(`${bits}: sixteen rows side by side in lines have the bytes that they have row by row`, async () => {
    for (const [m, n, k] of [
      [1, 16, 128],
      [1, 17, 1],
      [2, 1, 33],
      [3, 50, 161],
      [5, 33, 300],
      [8, 16, 127],
      [9, 70, 257],
      [13, 129, 48],
      [17, 65, 130],
      [200, 100, 161],
    ] as const) {
      const w = quantised(bits, m + n, n, k);
      const int4 = bits === 'int4';
      const from = w.data.weight.data as Uint8Array;
      const width = from.length / n;
      const shape = inLines(int4, n, k);
      const lines = new (int4 ? Uint8Array : Int8Array)(shape[0]! * shape[1]! * shape[2]!);
      for (let row = 0; row < n; row++)
        for (let j = 0; j < width; j++)
          lines[(row >> 4) * shape[1]! * 64 + (j >> 2) * 64 + (row % 16) * 4 + (j % 4)] = from[row * width + j]!;
      const x = { shape: [m, k], data: floats(m, m * k) };
      const { y } = await ops.linear({ x, ...w.data });
      const args = { ...w.args, x, weight: { ...w.args.weight!, shape, data: lines } };
      for (const threads of [1, 2]) {
        const got = await run(args, (g, t) => linear(g, t as never), device(threads));
        same(got.y!, y.data, `${m} rows of ${k}, ${n} columns, ${threads} threads`);
      }
    }
  });

for (const bits of all)
  test(`${bits}: bias, activation and residual`, async () => {
    const [m, k, n] = [5, 140, 37];
    const x = { shape: [m, k], data: floats(1, m * k) };
    const w = quantised(bits, 2, n, k);
    const bias = { shape: [n], data: floats(3, n) };
    const residual = { shape: [m, n], data: floats(4, m * n) };
    const sums = products(x.data, w.values, w.scale, k, n);
    const { y } = await ops.linear({ x, ...w.data, bias, residual }, { activation: 'silu' });
    const want = sums.map((v, i) => activations.silu(v + bias.data[i % n]!) + residual.data[i]!);
    close(y.data, want, 1e-6, 'y');
  });

for (const bits of all)
  test(`${bits}: rows of wider tensors, blocks of longer rows, columns of a wider result`, async () => {
    const [m, k, n] = [9, 2 * BLOCK, 13];
    const w = quantised(bits, 5, n + 4, 4 * BLOCK);
    const unit = bits === 'int8' ? BLOCK : BLOCK / 2;
    const args = {
      ...w.args,
      x: { shape: [m, k + 9], data: floats(6, m * (k + 9)) },
      whole: { shape: [m, n + 7], data: new Float32Array(m * (n + 7)).fill(5) },
    };
    const { y } = await run(args, (g, t) => {
      const part = (name: string, width: number) => t[name] && slice(slice(t[name], 0, 3, 3 + n), 1, width, 3 * width);
      linear(g, {
        x: slice(t.x!, 1, 4, 4 + k),
        weight: part('weight', unit)!,
        scale: part('scale', 1),
        grid: part('grid', 4),
        y: slice(t.whole!, 1, 3, 3 + n),
      });
      return { y: t.whole! };
    });
    const inside = (i: number, width: number, from: number, count: number) =>
      i % width >= from && i % width < from + count;
    const x = args.x.data.filter((_, i) => inside(i, k + 9, 4, k));
    const rows = (list: Int8Array | Float32Array, width: number, from: number, count: number) =>
      list.slice(3 * width, (3 + n) * width).filter((_, i) => inside(i, width, from, count));
    const values = rows(w.values, 4 * BLOCK, BLOCK, k) as Int8Array;
    const want = products(x, values, rows(w.scale, 4, 1, 2) as Float32Array, k, n);
    close(
      y!.filter((_, i) => inside(i, n + 7, 3, n)),
      want,
      5e-7,
      'y',
    );
    assert.ok(
      y!.every((v, i) => inside(i, n + 7, 3, n) || v === 5),
      'columns beside it are untouched',
    );
  });

for (const bits of all)
  test(`${bits}: NaN and infinity make their row NaN and no other, wherever they are`, async () => {
    const [m, k, n] = [8, 300, 6];
    const x = floats(1, m * k);
    const places: [number, number, number][] = [
      [1, 0, Number.NaN],
      [3, 299, Number.POSITIVE_INFINITY],
      [4, 130, Number.NEGATIVE_INFINITY],
      [6, 255, Number.NaN],
    ];
    for (const [row, j, value] of places) x[row * k + j] = value;
    const w = quantised(bits, 2, n, k);
    w.scale.fill(0, 0, 3);
    const { y } = await ops.linear({ x: { shape: [m, k], data: x }, ...w.data });
    const strange = places.map(([row]) => row);
    const lost = onCuda ? (v: number) => !Number.isFinite(v) : Number.isNaN;
    for (const row of strange) assert.ok(y.data.subarray(row * n, (row + 1) * n).every(lost), `row ${row}`);
    const others = (_: unknown, i: number) => !strange.includes(Math.floor(i / n));
    close(y.data.filter(others), products(x, w.values, w.scale, k, n).filter(others), tolerance, 'the other rows');
  });

for (const bits of all)
  test(`${bits}: zeros, halves between two numbers, the largest and the smallest floats`, async () => {
    const [k, n] = [BLOCK, 5];
    const w = quantised(bits, 3, n, k);
    w.scale.forEach((s, i) => {
      w.scale[i] = s / 1024;
    });
    const rows: Record<string, Float32Array> = {
      zeros: new Float32Array(k),
      halves: Float32Array.from({ length: k }, (_, j) => (j ? ((j % 200) - 100 + 0.5) / 127 : 1)),
      largest: floats(1, k).map((v) => v * 3e38),
      small: floats(2, k).map((v) => v * 1e-30),
      smallest: floats(3, k).map((v) => v * 1e-37),
    };
    for (const [name, data] of Object.entries(rows)) {
      const { y } = await ops.linear({ x: { shape: [1, k], data }, ...w.data });
      close(y.data, products(data, w.values, w.scale, k, n), onCuda && name === 'smallest' ? 1e-3 : tolerance, name);
    }
  });

if (onCuda)
  for (const bits of all)
    test(`${bits}, texts: numbers are rounded to bf16 before they are multiplied`, async () => {
      for (const [l, k, n] of [
        [2, 1, 1],
        [9, 31, 7],
        [64, 128, 260],
        [257, 161, 64],
        [729, 1152, 129],
        [64, 2560, 40],
      ] as const) {
        const x = { shape: [2, l, k], data: floats(l, 2 * l * k) };
        const w = quantised(bits, k, n, k);
        const bias = { shape: [n], data: floats(3, n) };
        const residual = { shape: [2, l, n], data: floats(4, 2 * l * n) };
        const { y } = await ops.linear({ x, ...w.data, bias, residual });
        const near = seen(x.data, 'bf16');
        const terms = { bias: bias.data, residual: residual.data };
        const values = dequantised(w.values, w.scale, k);
        close(y.data, plain(near, seen(values, 'bf16'), k, n, terms), 1e-6, `${l} rows, ${k} to ${n}`);
        close(y.data, plain(near, values, k, n, terms), 3e-3, `${l} rows, ${k} to ${n}, not rounded`);
        const one = await ops.linear({
          ...w.data,
          bias,
          x: { shape: [1, l, k], data: x.data.slice(l * k) },
          residual: { shape: [1, l, n], data: residual.data.slice(l * n) },
        });
        same(one.y.data, y.data.subarray(l * n), `${l} rows alone`);
      }
    });

test('int8 weights of −128, which no quantiser writes, are −128 all the same', async () => {
  const [m, k, n] = [3, 256, 4];
  const x = { shape: [m, k], data: new Float32Array(m * k).fill(1) };
  const weight = { shape: [n, k], data: new Int8Array(n * k).fill(-128) };
  const scale = { shape: [n, 2], data: new Float32Array(2 * n).fill(1) };
  const { y } = await ops.linear({ x, weight, scale });
  close(y.data, products(x.data, weight.data, scale.data, k, n), tolerance, 'y');
});

test('sizes of zero', async () => {
  for (const bits of all)
    for (const [m, k, n] of [
      [0, 5, 3],
      [2, 5, 0],
      [2, 0, 3],
      [9, 0, 3],
    ] as const) {
      const bias = { shape: [n], data: floats(1, n) };
      const w = quantised(bits, 2, n, k).data;
      const { y } = await ops.linear({ x: { shape: [m, k], data: new Float32Array(m * k) }, ...w, bias });
      assert.equal(y.shape, [m, n]);
      if (k === 0)
        assert.equal(
          y.data,
          Float32Array.from({ length: m * n }, (_, i) => bias.data[i % n]!),
        );
    }
});

test('errors', async () => {
  const x = { shape: [2, 130], data: floats(1, 260) };
  const int8 = quantised('int8', 1, 3, 130).data;
  const int4 = quantised('int4', 1, 3, 130).data;
  const plain = { shape: [3, 130], data: floats(2, 390) };
  const cases: [string, object, RegExp][] = [
    ['ERR_OP_SHAPE', { weight: int8.weight }, /scale goes with a weight of i8 or u8/],
    ['ERR_OP_SHAPE', { weight: plain, scale: int8.scale }, /scale goes with a weight of i8 or u8/],
    ['ERR_OP_SHAPE', { weight: int4.weight, scale: int4.scale }, /grid goes with a weight of u8/],
    ['ERR_OP_SHAPE', { ...int8, grid: int4.grid }, /grid goes with a weight of u8/],
    [
      'ERR_OP_SHAPE',
      { ...int8, scale: { shape: [3, 1], data: floats(1, 3) } },
      /scale must be .* = \[3,2\], got \[3,1\]/,
    ],
    ['ERR_OP_SHAPE', { ...int8, scale: { shape: [2, 2], data: floats(1, 4) } }, /scale must be .* = \[3,2\]/],
    ['ERR_OP_DTYPE', { ...int8, scale: { shape: [3, 2], data: new Int32Array(6) } }, /scale must be f32/],
    [
      'ERR_OP_SHAPE',
      { ...int4, weight: { shape: [3, 65], data: new Uint8Array(195) } },
      /weight must be .* = \[3,128\]/,
    ],
    ['ERR_OP_SHAPE', { ...int4, grid: { shape: [3, 5, 2], data: new Int8Array(30) } }, /grid must be .* = \[3,8,2\]/],
    ['ERR_OP_DTYPE', { ...int4, grid: { shape: [3, 8, 2], data: new Uint8Array(48) } }, /grid must be i8/],
    ['ERR_OP_SHAPE', { ...int8, x: { shape: [2, 129], data: floats(1, 258) } }, /x must be .* k = 130/],
  ];
  for (const [code, inputs, message] of cases) {
    const error = await failure(() => ops.linear({ x, ...inputs } as never));
    assert.is(error.code, code, error.message);
    assert.match(error.message, message);
  }
});

test('native checks hold without those of TypeScript', async () => {
  const x = { shape: [2, 130], data: floats(1, 260) };
  const int8 = quantised('int8', 1, 3, 130).args;
  const int4 = quantised('int4', 1, 3, 130).args;
  const cases: [Record<string, Argument>, RegExp][] = [
    [{ weight: int8.weight! }, /scale goes with/],
    [{ weight: int4.weight!, scale: int4.scale! }, /grid goes with/],
    [{ ...int8, grid: int4.grid! }, /grid goes with/],
    [{ ...int8, scale: { shape: [2, 3], data: floats(1, 6) } }, /scale must be \[3,2\]/],
    [{ ...int8, scale: { shape: [3, 2], data: new Int32Array(6), dtype: 'i32' } }, /scale must be f32, got i32/],
    [{ ...int4, grid: { dtype: 'i8', shape: [3, 4, 4], data: new Int8Array(48) } }, /grid must be \[3,8,2\]/],
    [{ ...int4, grid: { dtype: 'u8', shape: [3, 8, 2], data: new Uint8Array(48) } }, /grid must be i8, got u8/],
    [{ ...int4, weight: { dtype: 'u8', shape: [3, 130], data: new Uint8Array(390) } }, /weight must be \[\*,128\]/],
  ];
  for (const [inputs, message] of cases) {
    const error = await failure(() =>
      run({ x, ...inputs }, (g, t) => {
        const y = g.empty('f32', [2, 3]);
        g.push('linear', t, { y }, { activation: 'none' });
        return { y };
      }),
    );
    assert.is(error.code, 'ERR_OP_ARG', error.message);
    assert.match(error.message, message);
  }
});

test.run();
