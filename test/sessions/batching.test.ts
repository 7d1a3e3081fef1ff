/** Generations at the same time: each as if it were alone, fair, cancelled one by one, and never more than there is room for. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import type { TensorSource } from '../../lib/checkpoint/safetensors.ts';
import type { GenerateOptions, Model, Session } from '../../lib/index.ts';
import { failure, load, suite } from '../kit.ts';
import { tinyConfig, tinyPreprocessor, writeCheckpoint } from '../models/checkpoint.ts';
import { demo, picture, questions, settled, withDemo } from './kit.ts';

const test = suite('batching');

const kinds: Partial<GenerateOptions>[] = [
  {},
  { temperature: 0.9 },
  { temperature: 1.5, topK: 20, repetitionPenalty: 1.4 },
  { temperature: 1, topP: 0.8, stop: ['e'] },
];

/** A request like no other: with and without a picture, long and short, drawn in different ways. */
const request = (i: number): GenerateOptions => ({
  ...(i % 5 === 0
    ? { messages: [{ role: 'user', content: questions[i % questions.length]! }], images: [picture('shapes')] }
    : { prompt: `${questions[i % questions.length]} `.repeat(1 + ((i * 7) % 40)) }),
  ...kinds[i % kinds.length],
  seed: i,
  maxNewTokens: 1 + ((i * 5) % 30),
});

const essence = async (model: Model, i: number) => {
  const { text, tokens, finishReason } = await model.generate(request(i));
  return { text, tokens, finishReason };
};

for (const threads of [1, 2])
  test(`64 at once give the bytes of 64 runs alone, ${threads} threads`, async () => {
    const all = Array.from({ length: 64 }, (_, i) => i);
    const alone: object[] = [];
    await withDemo({ threads, maxBatch: 1 }, async (model) => {
      for (const i of all) alone.push(await essence(model, i));
    });
    for (const maxBatch of [5, 64])
      await withDemo({ threads, maxBatch }, async (model) => {
        assert.equal(await Promise.all(all.map((i) => essence(model, i))), alone, `maxBatch ${maxBatch}`);
      });
  });

test('logits are the same bytes among neighbours', () =>
  withDemo({}, async (model) => {
    const prompts = questions.map((question, i) => ({ prompt: question.repeat(1 + i) }));
    const alone = [];
    for (const prompt of prompts) alone.push(await model.logits(prompt));
    const neighbours = Array.from({ length: 20 }, (_, i) => essence(model, i));
    assert.equal(await Promise.all(prompts.map((prompt) => model.logits(prompt))), alone);
    await Promise.all(neighbours);
  }));

const endless: GenerateOptions = { prompt: 'for ever', maxNewTokens: 100_000, temperature: 20, seed: 3 };

/** Starts a generation that does not end by itself. */
const endlessly = (model: Model, seed: number, signal?: AbortSignal) =>
  model.generate({ ...endless, seed, ...(signal && { signal }) });

test('one by one they are cancelled, and the others do not notice', () =>
  withDemo({}, async (model) => {
    const want = await model.generate({ ...request(3), maxNewTokens: 60, stop: [] });
    const controllers = Array.from({ length: 8 }, () => new AbortController());
    const doomed = controllers.map(({ signal }, i) => failure(() => endlessly(model, i, signal)));
    const steady = model.generate({ ...request(3), maxNewTokens: 60, stop: [] });
    for (const [i, controller] of controllers.entries()) {
      await new Promise((resolve) => setTimeout(resolve, 3));
      const start = performance.now();
      const reason = new Error(`enough of ${i}`);
      controller.abort(reason);
      assert.is(await doomed[i], reason);
      assert.ok(performance.now() - start < 100, `took ${performance.now() - start} ms`);
    }
    assert.equal((await steady).tokens, want.tokens);
  }));

test('a long prompt does not hold up those who write, nor do they hold it up', () =>
  withDemo({}, async (model) => {
    const controller = new AbortController();
    const writer = endlessly(model, 1, controller.signal);
    let pieces = 0;
    const written = (async () => {
      for await (const _ of writer) pieces++;
    })();
    while (pieces < 3) await new Promise((resolve) => setTimeout(resolve, 1));
    const before = pieces;
    const reader = model.generate({ prompt: 'word '.repeat(4000), maxNewTokens: 1 });
    await reader;
    assert.ok(pieces > before + 4, `${pieces - before} pieces while a long prompt was read`);
    controller.abort();
    await written.catch(() => {});
  }));

test('no more than the queue holds', () =>
  withDemo({ maxBatch: 2, maxQueue: 3 }, async (model) => {
    const controller = new AbortController();
    const running = [0, 1].map((i) => failure(() => endlessly(model, i, controller.signal)));
    while (model.load.running < 2) await new Promise((resolve) => setTimeout(resolve, 1));
    const leaving = new AbortController();
    const waiting = [2, 3, 4].map((i) =>
      failure(() => endlessly(model, i, i === 3 ? leaving.signal : controller.signal)),
    );
    while (model.load.waiting < 3) await new Promise((resolve) => setTimeout(resolve, 1));
    const refused = await failure(() => model.generate({ prompt: 'x' }));
    assert.is(refused.code, 'ERR_QUEUE_FULL');
    assert.equal(refused.details, { maxBatch: 2, maxQueue: 3 });
    assert.is(model.load.states, 2, 'what waits has no state');
    leaving.abort(new Error('tired'));
    assert.is((await waiting[1])?.message, 'tired');
    const next = model.generate({ prompt: 'x', maxNewTokens: 2 });
    controller.abort();
    await Promise.all([...running, ...waiting]);
    assert.is((await next).tokens.length <= 2, true);
  }));

