import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Device } from '../../lib/device.ts';
import { eager } from '../../lib/ops/eager.ts';
import { sample } from '../../lib/ops/sample.ts';
import { Graph } from '../../lib/program.ts';
import { slice, tensorOf } from '../../lib/tensor.ts';
import { close, device, failure, floats, hardLengths, onDevice, run, same } from '../kit.ts';
import type { Settings } from '../reference/sample.ts';
import * as reference from '../reference/sample.ts';

const op = onDevice(eager('sample', sample));

const columns = (s: Settings) =>
  [s.temperature, s.topK ?? 0, s.topP ?? 1, s.minP ?? 0, s.repetitionPenalty ?? 1, s.vocabLimit ?? 0].map(Math.fround);

/** The settings as the op sees them, rounded to f32. */
function rounded(s: Settings): Settings {
  const [temperature, topK, topP, minP, repetitionPenalty, vocabLimit] = columns(s) as [
    number,
    number,
    number,
    number,
    number,
    number,
  ];
  return { temperature, topK, topP, minP, repetitionPenalty, vocabLimit };
}

const bell = (seed: number, n: number, width = 3): Float32Array => {
  const u = floats(seed, 2 * n, 1e-6, 1);
  return Float32Array.from(
    { length: n },
    (_, i) => width * Math.sqrt(-2 * Math.log(u[2 * i]!)) * Math.cos(2 * Math.PI * u[2 * i + 1]!),
  );
};

interface Batch {
  logits: Float32Array;
  v: number;
  settings: Settings | Settings[];
  seeds?: number[][];
  positions: number[];
  seen?: Uint8Array;
  slots?: number[];
}

/** Runs a batch; one row of logits serves all rows unless there are more. Returns `seen` as the run leaves it as well. */
async function draw({ logits, v, settings, seeds, positions, seen, slots }: Batch, on?: Device) {
  const b = positions.length;
  const all = logits.length === b * v ? logits : Float32Array.from({ length: b * v }, (_, i) => logits[i % v]!);
  const params = positions.flatMap((_, i) => columns(Array.isArray(settings) ? settings[i]! : settings));
  const result = await run(
    {
      logits: { shape: [b, v], data: all },
      params: { shape: [b, 6], data: Float32Array.from(params) },
      seed: { dtype: 'i32', shape: [b, 2], data: Int32Array.from(positions.flatMap((_, i) => seeds?.[i] ?? [1, 2])) },
      position: { dtype: 'i32', shape: [b], data: Int32Array.from(positions) },
      ...(seen && { seen: { dtype: 'u8' as const, shape: [seen.length / v, v], data: seen } }),
      ...(slots && { slots: { dtype: 'i32' as const, shape: [b], data: Int32Array.from(slots) } }),
    },
    (g, t) => {
      const { token, logprob } = sample(g, {
        logits: t.logits!,
        params: t.params!,
        seed: t.seed!,
        position: t.position!,
        seen: t.seen,
        slots: t.slots,
      });
      return { token, logprob, marked: t.seen };
    },
    on,
  );
  return {
    token: Array.from(result.token!),
    logprob: result.logprob!,
    marked: result.marked as Uint8Array | undefined,
  };
}

const range = (n: number, from = 0) => Array.from({ length: n }, (_, i) => from + i);

test("the reference's Philox gives the known answers of Random123", () => {
  const hex = (words: number[]) => words.map((w) => w.toString(16).padStart(8, '0')).join(' ');
  const ones = 0xffffffff;
  assert.is(hex(reference.philox([0, 0, 0, 0], [0, 0])), '6627e8d5 e169c58d bc57ac4c 9b00dbd8');
  assert.is(hex(reference.philox([ones, ones, ones, ones], [ones, ones])), '408f276d 41c83b0e a20bc7c6 6d5451fd');
  assert.is(
    hex(reference.philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0])),
    'd16cfe09 94fdcceb 5001e420 24126ea1',
  );
});

