/** Recording, printing, planning, and what native code does with words that are not a program. */
import * as assert from 'uvu/assert';
import { type NativeBuffer, native } from '../lib/binding.ts';
import { CancelToken, type ChainOptions, type Program, type RunInput } from '../lib/device.ts';
import { linear, rmsNorm } from '../lib/ops/index.ts';
import { Graph } from '../lib/program.ts';
import { contiguous, index, reshape, slice, type Tensor, tensorOf, transpose, unsqueeze } from '../lib/tensor.ts';
import { close, counting, device, failure, floats, random, suite } from './kit.ts';

const test = suite('program');

/** n norms, one after the other. */
function chain(n: number, rows = 4, d = 64): Graph {
  const g = new Graph();
  let h: Tensor = g.input('x', 'f32', [rows, d]);
  const weight = g.input('weight', 'f32', [d]);
  for (let i = 0; i < n; i++) h = rmsNorm(g, { x: h, weight }).y;
  g.output('y', h);
  return g;
}

test('a program prints as the list of its steps', () => {
  const g = new Graph();
  const x = g.input('x', 'f32', [2, 8]);
  const weight = g.input('weight', 'f32', [8]);
  const { y } = rmsNorm(g, { x: slice(x, 0, 0, 1), weight }, { eps: 1e-6 });
  g.output('y', y);
  assert.is(
    String(g),
    [
      'program  steps=1  values=3',
      '%0 = input x  f32 [2,8]',
      '%1 = input weight  f32 [8]',
      '%2 = rms_norm(x=%0[1,8], weight=%1) eps=0.000001  f32 [1,8]',
      'output y = %2  f32 [1,8]',
    ].join('\n'),
  );
});

test('a name or an attribute that the op has not is thrown where it is recorded', async () => {
  const g = new Graph();
  const x = g.input('x', 'f32', [2, 8]);
  const cases: [string, () => void][] = [
    ['ERR_OP_NAME', () => g.push('rms_norms', {}, {})],
    ['ERR_OP_ARG', () => g.push('rms_norm', { x, wait: x }, { y: x })],
    ['ERR_OP_ARG', () => g.push('rms_norm', { x }, { y: x })],
    ['ERR_OP_ATTR', () => g.push('rms_norm', { x, weight: x }, { y: x }, { eps: '1' })],
    ['ERR_OP_ATTR', () => g.push('cross_scan', { x }, { xs: x }, { scan: 'zigzag' })],
    ['ERR_SHAPE', () => g.output('y', slice(x, 0, 1, 2))],
  ];
  for (const [code, act] of cases) assert.is((await failure(act)).code, code);
});

test('views', async () => {
  const g = new Graph();
  const x = g.input('x', 'f32', [2, 3, 4]);
  const look = ({ shape, strides, offset }: Tensor) => ({ shape, strides, offset });
  assert.equal(look(transpose(x, 1, 2)), { shape: [2, 4, 3], strides: [12, 1, 4], offset: 0 });
  assert.equal(look(slice(x, 1, 1, 3)), { shape: [2, 2, 4], strides: [12, 4, 1], offset: 4 });
  assert.equal(look(index(x, 0, 1)), { shape: [3, 4], strides: [4, 1], offset: 12 });
  assert.equal(look(unsqueeze(x, 1)), { shape: [2, 1, 3, 4], strides: [12, 0, 4, 1], offset: 0 });
  assert.equal(look(reshape(x, [6, 4])), { shape: [6, 4], strides: [4, 1], offset: 0 });
  assert.equal(look(reshape(slice(x, 2, 0, 2), [2, 3, 2, 1])), {
    shape: [2, 3, 2, 1],
    strides: [12, 4, 1, 1],
    offset: 0,
  });
  assert.equal(look(reshape(slice(x, 2, 0, 2), [6, 2])), { shape: [6, 2], strides: [4, 1], offset: 0 });
  for (const act of [
    () => reshape(x, [5, 5]),
    () => reshape(transpose(x, 0, 2), [24]),
    () => slice(x, 1, 2, 4),
    () => slice(x, 3, 0, 1),
  ])
    assert.is((await failure(act)).code, 'ERR_SHAPE');
});

test('memory of a chain does not grow with its length', async () => {
  // 1000 results of 1 MB would be 1 GB; three places are enough.
  const before = process.memoryUsage.rss();
  const program = await device().compile(chain(1000, 4096, 64));
  const x = floats(1, 4096 * 64);
  const { y } = await program.run({ x, weight: new Float32Array(64).fill(1) });
  assert.ok(y!.length === x.length);
  assert.ok(process.memoryUsage.rss() - before < 100e6, `${(process.memoryUsage.rss() - before) / 1e6} MB`);
  program.drop();
});

