import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { causalConv1d } from '../../lib/ops/index.ts';
import { slice, type Tensor, transpose } from '../../lib/tensor.ts';
import { type Argument, close, device, failure, floats, hardLengths, ops, run, same } from '../kit.ts';
import { swapped } from '../layout.ts';
import * as reference from '../reference/causal_conv1d.ts';

type Sizes = readonly [b: number, d: number, l: number, w: number];

const example = ([b, d, l, w]: Sizes, seed = 1) => ({
  x: { shape: [b, d, l], data: floats(seed * 10 + 1, b * d * l, -2, 2) },
  weight: { shape: [d, w], data: floats(seed * 10 + 2, d * w) },
  bias: { shape: [d], data: floats(seed * 10 + 3, d) },
  initialState: { shape: [b, d, w - 1], data: floats(seed * 10 + 4, b * d * (w - 1)) },
});

type Example = ReturnType<typeof example>;
const data = (args: Partial<Example>) =>
  Object.fromEntries(Object.entries(args).map(([name, { data }]) => [name, data])) as unknown as reference.CausalConv1d;

for (const w of [2, 3, 4])
  for (const l of hardLengths)
    test(`${w} taps, length ${l}`, async () => {
      const sizes = [2, 5, l, w] as const;
      const args = example(sizes, l);
      const got = await ops.causalConv1d(args, { activation: 'silu' });
      const want = reference.causalConv1d(data(args), sizes, 'silu');
      close(got.y.data, want.y, 1e-6, 'y');
      same(got.finalState.data, Float32Array.from(want.finalState), 'finalState');
      const { x, weight } = args;
      const plain = await ops.causalConv1d({ x, weight });
      const wanted = reference.causalConv1d({ x: x.data, weight: weight.data }, sizes, null);
      close(plain.y.data, wanted.y, 1e-6, 'y with nothing optional');
      same(plain.finalState.data, Float32Array.from(wanted.finalState), 'finalState with nothing optional');
    });

for (const d of [1, 15, 16, 17, 63, 255, 256, 257, 600])
  test(`memory ordered by token, ${d} channels: the same bytes as by channel, on 1 and 2 threads`, async () => {
    const l = 21;
    const args = example([2, d, l, 4]);
    const byChannel = await ops.causalConv1d(args, { activation: 'silu' });
    const tokens = { ...args, x: { shape: [2, l, d], data: swapped(args.x.data, d, l) } };
    const record: Parameters<typeof run>[1] = (g, t) => {
      const { x, ...rest } = t as Record<keyof Example, Tensor>;
      const { y, finalState } = causalConv1d(g, { x: transpose(x, 1, 2), ...rest }, { activation: 'silu' });
      return { y: transpose(y, 1, 2), finalState };
    };
    const one = await run(tokens, record, device(1));
    const two = await run(tokens, record, device(2));
    same(one.y!, two.y!, 'threads');
    same(swapped(one.y!, l, d), byChannel.y.data, 'y');
    same(one.finalState!, byChannel.finalState.data, 'finalState');
  });

test('a part of a wider tensor, written in another order', async () => {
  const [b, d, l, w] = [2, 19, 40, 3];
  const { weight, bias } = example([b, d, l, w]);
  const wide = { shape: [b, l, 50], data: floats(5, b * l * 50) };
  const got = await run({ wide, weight, bias }, (g, { wide, weight, bias }) => {
    const y = g.empty('f32', [b, d, l]);
    const final = g.empty('f32', [b, d, w - 1]);
    const x = transpose(slice(wide!, 2, 7, 7 + d), 1, 2);
    g.push('causal_conv1d', { x, weight, bias }, { y, final_state: final }, { activation: 'none' });
    return { y, final };
  });
  const x = swapped(
    wide.data.filter((_, i) => i % 50 >= 7 && i % 50 < 7 + d),
    l,
    d,
  );
  const want = reference.causalConv1d({ x, weight: weight.data, bias: bias.data }, [b, d, l, w], null);
  close(got.y!, want.y, 1e-6, 'y');
  same(got.final!, Float32Array.from(want.finalState), 'final_state');
});

