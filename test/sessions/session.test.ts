/** Sessions: reading, forking, rewinding, and what happens when a call goes wrong. */
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { failure, load, suite } from '../kit.ts';
import { asking, demo, picture, questions, settled, withDemo } from './kit.ts';

const test = suite('session');
const [describe, count, larger] = questions as [string, string, string];
const short = { maxNewTokens: 24 };
const sampled = { maxNewTokens: 24, temperature: 1, repetitionPenalty: 1.3 };

test('what was appended is answered as if it had been the prompt', () =>
  withDemo({}, async (model) => {
    const images = [picture('shapes')];
    const want = await model.generate({ messages: asking(count), images, ...sampled, seed: 4 });
    using session = model.session();
    assert.is(session.tokens, 0);
    await session.append({ messages: asking(count), images });
    assert.is(session.tokens > model.stateBytes, false);
    const got = await session.generate({ ...sampled, seed: 4 });
    assert.equal(got.tokens, want.tokens);
    assert.is(session.tokens, want.usage.promptTokens + want.usage.imageTokens + want.tokens.length);
    assert.is(session.stateBytes, model.stateBytes);
    assert.is(session.messages.at(-1)!.content, got.text);
  }));

test('text goes on where the last call ended, whatever the cuts', () =>
  withDemo({}, async (model) => {
    const parts = ['<image>', 'one two three', ' four', ' five six?'];
    using whole = model.session();
    await whole.append({ text: parts.slice(0, 1).join(''), images: [picture('ring')] });
    const texts: number[][] = [];
    for (const cuts of [
      [1, 2, 3, 4],
      [1, 4],
    ]) {
      using session = model.session();
      let from = 0;
      for (const cut of cuts) {
        for (const text of parts.slice(from, cut))
          await session.append({ text, images: text === '<image>' ? [picture('ring')] : [] });
        from = cut;
      }
      texts.push((await session.generate(short)).tokens);
      // Goes on writing where the length ended it.
      if (texts.at(-1)!.length === short.maxNewTokens) assert.ok((await session.generate(short)).tokens.length > 0);
    }
    assert.equal(texts[0], texts[1]);
  }));

test('half an answer and its other half are the whole', () =>
  withDemo({}, async (model) => {
    const text = '<image>\nDescribe the picture.';
    const options = { text, images: [picture('shapes')] };
    using one = model.session();
    const whole = await one.generate({ ...options, maxNewTokens: 12, stop: [], temperature: 0.7, seed: 9 });
    using two = model.session();
    const first = await two.generate({ ...options, maxNewTokens: 5, temperature: 0.7, seed: 9 });
    const second = await two.generate({ maxNewTokens: 7, temperature: 0.7, seed: 9 });
    if (first.finishReason === 'length') assert.equal([...first.tokens, ...second.tokens], whole.tokens);
    assert.is(first.tokens.length + second.tokens.length, whole.tokens.length);
  }));

test('forks are independent of each other and of what they come from', () =>
  withDemo({}, async (model) => {
    using session = model.session();
    await session.append({ text: '<image>\n', images: [picture('shapes')] });
    const alone = [];
    for (const text of [describe, count, larger]) {
      using fresh = model.session();
      await fresh.append({ text: '<image>\n', images: [picture('shapes')] });
      alone.push((await fresh.generate({ text, ...short })).tokens);
    }
    const forks = [session.fork(), session.fork(), session.fork()];
    assert.is(model.load.states, 1, 'a fork takes no memory until it goes on');
    const answers = await Promise.all(
      forks.map((fork, i) => fork.generate({ text: [describe, count, larger][i]!, ...short })),
    );
    assert.equal(
      answers.map(({ tokens }) => tokens),
      alone,
    );
    session.dispose();
    for (const fork of forks) {
      assert.ok((await fork.generate({ text: ' And?', ...short })).tokens.length > 0);
      fork.dispose();
    }
  }));

test('rewinding to a mark, again and again', () =>
  withDemo({}, async (model) => {
    using session = model.session();
    using empty = session.mark();
    await session.append({ text: '<image>\n', images: [picture('ring')] });
    const mark = session.mark();
    assert.is(mark.tokens, session.tokens);
    const first = await session.generate({ text: describe, ...short });
    assert.ok(session.tokens > mark.tokens);
    for (let i = 0; i < 2; i++) {
      session.rewind(mark);
      assert.is(session.tokens, mark.tokens);
      assert.equal((await session.generate({ text: describe, ...short })).tokens, first.tokens);
    }
    const going = session.generate({ text: count, ...short });
    assert.throws(
      () => session.rewind(mark),
      (error: { code: string }) => error.code === 'ERR_SESSION_BUSY',
    );
    await going;
    session.rewind(empty);
    assert.is(session.tokens, 0);
    mark.dispose();
    mark.dispose();
    assert.throws(
      () => session.rewind(mark),
      (error: { code: string }) => error.code === 'ERR_DISPOSED',
    );
  }));

