import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Activation } from '../../lib/ops/activation.ts';
import { linear } from '../../lib/ops/index.ts';
import { reshape, slice, transpose } from '../../lib/tensor.ts';
import { close, device, failure, floats, hardLengths, onCuda, ops, run, same } from '../kit.ts';
import { activations } from '../reference/activation.ts';
import * as reference from '../reference/linear.ts';
import { seen, weightDtypes, weights } from './weights.ts';

for (const dtype of weightDtypes)
  for (const k of [...hardLengths, 40, 100, 130, 768, 1537, 2305])
    test(`${dtype} weights, width ${k}`, async () => {
      for (const [m, n] of [
        [1, 9],
        [7, 6],
      ] as const) {
        const x = { shape: [m, k], data: floats(k, m * k) };
        const weight = weights(dtype, k + 1, [n, k]);
        const bias = { shape: [n], data: floats(k + 2, n) };
        const residual = { shape: [m, n], data: floats(k + 3, m * n) };
        const { y } = await ops.linear({ x, weight: weight.argument, bias, residual });
        assert.equal(y.shape, [m, n]);
        const terms = { bias: bias.data, residual: residual.data };
        close(y.data, reference.linear(seen(x.data, dtype), weight.values, k, n, terms), 1e-6, `${m} rows`);
        const plain = await ops.linear({ x, weight: weight.argument });
        close(plain.y.data, reference.linear(seen(x.data, dtype), weight.values, k, n), 1e-6, `${m} rows, plain`);
      }
    });

// Rows of weight that are whole 16-byte units are read in another way on a GPU.
for (const dtype of weightDtypes)
  for (const [k, n] of [
    [1601, 70],
    [1608, 200],
  ] as const)
    test(`${dtype} weights, width ${k}: a row alone has the bytes it has among others, on 1 and 2 threads`, async () => {
      const weight = weights(dtype, 1, [n, k]).argument;
      // More rows than a batch can have are another kernel on a GPU.
      for (const m of [2, 4, 5, 6, 7, 9, 33, 64, 193, onCuda ? 256 : 1025]) {
        const x = floats(m, m * k);
        const [one, two] = await Promise.all(
          [1, 2].map((threads) =>
            run({ x: { shape: [m, k], data: x }, weight }, (g, t) => linear(g, t as never), device(threads)),
          ),
        );
        same(one!.y!, two!.y!, `${m} rows, threads`);
        for (const i of [0, m >> 1, m - 1]) {
          const { y } = await ops.linear({ x: { shape: [1, k], data: x.slice(i * k, (i + 1) * k) }, weight });
          same(y.data, one!.y!.subarray(i * n, (i + 1) * n), `row ${i} of ${m}`);
        }
      }
    });

for (const m of hardLengths)
  test(`${m} rows, narrow and wide`, async () => {
    const k = 19;
    const x = { shape: [m, k], data: floats(m, m * k) };
    for (const n of m > 1000 ? [3] : [1, 4, 130]) {
      const weight = weights('f32', n, [n, k]);
      const { y } = await ops.linear({ x, weight: weight.argument });
      close(y.data, reference.linear(x.data, weight.values, k, n), 1e-6, `n ${n}`);
    }
  });

for (const [kind, act] of Object.entries(activations) as [Activation, (x: number) => number][])
  test(`${kind}: after the bias, before the residual`, async () => {
    const [m, k, n] = [5, 33, 37];
    const x = { shape: [m, k], data: floats(1, m * k) };
    const weight = weights('f32', 2, [n, k]);
    const bias = { shape: [n], data: floats(3, n) };
    const residual = { shape: [m, n], data: floats(4, m * n) };
    const { y } = await ops.linear({ x, weight: weight.argument, bias, residual }, { activation: kind });
    const terms = { bias: bias.data, residual: residual.data, act };
    close(y.data, reference.linear(x.data, weight.values, k, n, terms), 1e-6, 'y');
  });

test('parts of wider tensors, rows in another order, the result on top of the residual', async () => {
  const args = {
    x: { shape: [3, 4, 50], data: floats(1, 600) },
    weight: { shape: [21, 60], data: floats(2, 1260) },
    residual: { shape: [4, 3, 21], data: floats(3, 252) },
  };
  const { y } = await run(args, (g, t) => {
    const x = slice(transpose(t.x!, 0, 1), 2, 5, 46);
    linear(g, { x, weight: slice(t.weight!, 1, 7, 48), residual: t.residual!, y: t.residual! });
    return { y: t.residual! };
  });
  const x = Float32Array.from({ length: 12 * 41 }, (_, i) => {
    const row = Math.floor(i / 41);
    return args.x.data[((row % 3) * 4 + Math.floor(row / 3)) * 50 + 5 + (i % 41)]!;
  });
  const weight = args.weight.data.filter((_, i) => i % 60 >= 7 && i % 60 < 48);
  close(y!, reference.linear(x, weight, 41, 21, { residual: args.residual.data }), 1e-6, 'y');
});

