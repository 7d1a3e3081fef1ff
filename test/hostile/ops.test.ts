/** Arguments of single ops that are wrong in every way a caller can get them wrong: each has its code. */
import * as assert from 'uvu/assert';
import { ops } from '../../lib/index.ts';
import type { TensorData } from '../../lib/ops/eager.ts';
import { failure, floats, same, suite } from '../kit.ts';

const test = suite('hostile op arguments');
type Inputs = Record<string, unknown>;
type Call = (inputs: unknown, options?: unknown) => Promise<Record<string, { data: Float32Array; shape: number[] }>>;
const call = (op: keyof typeof ops): Call => ops[op] as unknown as Call;

const size = (shape: readonly number[]) => shape.reduce((n, s) => n * s, 1);
const f32 = (...shape: number[]): TensorData<Float32Array> => ({ data: floats(3, size(shape)), shape });
const i32 = (...shape: number[]): TensorData<Int32Array> => ({ data: new Int32Array(size(shape)), shape });
const grid = { scan: 'bsm', height: 2, width: 3 };

/** A call of each op that works, with every argument it can have. */
const valid: { op: keyof typeof ops; inputs: Record<string, TensorData>; options?: object; anyRank?: string[] }[] = [
  { op: 'activation', inputs: { x: f32(2, 3) }, anyRank: ['x'] },
  { op: 'attention', inputs: { q: f32(1, 2, 2, 4), k: f32(1, 3, 2, 4), v: f32(1, 3, 2, 4) } },
  {
    op: 'causalConv1d',
    inputs: { x: f32(2, 3, 5), weight: f32(3, 4), bias: f32(3), initialState: f32(2, 3, 3) },
  },
  { op: 'causalConv1d2d', inputs: { x: f32(1, 4, 6), weight: f32(4, 3), bias: f32(4) }, options: grid },
  { op: 'crossMerge', inputs: { ys: f32(1, 2, 4, 6) }, options: grid },
  { op: 'crossScan', inputs: { x: f32(1, 4, 2, 3) } },
  { op: 'embedding', inputs: { ids: i32(1, 3), weight: f32(5, 4), rows: f32(2, 4) } },
  {
    op: 'layerNorm',
    inputs: { x: f32(2, 4), weight: f32(4), bias: f32(4), residual: f32(2, 4) },
  },
  {
    op: 'linear',
    inputs: { x: f32(2, 4), weight: f32(3, 4), bias: f32(3), residual: f32(2, 3) },
  },
  {
    op: 'patchEmbed',
    inputs: {
      image: f32(1, 3, 4, 4),
      weight: f32(5, 3, 2, 2),
      bias: f32(5),
      position: f32(5, 5),
      classEmbedding: f32(5),
    },
  },
  { op: 'rmsNorm', inputs: { x: f32(2, 4), weight: f32(4), residual: f32(2, 4) } },
  {
    op: 'selectiveScan',
    inputs: {
      u: f32(1, 4, 5),
      delta: f32(1, 4, 5),
      A: f32(4, 3),
      B: f32(1, 2, 3, 5),
      C: f32(1, 2, 3, 5),
      D: f32(4),
      z: f32(1, 4, 5),
      deltaBias: f32(4),
      initialState: f32(1, 4, 3),
    },
  },
  {
    op: 'selectiveScan2d',
    inputs: {
      u: f32(1, 2, 4, 6),
      delta: f32(1, 2, 4, 6),
      A: f32(4, 3),
      B: f32(1, 2, 3, 6),
      C: f32(1, 2, 3, 6),
      D: f32(4),
      z: f32(1, 4, 6),
      deltaBias: f32(4),
    },
    options: grid,
  },
];
const optional = /bias|Bias|initialState|residual|^[zD]$|rows|position|classEmbedding/;

function detached(data: ArrayBufferView): ArrayBufferView {
  structuredClone(data.buffer, { transfer: [data.buffer as ArrayBuffer] });
  return data;
}