test('pieces with the state carried give the bytes of the whole', async () => {
  const [b, d, l] = [2, 20, 67];
  for (const w of [2, 3, 4]) {
    const args = example([b, d, l, w]);
    const whole = await ops.causalConv1d(args, { activation: 'silu' });
    const cut = (x: Float32Array, from: number, to: number) => x.filter((_, i) => i % l >= from && i % l < to);
    for (const lengths of [
      [1, 66],
      [66, 1],
      [33, 34],
      [1, 1, 1, 1, 1, 62],
      [2, 16, 17, 32],
    ]) {
      let state: Argument = args.initialState;
      let from = 0;
      for (const length of lengths) {
        const x = { shape: [b, d, length], data: cut(args.x.data, from, from + length) };
        const inputs = { ...args, x, initialState: state as Example['initialState'] };
        const { y, finalState } = await ops.causalConv1d(inputs, { activation: 'silu' });
        same(y.data, cut(whole.y.data, from, from + length), `${w} taps, y from ${from}`);
        state = finalState;
        from += length;
      }
      same(state.data, whole.finalState.data, `${w} taps, state of ${lengths}`);
    }
  }
});

test('a row alone gives the bytes it has in a batch', async () => {
  const { x, weight, bias } = example([3, 20, 30, 4]);
  const batch = await ops.causalConv1d({ x, weight, bias });
  const second = { shape: [1, 20, 30], data: x.data.subarray(600, 1200) };
  same((await ops.causalConv1d({ x: second, weight, bias })).y.data, batch.y.data.subarray(600, 1200), 'y');
});

test('slots: states in place, each row its own, the others untouched', async () => {
  for (const l of [1, 2, 9]) {
    const { initialState, ...rest } = example([3, 18, l, 4]);
    const states = { shape: [5, 18, 3], data: floats(77, 5 * 54) };
    const order = [4, 0, 2];
    const slots = { dtype: 'i32' as const, shape: [3], data: Int32Array.from(order) };
    const got = await run({ ...rest, states, slots }, (g, { states, slots, ...t }) => {
      const { x, weight, bias } = t as Record<keyof Example, Tensor>;
      const inputs = { x, weight, bias, initialState: states!, finalState: states!, slots: slots! };
      return { y: causalConv1d(g, inputs).y, states };
    });
    const row = (array: Float32Array, i: number) => array.subarray(i * 54, (i + 1) * 54);
    const gathered = Float32Array.from(order.flatMap((slot) => [...row(states.data, slot)]));
    const want = await ops.causalConv1d({ ...rest, initialState: { shape: initialState.shape, data: gathered } });
    same(got.y!, want.y.data, 'y');
    for (const [i, slot] of order.entries()) same(row(got.states!, slot), row(want.finalState.data, i), `slot ${slot}`);
    for (const slot of [1, 3]) same(row(got.states!, slot), row(states.data, slot), `slot ${slot}`);
  }
});

test('slots that do not exist, or twice, fail at run time', async () => {
  const { x, weight } = example([2, 3, 4, 4]);
  const states = { shape: [3, 3, 3], data: floats(1, 27) };
  for (const [slots, message] of [
    [[0, 3], /slots\[1\] is 3, expected 0 to 2/],
    [[-1, 0], /slots\[0\] is -1/],
    [[2, 2], /slots\[1\] is 2, which an earlier row/],
  ] as [number[], RegExp][]) {
    const args = { x, weight, states, slots: { dtype: 'i32' as const, shape: [2], data: Int32Array.from(slots) } };
    const error = await failure(() =>
      run(args, (g, { x, weight, states, slots }) => {
        const inputs = { x: x!, weight: weight!, initialState: states!, finalState: states!, slots: slots! };
        return { y: causalConv1d(g, inputs).y };
      }),
    );
    assert.is(error.code, 'ERR_OP_INDEX');
    assert.match(error.message, message);
  }
});