test('a conversation in a session is that of a chat', () =>
  withDemo({}, async (model) => {
    await using chat = model.chat();
    using session = model.session();
    const images = [picture('shapes')];
    assert.is(
      (await session.generate({ messages: [{ role: 'user', content: describe }], images, ...short })).text,
      (await chat.say(describe, { images, ...short })).text,
    );
    assert.is(
      (await session.generate({ messages: [{ role: 'user', content: count }], ...short })).text,
      (await chat.say(count, short)).text,
    );
    assert.is(session.messages.length, chat.messages.length);
    assert.is((await chat.say(larger, short)).usage.imageTokens, 0, 'a turn reads only what is new');
  }));

test('a call that fails, is cancelled or left changes nothing', () =>
  withDemo({}, async (model) => {
    using session = model.session();
    await session.append({ text: '<image>\n', images: [picture('shapes')] });
    using fork = session.fork();
    const want = await fork.generate({ text: describe, ...short });
    fork.dispose();
    const { tokens } = session;
    const long = { text: 'x', maxNewTokens: 100_000, temperature: 5, seed: 1, minP: 0 };
    const controller = new AbortController();
    const cancelled = session.generate({ ...long, signal: controller.signal });
    for await (const _ of cancelled) {
      controller.abort(new Error('enough'));
      break;
    }
    assert.is((await failure(() => cancelled)).message, 'enough');
    const left = session.generate(long);
    for await (const _ of left) break;
    assert.is((await left).finishReason, 'abort');
    assert.is((await failure(() => session.append({ images: ['nowhere.png'] }))).code.startsWith('ERR_'), true);
    assert.is((await failure(() => session.append({}))).code, 'ERR_PROMPT_EMPTY');
    assert.is((await failure(() => session.append({ txt: 'x' } as object))).code, 'ERR_SESSION_OPTION');
    assert.is((await failure(() => session.append({ text: 'a', messages: [] }))).code, 'ERR_PROMPT_TYPE');
    assert.is((await failure(() => session.generate({ temperatur: 1 } as object))).code, 'ERR_GEN_OPTION');
    assert.is(session.tokens, tokens);
    assert.equal((await session.generate({ text: describe, ...short })).tokens, want.tokens);
  }));

test('calls on one session take turns; dispose ends them', () =>
  withDemo({}, async (model) => {
    const session = model.session();
    const order: number[] = [];
    const calls = [0, 1, 2].map((i) => session.append({ text: `${i} ` }).then(() => order.push(i)));
    await Promise.all(calls);
    assert.equal(order, [0, 1, 2]);
    const going = session.generate({ text: 'x', maxNewTokens: 100_000, temperature: 5, seed: 1 });
    const waiting = session.append({ text: 'y' });
    for await (const _ of going) {
      session.dispose();
      break;
    }
    assert.is((await failure(() => waiting)).code, 'ERR_DISPOSED');
    for (const use of [
      () => session.append({ text: 'x' }),
      () => session.generate({ text: 'x' }),
      () => session.snapshot(),
      () => session.ask('x'),
      () => session.fork(),
      () => session.mark(),
    ])
      assert.is((await failure(use)).code, 'ERR_DISPOSED');
    session.dispose();
  }));

test('a stream of frames at constant memory, asked on forks', () =>
  withDemo({}, async (model) => {
    using session = model.session();
    const answers: Promise<unknown>[] = [];
    const used: number[] = [];
    for (let frame = 0; frame < 12; frame++) {
      await session.append({ images: [picture((['shapes', 'ring', 'word'] as const)[frame % 3]!)] });
      if (frame % 4 === 3) {
        const fork = session.fork();
        answers.push(fork.generate({ text: `\n${describe}`, ...short }).finally(() => fork.dispose()));
      }
      await Promise.all(answers);
      used.push(model.load.states);
    }
    assert.equal(new Set(used), new Set([1]));
    assert.is(session.tokens % 12, 0);
  }));

test('sessions that nobody disposed give their states back', () =>
  withDemo({}, async (model) => {
    const gc = (globalThis as { gc?: () => void }).gc;
    if (!gc) return;
    await (async () => {
      for (let i = 0; i < 20; i++) {
        const session = model.session();
        await session.append({ text: `number ${i}` });
        session.mark();
      }
    })();
    for (let i = 0; i < 20 && model.load.states > 0; i++) {
      gc();
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await settled(model);
  }));

test('a template that rewrites the past cannot be gone on from, and says so', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'vl-mamba-template-'));
  try {
    cpSync(demo, dir, { recursive: true });
    // The number of messages comes first, so every message changes the beginning.
    writeFileSync(
      join(dir, 'chat_template.jinja'),
      '{{ messages | length }}{% for message in messages %}{{ message.content }}{% endfor %}',
    );
    await using model = await load(dir);
    using session = model.session();
    await session.append({ messages: [{ role: 'user', content: 'one' }] });
    const error = await failure(() => session.append({ messages: [{ role: 'user', content: 'two' }] }));
    assert.is(error.code, 'ERR_SESSION_TEMPLATE');
    // A chat reads everything again instead.
    await using chat = model.chat();
    await chat.say('one', { maxNewTokens: 2 });
    await chat.say('two', { maxNewTokens: 2 });
    assert.is(chat.messages.length, 4);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});

test.run();
