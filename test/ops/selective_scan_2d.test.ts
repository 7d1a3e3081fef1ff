import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { selectiveScan2d } from '../../lib/ops/index.ts';
import { type Tensor, transpose } from '../../lib/tensor.ts';
import { type Argument, close, device, failure, floats, ops, run, same } from '../kit.ts';
import { swapped } from '../layout.ts';
import * as reference from '../reference/selective_scan_2d.ts';

type Sizes = reference.Grid2d & { own: boolean };

/** Arguments in a typical regime; with `own`, A, D and deltaBias of each direction are its own. */
function example({ b, k, d, n, height, width, own }: Sizes) {
  const l = height * width;
  const make = (seed: number, shape: number[], low: number, high: number) => ({
    shape,
    data: floats(
      seed,
      shape.reduce((a, x) => a * x, 1),
      low,
      high,
    ),
  });
  const weight = (...shape: number[]) => (own ? [k, ...shape] : shape);
  return {
    u: make(1, [b, k, d, l], -2, 2),
    delta: make(2, [b, k, d, l], -4, 1),
    A: make(3, weight(d, n), -8, -0.2),
    B: make(4, [b, k, n, l], -1, 1),
    C: make(5, [b, k, n, l], -1, 1),
    D: make(6, weight(d), -1, 1),
    z: make(7, [b, d, l], -3, 3),
    deltaBias: make(8, weight(d), -0.5, 0.5),
  };
}

type Example = ReturnType<typeof example>;
const data = (args: Partial<Example>) =>
  Object.fromEntries(
    Object.entries(args).map(([name, { data }]) => [name, data]),
  ) as unknown as reference.SelectiveScan2d;

/** The op over memory ordered by patch, as products leave it; its result by channel. */
async function scanTokens(
  args: Example,
  options: Parameters<typeof selectiveScan2d>[2],
  threads = 2,
): Promise<Float32Array> {
  const turned = (t: Argument): Argument => {
    const [rows, columns] = t.shape.slice(-2) as [number, number];
    return { shape: [...t.shape.slice(0, -2), columns, rows], data: swapped(t.data, rows, columns) };
  };
  const { u, delta, B, C, z, ...weights } = args;
  const tokens = { ...weights, u: turned(u), delta: turned(delta), B: turned(B), C: turned(C), z: turned(z) };
  const { y } = await run(
    tokens,
    (g, t) => {
      const { A, D, deltaBias, ...rest } = t as Record<keyof Example, Tensor>;
      const { u, delta, B, C, z } = Object.fromEntries(
        Object.entries(rest).map(([name, x]) => [name, transpose(x, x.shape.length - 2, x.shape.length - 1)]),
      ) as Record<keyof typeof rest, Tensor>;
      return { y: transpose(selectiveScan2d(g, { u, delta, A, B, C, D, z, deltaBias }, options).y, 1, 2) };
    },
    device(threads),
  );
  const [, d, l] = args.z.shape as [number, number, number];
  return swapped(y!, l, d);
}

for (const [b, d, n, height, width] of [
  [1, 1, 1, 1, 1],
  [2, 17, 16, 1, 9],
  [1, 33, 5, 9, 1],
  [2, 5, 17, 2, 3],
  [1, 16, 16, 7, 5],
  [1, 70, 4, 4, 16],
  [1, 3, 256, 3, 3],
  [1, 20, 16, 27, 27],
] as const)
  for (const scan of ['bsm', 'csm'] as const)
    test(`${scan}, ${d} channels, ${n} states, ${height}×${width}, batch ${b}`, async () => {
      const k = scan === 'bsm' ? 2 : 4;
      for (const [own, merge] of [
        [false, 'sum'],
        [true, 'mean'],
      ] as const) {
        const sizes = { b, k, d, n, height, width, own };
        const args = example(sizes);
        const options = { scan, height, width, merge, deltaSoftplus: true };
        const want = reference.selectiveScan2d(data(args), sizes, merge);
        const { y } = await ops.selectiveScan2d(args, options);
        close(y.data, want, 2e-6, `y, ${merge}`);
        same(await scanTokens(args, options), y.data, `y by patch, ${merge}`);
        const { u, delta, A, B, C } = args;
        const plain = await ops.selectiveScan2d({ u, delta, A, B, C }, options);
        close(
          plain.y.data,
          reference.selectiveScan2d(data({ u, delta, A, B, C }), sizes, merge),
          2e-6,
          `y with nothing optional, ${merge}`,
        );
      }
    });

