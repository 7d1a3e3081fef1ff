import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { attention } from '../../lib/ops/index.ts';
import { index, reshape, slice, transpose } from '../../lib/tensor.ts';
import { close, device, failure, floats, hardLengths, ops, run, same } from '../kit.ts';
import * as reference from '../reference/attention.ts';

interface Sizes {
  b?: number;
  l: number;
  m?: number;
  h?: number;
  d: number;
  range?: number;
}

function tensors({ b = 1, l, m = l, h = 1, d, range = 1 }: Sizes) {
  const [q, k, v] = [l, m, m].map((rows, i) => ({
    shape: [b, rows, h, d],
    data: floats(l + i, b * rows * h * d, -range, range),
  }));
  return { q: q!, k: k!, v: v! };
}

/** The reference, head by head. */
function expected({ q, k, v }: ReturnType<typeof tensors>, scale = q.shape[3]! ** -0.5): Float64Array {
  const [b, l, h, d] = q.shape as [number, number, number, number];
  const y = new Float64Array(q.data.length);
  const head = (t: typeof q, n: number, i: number) =>
    t.data.filter((_, e) => Math.floor(e / (t.shape[1]! * h * d)) === n && Math.floor(e / d) % h === i);
  for (let n = 0; n < b; n++)
    for (let i = 0; i < h; i++) {
      const part = reference.attention(head(q, n, i), head(k, n, i), head(v, n, i), d, scale);
      for (let r = 0; r < l; r++) y.set(part.subarray(r * d, (r + 1) * d), ((n * l + r) * h + i) * d);
    }
  return y;
}

for (const l of hardLengths)
  test(`${l} rows`, async () => {
    const args = tensors({ l, h: l > 1000 ? 1 : 2, d: l > 1000 ? 5 : 24 });
    const { y } = await ops.attention(args);
    assert.equal(y.shape, args.q.shape);
    // The mean of thousands of random values is small against each of them.
    close(y.data, expected(args), l > 1000 ? 5e-6 : 1e-6, 'y');
  });

for (const d of [1, 2, 7, 15, 16, 17, 64, 65, 72, 80, 128, 255, 256])
  test(`heads of ${d}`, async () => {
    const args = tensors({ b: 2, l: 50, m: 67, h: 3, d });
    close((await ops.attention(args)).y.data, expected(args), 1e-6, 'y');
  });

test('far scores: nothing overflows, the largest wins', async () => {
  const args = tensors({ l: 70, m: 129, h: 2, d: 64, range: 20 });
  // Scores reach ±800, where an f32 keeps 5 digits behind the point.
  close((await ops.attention(args)).y.data, expected(args), 1e-4, 'y');
  args.k.data.fill(0);
  const { y } = await ops.attention(args, { scale: -3 });
  close(y.data, expected(args, -3), 1e-6, 'equal scores: the mean');
});

test('parts of one qkv tensor, heads in front, the same bytes on 1 and 2 threads', async () => {
  const [l, h, d] = [101, 3, 20];
  const qkv = { shape: [2, l, 3 * h * d], data: floats(1, 2 * l * 3 * h * d) };
  const record: Parameters<typeof run>[1] = (g, t) => {
    const part = (i: number) => index(reshape(t.qkv!, [2, l, 3, h, d]), 2, i);
    return attention(g, { q: part(0), k: part(1), v: part(2) });
  };
  const [one, two] = [await run({ qkv }, record, device(1)), await run({ qkv }, record, device(2))];
  const part = (i: number) => ({
    shape: [2, l, h, d],
    data: qkv.data.filter((_, e) => Math.floor(e / (h * d)) % 3 === i),
  });
  close(one.y!, expected({ q: part(0), k: part(1), v: part(2) }), 1e-6, 'y');
  same(one.y!, two.y!, 'threads');
  const front = tensors({ l: 9, h: 2, d: 4 });
  const swapped = await run(front, (g, t) => {
    const view = (name: string) => transpose(reshape(t[name]!, [1, 2, 9, 4]), 1, 2);
    return attention(g, { q: view('q'), k: view('k'), v: view('v') });
  });
  const rows = ({ data }: { data: Float32Array }) => ({
    shape: [1, 9, 2, 4],
    data: data.map((_, e) => data[(Math.floor(e / 4) % 2) * 36 + Math.floor(e / 8) * 4 + (e % 4)]!),
  });
  close(swapped.y!, expected({ q: rows(front.q), k: rows(front.k), v: rows(front.v) }), 1e-6, 'heads in front');
});