const settings: Record<string, Settings> = {
  greedy: { temperature: 0 },
  'greedy, penalty, limit': { temperature: 0, repetitionPenalty: 1.3, vocabLimit: 47 },
  temperature: { temperature: 0.8 },
  hot: { temperature: 5 },
  'top-k 40': { temperature: 1, topK: 40 },
  'top-k 1': { temperature: 1, topK: 1 },
  'top-p': { temperature: 1, topP: 0.9 },
  'top-p near 1': { temperature: 1.5, topP: 0.999 },
  'top-k, top-p, penalty': { temperature: 0.7, topK: 50, topP: 0.8, repetitionPenalty: 1.2 },
  'min-p, top-p is not used': { temperature: 1, minP: 0.05, topP: 0.01 },
  'top-k, min-p, limit': { temperature: 0.9, topK: 30, minP: 0.02, repetitionPenalty: 0.9, vocabLimit: 100 },
};

for (const v of [...hardLengths, 511, 513, 50280])
  test(`vocabulary ${v}: every setting equals the reference`, async () => {
    const rows = Object.values(settings);
    const positions = rows.map((_, i) => 7 * i);
    const seeds = rows.map((_, i) => [i * 1234567, -i]);
    const logits = bell(v, rows.length * v);
    const seen = Uint8Array.from(floats(v + 1, rows.length * v, 0, 1.1), Math.floor);
    const clipped = rows.map((s) => ({ ...s, vocabLimit: Math.min(s.vocabLimit ?? 0, v) }));
    const batch = { logits, v, settings: clipped, seeds, positions, seen };
    const got = await draw(batch, device(1));
    const want = rows.map((_, i) => {
      const cut = <T extends Float32Array | Uint8Array>(a: T) => a.subarray(i * v, (i + 1) * v);
      return reference.sample(cut(logits), rounded(clipped[i]!), seeds[i]!, positions[i]!, cut(seen));
    });
    assert.equal(
      got.token,
      want.map((w) => w.token),
    );
    close(
      got.logprob,
      want.map((w) => w.logprob),
      2e-6,
      'logprob',
    );
    const marked = seen.slice();
    for (const [i, { token }] of want.entries()) marked[i * v + token] = 1;
    assert.equal(got.marked!.map(Math.sign), marked.map(Math.sign));

    const two = await draw(batch, device(2));
    assert.equal(two.token, got.token);
    same(two.logprob, got.logprob, 'threads');
  });

test('a row alone draws what it draws in a batch, at any other row', async () => {
  const v = 999;
  const positions = range(12, 100);
  const logits = bell(3, 12 * v);
  const all = await draw({ logits, v, settings: { temperature: 1.2, topP: 0.95 }, positions });
  for (const i of [0, 5, 11]) {
    const row = logits.slice(i * v, (i + 1) * v);
    const alone = await draw({
      logits: row,
      v,
      settings: { temperature: 1.2, topP: 0.95 },
      positions: [positions[i]!],
    });
    assert.is(alone.token[0], all.token[i]);
    same(alone.logprob, all.logprob.subarray(i, i + 1), 'logprob');
  }
});

test('strided logits, params, seeds and positions', async () => {
  const [b, v] = [3, 70];
  const wide = { shape: [b, 100], data: bell(4, b * 100) };
  const numbers = Float32Array.from(range(b).flatMap(() => [9, ...columns({ temperature: 1, topK: 20 }), 9]));
  const seeds = Int32Array.from([5, 6, 9, 5, 6, 9, 5, 6, 9]);
  const places = Int32Array.from([40, 9, 41, 9, 42, 9]);
  const { token } = await run(
    {
      logits: wide,
      params: { shape: [b, 8], data: numbers },
      seed: { dtype: 'i32', shape: [b, 3], data: seeds },
      position: { dtype: 'i32', shape: [b, 2], data: places },
    },
    (g, t) => {
      const position = slice(t.position!, 1, 0, 1);
      return sample(g, {
        logits: slice(t.logits!, 1, 11, 81),
        params: slice(t.params!, 1, 1, 7),
        seed: slice(t.seed!, 1, 0, 2),
        position: { ...position, shape: [b], strides: [2] },
      });
    },
  );
  const want = range(b).map((i) => {
    const row = wide.data.subarray(i * 100 + 11, i * 100 + 81);
    return reference.sample(row, { temperature: 1, topK: 20 }, [5, 6], 40 + i).token;
  });
  assert.is(wide.data.length / b - 30, v);
  assert.equal(Array.from(token!), want);
});

