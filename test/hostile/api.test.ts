/** Prompts, sampling parameters, options and weights that mean harm or make no sense, through the public API. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import type { TensorSource } from '../../lib/checkpoint/safetensors.ts';
import { type GenerateOptions, load, type Model } from '../../lib/index.ts';
import { failure, suite } from '../kit.ts';
import { tinyConfig, tinyPreprocessor, writeCheckpoint } from '../models/checkpoint.ts';

const test = suite('hostile calls');
const folder = mkdtempSync(join(tmpdir(), 'vl-mamba-hostile-'));
const dir = join(folder, 'model');
let model: Model;
test.before(async () => {
  await writeCheckpoint(dir, { config: tinyConfig(), preprocessor: tinyPreprocessor('siglip') });
  model = await load(dir);
});
test.after(async () => {
  await model.dispose();
  rmSync(folder, { recursive: true, force: true });
});

const picture = { data: new Uint8Array(12).fill(9), width: 2, height: 2, channels: 3 as const };
const generate = (options: unknown) => model.generate(options as GenerateOptions);
const nan = Number.NaN;
const inf = Number.POSITIVE_INFINITY;

/** Values of one option that no call may accept, and the code of each option. */
const parameters: Record<string, [code: string, ...values: unknown[]]> = {
  temperature: ['ERR_GEN_TEMPERATURE', -1, nan, inf, -inf, '0.7', null, 101, 1e9, {}, true, 1n],
  topK: ['ERR_GEN_TOP_K', -1, 1.5, 2 ** 32, nan, inf, '5', null, 1n],
  topP: ['ERR_GEN_TOP_P', 0, -0.1, 1.0001, nan, inf, '1', null],
  minP: ['ERR_GEN_MIN_P', -0.1, 1.1, nan, inf, '0', null],
  repetitionPenalty: ['ERR_GEN_REPETITION_PENALTY', 0, -1, nan, inf, 101, '1', null],
  seed: ['ERR_GEN_SEED', -1, 1.5, nan, 2 ** 53, 2n ** 64n, -1n, '1', null, {}],
  maxNewTokens: ['ERR_GEN_MAX_NEW_TOKENS', -1, 1.5, nan, inf, 2 ** 20 + 1, 1e9, 2 ** 53, '5', null],
  stop: ['ERR_GEN_STOP', '', [''], ['a', 5], 5, {}, null, Array(17).fill('x'), 'x'.repeat(257), ['é'.repeat(129)]],
  temprature: ['ERR_GEN_OPTION', 1],
  max_new_tokens: ['ERR_GEN_OPTION', 1],
  n: ['ERR_GEN_N', 0, -1, 1.5, 129, 10_000, nan, '2', null],
  logitBias: ['ERR_GEN_OPTION', {}],
};

test('sampling parameters out of range, each with its code', async () => {
  let cases = 0;
  for (const [name, [code, ...values]] of Object.entries(parameters))
    for (const value of values) {
      const error = await failure(() => generate({ prompt: 'a', [name]: value }));
      assert.is(error.code, code, `${name}: ${String(value)}: ${error.message}`);
      assert.ok(error instanceof TypeError || error instanceof RangeError, `${name}: ${error.name}`);
      assert.match(error.message, name.slice(0, 4), 'names the option');
      assert.ok(error.message.length < 400, 'a message of one line or two');
      cases++;
    }
  assert.ok(cases >= 70, `${cases} cases`);
});

test('sampling parameters at the edges of their ranges', async () => {
  for (const options of [
    { temperature: 1e-45, seed: 1 },
    { temperature: 100, seed: 0 },
    { temperature: 1, topK: 2 ** 31 - 1, seed: 2n ** 64n - 1n },
    { temperature: 1, topP: Number.MIN_VALUE },
    { temperature: 1, minP: 1 },
    { temperature: 1, topK: 1, topP: 1e-9, minP: 1 },
    { repetitionPenalty: 0.01 },
    { repetitionPenalty: 100 },
    { stop: Array(16).fill('never '.repeat(42)) },
    { stop: [] },
  ])
    assert.ok(
      (await generate({ prompt: 'a', maxNewTokens: 3, ...options })).text !== undefined,
      JSON.stringify(Object.keys(options)),
    );
  const none = await generate({ prompt: 'a', maxNewTokens: 0 });
  assert.equal([none.text, none.tokens, none.finishReason], ['', [], 'length']);
});