/** What is done to one argument, and the code it must get. */
const damages: [string, (t: TensorData) => unknown, string][] = [
  ['a number', () => 5, 'ERR_ARG_TYPE'],
  ['an array', ({ data }) => [...data], 'ERR_ARG_SHAPE'],
  ['bare data', ({ data }) => data, 'ERR_ARG_SHAPE'],
  ['data in an Array', ({ data, shape }) => ({ data: [...data], shape }), 'ERR_ARG_TYPE'],
  ['a Float64Array', ({ data, shape }) => ({ data: Float64Array.from(data), shape }), 'ERR_ARG_TYPE'],
  ['a DataView', ({ data, shape }) => ({ data: new DataView(data.buffer as ArrayBuffer), shape }), 'ERR_ARG_TYPE'],
  ['a proxy', ({ data, shape }) => ({ data: new Proxy(data, {}), shape }), 'ERR_ARG_TYPE'],
  ['an heir', ({ data, shape }) => ({ data: Object.create(Object.getPrototypeOf(data)), shape }), 'ERR_ARG_TYPE'],
  [
    'another dtype',
    ({ data, shape }) => ({ data: data instanceof Int32Array ? new Float32Array(data) : new Int32Array(data), shape }),
    'ERR_OP_DTYPE',
  ],
  ['bits without dtype', ({ data, shape }) => ({ data: new Uint16Array(data.length), shape }), 'ERR_ARG_TYPE'],
  ['an element too few', ({ data, shape }) => ({ data: data.slice(1), shape }), 'ERR_ARG_SHAPE'],
  ['a detached buffer', ({ data, shape }) => ({ data: detached(data.slice()), shape }), 'ERR_ARG_SHAPE'],
  [
    'shared memory',
    ({ data, shape }) => {
      const type = data.constructor as Float32ArrayConstructor;
      return { data: new type(new SharedArrayBuffer(data.byteLength)), shape };
    },
    'ERR_ARG_TYPE',
  ],
  ['one more dimension', ({ data, shape }) => ({ data, shape: [1, ...shape].slice(-5) }), 'ERR_OP_SHAPE'],
  ['six dimensions', ({ data, shape }) => ({ data, shape: [1, 1, 1, 1, 1, ...shape] }), 'ERR_ARG_SHAPE'],
  ['no dimension', ({ data }) => ({ data, shape: [] }), 'ERR_ARG_SHAPE'],
  ['a negative size', ({ data, shape }) => ({ data, shape: shape.map((n) => -n) }), 'ERR_ARG_SHAPE'],
  ['half a size', ({ data, shape }) => ({ data, shape: shape.map((n) => n / 2 + 0.25) }), 'ERR_ARG_SHAPE'],
  ['a shape with a hole', ({ data, shape }) => ({ data, shape: Array(shape.length) }), 'ERR_ARG_SHAPE'],
  ['a shape of strings', ({ data, shape }) => ({ data, shape: shape.map(String) }), 'ERR_ARG_SHAPE'],
  ['a shape of BigInts', ({ data, shape }) => ({ data, shape: shape.map(BigInt) }), 'ERR_ARG_SHAPE'],
];

let cases = 0;
for (const { op, inputs, options, anyRank = [] } of valid) {
  test(`${op}: works as it is, and each argument damaged in ${damages.length} ways and left out`, async () => {
    for (const { data } of Object.values(await call(op)(inputs, options))) assert.ok(data.length > 0);
    for (const [name, tensor] of Object.entries(inputs)) {
      if (!optional.test(name)) {
        const { [name]: _, ...rest } = inputs;
        assert.is((await failure(() => call(op)(rest, options))).code, 'ERR_ARG_TYPE', `${name} left out`);
        cases++;
      }
      for (const [what, damage, code] of damages) {
        if (what === 'one more dimension' && (anyRank.includes(name) || /^[xD]$|weight|bias|Bias|^A$/.test(name)))
          continue;
        const error = await failure(() => call(op)({ ...inputs, [name]: damage(tensor) }, options));
        assert.is(error.code, code, `${op} ${name} as ${what}: ${error.message}`);
        assert.match(error.message, name, `${op} ${name} as ${what} names the argument`);
        assert.ok(error instanceof TypeError || error instanceof RangeError, `${op} ${name} as ${what}: ${error.name}`);
        cases++;
      }
    }
  });
}

