import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { selectiveScan } from '../../lib/ops/index.ts';
import { slice, type Tensor, transpose } from '../../lib/tensor.ts';
import { type Argument, close, device, failure, floats, hardLengths, ops, run, same } from '../kit.ts';
import { swapped } from '../layout.ts';
import * as reference from '../reference/selective_scan.ts';

type Sizes = readonly [b: number, d: number, l: number, n: number, g: number];

/** Arguments in a typical regime: dt from 0.02 to 1.3 after the softplus, A from −8 to −0.2. */
function example([b, d, l, n, g]: Sizes, seed = 1) {
  const make = (k: number, shape: number[], low: number, high: number) => ({
    shape,
    data: floats(
      seed * 100 + k,
      shape.reduce((a, x) => a * x, 1),
      low,
      high,
    ),
  });
  return {
    u: make(1, [b, d, l], -2, 2),
    delta: make(2, [b, d, l], -4, 1),
    A: make(3, [d, n], -8, -0.2),
    B: make(4, [b, g, n, l], -1, 1),
    C: make(5, [b, g, n, l], -1, 1),
    D: make(6, [d], -1, 1),
    z: make(7, [b, d, l], -3, 3),
    deltaBias: make(8, [d], -0.5, 0.5),
    initialState: make(9, [b, d, n], -1, 1),
  };
}

type Example = ReturnType<typeof example>;
const data = (args: Partial<Example>) =>
  Object.fromEntries(
    Object.entries(args).map(([name, { data }]) => [name, data]),
  ) as unknown as reference.SelectiveScan;

for (const l of hardLengths)
  test(`length ${l}`, async () => {
    const sizes = [1, 20, l, 16, 1] as const;
    const args = example(sizes, l);
    const got = await ops.selectiveScan(args, { deltaSoftplus: true });
    const want = reference.selectiveScan(data(args), sizes, true);
    close(got.y.data, want.y, 1e-6, 'y');
    close(got.lastState.data, want.lastState, 1e-6, 'lastState');
    const { u, A, B, C } = args;
    const delta = { ...args.delta, data: args.delta.data.map((x) => Math.exp(x)) };
    const plain = await ops.selectiveScan({ u, delta, A, B, C });
    const wanted = reference.selectiveScan(data({ u, delta, A, B, C }), sizes, false);
    close(plain.y.data, wanted.y, 1e-6, 'y with nothing optional');
    close(plain.lastState.data, wanted.lastState, 1e-6, 'lastState with nothing optional');
  });

for (const sizes of [
  [2, 1, 5, 16, 1],
  [3, 33, 7, 15, 1],
  [2, 70, 66, 17, 2],
  [1, 12, 40, 1, 3],
  [1, 6, 9, 5, 6],
  [1, 17, 65, 256, 1],
  [2, 48, 1, 24, 3],
] as Sizes[])
  test(`batch ${sizes[0]}, ${sizes[1]} channels, ${sizes[3]} states, ${sizes[4]} groups, length ${sizes[2]}`, async () => {
    const args = example(sizes);
    const got = await ops.selectiveScan(args, { deltaSoftplus: true });
    const want = reference.selectiveScan(data(args), sizes, true);
    close(got.y.data, want.y, 2e-6, 'y');
    close(got.lastState.data, want.lastState, 1e-6, 'lastState');
  });

/** The arguments token by token, [b, l, …], as products leave them; channelFirst looks at them the usual way. */
function tokenMajor({ u, delta, z, B, C, ...rest }: Example, l: number): Record<string, Argument> {
  const turned = Object.entries({ u, delta, z, B, C }).map(([name, { shape, data }]) => [
    name,
    { shape: [...shape.slice(0, -2), l, shape.at(-2)!], data: swapped(data, shape.at(-2)!, l) },
  ]);
  return { ...rest, ...Object.fromEntries(turned) };
}