test('the same seed gives the same tokens, another seed or place others', async () => {
  const batch = { logits: bell(1, 500, 1), v: 500, settings: { temperature: 1 }, positions: range(64) };
  const first = await draw(batch);
  assert.equal((await draw(batch)).token, first.token);
  const differ = (tokens: number[]) => tokens.filter((t, i) => t !== first.token[i]).length;
  assert.ok(differ((await draw({ ...batch, seeds: range(64).map(() => [2, 2]) })).token) > 48, 'low word');
  assert.ok(differ((await draw({ ...batch, seeds: range(64).map(() => [1, 3]) })).token) > 48, 'high word');
  assert.ok(differ((await draw({ ...batch, positions: range(64, 64) })).token) > 48, 'place');
});

/** χ² of counts against probabilities, and the value it exceeds once in 10,000 times (Wilson & Hilferty 1931). */
function chiSquare(counts: number[], p: number[]): { value: number; limit: number } {
  const n = counts.reduce((a, b) => a + b, 0);
  const cells = p.flatMap((q, i) => (q > 0 ? [i] : []));
  const value = cells.reduce((sum, i) => sum + (counts[i]! - n * p[i]!) ** 2 / (n * p[i]!), 0);
  const freedom = cells.length - 1;
  const limit = freedom * (1 - 2 / (9 * freedom) + 3.719 * Math.sqrt(2 / (9 * freedom))) ** 3;
  return { value, limit };
}

const spread = Float32Array.of(1.5, -1, 0.3, 2, 0, 0.9, -0.4, 1.1, -2, 0.7, 1.9, -0.2);
const draws = 20000;

for (const [name, setting] of Object.entries({
  temperature: { temperature: 1 },
  'low temperature': { temperature: 0.6 },
  'top-k': { temperature: 1, topK: 5 },
  'top-p': { temperature: 1, topP: 0.8 },
  'min-p': { temperature: 1.3, minP: 0.3 },
  'top-k and top-p': { temperature: 1, topK: 8, topP: 0.7 },
} satisfies Record<string, Settings>))
  for (const along of ['places', 'seeds'])
    test(`${draws} draws along ${along} follow the distribution: ${name}`, async () => {
      const positions = along === 'places' ? range(draws) : range(draws).map(() => 3);
      const seeds = along === 'places' ? undefined : range(draws).map((i) => [i, 0]);
      const { token } = await draw({ logits: spread, v: spread.length, settings: setting, positions, seeds });
      const ids = reference.kept(spread, setting);
      const inside = reference.softmax(
        ids.map((id) => spread[id]!),
        setting.temperature,
      );
      const p = Array.from(spread, (_, id) => (ids.includes(id) ? inside[ids.indexOf(id)]! : 0));
      const counts = p.map((_, id) => token.filter((t) => t === id).length);
      assert.ok(
        counts.every((n, id) => p[id]! > 0 || n === 0),
        `a token that was filtered out: ${counts}`,
      );
      const { value, limit } = chiSquare(counts, p);
      assert.ok(value < limit, `χ² ${value.toFixed(1)} of at most ${limit.toFixed(1)}: ${counts}`);
    });

test('neighbouring places are independent', async () => {
  const even = new Float32Array(4);
  const { token } = await draw({ logits: even, v: 4, settings: { temperature: 1 }, positions: range(2 * draws) });
  const counts = new Array<number>(16).fill(0);
  for (let i = 0; i < token.length; i += 2) counts[token[i]! * 4 + token[i + 1]!]!++;
  const { value, limit } = chiSquare(counts, new Array<number>(16).fill(1 / 16));
  assert.ok(value < limit, `χ² ${value.toFixed(1)} of at most ${limit.toFixed(1)}: ${counts}`);
});

test('the draws of a wide flat vocabulary are spread evenly', async () => {
  const v = 1024;
  const { token } = await draw({
    logits: new Float32Array(v),
    v,
    settings: { temperature: 1, topP: 0.5 },
    positions: range(4000),
  });
  assert.ok(Math.max(...token) < v / 2, 'of equal logits top-p keeps the lower ids');
  const counts = new Array<number>(16).fill(0);
  for (const t of token) counts[Math.floor((t / v) * 32)]!++;
  const { value, limit } = chiSquare(counts, new Array<number>(16).fill(1 / 16));
  assert.ok(value < limit, `χ² ${value.toFixed(1)} of at most ${limit.toFixed(1)}: ${counts}`);
});