const norm = { x: f32(2, 4), weight: f32(4) };
const scan = valid.find(({ op }) => op === 'selectiveScan')!.inputs;
const without = (inputs: Inputs, ...names: string[]) =>
  Object.fromEntries(Object.entries(inputs).filter(([name]) => !names.includes(name)));

const table: [op: keyof typeof ops, inputs: unknown, options: unknown, code: string][] = [
  // what is given at all
  ['rmsNorm', undefined, undefined, 'ERR_ARG_TYPE'],
  ['rmsNorm', null, undefined, 'ERR_ARG_TYPE'],
  ['rmsNorm', 'x', undefined, 'ERR_ARG_TYPE'],
  ['rmsNorm', {}, undefined, 'ERR_ARG_TYPE'],
  ['rmsNorm', { ...norm, wieght: f32(4) }, undefined, 'ERR_ARG_NAME'],
  ['rmsNorm', { ...norm, constructor: f32(4) }, undefined, 'ERR_ARG_NAME'],
  ['rmsNorm', norm, { epsilon: 1e-5 }, 'ERR_ARG_NAME'],
  ['rmsNorm', norm, 'fast', 'ERR_ARG_TYPE'],
  ['rmsNorm', norm, 5, 'ERR_ARG_TYPE'],
  ['rmsNorm', norm, { device: 'gpu' }, 'ERR_ARG_DEVICE'],
  ['rmsNorm', norm, { device: {} }, 'ERR_ARG_DEVICE'],
  ['rmsNorm', norm, { signal: {} }, 'ERR_ARG_TYPE'],
  ['rmsNorm', norm, { signal: 'stop' }, 'ERR_ARG_TYPE'],
  // numbers
  ...[0, -1, Number.NaN, Number.POSITIVE_INFINITY, '1e-5', 1n, true].flatMap((eps): (typeof table)[number][] => [
    ['rmsNorm', norm, { eps }, 'ERR_OP_SHAPE'],
    ['layerNorm', norm, { eps }, 'ERR_OP_SHAPE'],
  ]),
  ['rmsNorm', norm, { eps: 1e-60 }, 'ERR_OP_ARG'], // 0 as an f32
  ...[Number.NaN, Number.POSITIVE_INFINITY, '1'].map((scale): (typeof table)[number] => [
    'attention',
    valid[1]!.inputs,
    { scale },
    'ERR_OP_SHAPE',
  ]),
  // names of things
  ...['relu', '', 'SILU', 5, {}, null, '__proto__'].map((activation): (typeof table)[number] => [
    'activation',
    { x: f32(2) },
    { activation },
    'ERR_OP_ATTR',
  ]),
  ['causalConv1d', valid[2]!.inputs, { activation: 'gelu' }, 'ERR_OP_ATTR'],
  ['linear', valid[8]!.inputs, { activation: 'swish' }, 'ERR_OP_ATTR'],
  ['crossScan', { x: f32(1, 1, 2, 2) }, { scan: 'diagonal' }, 'ERR_OP_ATTR'],
  ['selectiveScan', scan, { deltaSoftplus: 1 }, 'ERR_OP_ATTR'],
  ['selectiveScan', scan, { deltaSoftplus: 'yes' }, 'ERR_OP_ATTR'],
  ['selectiveScan2d', valid[12]!.inputs, { ...grid, merge: 'max' }, 'ERR_OP_ATTR'],
  ['selectiveScan2d', valid[12]!.inputs, undefined, 'ERR_OP_ATTR'],
  // grids
  ...(
    [
      { height: 0, width: 3 },
      { height: -2, width: -3 },
      { height: 1.5, width: 4 },
      { height: '2', width: 3 },
      { height: 3, width: 3 },
      { height: Number.NaN, width: 3 },
      { height: 6 },
      {},
    ] as object[]
  ).flatMap((size): (typeof table)[number][] => [
    ['crossMerge', { ys: f32(1, 2, 1, 6) }, size, 'ERR_OP_SHAPE'],
    ['causalConv1d2d', { x: f32(1, 1, 6), weight: f32(1, 2) }, { scan: 'bsm', ...size }, 'ERR_OP_SHAPE'],
  ]),
  ['crossMerge', { ys: f32(1, 2, 1, 6) }, { ...grid, scan: 'csm' }, 'ERR_OP_SHAPE'],
  // sizes that don't fit together
  ['selectiveScan', { ...scan, A: f32(4, 257) }, {}, 'ERR_OP_SHAPE'],
  ['selectiveScan', { ...scan, A: f32(5, 3) }, {}, 'ERR_OP_SHAPE'],
  ['selectiveScan', { ...scan, B: f32(1, 3, 3, 5) }, {}, 'ERR_OP_SHAPE'],
  ['selectiveScan', { ...scan, B: f32(1, 0, 3, 5) }, {}, 'ERR_OP_SHAPE'],
  ['selectiveScan', { ...scan, C: f32(1, 1, 3, 5) }, {}, 'ERR_OP_SHAPE'],
  ['selectiveScan', { ...scan, delta: f32(1, 4, 6) }, {}, 'ERR_OP_SHAPE'],
  ['selectiveScan', { ...scan, z: f32(1, 5, 4) }, {}, 'ERR_OP_SHAPE'],
  ['selectiveScan', { ...scan, initialState: f32(1, 3, 4) }, {}, 'ERR_OP_SHAPE'],
  ['selectiveScan', { ...scan, initialState: f32(2, 4, 3) }, {}, 'ERR_OP_SHAPE'],
  ['selectiveScan', { ...scan, slots: i32(1) }, {}, 'ERR_OP_SHAPE'],
  ['causalConv1d', { x: f32(1, 1, 3), weight: f32(1, 1) }, {}, 'ERR_OP_SHAPE'],
  ['causalConv1d', { x: f32(1, 1, 3), weight: f32(1, 5) }, {}, 'ERR_OP_SHAPE'],
  ['causalConv1d', { x: f32(1, 1, 3), weight: f32(1, 4), initialState: f32(1, 1, 4) }, {}, 'ERR_OP_SHAPE'],
  ['causalConv1d', { x: f32(1, 1, 3), weight: f32(1, 4), slots: i32(1) }, {}, 'ERR_OP_SHAPE'],
  ['attention', { q: f32(1, 2, 1, 4), k: f32(1, 0, 1, 4), v: f32(1, 0, 1, 4) }, {}, 'ERR_OP_SHAPE'],
  ['attention', { q: f32(1, 2, 1, 4), k: f32(1, 3, 1, 4), v: f32(1, 2, 1, 4) }, {}, 'ERR_OP_SHAPE'],
  ['attention', { q: f32(1, 2, 1, 4), k: f32(1, 3, 1, 5), v: f32(1, 3, 1, 5) }, {}, 'ERR_OP_SHAPE'],
  ['linear', { x: f32(2, 4), weight: f32(3, 5) }, {}, 'ERR_OP_SHAPE'],
  ['linear', { x: f32(2, 4), weight: f32(3, 4), bias: f32(4) }, {}, 'ERR_OP_SHAPE'],
  ['linear', { x: f32(2, 4), weight: f32(3, 4), residual: f32(3, 2) }, {}, 'ERR_OP_SHAPE'],
  ['patchEmbed', { image: f32(1, 3, 4, 4), weight: f32(5, 3, 2, 3) }, {}, 'ERR_OP_SHAPE'],
  ['patchEmbed', { image: f32(1, 3, 4, 4), weight: f32(5, 1, 2, 2) }, {}, 'ERR_OP_SHAPE'],
  ['patchEmbed', { image: f32(1, 3, 4, 4), weight: f32(5, 3, 0, 0) }, {}, 'ERR_OP_SHAPE'],
  // values that only the run can see
  ...[5, 2 ** 31 - 1, -3, -(2 ** 31)].map((id): (typeof table)[number] => [
    'embedding',
    { ids: { data: Int32Array.of(id), shape: [1, 1] }, weight: f32(5, 4), rows: f32(2, 4) },
    {},
    'ERR_OP_INDEX',
  ]),
  // sizes beyond any memory
  ...[
    [2 ** 31, 0],
    [0, 2 ** 53],
    [2 ** 31, 2 ** 31],
    [Number.MAX_VALUE],
    [Number.NaN],
    [0, Number.POSITIVE_INFINITY],
  ].map((shape): (typeof table)[number] => [
    'activation',
    { x: { data: new Float32Array(), shape } },
    {},
    'ERR_ARG_SHAPE',
  ]),
];