const prompts: [what: string, options: object, code: string][] = [
  ['nothing', {}, 'ERR_PROMPT_TYPE'],
  ['a prompt and messages', { prompt: 'a', messages: [{ role: 'user', content: 'a' }] }, 'ERR_PROMPT_TYPE'],
  ['no text', { prompt: '' }, 'ERR_PROMPT_EMPTY'],
  ...[5, {}, [], Buffer.from('a'), { toString: () => 'a' }, true, null, Symbol('s'), 1n].map(
    (prompt): (typeof prompts)[number] => [`a ${typeof prompt}`, { prompt }, 'ERR_PROMPT_TYPE'],
  ),
  ['one picture too many', { prompt: 'a', images: [picture] }, 'ERR_PROMPT_IMAGES'],
  ['one picture too few', { prompt: '<image> <image>', images: [picture] }, 'ERR_PROMPT_IMAGES'],
  ['17 pictures', { prompt: '<image>'.repeat(17), images: Array(17).fill(picture) }, 'ERR_PROMPT_IMAGES'],
  ['pictures that are no list', { prompt: '<image>', images: picture }, 'ERR_ARG_TYPE'],
  ['pictures as text', { prompt: '<image>', images: 'cat.jpg' }, 'ERR_ARG_TYPE'],
  ['a picture that is none', { prompt: '<image>', images: [5] }, 'ERR_ARG_IMAGE'],
  ['no picture in its place', { prompt: '<image>', images: [null] }, 'ERR_ARG_IMAGE'],
  ['empty bytes', { prompt: '<image>', images: [Buffer.alloc(0)] }, 'ERR_IMAGE_EMPTY'],
  ['no messages', { messages: [] }, 'ERR_PROMPT_EMPTY'],
  ['messages that are no list', { messages: 'hello' }, 'ERR_PROMPT_TYPE'],
  ['a message that is none', { messages: [null] }, 'ERR_PROMPT_TYPE'],
  ['a role that is none', { messages: [{ role: 'root', content: 'a' }] }, 'ERR_PROMPT_ROLE'],
  ['content that is none', { messages: [{ role: 'user', content: 5 }] }, 'ERR_PROMPT_TYPE'],
  ['a part that is none', { messages: [{ role: 'user', content: [{ type: 'video' }] }] }, 'ERR_PROMPT_TYPE'],
  ['100 million characters', { prompt: 'a'.repeat(1e8) }, 'ERR_PROMPT_TOO_LONG'],
];

test('prompts that are none, each with its code', async () => {
  for (const [what, options, code] of prompts)
    for (const call of [() => generate({ ...options, maxNewTokens: 1 }), () => model.logits(options as never)]) {
      const error = await failure(call);
      assert.is(error.code, code, `${what}: ${error.message}`);
    }
});

test('prompts that look dangerous and are text', async () => {
  for (const text of [
    ' ',
    '\n',
    '\0',
    'a\0b',
    '\ud800',
    '＜image＞',
    '<ima',
    'a\u0301'.repeat(1000),
    '\u202e',
    '👨‍👩‍👧'.repeat(50),
  ]) {
    const { usage } = await generate({ prompt: text, maxNewTokens: 1 });
    assert.ok(usage.promptTokens > 0 && usage.imageTokens === 0, JSON.stringify(text.slice(0, 10)));
  }
  const typed = `${'<image>'.repeat(3)}<|endoftext|>`;
  const { usage } = await generate({ messages: [{ role: 'user', content: typed }], maxNewTokens: 1 });
  assert.is(usage.imageTokens, 0);
});

test('options that are read once, and errors of their getters', async () => {
  const own = new Error('mine');
  const throwing = {
    get prompt() {
      throw own;
    },
  };
  assert.is(await failure(() => generate(throwing)), own);
  const message = { role: 'user' as const, content: 'a' };
  const messages = [message];
  const running = generate({ messages, maxNewTokens: 2 });
  const want = await generate({ messages: [{ role: 'user', content: 'a' }], maxNewTokens: 2 });
  message.content = 'something else altogether';
  messages.length = 0;
  assert.equal((await running).tokens, want.tokens);
});

const loads: [what: string, path: unknown, options: unknown, code: string][] = [
  ['no path', undefined, {}, 'ERR_ARG_TYPE'],
  ['an empty path', '', {}, 'ERR_ARG_TYPE'],
  ['a number', 5, {}, 'ERR_ARG_TYPE'],
  ['a folder that is not there', '/nowhere/at/all', {}, 'ERR_CKPT_NOT_FOUND'],
  ['a file', 'package.json', {}, 'ERR_CKPT_NOT_FOUND'],
  ['a NUL in the path', 'a\0b', {}, 'ERR_CKPT_NOT_FOUND'],
  ['a folder without a model', 'lib', {}, 'ERR_CFG_FILE'],
  ['a device that is none', dir, { device: 'gpu' }, 'ERR_ARG_DEVICE'],
  ['a device that is no text', dir, { device: 5 }, 'ERR_ARG_DEVICE'],
  ['a device of a strange number', dir, { device: 'cuda:-1' }, 'ERR_ARG_DEVICE'],
  ['a dtype that is none', dir, { dtype: 'f8' }, 'ERR_ARG_DTYPE'],
  ['a dtype that is no text', dir, { dtype: 5 }, 'ERR_ARG_DTYPE'],
  ...[-1, 1.5, nan, 1025, 1e9, '2', {}].map((threads): (typeof loads)[number] => [
    `${threads} threads`,
    dir,
    { threads },
    'ERR_ARG_THREADS',
  ]),
];

