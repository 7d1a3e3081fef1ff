/**
 * The line between JavaScript and C++: every function of native/addon.cc called with what is no argument of it. lib/ never
 * calls like this; that nothing crashes means that no mistake in lib/ can crash either. `npm run test:hostile -- --asan` runs
 * this under AddressSanitizer.
 */
import * as assert from 'uvu/assert';
import { type Native, type NativeBuffer, type NativeDevice, native } from '../../lib/binding.ts';
import { activation, embedding, linear, rmsNorm, sample, selectiveScan } from '../../lib/ops/index.ts';
import { Graph } from '../../lib/program.ts';
import { counting, failure, random, suite } from '../kit.ts';

const test = suite('native boundary');
const addon = native();
const functions = addon as unknown as Record<string, (...args: unknown[]) => unknown>;
const CALLS = Number(process.env.VL_MAMBA_CALLS ?? 100_000);

/** A small program of several ops, as words. */
function words(): Int32Array {
  const g = new Graph();
  const ids = g.input('ids', 'i32', [1, 3]);
  const table = g.input('table', 'f32', [7, 16]);
  const weight = g.input('weight', 'f32', [16]);
  const { y: x } = embedding(g, { ids, weight: table });
  const { y: h } = rmsNorm(g, { x, weight });
  const { y } = linear(g, { x: h, weight: table });
  const { y: z } = activation(g, { x: y }, { activation: 'silu' });
  g.output('z', z);
  return g.encode().words;
}
const inputs = () => [Int32Array.of(1, 2, 6), new Float32Array(7 * 16).fill(0.5), new Float32Array(16).fill(1)];

const counter = () => counting().graph.encode().words;
const counterInputs = () => Object.values(counting().inputs);

async function settle(value: unknown): Promise<unknown> {
  try {
    return await value;
  } catch (error) {
    return error;
  }
}

const device = addon.open(2);
const other = addon.open(1);
test.after(async () => {
  await addon.close(device);
  await addon.close(other);
});

/** Called with the wrong thing, an error with a message comes back, thrown or as a rejection. */
async function refused(what: string, call: () => unknown): Promise<Error> {
  const error = await failure(call);
  assert.instance(error, Error, what);
  assert.ok(error.message.length > 5, `${what}: ${error.message}`);
  return error;
}

test('no argument, too few, and each replaced by every kind of nonsense', async () => {
  const program = await addon.compile(device, words(), []);
  const buffer = await addon.alloc(device, 64);
  const token = addon.token();
  const counts = await addon.compile(device, counter(), []);
  const valid: Record<string, unknown[]> = {
    open: [1],
    close: [device],
    cancel: [token],
    halt: [token],
    progress: [token],
    alloc: [device, 64],
    free: [buffer],
    write: [device, buffer, 0, new Uint8Array(4)],
    read: [device, buffer, 0, 4],
    copy: [device, buffer, 0, buffer, 8, 8],
    fill: [device, buffer, 0, 8, 1],
    load: [device, '/dev/null', new BigInt64Array(4), new Float64Array(11), [buffer], token, 1],
    compile: [device, words(), []],
    drop: [program],
    run: [device, program, inputs(), token, false, false],
    runChain: [device, counts, counterInputs(), token, [1, 0, 0, 1], new Int32Array(1), () => {}],
  };
  // Where these are, any value will do.
  const free: Record<string, number[]> = { run: [4, 5] };
  const nonsense = [undefined, null, true, Number.NaN, -1, 1.5, 2 ** 60, 'x', Symbol('s'), 1n, {}, [], [1], () => 1];
  let cases = 0;
  for (const [name, args] of Object.entries(valid)) {
    for (let i = 0; i < args.length; i++) {
      if (free[name]?.includes(i)) continue;
      // The path of load may be any string, its token and that of run may be absent, and lists of no buffers are lists.
      const fits = (value: unknown) =>
        (typeof value === 'string' && typeof args[i] === 'string') ||
        (value == null && args[i] === token && !['cancel', 'halt', 'progress'].includes(name)) ||
        (typeof value === 'function' && typeof args[i] === 'function') ||
        (Array.isArray(value) && value.length === 0 && Array.isArray(args[i]));
      for (const value of nonsense.filter((value) => !fits(value))) {
        await refused(`${name} argument ${i} = ${String(value)}`, () =>
          functions[name]!(...args.slice(0, i), value, ...args.slice(i + 1)),
        );
        cases++;
      }
    }
    await refused(`${name} without arguments`, () => functions[name]!());
  }
  assert.ok(cases > 300, `${cases} cases`);
  console.log(`${cases} cases`);
});

