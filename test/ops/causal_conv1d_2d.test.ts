import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { causalConv1d2d } from '../../lib/ops/index.ts';
import { slice, transpose } from '../../lib/tensor.ts';
import { close, device, failure, floats, ops, run, same } from '../kit.ts';
import { swapped } from '../layout.ts';
import * as reference from '../reference/causal_conv1d_2d.ts';

const directions = { bsm: 2, csm: 4 };

/** Runs the op over x [b, l, d], as products leave it; its result by channel. */
async function convolve(
  args: Record<'x' | 'weight', { shape: number[]; data: Float32Array }> & {
    bias?: { shape: number[]; data: Float32Array };
  },
  options: Parameters<typeof causalConv1d2d>[2],
  threads = 2,
): Promise<Float32Array> {
  const [, l, d] = args.x.shape as [number, number, number];
  const { y } = await run(
    { ...args },
    (g, { x, weight, bias }) => ({
      y: transpose(causalConv1d2d(g, { x: transpose(x!, 1, 2), weight: weight!, bias }, options).y, 2, 3),
    }),
    device(threads),
  );
  return swapped(y!, l, d);
}

for (const [b, d, w, height, width] of [
  [1, 1, 2, 1, 1],
  [2, 17, 4, 1, 9],
  [1, 33, 3, 9, 1],
  [2, 5, 4, 2, 3],
  [1, 16, 4, 7, 5],
  [1, 70, 2, 4, 16],
  [1, 20, 4, 27, 27],
] as const)
  for (const scan of ['bsm', 'csm'] as const)
    test(`${scan}, ${d} channels, ${w} taps, ${height}×${width}, batch ${b}`, async () => {
      const [k, l] = [directions[scan], height * width];
      const x = { shape: [b, d, l], data: floats(1, b * l * d, -2, 2) };
      const tokens = { shape: [b, l, d], data: swapped(x.data, d, l) };
      const own = {
        weight: { shape: [k, d, w], data: floats(2, k * d * w) },
        bias: { shape: [k, d], data: floats(3, k * d) },
      };
      const shared = { weight: { shape: [d, w], data: floats(4, d * w) } };
      for (const [weights, activation] of [
        [own, 'silu'],
        [shared, null],
      ] as const) {
        const tensors = Object.fromEntries(Object.entries(weights).map(([name, { data }]) => [name, data])) as {
          weight: Float32Array;
        };
        const want = reference.causalConv1d2d({ x: x.data, ...tensors }, { b, k, d, w, height, width }, activation);
        const { y } = await ops.causalConv1d2d({ x, ...weights }, { scan, height, width, activation });
        close(y.data, want, 1e-6, 'y');
        same(await convolve({ x: tokens, ...weights }, { scan, height, width, activation }), y.data, 'y by token');
      }
    });

test('the same bytes on 1 and 2 threads, and for a row alone', async () => {
  const weight = { shape: [40, 4], data: floats(2, 160) };
  const x = { shape: [2, 30, 40], data: floats(1, 2400) };
  const options = { scan: 'csm', height: 5, width: 6, activation: 'silu' } as const;
  const two = await convolve({ x, weight }, options);
  same(await convolve({ x, weight }, options, 1), two, 'threads');
  const second = { shape: [1, 30, 40], data: x.data.subarray(1200) };
  same(await convolve({ x: second, weight }, options), two.subarray(4800), 'a row alone');
});

test('a part of wider rows', async () => {
  const wide = { shape: [1, 12, 50], data: floats(1, 600) };
  const weight = { shape: [20, 4], data: floats(2, 80) };
  const { y } = await run({ wide, weight }, (g, { wide, weight }) => {
    const x = transpose(slice(wide!, 2, 25, 45), 1, 2);
    return { y: transpose(causalConv1d2d(g, { x, weight: weight! }, { scan: 'csm', height: 3, width: 4 }).y, 2, 3) };
  });
  const x = { shape: [1, 12, 20], data: wide.data.filter((_, i) => i % 50 >= 25 && i % 50 < 45) };
  same(swapped(y!, 12, 20), await convolve({ x, weight }, { scan: 'csm', height: 3, width: 4 }), 'y');
});

test('errors', async () => {
  const f32 = (...shape: number[]) => ({
    shape,
    data: floats(
      1,
      shape.reduce((a, x) => a * x, 1),
    ),
  });
  const args = { x: f32(2, 3, 6), weight: f32(3, 4), bias: f32(3) };
  const grid = { scan: 'bsm', height: 2, width: 3 } as const;
  const bad =
    (inputs: object, options: object = {}) =>
    () =>
      ops.causalConv1d2d({ ...args, ...inputs } as never, { ...grid, ...options });
  const cases: [string, () => unknown, RegExp][] = [
    ['ERR_OP_SHAPE', bad({ x: f32(3, 6) }), /x must be \[b,d,l\]/],
    ['ERR_OP_SHAPE', bad({ weight: f32(4, 4) }), /weight must be \[d,w\] = \[3,\*\]/],
    ['ERR_OP_SHAPE', bad({ weight: f32(4, 3, 4) }), /weight must be \[k,d,w\] = \[2,3,\*\]/],
    ['ERR_OP_SHAPE', bad({ weight: f32(3, 5) }), /weight must have 2 to 4 taps, got 5/],
    ['ERR_OP_SHAPE', bad({ bias: f32(4) }), /bias must be \[d\] = \[3\]/],
    ['ERR_OP_SHAPE', bad({ bias: f32(3, 3) }), /bias must be \[k,d\] = \[2,3\]/],
    ['ERR_OP_SHAPE', bad({}, { height: 3 }), /height·width must be 6, got 3·3/],
    ['ERR_OP_SHAPE', bad({}, { height: 1.5, width: 4 }), /height and width must be positive integers, got 1.5 and 4/],
    ['ERR_OP_ATTR', bad({}, { scan: 'zigzag' }), /scan must be bsm or csm, got "zigzag"/],
    ['ERR_OP_ATTR', bad({}, { activation: 'gelu' }), /activation must be none \| silu/],
    ['ERR_OP_DTYPE', bad({ x: { shape: [2, 3, 6], data: new Int32Array(36) } }), /x must be f32/],
    ['ERR_ARG_TYPE', bad({ weight: undefined }), /weight is missing/],
  ];
  for (const [code, act, message] of cases) {
    const error = await failure(act);
    assert.is(error.code, code, error.message);
    assert.match(error.message, message);
  }
});

test('native checks hold without those of TypeScript', async () => {
  const args = { x: { shape: [1, 3, 6], data: floats(1, 18) }, weight: { shape: [3, 4], data: floats(2, 12) } };
  for (const [k, attrs, message] of [
    [2, { height: 2, width: 2 }, /height x width = 2 x 2 must be the number of patches, got 6/],
    [2, { height: -2, width: -3 }, /height and width must be 0 to 32768, got -2 x -3/],
    [4, { height: 2, width: 3 }, /y must be \[1,2,3,6\], got f32 \[1,4,3,6\]/],
  ] as const) {
    const error = await failure(() =>
      run(args, (g, t) => {
        const y = g.empty('f32', [1, k, 3, 6]);
        g.push('causal_conv1d_2d', t, { y }, { scan: 'bsm', activation: 'none', ...attrs });
        return { y };
      }),
    );
    assert.is(error.code, 'ERR_OP_ARG');
    assert.match(error.message, message);
  }
});

test.run();