test('a value keeps its place as long as a later step reads it', async () => {
  const g = new Graph();
  const x = g.input('x', 'f32', [3, 16]);
  const weight = g.input('weight', 'f32', [16, 16]);
  const first = linear(g, { x, weight }).y;
  let h = first;
  for (let i = 0; i < 5; i++) h = linear(g, { x: h, weight }).y;
  const { y } = linear(g, { x: h, weight, residual: first });
  g.output('y', y);
  const program = await device().compile(g);
  const w = Float32Array.from({ length: 256 }, (_, i) => (i % 17 === 0 ? 1 : 0));
  const data = floats(2, 48);
  const results = await program.run({ x: data, weight: w });
  close(
    results.y!,
    data.map((v) => 2 * v),
    1e-6,
    'x + x',
  );
});

test('profile() says what every step took', async () => {
  const g = chain(5);
  const steps = await (await device().compile(g)).profile({ x: floats(1, 256), weight: floats(2, 64) });
  assert.equal(
    steps.map(({ op }) => op),
    new Array(5).fill('rms_norm'),
  );
  for (const { ms, gbps } of steps) assert.ok(ms >= 0 && gbps >= 0);
});

test('inputs are checked and copied', async () => {
  const program = await device().compile(chain(1));
  const x = floats(1, 256);
  const weight = floats(2, 64);
  const expected = (await program.run({ x, weight })).y!;
  const running = program.run({ x, weight });
  x.fill(0);
  assert.equal((await running).y, expected);
  assert.is((await failure(() => program.run({ x }))).code, 'ERR_ARG_TYPE');
  assert.is((await failure(() => program.run({ x: x.subarray(1), weight }))).code, 'ERR_ARG_SHAPE');
  assert.is((await failure(() => program.run({ x: new Int32Array(256), weight }))).code, 'ERR_ARG_TYPE');
  program.drop();
  assert.is((await failure(() => program.run({ x, weight }))).code, 'ERR_DISPOSED');
});

test('a run is cancelled between two steps', async () => {
  const program = await device().compile(chain(2000, 2048, 64));
  const token = new CancelToken();
  const running = program.run({ x: floats(1, 2048 * 64), weight: floats(2, 64) }, { token });
  setTimeout(() => token.cancel(), 5);
  assert.is((await failure(() => running)).code, 'ERR_CANCELLED');
  assert.is(
    (await failure(() => program.run({ x: floats(1, 2048 * 64), weight: floats(2, 64) }, { token }))).code,
    'ERR_CANCELLED',
  );
});

const ports = { token: 'token', ids: 'ids', position: 'position' };

/** What a chain draws, each step's tokens in turn. */
async function drawn(
  program: Program,
  inputs: Record<string, RunInput>,
  options: Partial<ChainOptions>,
  heard: (tokens: number[]) => void = () => {},
): Promise<number[]> {
  const tokens: number[] = [];
  await program.chain(inputs, { ...ports, steps: 1, stops: new Int32Array(), ...options }, (results) => {
    assert.is(results.token!.length, results.logprob!.length);
    tokens.push(...results.token!);
    heard(tokens);
  });
  return tokens;
}

test('a chain goes on from what it drew', async () => {
  const { graph, inputs } = counting([3, 50]);
  const program = await device().compile(graph);
  const both = (steps: number) => Array.from({ length: steps }, (_, i) => [4 + i, (51 + i) % 100]).flat();
  for (const steps of [1, 2, 7, 60]) assert.equal(await drawn(program, inputs, { steps }), both(steps));
  const stops = Int32Array.of(200, 60, 5);
  assert.equal(await drawn(program, inputs, { steps: 50, stops }), both(2), 'a stop of the first row');
  assert.equal(await drawn(program, inputs, { steps: 50, stops: stops.subarray(0, 2) }), both(10), 'of the second');
  assert.equal(inputs.ids, Int32Array.of(3, 50));
});

test('each step of a chain has a place of its own for its random numbers', async () => {
  const { graph, inputs } = counting([0]);
  const program = await device().compile(graph);
  inputs.params![0] = 1;
  (inputs.weight as Float32Array).fill(0);
  const chained = await drawn(program, inputs, { steps: 20 });
  for (const [i, token] of chained.entries()) {
    const one = await program.run({ ...inputs, position: Int32Array.of(i) });
    assert.is(one.token![0], token, `step ${i}`);
  }
  assert.ok(new Set(chained).size > 10);
});

test('a chain ends early when it is halted or another job waits, and fails when it is cancelled', async () => {
  const { graph, inputs } = counting([0]);
  const program = await device().compile(graph);
  const steps = 2 ** 30;
  const counted = (tokens: number[]) =>
    assert.equal(
      tokens,
      tokens.map((_, i) => (i + 1) % 100),
    );
  const halted = new CancelToken();
  counted(await drawn(program, inputs, { steps, cancel: halted }, () => halted.halt()));
  const waiting = drawn(program, inputs, { steps });
  await (await device().alloc(64, 'other')).free();
  counted(await waiting);
  const cancel = new CancelToken();
  const heard: number[] = [];
  const failed = drawn(program, inputs, { steps, cancel }, (tokens) => {
    heard.push(...tokens.slice(heard.length));
    cancel.cancel();
  });
  assert.is((await failure(() => failed)).code, 'ERR_CANCELLED');
  assert.ok(heard.length > 0);
  counted(heard);
});