test('columns of a wider result', async () => {
  const [m, k, n] = [9, 17, 13];
  const x = { shape: [m, k], data: floats(1, m * k) };
  const weight = weights('f32', 2, [n, k]);
  const { y } = await run(
    { x, weight: weight.argument, whole: { shape: [m, n + 7], data: new Float32Array(m * (n + 7)).fill(5) } },
    (g, t) => {
      linear(g, { x: t.x!, weight: t.weight!, y: slice(t.whole!, 1, 3, 3 + n) });
      return { y: t.whole! };
    },
  );
  const inside = (i: number) => i % (n + 7) >= 3 && i % (n + 7) < 3 + n;
  const got = y!.filter((_, i) => inside(i));
  close(got, reference.linear(x.data, weight.values, k, n), 1e-6, 'y');
  assert.ok(
    y!.every((v, i) => inside(i) || v === 5),
    'columns beside it are untouched',
  );
});

test('a row of NaN and a row of Infinity stay in their rows', async () => {
  const [m, k, n] = [7, 37, 6];
  const x = floats(1, m * k);
  x.fill(Number.NaN, k, 2 * k);
  x.fill(Number.POSITIVE_INFINITY, 3 * k, 4 * k);
  for (const dtype of weightDtypes) {
    const weight = weights(dtype, 2, [n, k]);
    const { y } = await ops.linear({ x: { shape: [m, k], data: x }, weight: weight.argument });
    for (let i = 0; i < m; i++) {
      const row = Array.from(y.data.subarray(i * n, (i + 1) * n));
      assert.ok(
        row.every(i === 1 || i === 3 ? (v) => !Number.isFinite(v) : Number.isFinite),
        `${dtype} row ${i}: ${row}`,
      );
    }
  }
});

test('sizes of zero', async () => {
  for (const dtype of weightDtypes)
    for (const [m, k, n] of [
      [0, 5, 3],
      [2, 5, 0],
      [2, 0, 3],
      [9, 0, 3],
    ] as const) {
      const bias = { shape: [n], data: floats(1, n) };
      const weight = weights(dtype, 2, [n, k]).argument;
      const { y } = await ops.linear({ x: { shape: [m, k], data: new Float32Array(m * k) }, weight, bias });
      assert.equal(y.shape, [m, n]);
      if (k === 0)
        assert.equal(
          y.data,
          Float32Array.from({ length: m * n }, (_, i) => bias.data[i % n]!),
        );
    }
});

test('errors', async () => {
  const x = { shape: [2, 4], data: floats(1, 8) };
  const weight = { shape: [3, 4], data: floats(2, 12) };
  const cases: [string, () => unknown, RegExp][] = [
    [
      'ERR_OP_SHAPE',
      () => ops.linear({ x: { shape: [4, 2], data: x.data }, weight }),
      /x must be \[rows….?k\] with k = 4/,
    ],
    ['ERR_OP_SHAPE', () => ops.linear({ x, weight: { shape: [12], data: weight.data } }), /weight must be \[n,k\]/],
    [
      'ERR_OP_SHAPE',
      () => ops.linear({ x, weight, bias: { shape: [2], data: floats(3, 2) } }),
      /bias must be \[n\] = \[3\]/,
    ],
    [
      'ERR_OP_SHAPE',
      () => ops.linear({ x, weight, residual: { shape: [2, 4], data: floats(3, 8) } }),
      /residual must be/,
    ],
    ['ERR_OP_DTYPE', () => ops.linear({ x: { shape: [2, 4], data: new Int32Array(8) }, weight }), /x must be f32/],
    [
      'ERR_OP_DTYPE',
      () => ops.linear({ x, weight: { shape: [3, 4], data: new Int32Array(12) } }),
      /weight must be f32 or f16/,
    ],
    [
      'ERR_OP_ATTR',
      () => ops.linear({ x, weight }, { activation: 'relu' as never }),
      /activation must be none \| silu/,
    ],
    ['ERR_ARG_TYPE', () => ops.linear({ x } as never), /weight is missing/],
    [
      'ERR_OP_ARG',
      () =>
        run({ x, weight: { shape: [4, 3], data: weight.data } }, (g, t) =>
          linear(g, { x: t.x!, weight: transpose(t.weight!, 0, 1) }),
        ),
      /weight must be contiguous in its last dimension/,
    ],
    [
      'ERR_OP_ARG',
      () =>
        run({ x: { shape: [4, 2], data: x.data }, weight }, (g, t) =>
          linear(g, { x: transpose(t.x!, 0, 1), weight: t.weight! }),
        ),
      /x must be contiguous in its last dimension/,
    ],
  ];
  for (const [code, act, message] of cases) {
    const error = await failure(act);
    assert.is(error.code, code, error.message);
    assert.match(error.message, message);
  }
});

test('one vector is a row', async () => {
  const weight = weights('f32', 1, [5, 8]);
  const x = floats(2, 8);
  const { y } = await ops.linear({ x: { shape: [8], data: x }, weight: weight.argument });
  assert.equal(y.shape, [5]);
  const rows = await run({ x: { shape: [8], data: x }, weight: weight.argument }, (g, t) =>
    linear(g, { x: reshape(t.x!, [1, 8]), weight: t.weight! }),
  );
  same(y.data, rows.y!, 'y');
});

test.run();
