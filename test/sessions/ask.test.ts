/** Many questions about one picture, several texts after one prompt, and the odds of given ones. */
import * as assert from 'uvu/assert';
import { failure, onCuda, suite } from '../kit.ts';
import { asking, picture, questions, settled, withDemo } from './kit.ts';

const test = suite('ask');
const image = picture('shapes');
const short = { maxNewTokens: 24 };

for (const threads of [1, 2])
  test(`many questions at once are each as if asked alone, ${threads} threads`, () =>
    withDemo({ threads }, async (model) => {
      const many = Array.from({ length: 32 }, (_, i) => `${questions[i % 8]}${' really?'.repeat(i >> 3)}`);
      for (const options of [short, { ...short, temperature: 1, seed: 7, repetitionPenalty: 1.2 }]) {
        const alone = [];
        for (const question of many)
          alone.push((await model.generate({ messages: asking(question), images: [image], ...options })).tokens);
        const answers = await Promise.all(model.ask(image, many, options));
        assert.equal(
          answers.map(({ tokens }) => tokens),
          alone,
        );
      }
    }));

test('answers can be read as they come and left one by one', () =>
  withDemo({}, async (model) => {
    const [left, read] = model.ask(image, [questions[0]!, questions[1]!], short);
    for await (const _ of left!) break;
    let text = '';
    for await (const piece of read!) text += piece;
    assert.is((await left!).finishReason, 'abort');
    assert.is(text, (await model.generate({ messages: asking(questions[1]!), images: [image], ...short })).text);
  }));

test('what goes wrong with asking', () =>
  withDemo({}, async (model) => {
    assert.equal(model.ask(image, []), []);
    for (const answer of model.ask('nowhere.png', ['a', 'b']))
      assert.ok((await failure(() => answer)).code.startsWith('ERR_IMAGE_'), 'each answer has the error');
    assert.is((await failure(() => model.ask(image, 'a' as unknown as string[]))).code, 'ERR_ARG_TYPE');
    assert.is((await failure(() => model.ask(image, [7 as unknown as string])[0]!)).code, 'ERR_PROMPT_TYPE');
    using session = model.session();
    await session.append({ text: 'x' });
    assert.is((await failure(() => session.ask('x'))).code, 'ERR_SESSION_ASK');
    const controller = new AbortController();
    const answers = model.ask(image, questions, { ...short, signal: controller.signal });
    controller.abort(new Error('enough'));
    for (const answer of answers) assert.is((await failure(() => answer)).message, 'enough');
  }));

test('best of n: each text as if alone with its seed, the likeliest first', () =>
  withDemo({}, async (model) => {
    const options = { messages: asking(questions[0]!), images: [image], temperature: 1.2, ...short };
    const alone = [];
    for (const seed of [10, 11, 12, 13]) alone.push((await model.generate({ ...options, seed })).text);
    const generation = model.generate({ ...options, seed: 10, n: 4 });
    let streamed = '';
    for await (const text of generation) streamed += text;
    const { text, tokens, choices, usage } = await generation;
    assert.equal(choices!.map((choice) => choice.text).sort(), alone.sort());
    assert.is(text, choices![0]!.text);
    assert.is(text, streamed);
    assert.equal(tokens, choices![0]!.tokens);
    assert.is(
      usage.completionTokens,
      choices!.reduce((sum, choice) => sum + choice.tokens.length, 0),
    );
    const greedy = await model.generate({ ...options, temperature: 0, n: 2 });
    assert.is(greedy.choices![0]!.logprob, greedy.choices![1]!.logprob);
    assert.ok(greedy.choices![0]!.logprob <= 0);
    for (const n of [0, 1.5, 129, '2'])
      assert.is((await failure(() => model.generate({ ...options, n: n as number }))).code, 'ERR_GEN_N');
    assert.is((await failure(() => model.generate({ prompt: '<image>', images: [image], n: 2 }))).code, 'ERR_GEN_N');
    const controller = new AbortController();
    const long = model.generate({
      prompt: 'x',
      n: 8,
      maxNewTokens: 100_000,
      temperature: 20,
      signal: controller.signal,
    });
    setTimeout(() => controller.abort(new Error('enough')), 30);
    assert.is((await failure(() => long)).message, 'enough');
    await settled(model);
  }));

test('scores are the log-probabilities of the tokens', () =>
  withDemo({}, async (model) => {
    const prompt = `<image>\n${questions[1]!}`;
    const choices = ['2', 'three things', 'a', 'There are three objects.'];
    const scores = await model.score({ prompt, images: [image], choices });
    for (const [i, choice] of choices.entries()) {
      const ids = await model.tokenize(choice);
      let want = 0;
      // The slow way: the logits of each prefix, read from the beginning.
      for (let t = 0; t < ids.length; t++) {
        const logits = await logitsAfter(ids.slice(0, t));
        const top = Math.max(...logits);
        want += logits[ids[t]!]! - top - Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - top), 0));
      }
      assert.is(scores[i]!.choice, choice);
      assert.is(scores[i]!.tokens, ids.length);
      // On a GPU one token and many are read by other kernels, and activations have 16 bits.
      assert.ok(
        Math.abs(scores[i]!.logprob - want) < (onCuda ? 0.05 : 1e-4),
        `${choice}: ${scores[i]!.logprob}, expected ${want}`,
      );
    }
    assert.ok(Math.abs(scores.reduce((sum, { share }) => sum + share, 0) - 1) < 1e-12);
    const alone = await model.score({ prompt, images: [image], choices: [choices[3]!] });
    assert.is(alone[0]!.logprob, scores[3]!.logprob, 'a choice does not depend on the others');
    for (const bad of [[], [''], 'yes', [1]])
      assert.is(
        (await failure(() => model.score({ prompt, images: [image], choices: bad as string[] }))).code,
        'ERR_SCORE_CHOICES',
      );

    async function logitsAfter(ids: number[]): Promise<Float32Array> {
      return model.logits({ prompt: prompt + model.detokenize(ids), images: [image] });
    }
  }));

test.run();