test('a table of calls, each with its code', async () => {
  for (const [op, inputs, options, code] of table) {
    const error = await failure(() => call(op)(inputs, options));
    assert.is(
      error.code,
      code,
      `${op} ${JSON.stringify(options, (_, v) => (typeof v === 'bigint' ? `${v}` : v))}: ${error.message}`,
    );
    cases++;
  }
  assert.ok(cases >= 160, `${cases} cases`);
  console.log(`${cases} cases`);
});

test('empty tensors have empty results', async () => {
  const results: [keyof typeof ops, Inputs, object, number[]][] = [
    ['activation', { x: f32(0, 3) }, {}, [0, 3]],
    ['linear', { x: f32(0, 4), weight: f32(3, 4) }, {}, [0, 3]],
    ['rmsNorm', { x: f32(2, 0), weight: f32(0) }, {}, [2, 0]],
    ['embedding', { ids: i32(1, 0), weight: f32(5, 4) }, {}, [1, 0, 4]],
    ['causalConv1d', { x: f32(1, 3, 0), weight: f32(3, 4) }, {}, [1, 3, 0]],
    ['attention', { q: f32(1, 0, 2, 4), k: f32(1, 3, 2, 4), v: f32(1, 3, 2, 4) }, {}, [1, 0, 2, 4]],
    [
      'selectiveScan',
      {
        ...without(scan, 'initialState', 'z', 'D'),
        u: f32(1, 4, 0),
        delta: f32(1, 4, 0),
        B: f32(1, 2, 3, 0),
        C: f32(1, 2, 3, 0),
      },
      {},
      [1, 4, 0],
    ],
  ];
  for (const [op, inputs, options, shape] of results) {
    const [first] = Object.values(await call(op)(inputs, options));
    assert.equal(first!.shape, shape, op);
    assert.is(first!.data.length, 0, op);
  }
});

