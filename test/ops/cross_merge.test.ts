import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { transpose } from '../../lib/tensor.ts';
import { close, device, failure, floats, ops, run, same } from '../kit.ts';
import { swapped } from '../layout.ts';
import * as reference from '../reference/cross_merge.ts';

const directions = { bsm: 2, csm: 4 };

for (const [b, c, height, width] of [
  [1, 1, 1, 1],
  [2, 17, 1, 9],
  [1, 64, 9, 1],
  [2, 130, 2, 3],
  [1, 5, 16, 17],
  [1, 70, 27, 27],
] as const)
  for (const scan of ['bsm', 'csm'] as const)
    test(`${scan} to [${b},${c},${height},${width}], by channel and by patch`, async () => {
      const [k, l] = [directions[scan], height * width];
      const ys = { shape: [b, k, c, l], data: floats(1, b * k * c * l) };
      const { y } = await ops.crossMerge({ ys }, { scan, height, width });
      assert.equal(y.shape, [b, c, height, width]);
      close(y.data, reference.crossMerge(ys.data, [b, k, c, height, width]), 1e-6, 'y');
      const tokens = { shape: [b, k, l, c], data: swapped(ys.data, c, l) };
      for (const threads of [1, 2]) {
        const got = await run(
          { tokens },
          (g, { tokens }) => {
            const grid = g.empty('f32', [b, c, height, width], [c * l, 1, c * width, c]);
            g.push('cross_merge', { ys: transpose(tokens!, 2, 3) }, { y: grid }, { scan });
            return { y: { ...grid, shape: [b, l, c], strides: [c * l, c, 1] } };
          },
          device(threads),
        );
        same(swapped(got.y!, l, c), y.data, `y by patch on ${threads} threads`);
      }
    });

test('the merge of a scan is the picture, once for each direction', async () => {
  const x = { shape: [1, 3, 4, 5], data: floats(1, 60) };
  for (const scan of ['bsm', 'csm'] as const) {
    const { xs } = await ops.crossScan({ x }, { scan });
    const { y } = await ops.crossMerge({ ys: xs }, { scan, height: 4, width: 5 });
    close(
      y.data,
      x.data.map((v) => directions[scan] * v),
      1e-7,
      scan,
    );
  }
});

test('nothing to add', async () => {
  const ys = { shape: [1, 2, 0, 6], data: new Float32Array(0) };
  assert.equal((await ops.crossMerge({ ys }, { height: 2, width: 3 })).y.shape, [1, 0, 2, 3]);
});

test('errors', async () => {
  const ys = { shape: [1, 2, 2, 6], data: floats(1, 24) };
  const grid = { height: 2, width: 3 };
  const cases: [string, () => unknown, RegExp][] = [
    [
      'ERR_OP_SHAPE',
      () => ops.crossMerge({ ys: { ...ys, shape: [4, 6] } }, grid),
      /ys must be \[b,k,c,h·w\], got \[4,6\]/,
    ],
    ['ERR_OP_SHAPE', () => ops.crossMerge({ ys }, { ...grid, scan: 'csm' }), /ys must be \[b,k,c,h·w\] = \[1,4,2,6\]/],
    ['ERR_OP_SHAPE', () => ops.crossMerge({ ys }, { height: 3, width: 3 }), /height·width must be 6, got 3·3/],
    [
      'ERR_OP_SHAPE',
      () => ops.crossMerge({ ys }, { height: -2, width: -3 }),
      /must be positive integers, got -2 and -3/,
    ],
    ['ERR_OP_DTYPE', () => ops.crossMerge({ ys: { ...ys, data: new Int32Array(24) } }, grid), /ys must be f32/],
    ['ERR_OP_ATTR', () => ops.crossMerge({ ys }, { ...grid, scan: 'rows' as never }), /scan must be bsm or csm/],
    ['ERR_ARG_TYPE', () => ops.crossMerge({} as never, grid), /ys is missing/],
  ];
  for (const [code, act, message] of cases) {
    const error = await failure(act);
    assert.is(error.code, code);
    assert.match(error.message, message);
  }
});

test('native checks hold without those of TypeScript', async () => {
  const ys = { shape: [1, 2, 2, 6], data: floats(1, 24) };
  for (const [shape, message] of [
    [[1, 2, 2, 2], /height x width = 2 x 2 must be the number of patches, got 6/],
    [[1, 3, 2, 3], /ys must be \[1,2,3,\*\], got f32 \[1,2,2,6\]/],
  ] as const) {
    const error = await failure(() =>
      run({ ys }, (g, { ys }) => {
        const y = g.empty('f32', [...shape]);
        g.push('cross_merge', { ys }, { y }, { scan: 'bsm' });
        return { y };
      }),
    );
    assert.is(error.code, 'ERR_OP_ARG');
    assert.match(error.message, message);
  }
});

test.run();
