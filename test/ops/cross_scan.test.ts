import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { crossScan } from '../../lib/ops/cross_scan.ts';
import { transpose } from '../../lib/tensor.ts';
import { device, failure, floats, ops, run, same } from '../kit.ts';
import { swapped } from '../layout.ts';
import * as reference from '../reference/cross_scan.ts';

const directions = { bsm: 2, csm: 4 };

test('2×3 patches in the order of VL-Mamba, Fig. 3', async () => {
  const x = { shape: [1, 1, 2, 3], data: Float32Array.of(0, 1, 2, 3, 4, 5) };
  const { xs } = await ops.crossScan({ x }, { scan: 'csm' });
  assert.equal(xs.shape, [1, 4, 1, 6]);
  assert.equal([...xs.data], [0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0, 0, 3, 1, 4, 2, 5, 5, 2, 4, 1, 3, 0]);
  const bsm = await ops.crossScan({ x });
  assert.equal(bsm.xs.shape, [1, 2, 1, 6]);
  same(bsm.xs.data, xs.data.subarray(0, 12), 'bsm');
});

for (const [b, c, h, w] of [
  [1, 1, 1, 1],
  [2, 17, 1, 9],
  [1, 64, 9, 1],
  [2, 130, 2, 3],
  [1, 5, 16, 17],
  [1, 70, 27, 27],
] as const)
  for (const scan of ['bsm', 'csm'] as const)
    test(`${scan} of [${b},${c},${h},${w}], by channel and by patch`, async () => {
      const k = directions[scan];
      const x = { shape: [b, c, h, w], data: floats(1, b * c * h * w) };
      const want = Float32Array.from(reference.crossScan(x.data, [b, k, c, h, w]));
      same((await ops.crossScan({ x }, { scan })).xs.data, want, 'xs');
      const patches = { shape: [b, h * w, c], data: swapped(x.data, c, h * w) };
      for (const threads of [1, 2]) {
        const got = await run(
          { patches },
          (g, { patches }) => {
            const grid = transpose(patches!, 1, 2);
            const [row, channel, patch] = grid.strides as [number, number, number];
            const xs = g.empty('f32', [b, k, c, h * w], [k * c * h * w, c * h * w, 1, c]);
            const strides = [row, channel, patch * w, patch];
            g.push('cross_scan', { x: { ...grid, shape: [b, c, h, w], strides } }, { xs }, { scan });
            return { xs: transpose(xs, 2, 3) };
          },
          device(threads),
        );
        same(swapped(got.xs!, h * w, c), want, `xs by patch on ${threads} threads`);
      }
    });

test('an exact copy: signed zeros, subnormals, infinities, NaN', async () => {
  const values = Float32Array.of(-0, 1e-45, -1e-40, Number.POSITIVE_INFINITY, Number.NaN, 3e38);
  const { xs } = await ops.crossScan({ x: { shape: [1, 1, 2, 3], data: values } });
  same(xs.data.subarray(0, 6), values, 'row by row');
  same(xs.data.subarray(6), values.toReversed(), 'reversed');
});

test('a part of a larger grid', async () => {
  const x = { shape: [1, 2, 5, 6], data: floats(1, 60) };
  const got = await run({ x }, (g, { x }) => {
    const part = { ...x!, shape: [1, 2, 3, 4], offset: 7 };
    return { xs: crossScan(g, { x: part }, { scan: 'csm' }).xs };
  });
  const cut = x.data.filter(
    (_, i) => i % 6 >= 1 && i % 6 < 5 && Math.floor(i / 6) % 5 >= 1 && Math.floor(i / 6) % 5 < 4,
  );
  same(got.xs!, Float32Array.from(reference.crossScan(cut, [1, 4, 2, 3, 4])), 'xs');
});

test('nothing to copy', async () => {
  for (const shape of [
    [0, 2, 3, 3],
    [1, 0, 3, 3],
    [1, 2, 0, 3],
  ])
    assert.is((await ops.crossScan({ x: { shape, data: new Float32Array(0) } })).xs.data.length, 0);
});

test('errors', async () => {
  const x = { shape: [1, 2, 2, 3], data: floats(1, 12) };
  const cases: [string, () => unknown, RegExp][] = [
    ['ERR_OP_SHAPE', () => ops.crossScan({ x: { shape: [2, 6], data: x.data } }), /x must be \[b,c,h,w\], got \[2,6\]/],
    ['ERR_OP_DTYPE', () => ops.crossScan({ x: { ...x, data: new Int32Array(12) } }), /x must be f32/],
    ['ERR_OP_ATTR', () => ops.crossScan({ x }, { scan: 'rows' as never }), /scan must be bsm or csm, got "rows"/],
    ['ERR_ARG_TYPE', () => ops.crossScan({} as never), /x is missing/],
  ];
  for (const [code, act, message] of cases) {
    const error = await failure(act);
    assert.is(error.code, code);
    assert.match(error.message, message);
  }
});

test('native checks hold without those of TypeScript', async () => {
  const x = { shape: [1, 2, 2, 3], data: floats(1, 12) };
  for (const [shape, message] of [
    [[1, 2, 2, 5], /height x width = 2 x 3 must be the number of patches, got 5/],
    [[1, 4, 2, 6], /xs must be \[1,2,2,\*\], got f32 \[1,4,2,6\]/],
  ] as const) {
    const error = await failure(() =>
      run({ x }, (g, { x }) => {
        const xs = g.empty('f32', [...shape]);
        g.push('cross_scan', { x }, { xs }, { scan: 'bsm' });
        return { xs };
      }),
    );
    assert.is(error.code, 'ERR_OP_ARG');
    assert.match(error.message, message);
  }
});

test.run();
