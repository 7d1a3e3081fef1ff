import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { rmsNorm } from '../../lib/ops/index.ts';
import { slice } from '../../lib/tensor.ts';
import { close, device, failure, floats, hardLengths, ops, run, same } from '../kit.ts';
import * as reference from '../reference/rms_norm.ts';

for (const d of hardLengths)
  test(`width ${d}, with and without a residual`, async () => {
    const rows = 5;
    const x = { shape: [rows, d], data: floats(d, rows * d) };
    const weight = { shape: [d], data: floats(d + 1, d) };
    const residual = { shape: [rows, d], data: floats(d + 2, rows * d) };
    const plain = await ops.rmsNorm({ x, weight }, { eps: 1e-6 });
    close(plain.y.data, reference.rmsNorm(x.data, weight.data, 1e-6).y, 1e-6, 'y');
    const added = await ops.rmsNorm({ x, weight, residual });
    const want = reference.rmsNorm(x.data, weight.data, 1e-5, residual.data);
    close(added.y.data, want.y, 1e-6, 'y with a residual');
    close(added.sum!.data, want.sum, 1e-7, 'sum');
  });

test('rows of a wider tensor, the same bytes on 1 and 2 threads', async () => {
  const x = { shape: [3, 7, 100], data: floats(1, 2100) };
  const weight = { shape: [60], data: floats(2, 60) };
  const record: Parameters<typeof run>[1] = (g, t) => rmsNorm(g, { x: slice(t.x!, 2, 20, 80), weight: t.weight! });
  const one = await run({ x, weight }, record, device(1));
  const two = await run({ x, weight }, record, device(2));
  const cut = x.data.filter((_, i) => i % 100 >= 20 && i % 100 < 80);
  close(one.y!, reference.rmsNorm(cut, weight.data, 1e-5).y, 1e-6, 'y');
  same(one.y!, two.y!, 'threads');
});

test('errors', async () => {
  const x = { shape: [2, 4], data: floats(1, 8) };
  const weight = { shape: [4], data: floats(2, 4) };
  const cases: [string, () => unknown, RegExp][] = [
    [
      'ERR_OP_SHAPE',
      () => ops.rmsNorm({ x, weight: { shape: [3], data: floats(1, 3) } }),
      /weight must be \[d\] = \[4\]/,
    ],
    ['ERR_OP_SHAPE', () => ops.rmsNorm({ x, weight }, { eps: 0 }), /eps must be positive/],
    ['ERR_OP_DTYPE', () => ops.rmsNorm({ x, weight: { shape: [4], data: new Int32Array(4) } }), /weight must be f32/],
    ['ERR_ARG_SHAPE', () => ops.rmsNorm({ x: { ...x, shape: [3, 4] }, weight }), /x.data has 8 elements/],
    [
      'ERR_ARG_TYPE',
      () => ops.rmsNorm({ x: { shape: [1], data: [1] as never }, weight }),
      /x.data must be a Float32Array/,
    ],
    ['ERR_ARG_TYPE', () => ops.rmsNorm({ x } as never), /weight is missing/],
    ['ERR_ARG_NAME', () => ops.rmsNorm({ x, weight, wieght: weight } as never), /has no input "wieght"/],
  ];
  for (const [code, act, message] of cases) {
    const error = await failure(act);
    assert.is(error.code, code);
    assert.match(error.message, message);
  }
});

test.run();