test('one handle taken for another', async () => {
  const handles: Record<string, unknown> = {
    device,
    buffer: await addon.alloc(device, 8),
    program: await addon.compile(device, words(), []),
    token: addon.token(),
  };
  const wanted: Record<string, string> = {
    close: 'device',
    free: 'buffer',
    drop: 'program',
    cancel: 'token',
    halt: 'token',
    progress: 'token',
  };
  for (const [name, kind] of Object.entries(wanted))
    for (const [given, value] of Object.entries(handles))
      if (given !== kind)
        assert.match((await refused(`${name}(${given})`, () => functions[name]!(value))).message, kind);
});

test('handles after they were freed, and twice', async () => {
  const buffer = await addon.alloc(device, 64);
  const program = await addon.compile(device, words(), []);
  addon.free(buffer);
  addon.free(buffer);
  addon.drop(program);
  addon.drop(program);
  const { code } = (await refused('write', () => addon.write(device, buffer, 0, new Uint8Array(4)))) as never;
  assert.is(code, 'ERR_DISPOSED');
  await refused('run', () => addon.run(device, program, inputs(), null, false, false));
  await refused('compile', () => addon.compile(device, words(), [buffer]));
});

test('segments of load that no file may ask for', async () => {
  const buffer = await addon.alloc(device, 1024);
  const [f32, f16, bf16, i32, u8, i8] = [0, 1, 2, 3, 4, 5];
  const [any, weights, scales, grids] = [0, 1, 2, 3];
  /** [offset, count, from, to, transform, buffer, at, rule, columns, scale_at, grid_at, lines, row] */
  const good = [
    [0, 256, f32, f32, 0, 0, 0, any, 0, 0, 0, 0, 0],
    [0, 256, f16, f32, 1, 0, 0, any, 0, 0, 0, 0, 0],
    [0, 1024, i8, i8, 0, 0, 0, weights, 0, 0, 0, 0, 0],
    [0, 256, f32, f32, 0, 0, 0, scales, 0, 0, 0, 0, 0],
    [0, 1024, i8, i8, 0, 0, 0, grids, 0, 0, 0, 0, 0],
    [0, 600, f32, i8, 0, 0, 0, any, 200, 600, 0, 0, 0],
    [0, 400, bf16, u8, 0, 0, 0, any, 200, 256, 512, 0, 0],
    [0, 60, i8, i8, 0, 0, 0, weights, 30, 0, 0, 1, 30],
    [0, 90, f32, i8, 0, 0, 512, any, 30, 0, 0, 1, 13],
    [0, 128, u8, u8, 0, 0, 0, any, 100, 0, 0, 1, 0],
  ];
  const bad: [number[], Record<number, number>][] = [
    [good[0]!, { 2: i32!, 3: i32! }],
    [good[0]!, { 2: u8! }],
    [good[0]!, { 3: 6 }],
    [good[0]!, { 1: 257 }],
    [good[0]!, { 7: 4 }],
    [good[1]!, { 7: scales! }],
    [good[2]!, { 4: 1 }],
    [good[2]!, { 7: scales! }],
    [good[2]!, { 1: 1025 }],
    [good[3]!, { 4: 1 }],
    [good[3]!, { 1: 255, 6: 2 }],
    [good[5]!, { 7: weights! }],
    [good[5]!, { 4: 1 }],
    [good[5]!, { 8: 0 }],
    [good[5]!, { 8: 199 }],
    [good[5]!, { 9: 602 }],
    [good[5]!, { 9: 1004 }],
    [good[5]!, { 6: 425 }],
    [good[6]!, { 10: 993 }],
    [good[6]!, { 9: 1012 }],
    [good[6]!, { 6: 769 }],
    [good[6]!, { 1: 2 ** 44 }],
    [good[0]!, { 11: 1 }],
    [good[7]!, { 1: 61 }],
    [good[7]!, { 6: 32 }],
    [good[7]!, { 6: 64 }],
    [good[7]!, { 8: 0 }],
    [good[7]!, { 8: 15, 12: 64 }],
    [good[7]!, { 8: 33 }],
    [good[7]!, { 12: 31 }],
    [good[7]!, { 12: 2 ** 53 - 1 }],
    [good[7]!, { 8: 2 ** 53 - 1 }],
    [good[8]!, { 12: 14 }],
    [good[8]!, { 6: 576 }],
    [good[9]!, { 1: 100 }],
    [good[9]!, { 12: 15 }],
  ];
  const call = (numbers: number[]) =>
    addon.load(device, '/dev/null', new BigInt64Array(4), Float64Array.from(numbers), [buffer], null, 2);
  // Whatever is right gets as far as the file, which is not the one that was expected.
  for (const numbers of good) assert.is((await failure(() => call(numbers))).code, 'ERR_ST_CHANGED', numbers.join());
  for (const [numbers, change] of bad) {
    const changed = numbers.map((number, i) => change[i] ?? number);
    const error = await failure(() => call(changed));
    assert.ok(error instanceof TypeError || error instanceof RangeError, `${changed}: ${error.message}`);
  }
});