test('equals a scan over permuted patches, put back and added', async () => {
  const [b, k, d, n, height, width] = [2, 4, 20, 16, 5, 7];
  const l = height * width;
  const args = example({ b, k, d, n, height, width, own: false });
  const { y } = await ops.selectiveScan2d(args, { scan: 'csm', height, width, deltaSoftplus: true });
  // cross_scan permutes every direction's tensor; the one of direction q is what it makes of channel block q.
  const permuted = async ({ shape, data }: Argument): Promise<Argument> => {
    const channels = shape[2]!;
    const x = { shape: [b, k * channels, height, width], data };
    const { xs } = await ops.crossScan({ x }, { scan: 'csm' });
    const size = channels * l;
    const picked = Float32Array.from(data as Float32Array, (_, i) => {
      const [row, q] = [Math.floor(i / (k * size)), Math.floor(i / size) % k];
      return xs.data[((row * k + q) * k + q) * size + (i % size)]!;
    });
    return { shape, data: picked };
  };
  const asBatch = ({ shape, data }: Argument) => ({ shape: [b * k, ...shape.slice(2)], data });
  const asGroups = ({ shape, data }: Argument) => ({ shape: [b * k, 1, ...shape.slice(2)], data });
  const { A, D, deltaBias, z } = args;
  const scanned = await ops.selectiveScan(
    {
      u: asBatch(await permuted(args.u)),
      delta: asBatch(await permuted(args.delta)),
      A,
      B: asGroups(await permuted(args.B)),
      C: asGroups(await permuted(args.C)),
      D,
      deltaBias,
    },
    { deltaSoftplus: true },
  );
  const ys = { shape: [b, k, d, l], data: scanned.y.data };
  const merged = await ops.crossMerge({ ys }, { scan: 'csm', height, width });
  const want = merged.y.data.map((x, i) => (x * z.data[i]!) / (1 + Math.exp(-z.data[i]!)));
  close(y.data, want, 1e-6, 'y');
});

test('the same bytes on 1 and 2 threads, and for a row alone', async () => {
  const args = example({ b: 2, k: 4, d: 40, n: 16, height: 5, width: 6, own: false });
  const options = { scan: 'csm', height: 5, width: 6, deltaSoftplus: true } as const;
  const two = await scanTokens(args, options);
  same(await scanTokens(args, options, 1), two, 'threads');
  const second = Object.fromEntries(
    Object.entries(args).map(([name, { shape, data }]) =>
      shape[0] === 2
        ? [name, { shape: [1, ...shape.slice(1)], data: data.subarray(data.length / 2) }]
        : [name, { shape, data }],
    ),
  ) as unknown as Example;
  same(await scanTokens(second, options), two.subarray(1200), 'a row alone');
});

test('without the softplus delta is dt', async () => {
  const sizes = { b: 1, k: 2, d: 6, n: 4, height: 3, width: 4, own: false };
  const { u, delta, A, B, C } = example(sizes);
  const dt = { ...delta, data: delta.data.map((x) => Math.log1p(Math.exp(x))) };
  const options = { scan: 'bsm', height: 3, width: 4 } as const;
  const want = await ops.selectiveScan2d({ u, delta, A, B, C }, { ...options, deltaSoftplus: true });
  close((await ops.selectiveScan2d({ u, delta: dt, A, B, C }, options)).y.data, want.y.data, 1e-6, 'y');
});

