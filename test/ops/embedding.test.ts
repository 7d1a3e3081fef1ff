import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { embedding } from '../../lib/ops/embedding.ts';
import { inLines } from '../../lib/ops/quantised.ts';
import { slice, transpose } from '../../lib/tensor.ts';
import { device, failure, floats, hardLengths, onCuda, ops, random, run, same } from '../kit.ts';
import * as reference from '../reference/embedding.ts';
import { BLOCK, blocksOf } from '../reference/quantised.ts';

const op = ops.embedding;

/** Bits of finite 16-bit floats, subnormals and both zeros among them. */
function halves(seed: number, n: number): Uint16Array {
  const next = random(seed);
  const bits = Uint16Array.from({ length: n }, () => {
    const any = Math.floor(next() * 65536);
    return (any & 0x7c00) === 0x7c00 ? any & 0x83ff : any;
  });
  bits.set([0x0001, 0x8001, 0x03ff, 0x0400, 0x8000].slice(0, n));
  return bits;
}

const integers = (seed: number, n: number, low: number, high: number): Int32Array =>
  Int32Array.from(floats(seed, n, low, high), Math.floor);

for (const d of hardLengths)
  test(`width ${d}, weights in f32, f16 and bf16, words and pictures`, async () => {
    const ids = { shape: [2, 9], data: integers(d, 18, -3, 7) };
    const rows = { shape: [3, d], data: floats(d + 1, 3 * d) };
    const weight = { shape: [7, d], data: floats(d + 2, 7 * d) };
    const { y } = await op({ ids, weight, rows });
    assert.equal(y.shape, [2, 9, d]);
    same(y.data, Float32Array.from(reference.embedding(ids.data, weight.data, d, rows.data)), 'f32');
    for (const [dtype, value] of [
      ['f16', reference.f16],
      ['bf16', reference.bf16],
    ] as const) {
      const data = halves(d + 3, 7 * d);
      const got = await op({ ids, weight: { shape: [7, d], data, dtype }, rows });
      const values = Float32Array.from(data, value);
      same(got.y.data, Float32Array.from(reference.embedding(ids.data, values, d, rows.data)), dtype);
    }
  });

for (const d of hardLengths)
  test(`width ${d}, weights in int8, words and pictures`, async () => {
    const blocks = blocksOf(d);
    const ids = { shape: [2, 9], data: integers(d, 18, -3, 7) };
    const rows = { shape: [3, d], data: floats(d + 1, 3 * d) };
    const weight = { shape: [7, d], data: Int8Array.from(integers(d + 2, 7 * d, -127, 128)) };
    const scale = { shape: [7, blocks], data: floats(d + 3, 7 * blocks, 0, 0.1) };
    const { y } = await op({ ids, weight, rows, scale });
    const values = Float32Array.from(
      weight.data,
      (q, i) => q * scale.data[Math.floor(i / d) * blocks + Math.floor((i % d) / BLOCK)]!,
    );
    same(y.data, Float32Array.from(reference.embedding(ids.data, values, d, rows.data)), 'int8');
    // Lines are for the CPU.
    if (onCuda) return;
    const shape = inLines(false, 7, d);
    const lines = new Int8Array(shape[0]! * shape[1]! * shape[2]!);
    weight.data.forEach((q, i) => {
      const [row, j] = [Math.floor(i / d), i % d];
      lines[(j >> 2) * 64 + row * 4 + (j % 4)] = q;
    });
    const args = {
      ids: { dtype: 'i32' as const, ...ids },
      rows,
      scale,
      weight: { dtype: 'i8' as const, shape, data: lines },
    };
    const side = await run(args, (g, t) => embedding(g, t as never, { width: d }));
    same(side.y!, y.data, 'in lines');
  });

test('strided ids, columns of wider tables, the same bytes on 1 and 2 threads', async () => {
  const args = {
    ids: { dtype: 'i32' as const, shape: [40, 3], data: integers(1, 120, -4, 11) },
    weight: { dtype: 'bf16' as const, shape: [11, 90], data: halves(2, 990) },
    rows: { shape: [4, 80], data: floats(3, 320) },
  };
  const record: Parameters<typeof run>[1] = (g, t) =>
    embedding(g, { ids: transpose(t.ids!, 0, 1), weight: slice(t.weight!, 1, 5, 72), rows: slice(t.rows!, 1, 9, 76) });
  const one = await run(args, record, device(1));
  const two = await run(args, record, device(2));
  const columns = (data: ArrayLike<number>, width: number, from: number) =>
    Array.from(data).filter((_, i) => i % width >= from && i % width < from + 67);
  const ids = Array.from({ length: 120 }, (_, i) => args.ids.data[(i % 40) * 3 + Math.floor(i / 40)]!);
  const weight = columns(Array.from(args.weight.data, reference.bf16), 90, 5);
  const want = reference.embedding(ids, weight, 67, columns(args.rows.data, 80, 9));
  same(one.y!, Float32Array.from(want), 'y');
  same(one.y!, two.y!, 'threads');
});