const channelFirst = (t: Record<string, Tensor>) => {
  const turn = (x: Tensor) => transpose(x, x.shape.length - 2, x.shape.length - 1);
  const { u, delta, A, B, C, D, z, deltaBias, initialState } = t as Record<keyof Example, Tensor>;
  return { u: turn(u), delta: turn(delta), A, B: turn(B), C: turn(C), D, z: turn(z), deltaBias, initialState };
};

// Many channels take a kernel of their own on a Hopper GPU.
for (const sizes of [
  [2, 50, 150, 16, 2],
  [1, 2200, 70, 16, 1],
  [3, 1600, 2, 16, 2],
] as const)
  test(`memory ordered by token, ${sizes}: the same bytes as by channel, on 1 and 2 threads`, async () => {
    const [, d, l] = sizes;
    const args = example(sizes);
    const byChannel = await ops.selectiveScan(args, { deltaSoftplus: true });
    const record: Parameters<typeof run>[1] = (g, t) => {
      const { y, lastState } = selectiveScan(g, channelFirst(t), { deltaSoftplus: true });
      return { y: transpose(y, 1, 2), lastState };
    };
    const tokens = tokenMajor(args, l);
    const one = await run(tokens, record, device(1));
    const two = await run(tokens, record, device(2));
    same(one.y!, two.y!, 'threads, y');
    same(one.lastState!, two.lastState!, 'threads, lastState');
    same(swapped(one.y!, l, d), byChannel.y.data, 'y by token');
    same(one.lastState!, byChannel.lastState.data, 'lastState by token');
  });

test('parts of wider tensors', async () => {
  const sizes = [2, 21, 37, 16, 1] as const;
  const [b, d, l, n] = sizes;
  const wide = { shape: [b, l + 5, 3 * d + 2 * n], data: floats(3, b * (l + 5) * (3 * d + 2 * n), 0.05, 0.9) };
  const { A } = example(sizes);
  const got = await run({ wide, A }, (g, t) => {
    const rows = transpose(slice(t.wide!, 1, 2, 2 + l), 1, 2);
    const part = (from: number, size: number) => slice(rows, 1, from, from + size);
    const states = (from: number): Tensor => {
      const p = part(from, n);
      return { ...p, shape: [b, 1, n, l], strides: [p.strides[0]!, 0, p.strides[1]!, p.strides[2]!] };
    };
    const { y, lastState } = selectiveScan(g, {
      u: part(0, d),
      delta: part(d, d),
      z: part(2 * d, d),
      A: t.A!,
      B: states(3 * d),
      C: states(3 * d + n),
    });
    return { y: transpose(y, 1, 2), lastState };
  });
  const cut = (from: number, size: number) => {
    const out = new Float64Array(b * size * l);
    for (let i = 0; i < b; i++)
      for (let c = 0; c < size; c++)
        for (let t = 0; t < l; t++)
          out[(i * size + c) * l + t] = wide.data[(i * (l + 5) + 2 + t) * (3 * d + 2 * n) + from + c]!;
    return out;
  };
  const want = reference.selectiveScan(
    { u: cut(0, d), delta: cut(d, d), z: cut(2 * d, d), A: A.data, B: cut(3 * d, n), C: cut(3 * d + n, n) },
    sizes,
    false,
  );
  close(swapped(got.y!, l, d), want.y, 1e-6, 'y');
  close(got.lastState!, want.lastState, 1e-6, 'lastState');
});

const range = ({ shape, data }: Argument, from: number, to: number): Argument => {
  const l = shape.at(-1)!;
  return {
    shape: [...shape.slice(0, -1), to - from],
    data: (data as Float32Array).filter((_, i) => i % l >= from && i % l < to),
  };
};