test('an empty sequence leaves the state as it was', async () => {
  const initialState = f32(1, 4, 3);
  const empty = { u: f32(1, 4, 0), delta: f32(1, 4, 0), A: f32(4, 3), B: f32(1, 2, 3, 0), C: f32(1, 2, 3, 0) };
  const { lastState } = await call('selectiveScan')({ ...empty, initialState });
  same(lastState!.data, initialState.data, 'state');
});

test('what the caller does to an argument after the call has no effect', async () => {
  const resizable = new (ArrayBuffer as new (n: number, o: object) => ArrayBuffer)(64 * 4, { maxByteLength: 1024 });
  const shrink = () => (resizable as unknown as { resize(n: number): void }).resize(4);
  const data = new Float32Array(resizable, 0, 64).fill(2);
  const shape = [1, 64];
  const want = (await call('activation')({ x: { data: new Float32Array(64).fill(2), shape } })).y!;
  const running = call('activation')({ x: { data, shape } });
  data.fill(Number.NaN);
  shape[1] = 7;
  shrink();
  same((await running).y!.data, want.data, 'result');
  assert.equal((await running).y!.shape, [1, 64]);
  const error = await failure(() => call('activation')({ x: { data, shape: [64] } }));
  assert.is(error.code, 'ERR_ARG_SHAPE', 'a view beyond its buffer');
});