test('a program runs on its own device only', async () => {
  const program = await addon.compile(device, words(), []);
  await refused('run', () => addon.run(other, program, inputs(), null, false, false));
  assert.is((await addon.run(device, program, inputs(), null, false, false)).length, 1);
});

test('ranges of bytes', async () => {
  const buffer = await addon.alloc(device, 64);
  const far = [65, 2 ** 31, 2 ** 32, 2 ** 53 - 1];
  for (const n of far) {
    await refused(`read at ${n}`, () => addon.read(device, buffer, n, 1));
    await refused(`read ${n}`, () => addon.read(device, buffer, 0, n));
    await refused(`read 1 + ${n}`, () => addon.read(device, buffer, 1, n));
    await refused(`fill ${n}`, () => addon.fill(device, buffer, 1, n, 0));
    await refused(`copy from ${n}`, () => addon.copy(device, buffer, n, buffer, 0, 1));
    await refused(`copy to ${n}`, () => addon.copy(device, buffer, 0, buffer, n, 1));
    await refused(`write at ${n}`, () => addon.write(device, buffer, n, new Uint8Array(1)));
  }
  await refused('write', () => addon.write(device, buffer, 1, new Uint8Array(64)));
  const { code } = (await refused('alloc', () => addon.alloc(device, 2 ** 50))) as never;
  assert.is(code, 'ERR_OUT_OF_MEMORY');
  assert.is((await addon.read(device, buffer, 64, 0)).byteLength, 0);
});