test('temperature 0: the lowest id of equal logits, negative zero is zero', async () => {
  const of = async (...logits: number[]) =>
    (await draw({ logits: Float32Array.from(logits), v: logits.length, settings: { temperature: 0 }, positions: [0] }))
      .token[0];
  assert.is(await of(1, 3, 2, 3, 3), 1);
  assert.is(await of(-1, -0, 0), 1);
  assert.is(await of(-Infinity, -5, -Infinity), 1);
  const late = new Float32Array(1500).fill(-1);
  late[1023] = late[1400] = 4;
  assert.is(await of(...late), 1023);
});

test('filters at their edges', async () => {
  const v = 10;
  const flat = new Float32Array(v).fill(2);
  const ids = async (s: Settings, logits = flat) =>
    [...new Set((await draw({ logits, v, settings: s, positions: range(400) })).token)].sort((a, b) => a - b);
  assert.equal(await ids({ temperature: 1, topK: 3 }), [0, 1, 2], 'ties at the cut: lower ids');
  assert.equal(await ids({ temperature: 1, topK: 2 ** 31 }), range(10), 'top-k beyond the vocabulary is all of it');
  assert.equal(await ids({ temperature: 1, topP: 0.31 }), [0, 1, 2, 3], 'ties at the cut: lower ids');
  // Numbers with ones at the borders of the digits that the cut is searched by, and below.
  for (const bit of [2 ** -13 + 2 ** -23, 2 ** -2 + 2 ** -13, 2 ** -14 + 2 ** -23, 2 ** -23]) {
    const alike = new Float32Array(v).fill(1 + bit);
    assert.equal(await ids({ temperature: 1, topK: 1 }, alike), [0], `one of many that are 1 + ${bit}`);
    assert.equal(await ids({ temperature: 1, topP: 0.01 }, alike), [0], `the first of many that are 1 + ${bit}`);
  }
  assert.equal(await ids({ temperature: 1, topP: 1e-30 }), [0], 'top-p keeps at least one');
  assert.equal(await ids({ temperature: 1, topP: 1e-30, vocabLimit: 1 }), [0], 'one token');
  assert.equal(await ids({ temperature: 1, minP: 1 }), range(10), 'min-p 1 keeps all that are as likely as the first');
  assert.equal(await ids({ temperature: 1, minP: 1 }, Float32Array.of(0, 1, 0, 1, 0, 1, 0, 0, 0, 0)), [1, 3, 5]);
  assert.equal(await ids({ temperature: 1, vocabLimit: 4 }), [0, 1, 2, 3], 'ids from the limit on are never produced');
  const holes = flat.map((z, i) => (i % 3 === 1 ? z : Number.NEGATIVE_INFINITY));
  assert.equal(await ids({ temperature: 1 }, holes), [1, 4, 7], '-Inf is never drawn');
  assert.equal(await ids({ temperature: 1, topK: 5 }, holes), [1, 4, 7], 'nor kept by top-k');
  assert.equal(await ids({ temperature: 1, topP: 0.9999 }, holes), [1, 4, 7]);
});

test('extreme temperatures and logits give a token and no NaN', async () => {
  const rows: [Settings, number[]][] = [
    [{ temperature: 1.2e-38 }, [1, 2, 3]],
    [{ temperature: 1e-5, topP: 0.9 }, [1, 2, 3]],
    [{ temperature: 1e-5, minP: 0.5 }, [1, 2, 3]],
    [{ temperature: 1e-5, topK: 2 }, [1, 2, 3]],
    [{ temperature: 1, topP: 0.9 }, [-3.4e38, 3.4e38, -Infinity]],
    [{ temperature: 0 }, [-3.4e38, -Infinity, 3.4e38]],
  ];
  for (const [settings, logits] of rows) {
    const { token, logprob } = await draw({ logits: Float32Array.from(logits), v: 3, settings, positions: [5] });
    assert.is(token[0], logits.indexOf(Math.max(...logits)));
    assert.is(logprob[0], 0);
  }
  const { token, logprob } = await draw({
    logits: Float32Array.of(1, 2, 3),
    v: 3,
    settings: { temperature: 3e38 },
    positions: range(300),
  });
  assert.is(new Set(token).size, 3, 'every token is as likely');
  close(
    logprob,
    logprob.map(() => -Math.log(3)),
    1e-6,
    'logprob',
  );
});