test('no ids, no width', async () => {
  const ids = { shape: [2, 0], data: new Int32Array(0) };
  const weight = { shape: [3, 4], data: floats(1, 12) };
  assert.equal((await op({ ids, weight })).y.shape, [2, 0, 4]);
});

test('an id without a row fails, by value and place', async () => {
  const weight = { shape: [3, 4], data: floats(1, 12) };
  const rows = { shape: [2, 4], data: floats(2, 8) };
  const cases: [number, boolean, RegExp][] = [
    [3, false, /ids\[1,2\] is 3: weight has 3 rows, rows has 0/],
    [2 ** 31 - 1, true, /ids\[1,2\] is 2147483647: weight has 3 rows, rows has 2/],
    [-1, false, /ids\[1,2\] is -1: weight has 3 rows, rows has 0/],
    [-3, true, /ids\[1,2\] is -3/],
    [-(2 ** 31), true, /ids\[1,2\] is -2147483648/],
  ];
  for (const [id, pictures, message] of cases) {
    const ids = { shape: [2, 3], data: Int32Array.of(0, 1, 2, 0, 1, id) };
    const error = await failure(() => op({ ids, weight, rows: pictures ? rows : null }));
    assert.is(error.code, 'ERR_OP_INDEX');
    assert.match(error.message, message);
  }
});

test('errors', async () => {
  const ids = { shape: [1, 2], data: new Int32Array(2) };
  const weight = { shape: [3, 4], data: floats(1, 12) };
  const cases: [string, () => unknown, RegExp][] = [
    ['ERR_OP_DTYPE', () => op({ ids: { shape: [1, 2], data: new Float32Array(2) }, weight }), /ids must be i32/],
    [
      'ERR_OP_DTYPE',
      () => op({ ids, weight: { shape: [1, 4], data: new Int32Array(4) } }),
      /weight must be f32 or f16/,
    ],
    ['ERR_OP_DTYPE', () => op({ ids, weight, rows: { shape: [1, 4], data: new Int32Array(4) } }), /rows must be f32/],
    [
      'ERR_OP_SHAPE',
      () => op({ ids: { shape: [2], data: new Int32Array(2) }, weight }),
      /ids must be \[b,l\], got \[2\]/,
    ],
    [
      'ERR_OP_SHAPE',
      () => op({ ids, weight: { shape: [4], data: floats(1, 4) } }),
      /weight must be \[v,d\], got \[4\]/,
    ],
    [
      'ERR_OP_SHAPE',
      () => op({ ids, weight, rows: { shape: [1, 3], data: floats(1, 3) } }),
      /rows must be \[r,d\] = \[\*,4\]/,
    ],
    [
      'ERR_OP_SHAPE',
      () => op({ ids, weight: { shape: [3, 4], data: new Int8Array(12) } }),
      /scale goes with a weight of i8/,
    ],
    ['ERR_OP_SHAPE', () => op({ ids, weight, scale: { shape: [3, 1], data: floats(1, 3) } }), /scale goes with/],
    [
      'ERR_OP_SHAPE',
      () =>
        op({
          ids,
          weight: { shape: [3, 4], data: new Int8Array(12) },
          scale: { shape: [3, 2], data: floats(1, 6) },
        }),
      /scale must be .* = \[3,1\], got \[3,2\]/,
    ],
    ['ERR_ARG_TYPE', () => op({ ids } as never), /weight is missing/],
  ];
  for (const [code, act, message] of cases) {
    const error = await failure(act);
    assert.is(error.code, code);
    assert.match(error.message, message);
  }
});

test('native checks hold without those of TypeScript', async () => {
  const args = {
    ids: { dtype: 'i32' as const, shape: [1, 2], data: new Int32Array(2) },
    weight: { shape: [3, 4], data: floats(1, 12) },
  };
  const error = await failure(() =>
    run(args, (g, t) => {
      const y = g.empty('f32', [1, 2, 3]);
      g.push('embedding', { ids: t.ids!, weight: t.weight! }, { y });
      return { y };
    }),
  );
  assert.is(error.code, 'ERR_OP_ARG');
  assert.match(error.message, /y must be \[1,2,4\], got f32 \[1,2,3\]/);
});

test.run();
