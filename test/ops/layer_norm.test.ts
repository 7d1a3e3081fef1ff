import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { layerNorm } from '../../lib/ops/layer_norm.ts';
import { slice } from '../../lib/tensor.ts';
import { close, device, failure, floats, hardLengths, ops, run, same } from '../kit.ts';
import * as reference from '../reference/layer_norm.ts';

const op = ops.layerNorm;

for (const d of hardLengths)
  test(`width ${d}, with and without a bias and a residual`, async () => {
    const rows = 5;
    const x = { shape: [rows, d], data: floats(d, rows * d) };
    const weight = { shape: [d], data: floats(d + 1, d) };
    const bias = { shape: [d], data: floats(d + 2, d) };
    const residual = { shape: [rows, d], data: floats(d + 3, rows * d) };
    const plain = await op({ x, weight }, { eps: 1e-6 });
    close(plain.y.data, reference.layerNorm(x.data, weight.data, 1e-6).y, 1e-6, 'y');
    assert.is(plain.sum, undefined);
    const added = await op({ x, weight, bias, residual });
    const want = reference.layerNorm(x.data, weight.data, 1e-5, { bias: bias.data, residual: residual.data });
    close(added.y.data, want.y, 1e-6, 'y with a bias and a residual');
    close(added.sum!.data, want.sum, 1e-7, 'sum');
  });

test('rows far from zero keep their digits', async () => {
  for (const offset of [100, -3000, 50000]) {
    const x = { shape: [4, 1153], data: floats(1, 4 * 1153, offset - 1, offset + 1) };
    const weight = { shape: [1153], data: floats(2, 1153) };
    close((await op({ x, weight })).y.data, reference.layerNorm(x.data, weight.data, 1e-5).y, 1e-6, `around ${offset}`);
  }
});

test('equal elements give the bias', async () => {
  const weight = { shape: [37], data: floats(1, 37) };
  const bias = { shape: [37], data: floats(2, 37) };
  const { y } = await op({ x: { shape: [1, 37], data: new Float32Array(37).fill(0.3) }, weight, bias });
  close(y.data, bias.data, 1e-4, 'y');
});

test('rows of a wider tensor, the same bytes on 1 and 2 threads and for a row alone', async () => {
  const x = { shape: [3, 7, 100], data: floats(1, 2100, 0, 5) };
  const weight = { shape: [61], data: floats(2, 61) };
  const bias = { shape: [61], data: floats(3, 61) };
  const record: Parameters<typeof run>[1] = (g, t) =>
    layerNorm(g, { x: slice(t.x!, 2, 20, 81), weight: t.weight!, bias: t.bias!, residual: slice(t.x!, 2, 3, 64) });
  const one = await run({ x, weight, bias }, record, device(1));
  const two = await run({ x, weight, bias }, record, device(2));
  const cut = (from: number) => x.data.filter((_, i) => i % 100 >= from && i % 100 < from + 61);
  const want = reference.layerNorm(cut(20), weight.data, 1e-5, { bias: bias.data, residual: cut(3) });
  close(one.y!, want.y, 1e-6, 'y');
  same(one.y!, two.y!, 'threads');
  same(one.sum!, two.sum!, 'threads, sum');
  const row = { shape: [1, 1, 100], data: x.data.slice(1100, 1200) };
  const alone = await run({ x: row, weight, bias }, record);
  same(alone.y!, one.y!.subarray(11 * 61, 12 * 61), 'a row alone');
});

test('no rows', async () => {
  const { y } = await op({
    x: { shape: [0, 8], data: new Float32Array(0) },
    weight: { shape: [8], data: floats(1, 8) },
  });
  assert.equal(y.shape, [0, 8]);
});

test('a NaN stays in its row', async () => {
  const x = { shape: [3, 20], data: floats(1, 60) };
  const weight = { shape: [20], data: floats(2, 20) };
  const clean = (await op({ x, weight })).y.data;
  x.data[25] = Number.NaN;
  const { y } = await op({ x, weight });
  same(y.data.subarray(0, 20), clean.subarray(0, 20), 'row 0');
  same(y.data.subarray(40), clean.subarray(40), 'row 2');
  assert.ok(y.data.subarray(20, 40).every(Number.isNaN), 'row 1');
});

test('errors', async () => {
  const x = { shape: [2, 4], data: floats(1, 8) };
  const four = { shape: [4], data: floats(2, 4) };
  const three = { shape: [3], data: floats(2, 3) };
  const cases: [string, () => unknown, RegExp][] = [
    ['ERR_OP_SHAPE', () => op({ x, weight: three }), /weight must be \[d\] = \[4\], got \[3\]/],
    ['ERR_OP_SHAPE', () => op({ x, weight: four, bias: three }), /bias must be \[d\] = \[4\], got \[3\]/],
    ['ERR_OP_SHAPE', () => op({ x, weight: four, residual: four }), /residual must be \[rows…,d\] = \[2,4\]/],
    ['ERR_OP_SHAPE', () => op({ x, weight: four }, { eps: -1 }), /eps must be positive, got -1/],
    ['ERR_OP_SHAPE', () => op({ x, weight: four }, { eps: Number.NaN }), /eps must be positive, got NaN/],
    ['ERR_OP_DTYPE', () => op({ x, weight: four, bias: { shape: [4], data: new Int32Array(4) } }), /bias must be f32/],
    ['ERR_ARG_TYPE', () => op({ x } as never), /weight is missing/],
  ];
  for (const [code, act, message] of cases) {
    const error = await failure(act);
    assert.is(error.code, code);
    assert.match(error.message, message);
  }
});

test('native checks hold without those of TypeScript', async () => {
  const x = { shape: [2, 4], data: floats(1, 8) };
  const weight = { shape: [4], data: floats(2, 4) };
  const cases: [RegExp, Parameters<typeof run>[1]][] = [
    [/x must have the rows/, (g, t) => push(g, { x: slice(t.x!, 1, 0, 3), weight: t.weight! }, [2, 4], 1e-5)],
    [/y must have the rows/, (g, t) => push(g, { x: t.x!, weight: t.weight! }, [2, 3], 1e-5)],
    [/eps must be positive/, (g, t) => push(g, { x: t.x!, weight: t.weight! }, [2, 4], 0)],
  ];
  for (const [message, record] of cases) {
    const error = await failure(() => run({ x, weight }, record));
    assert.is(error.code, 'ERR_OP_ARG');
    assert.match(error.message, message);
  }
  function push(
    g: Parameters<typeof layerNorm>[0],
    inputs: Parameters<typeof layerNorm>[1],
    shape: number[],
    eps: number,
  ) {
    const y = g.empty('f32', shape);
    g.push('layer_norm', { ...inputs }, { y }, { eps });
    return { y };
  }
});

test.run();