test('pieces with the state carried give the bytes of the whole', async () => {
  for (const n of [16, 5]) {
    const sizes = [2, 37, 131, n, 1] as const;
    const args = example(sizes);
    const whole = await ops.selectiveScan(args, { deltaSoftplus: true });
    for (const lengths of [[131], [1, 130], [64, 67], [130, 1], [63, 1, 1, 1, 65]]) {
      let state: Argument = args.initialState;
      let from = 0;
      for (const length of lengths) {
        const piece = Object.fromEntries(
          Object.entries(args).map(([name, t]) => [name, t.shape.at(-1) === 131 ? range(t, from, from + length) : t]),
        ) as unknown as Example;
        const { y, lastState } = await ops.selectiveScan(
          { ...piece, initialState: state as Example['initialState'] },
          { deltaSoftplus: true },
        );
        same(
          y.data,
          range({ shape: [2, 37, 131], data: whole.y.data }, from, from + length).data,
          `n ${n}, y from ${from}`,
        );
        state = lastState;
        from += length;
      }
      same(state.data, whole.lastState.data, `n ${n}, state of ${lengths}`);
    }
  }
});

test('a row alone gives the bytes it has in a batch', async () => {
  const args = example([3, 20, 30, 16, 1]);
  const batch = await ops.selectiveScan(args, { deltaSoftplus: true });
  const second = Object.fromEntries(
    Object.entries(args).map(([name, { shape, data }]) =>
      shape[0] === 3
        ? [name, { shape: [1, ...shape.slice(1)], data: data.subarray(data.length / 3, (2 * data.length) / 3) }]
        : [name, { shape, data }],
    ),
  ) as unknown as Example;
  const alone = await ops.selectiveScan(second, { deltaSoftplus: true });
  same(alone.y.data, batch.y.data.subarray(600, 1200), 'y');
  same(alone.lastState.data, batch.lastState.data.subarray(320, 640), 'lastState');
});

test('slots: states in place, each row its own, the others untouched', async () => {
  for (const l of [1, 70]) {
    const sizes = [3, 18, l, 16, 1] as const;
    const args = example(sizes);
    const { initialState, ...rest } = args;
    const states = { shape: [5, 18, 16], data: floats(77, 5 * 18 * 16) };
    const order = [4, 0, 2];
    const slots = { dtype: 'i32' as const, shape: [3], data: Int32Array.from(order) };
    const got = await run({ ...rest, states, slots }, (g, { states, slots, ...t }) => {
      const inputs = {
        ...(t as Record<keyof Example, Tensor>),
        initialState: states!,
        lastState: states!,
        slots: slots!,
      };
      return { y: selectiveScan(g, inputs, { deltaSoftplus: true }).y, states };
    });
    const size = 18 * 16;
    const gathered = Float32Array.from(
      { length: 3 * size },
      (_, i) => states.data[order[Math.floor(i / size)]! * size + (i % size)]!,
    );
    const want = await ops.selectiveScan(
      { ...rest, initialState: { shape: initialState.shape, data: gathered } },
      { deltaSoftplus: true },
    );
    same(got.y!, want.y.data, 'y');
    for (const [row, slot] of order.entries())
      same(
        got.states!.subarray(slot * size, (slot + 1) * size),
        want.lastState.data.subarray(row * size, (row + 1) * size),
        `slot ${slot}`,
      );
    for (const slot of [1, 3])
      same(
        got.states!.subarray(slot * size, (slot + 1) * size),
        states.data.subarray(slot * size, (slot + 1) * size),
        `slot ${slot}`,
      );
  }
});

test('slots that do not exist, or twice, fail at run time', async () => {
  const { initialState, ...rest } = example([2, 3, 4, 2, 1]);
  const states = { shape: [3, 3, 2], data: floats(1, 18) };
  for (const [slots, message] of [
    [[0, 3], /slots\[1\] is 3, expected 0 to 2/],
    [[-1, 0], /slots\[0\] is -1/],
    [[2, 2], /slots\[1\] is 2, which an earlier row/],
  ] as [number[], RegExp][]) {
    const error = await failure(() =>
      run(
        { ...rest, states, slots: { dtype: 'i32', shape: [2], data: Int32Array.from(slots) } },
        (g, { states, slots, ...t }) => {
          const inputs = {
            ...(t as Record<keyof Example, Tensor>),
            initialState: states!,
            lastState: states!,
            slots: slots!,
          };
          return { y: selectiveScan(g, inputs).y };
        },
      ),
    );
    assert.is(error.code, 'ERR_OP_INDEX');
    assert.match(error.message, message);
  }
});

