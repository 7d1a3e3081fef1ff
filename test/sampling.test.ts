import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { resolveSampling, type SamplingOptions } from '../lib/sampling.ts';

const failure = (options: unknown, defaults?: Parameters<typeof resolveSampling>[1]) => {
  try {
    resolveSampling(options as SamplingOptions, defaults);
  } catch (error) {
    return error as Error & { code: string };
  }
  throw new Error(`accepted ${String(options)}`);
};

test('greedy, 512 tokens and nothing else unless told', () => {
  const { seed, ...rest } = resolveSampling(undefined);
  assert.equal(rest, {
    temperature: 0,
    topK: 0,
    topP: 1,
    minP: 0,
    repetitionPenalty: 1,
    maxNewTokens: 512,
    stop: [],
  });
  assert.ok(typeof seed === 'bigint');
});

test('options come before what the checkpoint proposes, undefined is not given', () => {
  const defaults = { temperature: 0.7, topK: 40, topP: 0.9, minP: 0.1, repetitionPenalty: 1.1, maxNewTokens: 64 };
  const { seed, stop, ...proposed } = resolveSampling({ topK: undefined }, defaults);
  assert.equal(proposed, defaults);
  assert.equal(stop, []);
  const given = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, maxNewTokens: 0 };
  const {
    seed: _,
    stop: __,
    ...chosen
  } = resolveSampling(given, { ...defaults, eosTokenIds: [0], warnings: [] } as never);
  assert.equal(chosen, given);
  assert.ok(seed >= 0n);
});

test('the ends of every range', () => {
  const accepted: SamplingOptions[] = [
    { temperature: 100 },
    { topK: 2 ** 31 - 1 },
    { topK: 1 },
    { topP: 1 },
    { minP: 1 },
    { repetitionPenalty: 0.01 },
    { repetitionPenalty: 100 },
    { maxNewTokens: 2 ** 20 },
  ];
  for (const options of accepted) {
    const [[name, value]] = Object.entries(options) as [[keyof SamplingOptions, number]];
    assert.is(resolveSampling(options)[name], value);
  }
});

test('values too small for f32 are raised to what a kernel can tell from 0', () => {
  assert.is(resolveSampling({ temperature: 1e-45 }).temperature, 1e-5);
  assert.is(resolveSampling({ temperature: Number.MIN_VALUE }).temperature, 1e-5);
  assert.is(resolveSampling({ temperature: 2e-5 }).temperature, 2e-5);
  assert.ok(Object.is(resolveSampling({ temperature: -0 }).temperature, 0));
  assert.is(resolveSampling({ topP: 1e-300 }).topP, 1e-6);
});

const strange = ['0.7', null, true, {}, [1], 1n, Symbol('x'), () => 1];
const wrong: Record<string, [code: string, range: RegExp, values: number[]]> = {
  temperature: ['ERR_GEN_TEMPERATURE', /a number from 0 to 100/, [-1, -1e-9, 100.001, 1e9]],
  topK: ['ERR_GEN_TOP_K', /an integer from 0 to 2147483647/, [-1, 1.5, 2 ** 31, 2 ** 32]],
  topP: ['ERR_GEN_TOP_P', /a number above 0 and at most 1/, [0, -0.1, 1.0001]],
  minP: ['ERR_GEN_MIN_P', /a number from 0 to 1/, [-0.1, 1.0001]],
  repetitionPenalty: ['ERR_GEN_REPETITION_PENALTY', /a number from 0.01 to 100/, [0, -1, 0.001, 101]],
  maxNewTokens: ['ERR_GEN_MAX_NEW_TOKENS', /an integer from 0 to 1048576/, [-1, 1.5, 2 ** 20 + 1, 1e9, 2 ** 53]],
};