test('a subclass, a moved view and a pooled Buffer are read for what they hold', async () => {
  class Sly extends Float32Array {
    static get [Symbol.species](): Float32ArrayConstructor {
      throw new Error('species was asked');
    }
  }
  const bytes = Buffer.from(new Float32Array(20).map((_, i) => i).buffer);
  const want = (await call('activation')({ x: { data: Float32Array.of(3, 4, 5), shape: [3] } })).y!;
  for (const data of [Sly.of(3, 4, 5), new Float32Array(bytes.buffer, bytes.byteOffset + 12, 3)])
    same((await call('activation')({ x: { data, shape: [3] } })).y!.data, want.data, data.constructor.name);
});

test('a getter is read once and its own error comes through', async () => {
  let reads = 0;
  const x = {
    shape: [2],
    get data() {
      reads++;
      return new Float32Array(2);
    },
  };
  await call('activation')({ x });
  assert.is(reads, 1);
  const own = new Error('mine');
  const throws = {
    get x() {
      throw own;
    },
  };
  assert.is(await failure(() => call('activation')(throws)), own);
  let lengths = 0;
  const growing = new Proxy([1, 2], {
    get: (list, key) => (key === 'length' ? (lengths++ ? 2 ** 20 : 2) : Reflect.get(list, key)),
  });
  const error = await failure(() => call('activation')({ x: { data: new Float32Array(2), shape: growing } }));
  assert.is(error.code, 'ERR_ARG_SHAPE');
});

test('a NaN stays in its own channel and after its own place', async () => {
  const inputs = without(scan, 'initialState', 'z') as Record<string, TensorData<Float32Array>>;
  const want = await call('selectiveScan')(inputs, { deltaSoftplus: true });
  const u = { ...inputs.u!, data: inputs.u!.data.slice() };
  u.data[1 * 5 + 2] = Number.NaN;
  const got = await call('selectiveScan')({ ...inputs, u }, { deltaSoftplus: true });
  for (let c = 0; c < 4; c++)
    for (let t = 0; t < 5; t++) {
      const i = c * 5 + t;
      if (c === 1 && t >= 2) assert.ok(Number.isNaN(got.y!.data[i]), `[${c},${t}]`);
      else assert.is(got.y!.data[i], want.y!.data[i], `[${c},${t}]`);
    }
});

test('time steps and decays beyond all bounds give numbers or infinities, never garbage', async () => {
  const one = (u: number, delta: number, A: number) =>
    call('selectiveScan')(
      { u: of(u, u), delta: of(delta, delta), A: { data: Float32Array.of(A), shape: [1, 1] }, B: ones(), C: ones() },
      { deltaSoftplus: true },
    );
  const of = (...values: number[]) => ({ data: Float32Array.from(values), shape: [1, 1, values.length] });
  const ones = () => ({ data: Float32Array.of(1, 1), shape: [1, 1, 1, 2] });
  assert.equal([...(await one(0, 1e4, -1e30)).y!.data], [0, 0]);
  assert.equal([...(await one(1, 1e4, -1e30)).y!.data], [1e4, 1e4]);
  // exp(dt·A) is infinite and the state before the first step 0: their product is NaN, as in the formula.
  assert.ok((await one(1, 1e4, 1e30)).y!.data.every((y) => !Number.isFinite(y)));
});

test.run();