test('no steps: the state is what it was; no batch, no channels', async () => {
  const none = example([2, 5, 0, 16, 1]);
  const got = await ops.selectiveScan(none);
  assert.equal(got.y.shape, [2, 5, 0]);
  same(got.lastState.data, none.initialState.data, 'lastState');
  for (const sizes of [
    [0, 5, 4, 3, 1],
    [2, 0, 4, 3, 1],
  ] as Sizes[])
    assert.equal((await ops.selectiveScan(example(sizes))).y.shape, sizes.slice(0, 3));
});

test('long memory and large steps stay near float64', async () => {
  const sizes = [1, 16, 4096, 16, 1] as const;
  for (const [name, low, high, rate, tolerance] of [
    ['dt = 1e-4', 1e-4, 1e-4, -1, 1e-4],
    ['nearly an integrator', 1e-2, 1e-2, -1e-6, 5e-4],
    ['stiff, dt = 20', 20, 20, -4, 1e-6],
  ] as const) {
    const { u, A, B, C } = example(sizes);
    const args = {
      u,
      delta: { shape: [1, 16, 4096], data: floats(5, 16 * 4096, low, high) },
      A: { ...A, data: A.data.map(() => rate) },
      B,
      C,
    };
    const got = await ops.selectiveScan(args);
    close(got.y.data, reference.selectiveScan(data(args), sizes, false).y, tolerance, name);
  }
});

test('a rate of −1e30 forgets at once, a rate above zero grows to infinity', async () => {
  const one = (x: number) => ({ shape: [1, 1, 3], data: new Float32Array(3).fill(x) });
  const ones = { shape: [1, 1, 1, 3], data: new Float32Array(3).fill(1) };
  const forget = await ops.selectiveScan({
    u: one(2),
    delta: one(1),
    A: { shape: [1, 1], data: Float32Array.of(-1e30) },
    B: ones,
    C: ones,
  });
  assert.equal([...forget.y.data], [2, 2, 2]);
  const grow = await ops.selectiveScan({
    u: one(2),
    delta: one(1),
    A: { shape: [1, 1], data: Float32Array.of(60) },
    B: ones,
    C: ones,
  });
  close(grow.y.data.subarray(0, 2), [2, 2 * Math.exp(60)], 1e-5, 'growth');
  assert.is(grow.y.data[2], Number.POSITIVE_INFINITY);
});

test('an infinite input without D is infinite, not NaN', async () => {
  const one = (x: number) => ({ shape: [1, 1, 1], data: Float32Array.of(x) });
  const ones = { shape: [1, 1, 1, 1], data: Float32Array.of(1) };
  const A = { shape: [1, 1], data: Float32Array.of(-1) };
  for (const u of [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])
    assert.equal([...(await ops.selectiveScan({ u: one(u), delta: one(1), A, B: ones, C: ones })).y.data], [u]);
});

test('a NaN reaches later steps of its channel only', async () => {
  const args = example([1, 40, 20, 16, 1]);
  const clean = (await ops.selectiveScan(args, { deltaSoftplus: true })).y.data;
  args.u.data[7 * 20 + 5] = Number.NaN;
  const { y } = await ops.selectiveScan(args, { deltaSoftplus: true });
  for (let i = 0; i < 800; i++)
    if (Math.floor(i / 20) === 7 && i % 20 >= 5) assert.ok(Number.isNaN(y.data[i]), `[${i}] is ${y.data[i]}`);
    else assert.is(y.data[i], clean[i]);
});