for (const [name, [code, range, values]] of Object.entries(wrong))
  test(`${name} out of range or of another type`, () => {
    for (const value of [...values, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      const error = failure({ [name]: value });
      assert.instance(error, RangeError);
      assert.is(error.code, code);
      assert.match(error.message, range);
      assert.ok(error.message.startsWith(`${name} must be`), error.message);
      assert.ok(error.message.endsWith(`got ${value}`), error.message);
    }
    for (const value of strange) {
      const error = failure({ [name]: value });
      assert.instance(error, TypeError);
      assert.is(error.code, code);
      assert.match(error.message, range);
    }
    assert.match(failure({ [name]: '7' }).message, /got "7"$/);
    const proposed = failure({}, { [name]: Number.NaN });
    assert.is(proposed.code, code);
    assert.match(proposed.message, /got NaN from the checkpoint$/);
  });

test('seed: 64 bits, exactly', () => {
  assert.is(resolveSampling({ seed: 0 }).seed, 0n);
  assert.is(resolveSampling({ seed: 2 ** 53 - 1 }).seed, 2n ** 53n - 1n);
  assert.is(resolveSampling({ seed: 2n ** 64n - 1n }).seed, 2n ** 64n - 1n);
  for (const seed of [-1, 1.5, 2 ** 53 + 2, Number.NaN, Number.POSITIVE_INFINITY, -1n, 2n ** 64n]) {
    const error = failure({ seed });
    assert.instance(error, RangeError);
    assert.is(error.code, 'ERR_GEN_SEED');
    assert.match(error.message, /seed must be an integer from 0 to 2\^64 - 1/);
    assert.ok(error.message.includes(`got ${seed}`), error.message);
  }
  for (const seed of ['1', null, {}, true]) {
    const error = failure({ seed });
    assert.instance(error, TypeError);
    assert.is(error.code, 'ERR_GEN_SEED');
  }
});

test('a new seed for every call', () => {
  const seeds = new Set(Array.from({ length: 100 }, () => resolveSampling({}).seed));
  assert.is(seeds.size, 100);
  assert.ok([...seeds].every((seed) => seed >= 0n && seed < 2n ** 64n));
  assert.ok(
    [...seeds].some((seed) => seed >= 2n ** 32n),
    'all 64 bits are used',
  );
});

test('stop: a string or a list, copied', () => {
  assert.equal(resolveSampling({ stop: '\n' }).stop, ['\n']);
  const list = ['a', 'b'];
  const { stop } = resolveSampling({ stop: list });
  list.push('c');
  assert.equal(stop, ['a', 'b']);
  assert.equal(resolveSampling({ stop: [] }).stop, []);
  const rejected: [unknown, ErrorConstructor][] = [
    ['', RangeError],
    [['a', ''], RangeError],
    [new Array(17).fill('a'), RangeError],
    [new Array(1e6).fill('a'), RangeError],
    ['x'.repeat(2 ** 20), RangeError],
    ['é'.repeat(129), RangeError],
    ['\ud800', RangeError],
    [['a', 1], TypeError],
    [new Array(2), TypeError],
    [7, TypeError],
    [null, TypeError],
    [{ length: 1, 0: 'a' }, TypeError],
  ];
  for (const [value, type] of rejected) {
    const error = failure({ stop: value });
    assert.instance(error, type);
    assert.is(error.code, 'ERR_GEN_STOP');
    assert.match(error.message, /stop/);
    assert.ok(error.message.length < 300, 'a short message');
  }
});

test('options that do not exist, with the nearest that does', () => {
  for (const [key, hint] of [
    ['temprature', /"temprature": did you mean temperature\?/],
    ['top_k', /"top_k": known are temperature, topK/],
    ['maxTokens', /"maxTokens": /],
    ['image', /did you mean images\?/],
    ['prompt', /"prompt": known are temperature/],
    ['__proto__x', /known are temperature/],
  ] as const) {
    const error = failure({ [key]: 1 });
    assert.instance(error, TypeError);
    assert.is(error.code, 'ERR_GEN_OPTION');
    assert.match(error.message, hint);
  }
  for (const options of [null, 1, 'greedy', [], true]) {
    const error = failure(options);
    assert.instance(error, TypeError);
    assert.is(error.code, 'ERR_GEN_OPTION');
    assert.match(error.message, /options must be an object, got /);
  }
});

test('every option is read once, and what a getter throws passes through', () => {
  const reads: string[] = [];
  const options = new Proxy(
    { temperature: 0.5, seed: 1, stop: ['a'] },
    {
      get(target, key) {
        reads.push(String(key));
        return Reflect.get(target, key);
      },
    },
  );
  assert.is(resolveSampling(options).temperature, 0.5);
  assert.is(new Set(reads).size, reads.length);
  assert.ok(reads.includes('temperature'));

  const thrown = new Error('mine');
  const trap = {
    get temperature(): number {
      throw thrown;
    },
  };
  assert.is(failure(trap), thrown);

  class Preset {
    get temperature() {
      return 0.25;
    }
  }
  assert.is(resolveSampling(new Preset()).temperature, 0.25, 'inherited options count');
});

test.run();