test('errors', async () => {
  const f32 = (...shape: number[]) => ({
    shape,
    data: floats(
      1,
      shape.reduce((a, x) => a * x, 1),
    ),
  });
  const args = example({ b: 2, k: 2, d: 3, n: 4, height: 2, width: 3, own: false });
  const grid = { scan: 'bsm', height: 2, width: 3 } as const;
  const bad =
    (inputs: object, options: object = {}) =>
    () =>
      ops.selectiveScan2d({ ...args, ...inputs } as never, { ...grid, ...options });
  const cases: [string, () => unknown, RegExp][] = [
    ['ERR_OP_SHAPE', bad({ u: f32(2, 3, 6) }), /u must be \[b,k,d,l\]/],
    ['ERR_OP_SHAPE', bad({}, { scan: 'csm' }), /u must be \[b,k,d,l\] = \[2,4,3,6\]/],
    ['ERR_OP_SHAPE', bad({ delta: f32(2, 2, 3, 5) }), /delta must be \[b,k,d,l\]/],
    ['ERR_OP_SHAPE', bad({ A: f32(4, 4) }), /A must be \[d,n\] = \[3,\*\]/],
    ['ERR_OP_SHAPE', bad({ A: f32(3, 3, 4) }), /A must be \[k,d,n\] = \[2,3,\*\]/],
    ['ERR_OP_SHAPE', bad({ A: f32(3, 257) }), /A must have 1 to 256 states, got 257/],
    ['ERR_OP_SHAPE', bad({ B: f32(2, 2, 5, 6) }), /B must be \[b,k,n,l\] = \[2,2,4,6\]/],
    ['ERR_OP_SHAPE', bad({ C: f32(2, 1, 4, 6) }), /C must be \[b,k,n,l\] = \[2,2,4,6\]/],
    ['ERR_OP_SHAPE', bad({ D: f32(4) }), /D must be \[d\] = \[3\]/],
    ['ERR_OP_SHAPE', bad({ deltaBias: f32(3, 3) }), /deltaBias must be \[k,d\] = \[2,3\]/],
    ['ERR_OP_SHAPE', bad({ z: f32(2, 2, 3, 6) }), /z must be \[b,d,l\] = \[2,3,6\]/],
    ['ERR_OP_SHAPE', bad({}, { width: 4 }), /height·width must be 6, got 2·4/],
    ['ERR_OP_SHAPE', bad({}, { height: 0 }), /height and width must be positive integers, got 0 and 3/],
    ['ERR_OP_ATTR', bad({}, { scan: 'zigzag' }), /scan must be bsm or csm, got "zigzag"/],
    ['ERR_OP_ATTR', bad({}, { merge: 'max' }), /merge must be sum \| mean, got "max"/],
    ['ERR_OP_DTYPE', bad({ u: { shape: [2, 2, 3, 6], data: new Int32Array(72) } }), /u must be f32/],
    ['ERR_ARG_TYPE', bad({ C: undefined }), /C is missing/],
  ];
  for (const [code, act, message] of cases) {
    const error = await failure(act);
    assert.is(error.code, code, error.message);
    assert.match(error.message, message);
  }
});

test('native checks hold without those of TypeScript', async () => {
  const { u, delta, A, B, C } = example({ b: 1, k: 2, d: 3, n: 4, height: 2, width: 3, own: true });
  const cases: [object, object, number[], RegExp][] = [
    [{}, { height: 3 }, [1, 3, 6], /height x width = 3 x 3 must be the number of patches, got 6/],
    [{}, {}, [1, 3, 5], /y must be \[1,3,6\], got f32 \[1,3,5\]/],
    [{}, { scan: 'csm' }, [1, 3, 6], /u must be \[\*,4,\*,\*\]/],
    [
      { A: { shape: [1, 6, 4], data: A.data } },
      {},
      [1, 3, 6],
      /A must have 2 dimensions, or one more in front of size 2/,
    ],
    [{ A: { shape: [2, 4, 3], data: A.data } }, {}, [1, 3, 6], /A must be \[3,\*\], got f32 \[4,3\]/],
  ];
  for (const [inputs, attrs, shape, message] of cases) {
    const error = await failure(() =>
      run({ u, delta, A, B, C, ...inputs }, (g, t) => {
        const y = g.empty('f32', shape);
        const grid = { scan: 'bsm', height: 2, width: 3, merge: 'sum', delta_softplus: true };
        g.push('selective_scan_2d', t, { y }, { ...grid, ...attrs });
        return { y };
      }),
    );
    assert.is(error.code, 'ERR_OP_ARG');
    assert.match(error.message, message);
  }
});

test.run();