test('errors', async () => {
  const args = example([2, 4, 3, 2, 2]);
  const f32 = (...shape: number[]) => ({
    shape,
    data: floats(
      1,
      shape.reduce((a, x) => a * x, 1),
    ),
  });
  const bad = (name: string, value: unknown) => () => ops.selectiveScan({ ...args, [name]: value } as never);
  const cases: [string, () => unknown, RegExp][] = [
    ['ERR_OP_SHAPE', bad('u', f32(4, 3)), /u must be \[b,d,l\], got \[4,3\]/],
    ['ERR_OP_SHAPE', bad('delta', f32(2, 4, 4)), /delta must be \[b,d,l\] = \[2,4,3\]/],
    ['ERR_OP_SHAPE', bad('A', f32(3, 2)), /A must be \[d,n\] = \[4,\*\]/],
    ['ERR_OP_SHAPE', bad('A', f32(4, 257)), /A must have 1 to 256 states, got 257/],
    ['ERR_OP_SHAPE', bad('A', f32(4, 0)), /A must have 1 to 256 states, got 0/],
    ['ERR_OP_SHAPE', bad('B', f32(2, 2, 3, 3)), /B must be \[b,g,n,l\] = \[2,\*,2,3\]/],
    ['ERR_OP_SHAPE', bad('B', f32(2, 3, 2, 3)), /groups of B must divide the 4 channels, got 3/],
    ['ERR_OP_SHAPE', bad('C', f32(2, 1, 2, 3)), /C must be \[b,g,n,l\] = \[2,2,2,3\]/],
    ['ERR_OP_SHAPE', bad('D', f32(5)), /D must be \[d\] = \[4\]/],
    ['ERR_OP_SHAPE', bad('z', f32(2, 4, 2)), /z must be \[b,d,l\]/],
    ['ERR_OP_SHAPE', bad('deltaBias', f32(1)), /deltaBias must be \[d\]/],
    ['ERR_OP_SHAPE', bad('initialState', f32(1, 4, 2)), /initialState must be \[b,d,n\] = \[2,4,2\]/],
    ['ERR_OP_SHAPE', bad('slots', { shape: [2], data: new Int32Array(2) }), /slots chooses rows of lastState/],
    ['ERR_OP_DTYPE', bad('slots', f32(2)), /slots must be i32/],
    ['ERR_OP_DTYPE', bad('z', { shape: [2, 4, 3], data: new Int32Array(24) }), /z must be f32/],
    ['ERR_ARG_TYPE', () => ops.selectiveScan({ ...args, C: undefined } as never), /C is missing/],
    [
      'ERR_OP_ATTR',
      () => ops.selectiveScan(args, { deltaSoftplus: 1 as never }),
      /delta_softplus must be true or false/,
    ],
  ];
  for (const [code, act, message] of cases) {
    const error = await failure(act);
    assert.is(error.code, code, error.message);
    assert.match(error.message, message);
  }
});

test('native checks hold without those of TypeScript', async () => {
  const { initialState, deltaBias, ...args } = example([2, 4, 3, 2, 1]);
  const cases: [Record<string, number[]>, RegExp][] = [
    [{ y: [2, 4, 2] }, /y must be \[2,4,3\], got f32 \[2,4,2\]/],
    [{ y: [2, 4, 3], last_state: [2, 4, 3] }, /last_state must be \[2,4,2\]/],
  ];
  for (const [shapes, message] of cases) {
    const error = await failure(() =>
      run(args, (g, t) => {
        const outputs = Object.fromEntries(
          Object.entries(shapes).map(([name, shape]) => [name, g.empty('f32', shape)]),
        );
        g.push('selective_scan', t, outputs, { delta_softplus: true });
        return outputs;
      }),
    );
    assert.is(error.code, 'ERR_OP_ARG');
    assert.match(error.message, message);
  }
  const strided = await failure(() =>
    run({ ...args, initialState }, (g, { initialState, ...t }) => {
      const y = g.empty('f32', [2, 4, 3]);
      const last = g.empty('f32', [2, 4, 2], [8, 1, 4]);
      g.push(
        'selective_scan',
        { ...t, initial_state: initialState },
        { y, last_state: last },
        { delta_softplus: true },
      );
      return { y };
    }),
  );
  assert.is(strided.code, 'ERR_OP_ARG');
  assert.match(strided.message, /last_state must be contiguous in its last dimension/);
});

test.run();