test('a row alone has the bytes it has among others', async () => {
  const [l, h, d] = [130, 2, 72];
  const args = tensors({ l, h, d });
  const { y } = await ops.attention(args);
  for (const i of [0, 15, 16, 47, 48, 100, l - 1]) {
    const q = { shape: [1, 1, h, d], data: args.q.data.slice(i * h * d, (i + 1) * h * d) };
    same((await ops.attention({ ...args, q })).y.data, y.data.subarray(i * h * d, (i + 1) * h * d), `row ${i}`);
  }
});

test('a query of NaN stays in its row', async () => {
  const args = tensors({ l: 20, d: 8 });
  args.q.data.fill(Number.NaN, 8, 16);
  const { y } = await ops.attention(args);
  for (let i = 0; i < 160; i++) assert.is(Number.isNaN(y.data[i]!), i >= 8 && i < 16, `[${i}]`);
});

test('sizes of zero', async () => {
  for (const sizes of [
    { l: 0, d: 8 },
    { l: 0, m: 5, d: 8 },
    { l: 3, d: 0 },
    { l: 3, h: 0, d: 8 },
    { b: 0, l: 3, d: 8 },
  ])
    assert.is((await ops.attention(tensors(sizes))).y.data.length, 0);
});

test('errors', async () => {
  const args = tensors({ l: 3, h: 2, d: 4 });
  const flat = { shape: [3, 8], data: floats(1, 24) };
  const cases: [string, () => unknown, RegExp][] = [
    ['ERR_OP_SHAPE', () => ops.attention({ ...args, q: flat }), /q must be \[b,l,h,dh\]/],
    ['ERR_OP_SHAPE', () => ops.attention({ ...args, k: flat }), /k must be \[b,m,h,dh\]/],
    [
      'ERR_OP_SHAPE',
      () => ops.attention({ ...args, k: { shape: [1, 6, 1, 4], data: floats(1, 24) } }),
      /k must be \[b,m,h,dh\] = \[1,\*,2,4\]/,
    ],
    [
      'ERR_OP_SHAPE',
      () => ops.attention({ ...args, v: { shape: [1, 4, 2, 4], data: floats(1, 32) } }),
      /v must be \[b,m,h,dh\] = \[1,3,2,4\]/,
    ],
    ['ERR_OP_SHAPE', () => ops.attention(tensors({ l: 3, m: 0, d: 4 })), /k and v must have at least one row/],
    ['ERR_OP_SHAPE', () => ops.attention(args, { scale: Number.NaN }), /scale must be finite, got NaN/],
    [
      'ERR_OP_DTYPE',
      () => ops.attention({ ...args, v: { shape: [1, 3, 2, 4], data: new Int32Array(24) } }),
      /v must be f32/,
    ],
    ['ERR_ARG_TYPE', () => ops.attention({ q: args.q, k: args.k } as never), /v is missing/],
    [
      'ERR_OP_ARG',
      () => run(args, (g, t) => attention(g, { q: t.q!, k: t.k!, v: transpose(reshape(t.v!, [1, 3, 4, 2]), 2, 3) })),
      /v must be contiguous in its last dimension/,
    ],
  ];
  for (const [code, act, message] of cases) {
    const error = await failure(act);
    assert.is(error.code, code, error.message);
    assert.match(error.message, message);
  }
  close(
    (await run(args, (g, t) => attention(g, { q: slice(t.q!, 1, 1, 3), k: t.k!, v: t.v! }))).y!,
    expected(args).subarray(8),
    1e-6,
    'rows of a longer q',
  );
});

test.run();