test('slots choose the rows of seen, and leave the others alone', async () => {
  const v = 33;
  const logits = bell(8, 2 * v);
  const seen = new Uint8Array(5 * v);
  const top = (row: number) =>
    reference.sample(logits.subarray(row * v, (row + 1) * v), { temperature: 0 }, [0, 0], 0).token;
  seen[4 * v + top(0)] = 1;
  const settings = { temperature: 0, repetitionPenalty: 100 };
  const { token, marked } = await draw({ logits, v, settings, positions: [0, 0], seen, slots: [4, 1] });
  const want = seen.slice();
  want[4 * v + token[0]!] = 1;
  want[v + token[1]!] = 1;
  assert.is.not(token[0], top(0));
  assert.is(token[1], top(1));
  assert.equal(marked, want);
});

test('a whole greedy text under a penalty never repeats while there is something new', async () => {
  const v = 20;
  let seen: Uint8Array = new Uint8Array(v);
  const logits = floats(1, v, 1, 2);
  const text: number[] = [];
  for (let i = 0; i < v; i++) {
    const { token, marked } = await draw({
      logits,
      v,
      settings: { temperature: 0, repetitionPenalty: 3 },
      positions: [i],
      seen,
    });
    text.push(token[0]!);
    seen = marked!;
  }
  assert.is(new Set(text).size, v);
});

test('logits that are no numbers fail by row and token', async () => {
  const of = (change: (row: Float32Array) => void, settings: Settings, v = 600) => {
    const logits = bell(1, 3 * v);
    change(logits.subarray(v, 2 * v));
    return failure(() => draw({ logits, v, settings, positions: [0, 1, 2], seen: new Uint8Array(3 * v).fill(1) }));
  };
  for (const settings of [{ temperature: 0 }, { temperature: 1, topP: 0.9 }] satisfies Settings[]) {
    const cases: [(row: Float32Array) => void, RegExp][] = [
      [(row) => row.fill(Number.NaN, 599), /row 1: the logit of token 599 is NaN/],
      [(row) => new Uint32Array(row.buffer, row.byteOffset, 1).fill(0xffc00000), /row 1: the logit of token 0 is NaN/],
      [(row) => row.fill(Number.POSITIVE_INFINITY, 17, 18), /row 1: the logit of token 17 is \+Inf/],
      [(row) => row.fill(Number.NEGATIVE_INFINITY), /row 1: the logits of all 600 tokens are -Inf/],
    ];
    for (const [change, message] of cases) {
      const error = await of(change, settings);
      assert.is(error.code, 'ERR_NONFINITE_LOGITS');
      assert.match(error.message, message);
    }
  }
  const overflow = await of((row) => row.fill(2, 3, 4), { temperature: 0, repetitionPenalty: 1.2e-38 });
  assert.is(overflow.code, 'ERR_NONFINITE_LOGITS');
  const beyond = await draw({
    logits: Float32Array.of(1, 2, Number.NaN, Number.POSITIVE_INFINITY),
    v: 4,
    settings: { temperature: 1, vocabLimit: 2, topP: 0.9 },
    positions: [0],
  });
  assert.ok(beyond.token[0]! < 2, 'what stands beyond the limit does not matter');
});

test('a run that fails marks nothing as drawn', async () => {
  const [b, v] = [3, 600];
  const on = device();
  const marks = await on.alloc(b * v, 'seen');
  const g = new Graph();
  const { token } = sample(g, {
    logits: g.input('logits', 'f32', [b, v]),
    params: g.input('params', 'f32', [b, 6]),
    seed: g.input('seed', 'i32', [b, 2]),
    position: g.input('position', 'i32', [b]),
    seen: tensorOf(marks, 'u8', [b, v]),
  });
  g.output('token', token);
  const program = await on.compile(g);
  const inputs = {
    logits: bell(1, b * v),
    params: Float32Array.from(
      Array(b)
        .fill(columns({ temperature: 1 }))
        .flat(),
    ),
    seed: new Int32Array(2 * b),
    position: new Int32Array(b),
  };
  const marked = async () => new Uint8Array(await on.read(marks)).reduce((sum, mark) => sum + mark, 0);
  for (const [change, code] of [
    [{ logits: inputs.logits.with(2 * v, Number.NaN) }, 'ERR_NONFINITE_LOGITS'],
    [{ params: inputs.params.with(0, -1) }, 'ERR_OP_ARG'],
  ] as const) {
    assert.is((await failure(() => program.run({ ...inputs, ...change }))).code, code);
    assert.is(await marked(), 0);
  }
  await program.run(inputs);
  assert.is(await marked(), b);
  program.drop();
  marks.free();
});