test('lists whose getters take memory away', async () => {
  const buffer = await addon.alloc(device, 64);
  const program = words();
  const sly = Object.defineProperty([buffer], 0, {
    get: () => {
      structuredClone(program.buffer, { transfer: [program.buffer as ArrayBuffer] });
      return buffer;
    },
  });
  await refused('compile', () => addon.compile(device, program, sly));
  const segments = Float64Array.of(0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  const sly2 = Object.defineProperty([buffer], 0, {
    get: () => {
      structuredClone(segments.buffer, { transfer: [segments.buffer as ArrayBuffer] });
      return buffer;
    },
  });
  await addon.load(device, '/dev/null', new BigInt64Array(4), segments, sly2, null, 1).catch(() => {});
  const made = await addon.compile(device, words(), []);
  const list = inputs();
  const victim = list[0]!;
  Object.defineProperty(list, 2, {
    get: () => {
      structuredClone(victim.buffer, { transfer: [victim.buffer as ArrayBuffer] });
      return new Float32Array(16);
    },
  });
  await refused('run', () => addon.run(device, made, list, null, true, false));
  const throws = Object.defineProperty([], 0, {
    get: () => {
      throw new Error('my own error');
    },
  }) as unknown as NativeBuffer[];
  assert.is((await refused('compile', () => addon.compile(device, words(), throws))).message, 'my own error');
});

test('what an op reads twice may not lie where it writes', async () => {
  const buffer = await addon.alloc(device, 4096);
  const code = async (record: (g: Graph, at: (t: ReturnType<Graph['empty']>) => void) => void) => {
    const g = new Graph();
    record(g, (tensor) => g.place(tensor, { bytes: 4096 }));
    const encoded = g.encode();
    return (
      (await settle(
        addon.compile(
          device,
          encoded.words,
          encoded.buffers.map(() => buffer),
        ),
      )) as { code?: string }
    ).code;
  };
  const scan = await code((g, at) => {
    const [u, A, B] = [
      g.input('u', 'f32', [1024, 1, 1]),
      g.input('A', 'f32', [1, 1]),
      g.input('B', 'f32', [1024, 1, 1, 1]),
    ];
    const slots = g.empty('i32', [1024]);
    const lastState = g.empty('f32', [1024, 1, 1]);
    at(slots);
    at(lastState);
    selectiveScan(g, { u, delta: u, A, B, C: B, slots, lastState });
  });
  assert.is(scan, 'ERR_OP_ARG');
  const draw = await code((g, at) => {
    const logits = g.empty('f32', [1, 1024]);
    const seen = g.empty('u8', [1, 4096]);
    at(logits);
    at(seen);
    const params = g.input('params', 'f32', [1, 6]);
    const [seed, position] = [g.input('seed', 'i32', [1, 2]), g.input('position', 'i32', [1])];
    const view = { ...seen, shape: [1, 1024], strides: [1024, 1] };
    sample(g, { logits, params, seed, position, seen: view });
  });
  assert.is(draw, 'ERR_OP_ARG');
});

test('every word of a program replaced, and programs cut short', async () => {
  const original = words();
  const values = [-(2 ** 31), -2, -1, 0, 1, 2, 5, 14, 15, 255, 2 ** 20, 2 ** 31 - 1];
  let ran = 0;
  let refusals = 0;
  const attempt = async (mutant: Int32Array) => {
    const made = await settle(addon.compile(device, mutant, []));
    if (made instanceof Error) {
      assert.match((made as Error & { code: string }).code, /^ERR_(PROGRAM|OP_ARG|OUT_OF_MEMORY)$/, made.message);
      refusals++;
      return;
    }
    ran++;
    await settle((async () => addon.run(device, made as never, inputs(), null, false, false))());
    addon.drop(made as never);
  };
  for (let i = 0; i < original.length; i++) {
    for (const value of values) {
      const mutant = original.slice();
      mutant[i] = value;
      await attempt(mutant);
    }
    await attempt(original.slice(0, i));
  }
  await attempt(Int32Array.from([...original, 0]));
  assert.ok(refusals > 500 && ran > 10, `${refusals} refused, ${ran} ran`);
});

test(`${CALLS} calls with arguments drawn at random from a seed`, async () => {
  const next = random(20240403);
  const pick = <T>(list: readonly T[]): T => list[Math.floor(next() * list.length)]!;
  const original = words();
  const names = Object.keys(addon).filter((name) => !['open', 'close', 'schema', 'machine'].includes(name));
  const buffers: unknown[] = [await addon.alloc(device, 64), await addon.alloc(other, 4096)];
  const programs: unknown[] = [original, counter()].map((words) => addon.compile(device, words, []));
  for (const i of programs.keys()) programs[i] = await programs[i];
  const tokens: unknown[] = [addon.token()];
  const small = () => Math.floor(next() * 80);
  const kinds: (() => unknown)[] = [
    () => pick([device, device, device, other]),
    () => pick(buffers),
    () => pick(programs),
    () => pick(tokens),
    small,
    () => pick([0, 1, -1, 0.5, Number.NaN, 2 ** 31, 2 ** 53, -0, 1e300]),
    () => new Uint8Array(small()),
    () => Float32Array.from({ length: small() }, next),
    () => new Float64Array(7 * Math.floor(next() * 3)).map(small),
    () => new BigInt64Array(4),
    () => pick([inputs, counterInputs])(),
    () => [pick(buffers), pick(buffers)],
    () => [],
    () => pick(['', '/dev/null', '/dev/zero', 'package.json', '\0', {}, null, undefined, true, 1n]),
    () => {
      const mutant = original.slice(0, next() < 0.1 ? small() : undefined);
      for (let i = 0; i < 1 + next() * 3; i++)
        mutant[Math.floor(next() * mutant.length)] = pick([-1, 0, 1, 2, small(), 2 ** 31 - 1]);
      return mutant;
    },
    () => [1 + small(), pick([0, 0, 1]), pick([0, 0, 2]), pick([1, 1, 3])],
    () => () => {},
  ];
  /** Mostly what belongs there, so that calls get past the first check. */
  const shapes: Record<string, number[]> = {
    alloc: [0, 4],
    write: [0, 1, 4, 6],
    read: [0, 1, 4, 4],
    copy: [0, 1, 4, 1, 4, 4],
    fill: [0, 1, 4, 4, 4],
    load: [0, 13, 9, 8, 11, 3, 4],
    compile: [0, 14, 12],
    run: [0, 2, 10, 3, 4, 4],
    runChain: [0, 2, 10, 3, 15, 14, 16],
    free: [1],
    drop: [2],
    cancel: [3],
    halt: [3],
    progress: [3],
  };
  let pending: Promise<unknown>[] = [];
  let errors = 0;
  for (let i = 0; i < CALLS; i++) {
    const name = pick(names);
    const shape = shapes[name] ?? [];
    const args = shape.map((kind) => (next() < 0.85 ? kinds[kind]! : pick(kinds))());
    if (next() < 0.05) args.length = Math.floor(next() * 7);
    try {
      const result = functions[name]!(...args);
      if (result instanceof Promise)
        pending.push(
          result.then(
            (value) => {
              if (name === 'alloc') buffers[Math.floor(next() * 6)] = value;
              if (name === 'compile') programs[Math.floor(next() * 4)] = value;
            },
            (error) => {
              errors++;
              assert.ok(error instanceof Error && error.message, `${name}: ${error}`);
            },
          ),
        );
      else if (name === 'token') tokens[Math.floor(next() * 4)] = result;
    } catch (error) {
      errors++;
      assert.ok(error instanceof Error && error.message, `${name}: ${error}`);
    }
    if (pending.length === 64) {
      await Promise.all(pending);
      pending = [];
    }
  }
  await Promise.all(pending);
  assert.ok(errors > CALLS / 10 && errors < CALLS, `${errors} of ${CALLS} were refused`);
  const program = await addon.compile(device, original, []);
  assert.is((await addon.run(device, program, inputs(), null, false, false)).length, 1, 'usable afterwards');
});

test('devices opened and closed with work in every state', async () => {
  for (let i = 0; i < 100; i++) {
    const one: NativeDevice = (addon as Native).open(1 + (i % 3));
    const work = [addon.alloc(one, 1 << 20), addon.compile(one, words(), []), addon.alloc(one, 8)];
    const closing = [addon.close(one), addon.close(one)];
    for (const outcome of await Promise.allSettled(work))
      if (outcome.status === 'rejected') assert.is(outcome.reason.code, 'ERR_DISPOSED');
    await Promise.all(closing);
    assert.is(((await settle(addon.alloc(one, 8))) as { code: string }).code, 'ERR_DISPOSED');
  }
});

test.run();