test('limits have to be whole numbers in their range', async () => {
  for (const options of [{ maxBatch: 0 }, { maxBatch: 257 }, { maxBatch: 1.5 }, { maxQueue: -1 }, { maxQueue: '9' }])
    assert.is((await failure(() => load(demo, options as object))).code, 'ERR_ARG_RANGE');
});

async function onFork(session: Session): Promise<number[]> {
  using fork = session.fork();
  return (await fork.generate({ maxNewTokens: 6 })).tokens;
}

test('states grow with need and come back', () =>
  withDemo({}, async (model) => {
    const sessions = Array.from({ length: 40 }, () => model.session());
    await Promise.all(sessions.map((session, i) => session.append({ text: `${questions[i % 8]} ${i}` })));
    assert.is(model.load.states, 40);
    const alone = [];
    for (const session of sessions) alone.push(await onFork(session));
    const together = await Promise.all(sessions.map((session) => session.generate({ maxNewTokens: 6 })));
    assert.equal(
      together.map(({ tokens }) => tokens),
      alone,
    );
    for (const session of sessions) session.dispose();
  }));

test('dispose ends everything at once', async () => {
  const model = await load(demo, { maxBatch: 4 });
  const all = Array.from({ length: 12 }, (_, i) => failure(() => endlessly(model, i)));
  await new Promise((resolve) => setTimeout(resolve, 30));
  await model.dispose();
  assert.equal(new Set((await Promise.all(all)).map(({ code }) => code)), new Set(['ERR_DISPOSED']));
});

test('joining and leaving at any time', () =>
  withDemo({ maxBatch: 6 }, async (model) => {
    const want = await Promise.all(Array.from({ length: 10 }, (_, i) => essence(model, i)));
    const runs = Array.from({ length: 60 }, async (_, i) => {
      await new Promise((resolve) => setTimeout(resolve, (i * 37) % 200));
      if (i % 3 === 0) {
        const controller = new AbortController();
        setTimeout(() => controller.abort(), (i * 13) % 40);
        // On a fast device the text may end by itself before that.
        await endlessly(model, i, controller.signal).then(undefined, (error) =>
          assert.is(error, controller.signal.reason),
        );
      } else if (i % 3 === 1) {
        for await (const _ of endlessly(model, i)) break;
      } else assert.equal(await essence(model, i % 10), want[i % 10]!);
    });
    await Promise.all(runs);
    await settled(model);
  }));

/** A model that has no number to give after one token of eight: their embeddings are NaN, and the head is another matrix. */
async function brittle(dir: string): Promise<void> {
  const edit = (sources: TensorSource[]) => {
    const found = sources.find(({ name }) => name.endsWith('embeddings.weight') && name.startsWith('language_model.'))!;
    const { data, shape } = found as { data: Uint8Array; shape: readonly number[] };
    const rows = new Float32Array(data.buffer, data.byteOffset, data.byteLength / 4);
    for (let id = 7; id < shape[0]!; id += 8) rows.fill(Number.NaN, id * shape[1]!, (id + 1) * shape[1]!);
    return sources;
  };
  const config = { ...tinyConfig(), tie_word_embeddings: false };
  await writeCheckpoint(dir, { config, preprocessor: tinyPreprocessor('siglip'), edit });
}

test('a text whose logits are no numbers fails alone, in the middle as at the start', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'vl-mamba-brittle-'));
  try {
    await brittle(dir);
    await using model = await load(dir);
    // Nearly every token is as likely as the others at this temperature, so texts end after some of theirs.
    const outcome = async (i: number) => {
      const generation = model.generate({
        prompt: String.fromCharCode(97 + (i % 26)),
        maxNewTokens: 12,
        temperature: 50,
        repetitionPenalty: i % 2 ? 3 : 1,
        seed: i,
      });
      let text = '';
      try {
        for await (const piece of generation) text += piece;
        return [text, (await generation).tokens];
      } catch (error) {
        return [text, (error as { code: string }).code];
      }
    };
    const alone = [];
    for (let i = 0; i < 64; i++) alone.push(await outcome(i));
    const failed = alone.filter(([, end]) => end === 'ERR_NONFINITE_LOGITS');
    assert.ok(failed.length > 8 && failed.length < 56, `${failed.length} of 64 fail`);
    assert.ok(failed.some(([text]) => text === '') && failed.some(([text]) => text !== ''));
    for (let round = 0; round < 5; round++)
      assert.equal(await Promise.all(alone.map((_, i) => outcome(i))), alone, `round ${round}`);
    await settled(model);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});

test.run();