test('parameters out of range fail by row, name and value', async () => {
  const good = columns({ temperature: 1 });
  const bad: [number, number[], RegExp][] = [
    [
      0,
      [-1, Number.NaN, Number.POSITIVE_INFINITY],
      /row 1: temperature must be a finite number, 0 or more, got (-1|nan|inf)/,
    ],
    [1, [-1, 1.5, Number.NaN, 2 ** 33], /row 1: top_k must be a whole number from 0 to 2\^31, got /],
    [2, [0, -0.1, 1.0001, Number.NaN], /row 1: top_p must be above 0 and at most 1, got /],
    [3, [-0.1, 1.5, Number.NaN], /row 1: min_p must be from 0 to 1, got /],
    [
      4,
      [0, -1, Number.NaN, Number.POSITIVE_INFINITY],
      /row 1: repetition_penalty must be a finite number above 0, got /,
    ],
    [5, [-1, 0.5, Number.NaN], /row 1: vocab_limit must be a whole number from 0 to 2\^31, got /],
  ];
  for (const [column, values, message] of bad)
    for (const value of values) {
      const error = await failure(() =>
        op({
          logits: { shape: [2, 4], data: floats(1, 8) },
          params: { shape: [2, 6], data: Float32Array.from([...good, ...good.with(column, value)]) },
          seed: { shape: [2, 2], data: new Int32Array(4) },
          position: { shape: [2], data: new Int32Array(2) },
        }),
      );
      assert.is(error.code, 'ERR_OP_ARG');
      assert.match(error.message, message);
    }
});

test('slots that do not exist or occur twice fail', async () => {
  const batch = {
    logits: floats(1, 8),
    v: 4,
    settings: { temperature: 0 },
    positions: [0, 0],
    seen: new Uint8Array(12),
  };
  for (const [slots, message] of [
    [[0, 3], /slots\[1\] is 3/],
    [[-1, 0], /slots\[0\] is -1/],
    [[2, 2], /slots\[1\] is 2/],
  ] as const) {
    const error = await failure(() => draw({ ...batch, slots: [...slots] }));
    assert.is(error.code, 'ERR_OP_INDEX');
    assert.match(error.message, message);
  }
});

test('no rows', async () => {
  const { token, logprob } = await op({
    logits: { shape: [0, 4], data: new Float32Array(0) },
    params: { shape: [0, 6], data: new Float32Array(0) },
    seed: { shape: [0, 2], data: new Int32Array(0) },
    position: { shape: [0], data: new Int32Array(0) },
  });
  assert.is(token.data.length + logprob.data.length, 0);
});