test('what load() cannot load, each with its code', async () => {
  for (const [what, path, options, code] of loads) {
    const error = await failure(() => load(path as string, options as never));
    assert.is(error.code, code, `${what}: ${error.message}`);
  }
});

test('a signal that is none', async () => {
  for (const signal of ['stop', {}, { aborted: false }, 1, null, true] as never[])
    for (const [what, act] of Object.entries({
      load: () => load(dir, { signal }),
      generate: () => generate({ prompt: 'x', signal }),
      logits: () => model.logits({ prompt: 'x', signal }),
      pixels: () => model.pixels(picture, { signal }),
      imageEmbeds: () => model.imageEmbeds(picture, { signal }),
      look: () => model.look(picture, { signal }),
      append: () => model.session().append({ text: 'x', signal }),
    }))
      assert.is((await failure(act)).code, 'ERR_ARG_TYPE', `${what} ${signal}`);
});

test('ids that no token has', async () => {
  for (const ids of [[-1], [nan], [2 ** 32], [512], [1.5], ['a'], [1n], [undefined], Array(3), 5, null]) {
    const error = await failure(() => model.detokenize(ids as number[]));
    assert.match(error.code, /^ERR_(ARG|TOK)_/, `${String(ids)}: ${error.message}`);
  }
  for (const text of [5, null, undefined, {}, []]) {
    const error = await failure(() => model.tokenize(text as string));
    assert.match(error.code, /^ERR_(ARG|PROMPT)_TYPE$/, `${String(text)}: ${error.message}`);
  }
});

/** A checkpoint with one tensor filled with one value. */
async function poisoned(name: string, tensor: string, value: number): Promise<string> {
  const path = join(folder, name);
  const edit = (sources: TensorSource[]) => {
    const found = sources.find((source) => source.name === tensor);
    assert.ok(found, `${tensor} is a tensor`);
    const { data } = found as { data: Uint8Array };
    new Float32Array(data.buffer, data.byteOffset, data.byteLength / 4).fill(value);
    return sources;
  };
  await writeCheckpoint(path, { config: tinyConfig(), preprocessor: tinyPreprocessor('siglip'), edit });
  return path;
}

test('weights of NaN and infinity: an error that says so, not a token', async () => {
  const harm: [string, number][] = [
    ['language_model.backbone.norm_f.weight', nan],
    ['language_model.backbone.norm_f.weight', inf],
    ['language_model.backbone.layers.0.mixer.A_log', nan],
    ['language_model.backbone.layers.1.mixer.D', inf],
    ['language_model.backbone.layers.2.mixer.dt_proj.bias', nan],
  ];
  for (const [i, [tensor, value]] of harm.entries()) {
    await using hostile = await load(await poisoned(`poison-${i}`, tensor, value));
    for (const temperature of [0, 1]) {
      const error = await failure(() => hostile.generate({ prompt: 'a b', maxNewTokens: 3, temperature, seed: 1 }));
      assert.is(error.code, 'ERR_NONFINITE_LOGITS', `${tensor} = ${value}: ${error.message}`);
    }
    // Still a model, and its next call fails for its own reasons.
    assert.is((await failure(() => hostile.generate({ prompt: 'a', topK: -1 }))).code, 'ERR_GEN_TOP_K');
  }
});

test('an error in the loop of the reader stops the work and comes through', async () => {
  const own = new Error('mine');
  const generation = generate({ prompt: 'a', maxNewTokens: 2000, temperature: 1, seed: 3 });
  const error = await failure(async () => {
    for await (const _ of generation) throw own;
  });
  assert.is(error, own);
  assert.is((await generation).finishReason, 'abort');
});

test('dispose and generate from within the loop', async () => {
  const one = await load(dir);
  const inner: string[] = [];
  const error = await failure(async () => {
    for await (const _ of one.generate({ prompt: 'a', maxNewTokens: 2000, temperature: 1, seed: 3 })) {
      if (inner.length === 0) inner.push((await one.generate({ prompt: 'b', maxNewTokens: 2 })).finishReason);
      else void one.dispose();
    }
  });
  assert.is(error.code, 'ERR_DISPOSED');
  assert.is(inner.length, 1);
});

test('100 aborts leave no listener and no state behind', async () => {
  const controller = new AbortController();
  let listeners = 0;
  const add = controller.signal.addEventListener.bind(controller.signal);
  const drop = controller.signal.removeEventListener.bind(controller.signal);
  controller.signal.addEventListener = ((...args: Parameters<typeof add>) => {
    listeners++;
    add(...args);
  }) as typeof add;
  controller.signal.removeEventListener = ((...args: Parameters<typeof drop>) => {
    listeners--;
    drop(...args);
  }) as typeof drop;
  for (let i = 0; i < 100; i++) {
    const generation = generate({
      prompt: 'a',
      maxNewTokens: 1000,
      temperature: 1,
      seed: i,
      signal: controller.signal,
    });
    for await (const _ of generation) break;
  }
  assert.ok(listeners <= 0, `${listeners} listeners are left`);
  assert.is((await generate({ prompt: 'a', maxNewTokens: 2 })).tokens.length, 2);
});

test.run();