test('no steps: the state is what it was; no batch, no channels', async () => {
  const none = example([2, 5, 0, 4]);
  const got = await ops.causalConv1d(none);
  assert.equal(got.y.shape, [2, 5, 0]);
  same(got.finalState.data, none.initialState.data, 'finalState');
  for (const sizes of [
    [0, 5, 4, 3],
    [2, 0, 4, 3],
  ] as Sizes[])
    assert.equal((await ops.causalConv1d(example(sizes))).y.shape, sizes.slice(0, 3));
});

test('a NaN reaches the outputs that read it, and no other', async () => {
  const args = example([1, 40, 30, 3]);
  const clean = (await ops.causalConv1d(args)).y.data;
  args.x.data[7 * 30 + 5] = Number.NaN;
  const { y } = await ops.causalConv1d(args);
  for (let i = 0; i < 1200; i++)
    if (i >= 215 && i < 218) assert.ok(Number.isNaN(y.data[i]), `[${i}] is ${y.data[i]}`);
    else assert.is(y.data[i], clean[i]);
});

test('errors', async () => {
  const args = example([2, 4, 3, 4]);
  const f32 = (...shape: number[]) => ({
    shape,
    data: floats(
      1,
      shape.reduce((a, x) => a * x, 1),
    ),
  });
  const bad = (name: string, value: unknown) => () => ops.causalConv1d({ ...args, [name]: value } as never);
  const cases: [string, () => unknown, RegExp][] = [
    ['ERR_OP_SHAPE', bad('x', f32(4, 3)), /x must be \[b,d,l\], got \[4,3\]/],
    ['ERR_OP_SHAPE', bad('weight', f32(3, 4)), /weight must be \[d,w\] = \[4,\*\]/],
    ['ERR_OP_SHAPE', bad('weight', f32(4, 1)), /weight must have 2 to 4 taps, got 1/],
    ['ERR_OP_SHAPE', bad('weight', f32(4, 5)), /weight must have 2 to 4 taps, got 5/],
    ['ERR_OP_SHAPE', bad('bias', f32(3)), /bias must be \[d\] = \[4\]/],
    ['ERR_OP_SHAPE', bad('initialState', f32(2, 4, 4)), /initialState must be \[b,d,w-1\] = \[2,4,3\]/],
    ['ERR_OP_SHAPE', bad('slots', { shape: [2], data: new Int32Array(2) }), /slots chooses rows of finalState/],
    ['ERR_OP_DTYPE', bad('slots', f32(2)), /slots must be i32/],
    ['ERR_OP_DTYPE', bad('x', { shape: [2, 4, 3], data: new Int32Array(24) }), /x must be f32/],
    ['ERR_ARG_TYPE', () => ops.causalConv1d({ x: args.x } as never), /weight is missing/],
    ['ERR_OP_ATTR', () => ops.causalConv1d(args, { activation: 'relu' as never }), /activation must be none \| silu/],
  ];
  for (const [code, act, message] of cases) {
    const error = await failure(act);
    assert.is(error.code, code, error.message);
    assert.match(error.message, message);
  }
});

test('native checks hold without those of TypeScript', async () => {
  const { x, weight } = example([2, 4, 3, 4]);
  const cases: [Record<string, [number[], number[]?]>, RegExp][] = [
    [{ y: [[2, 4, 2]] }, /y must be \[2,4,3\], got f32 \[2,4,2\]/],
    [{ y: [[2, 4, 3]], final_state: [[2, 4, 4]] }, /final_state must be \[2,4,3\]/],
    [
      {
        y: [[2, 4, 3]],
        final_state: [
          [2, 4, 3],
          [12, 1, 4],
        ],
      },
      /final_state must be contiguous in its last dimension/,
    ],
  ];
  for (const [shapes, message] of cases) {
    const error = await failure(() =>
      run({ x, weight }, (g, t) => {
        const outputs = Object.fromEntries(
          Object.entries(shapes).map(([name, [shape, strides]]) => [name, g.empty('f32', shape, strides)]),
        );
        g.push('causal_conv1d', t, outputs, { activation: 'silu' });
        return { y: outputs.y };
      }),
    );
    assert.is(error.code, 'ERR_OP_ARG');
    assert.match(error.message, message);
  }
});

test.run();