test('errors', async () => {
  const good = {
    logits: { shape: [2, 4], data: floats(1, 8) },
    params: { shape: [2, 6], data: new Float32Array(12) },
    seed: { shape: [2, 2], data: new Int32Array(4) },
    position: { shape: [2], data: new Int32Array(2) },
  };
  const seen = { shape: [2, 4], data: new Uint8Array(8) };
  const slots = { shape: [2], data: new Int32Array(2) };
  const cases: [string, () => unknown, RegExp][] = [
    [
      'ERR_OP_SHAPE',
      () => op({ ...good, logits: { shape: [4], data: floats(1, 4) } }),
      /logits must be \[b,v\], got \[4\]/,
    ],
    ['ERR_OP_DTYPE', () => op({ ...good, logits: { shape: [2, 4], data: new Int32Array(8) } }), /logits must be f32/],
    [
      'ERR_OP_SHAPE',
      () => op({ ...good, logits: { shape: [2, 0], data: new Float32Array(0) } }),
      /1 to 2\^24 columns, got 0/,
    ],
    [
      'ERR_OP_SHAPE',
      () => op({ ...good, params: { shape: [2, 5], data: new Float32Array(10) } }),
      /params must be \[b,6\] = \[2,6\]/,
    ],
    ['ERR_OP_SHAPE', () => op({ ...good, seed: slots }), /seed must be \[b,2\] = \[2,2\]/],
    [
      'ERR_OP_SHAPE',
      () => op({ ...good, position: { shape: [1], data: new Int32Array(1) } }),
      /position must be \[b\] = \[2\]/,
    ],
    [
      'ERR_OP_SHAPE',
      () => op({ ...good, seen: { shape: [3, 4], data: new Uint8Array(12) } }),
      /seen must be \[b,v\] = \[2,4\]/,
    ],
    [
      'ERR_OP_SHAPE',
      () => op({ ...good, seen: { shape: [2, 3], data: new Uint8Array(6) }, slots }),
      /seen must be \[slots,v\] = \[\*,4\]/,
    ],
    ['ERR_OP_SHAPE', () => op({ ...good, slots }), /slots chooses rows of seen: it needs seen/],
    [
      'ERR_OP_SHAPE',
      () => op({ ...good, seen, slots: { shape: [1], data: new Int32Array(1) } }),
      /slots must be \[b\] = \[2\]/,
    ],
    ['ERR_OP_DTYPE', () => op({ ...good, params: { shape: [2, 6], data: new Int32Array(12) } }), /params must be f32/],
    [
      'ERR_OP_DTYPE',
      () => op({ ...good, position: { shape: [2], data: new Float32Array(2) } }),
      /position must be i32/,
    ],
    ['ERR_OP_DTYPE', () => op({ ...good, seen: { shape: [2, 4], data: new Float32Array(8) } }), /seen must be u8/],
    ['ERR_ARG_TYPE', () => op({ logits: good.logits } as never), /params is missing/],
  ];
  for (const [code, act, message] of cases) {
    const error = await failure(act);
    assert.is(error.code, code, error.message);
    assert.match(error.message, message);
  }
});

test('native checks hold without those of TypeScript', async () => {
  const shapes = {
    logits: [2, 4],
    params: [2, 6],
    seed: [2, 2],
    position: [2],
    seen: [2, 4],
    slots: [2],
    token: [2],
    logprob: [2],
  };
  const dtypes = { seed: 'i32', position: 'i32', seen: 'u8', slots: 'i32', token: 'i32' } as const;
  const attempt = (change: Partial<typeof shapes>, leave: string[] = []) =>
    failure(() =>
      run({ logits: { shape: [1], data: new Float32Array(1) } }, (g) => {
        const made = Object.entries({ ...shapes, ...change }).map(([name, shape]) => {
          const dtype = dtypes[name as keyof typeof dtypes] ?? 'f32';
          return [
            name,
            name in { token: 0, logprob: 0 } ? g.empty(dtype, shape) : g.input(name, dtype, shape),
          ] as const;
        });
        const { token, logprob, ...inputs } = Object.fromEntries(made.filter(([name]) => !leave.includes(name)));
        g.push('sample', inputs, { token, logprob });
        return { token, logprob };
      }),
    );
  const cases: [Partial<typeof shapes>, string[], RegExp][] = [
    [{ logits: [2, 0] }, [], /logits must be \[b,v\] with v from 1/],
    [{ params: [2, 7] }, [], /params must be \[2,6\], got f32 \[2,7\]/],
    [{ seed: [1, 2] }, [], /seed must be \[2,2\]/],
    [{ position: [3] }, [], /position must be \[2\]/],
    [{ seen: [2, 5] }, [], /seen must be \[\*,4\]/],
    [{ seen: [3, 4] }, ['slots'], /seen must be \[2,4\]/],
    [{}, ['seen'], /slots chooses rows of seen/],
    [{ slots: [3] }, [], /slots must be \[2\]/],
    [{ token: [1] }, [], /token must be \[2\]/],
    [{ logprob: [3] }, [], /logprob must be \[2\]/],
  ];
  for (const [change, leave, message] of cases) {
    const error = await attempt(change, leave);
    assert.is(error.code, 'ERR_OP_ARG', error.message);
    assert.match(error.message, message);
  }
});

test.run();