test('a chain needs its ports, and passes on what fails', async () => {
  const { graph, inputs } = counting([0]);
  const program = await device().compile(graph);
  for (const wrong of [{ token: 'logprob' }, { ids: 'seed' }, { position: 'weight' }, { steps: 0 }])
    assert.is((await failure(() => drawn(program, inputs, wrong))).code, 'ERR_ARG_SHAPE', JSON.stringify(wrong));
  (inputs.weight as Float32Array)[500] = Number.NaN;
  const heard: number[] = [];
  const error = await failure(() => drawn(program, inputs, { steps: 9 }, (tokens) => heard.push(...tokens)));
  assert.is(error.code, 'ERR_NONFINITE_LOGITS');
  assert.equal(heard.at(-1), 5, 'the steps before it were heard of');
});

test('an error in a step names the op', async () => {
  const g = new Graph();
  const ids = g.input('ids', 'i32', [1, 2]);
  const weight = g.input('weight', 'f32', [4, 8]);
  const y = g.empty('f32', [1, 2, 8]);
  g.push('embedding', { ids, weight }, { y });
  g.output('y', y);
  const program = await device().compile(g);
  const error = await failure(() => program.run({ ids: Int32Array.of(1, 4), weight: floats(1, 32) }));
  assert.is(error.code, 'ERR_OP_INDEX');
  assert.match(error.message, /^\[embedding\] ids\[0,1\] is 4/);
  assert.equal(error.details, { op: 'embedding', step: 0 });
});

/** Compiles words as they are. */
const compile = (words: Int32Array, buffers: NativeBuffer[] = []) => native().compile(device().handle, words, buffers);

test('words that are no program are refused', async () => {
  const { words } = chain(3).encode();
  for (let length = 0; length < words.length; length++)
    assert.is((await failure(() => compile(words.slice(0, length)))).code, 'ERR_PROGRAM', `cut at ${length}`);
  assert.is((await failure(() => compile(Int32Array.of(...words, 0)))).code, 'ERR_PROGRAM', 'left over');
  const buffer = await device().alloc(64, 'small');
  const g = new Graph();
  const big = tensorOf(buffer, 'f32', [4, 64], { strides: contiguous([4, 64]) });
  const y = g.empty('f32', [4, 64]);
  g.push('rms_norm', { x: big, weight: g.input('w', 'f32', [64]) }, { y }, { eps: 1 });
  const error = await failure(() => device().compile(g));
  assert.is(error.code, 'ERR_PROGRAM');
  assert.match(error.message, /ends at byte 1024 of a storage of 64/);
});

test('a step may write where it reads, all of it or nothing', async () => {
  const g = new Graph();
  const x = g.input('x', 'f32', [4, 8]);
  const weight = g.input('weight', 'f32', [8]);
  g.push('rms_norm', { x, weight }, { y: x }, { eps: 1 });
  g.output('y', x);
  await device().compile(g);
  const over = new Graph();
  const buffer = await device().alloc(1024, 'both');
  const from = tensorOf(buffer, 'f32', [4, 8]);
  const to = tensorOf(buffer, 'f32', [4, 8], { offset: 16 });
  over.push('rms_norm', { x: from, weight: over.input('weight', 'f32', [8]) }, { y: to }, { eps: 1 });
  const error = await failure(() => device().compile(over));
  assert.is(error.code, 'ERR_PROGRAM');
  assert.match(error.message, /step 0 writes tensor \d+ over a part of tensor \d+/);
});

test('a step may not write two elements to the same place', async () => {
  const g = new Graph();
  const x = g.input('x', 'f32', [4, 8]);
  const buffer = await device().alloc(1024, 'rows');
  const y = tensorOf(buffer, 'f32', [4, 8], { strides: [5, 1] });
  g.push('rms_norm', { x, weight: g.input('weight', 'f32', [8]) }, { y }, { eps: 1 });
  const error = await failure(() => device().compile(g));
  assert.is(error.code, 'ERR_PROGRAM');
  assert.match(error.message, /step 0 writes elements of tensor \d+ to the same place/);
});

test('20,000 programs with words changed at random: refused, or run within their memory', async () => {
  const { words } = chain(3).encode();
  const next = random(7);
  let refused = 0;
  for (let i = 0; i < 20_000; i++) {
    const changed = words.slice();
    for (let n = 1 + Math.floor(next() * 3); n > 0; n--)
      changed[Math.floor(next() * words.length)] =
        next() < 0.5 ? Math.floor(next() * 40) - 4 : Math.floor((next() - 0.5) * 2 ** 32);
    try {
      native().drop(await compile(changed));
    } catch (error) {
      refused++;
      assert.match((error as { code: string }).code, /^ERR_(PROGRAM|OP_\w+|OUT_OF_MEMORY)$/);
    }
  }
  assert.ok(refused > 10_000, `${refused} refused`);
});

test.run();
