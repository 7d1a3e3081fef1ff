/** Every kind of checkpoint that the contract knows, through the public API, against float64 formulas. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import * as assert from 'uvu/assert';
import type { Model } from '../../lib/index.ts';
import { close, load, onCuda, random, suite } from '../kit.ts';
import * as reference from '../reference/vl_mamba.ts';
import { type StoredDtype, tinyConfig, tinyPreprocessor, tinyText, writeCheckpoint } from './checkpoint.ts';

const test = suite('parity');
const folder = mkdtempSync(join(tmpdir(), 'vl-mamba-parity-'));
test.after(() => rmSync(folder, { recursive: true, force: true }));

const picture = (width: number, height: number, seed: number) => {
  const next = random(seed);
  const data = Uint8Array.from({ length: width * height * 3 }, () => next() * 256);
  return { data, width, height, channels: 3 as const };
};

const maxAt = (list: Float64Array) => list.reduce((best, v, i) => (v > list[best]! ? i : best), 0);

/** Loads, and holds embeddings, logits and greedy tokens to the reference. */
async function check(dir: string, config: ReturnType<typeof tinyConfig>, dtype: StoredDtype, tolerance: number) {
  const tower = config.vision_config.model_type === 'clip_vision_model' ? 'clip' : 'siglip';
  const stored = await writeCheckpoint(dir, { config, dtype, preprocessor: tinyPreprocessor(tower) });
  const w: reference.Weights = (name) => {
    const found = stored.get(name);
    assert.ok(found, `the reference reads ${name}`);
    return found;
  };
  await using model = await load(dir);
  assert.equal(model.warnings, []);
  const image = picture(90, 70, 3);
  const { data: pixels } = await model.pixels(image);
  const features = reference.tower(w, pixels, config.vision_config as unknown as reference.VisionSettings);
  const connected = reference.connector(w, features, config.connector_config as reference.ConnectorSettings);
  const embeds = await model.imageEmbeds(image);
  assert.equal(embeds.shape, [connected.length, config.text_config.hidden_size]);
  close(
    embeds.data,
    connected.flatMap((row) => [...row]),
    tolerance,
    'image embeddings',
  );

  const [before, after] = [await model.tokenize('A '), await model.tokenize(' what?')];
  const prompt = { prompt: 'A <image> what?', images: [image] };
  const input = [
    ...before.map((id) => reference.embed(w, 'language_model.', id)),
    ...connected,
    ...after.map((id) => reference.embed(w, 'language_model.', id)),
  ];
  const text = config.text_config as reference.TextSettings;
  const want = reference.languageModel(w, 'language_model.', input, text);
  close(await model.logits(prompt), want, tolerance, 'logits');

  const { tokens, usage } = await model.generate({ ...prompt, maxNewTokens: 4 });
  assert.is(usage.imageTokens, connected.length);
  assert.is(usage.promptTokens, before.length + after.length);
  const rows = [...input];
  for (const token of tokens) {
    const logits = reference.languageModel(w, 'language_model.', rows, text);
    const best = maxAt(logits);
    // A near tie may honestly go the other way.
    const second = maxAt(logits.map((v, i) => (i === best ? Number.NEGATIVE_INFINITY : v)));
    if (logits[best]! - logits[second]! > 100 * tolerance) assert.is(token, best);
    rows.push(reference.embed(w, 'language_model.', token));
  }
}

let n = 0;
const dirs = () => join(folder, String(n++));

for (const tower of ['siglip', 'clip'] as const)
  for (const connector of [
    { type: 'mlp' },
    { type: 'mlp', hidden_act: 'gelu_pytorch_tanh' },
    { type: 'vss-mlp', norm: 'rms' },
    { type: 'vss-mlp', scan: 'csm', weights: 'per-direction' },
    { type: 'vss-l2' },
    { type: 'vss-l2', scan: 'csm', merge: 'mean' },
    { type: 'vss-l2', weights: 'per-direction', norm: 'rms', hidden_act: 'gelu_pytorch_tanh' },
    { type: 'vss-l2', scan: 'csm', weights: 'per-direction', merge: 'mean', conv_kernel: 3 },
  ])
    test(`${tower} ${Object.values(connector).join(' ')}`, () =>
      check(dirs(), tinyConfig({ tower, connector }), 'F32', 2e-5));

test('bf16', () => check(dirs(), tinyConfig({ tower: 'siglip' }), 'BF16', 1.5e-2));
test('f16', () => check(dirs(), tinyConfig({ tower: 'clip' }), 'F16', onCuda ? 2e-3 : 2e-5));
test('an untied head', () => check(dirs(), tinyConfig({ text: { tie_word_embeddings: false } }), 'F32', 2e-5));

test('text only, as Hugging Face and as state-spaces name it', async () => {
  for (const old of [false, true]) {
    const dir = dirs();
    const rename = (name: string) => {
      const bare = name.replace('language_model.', '');
      return old ? bare.replace('embeddings.weight', 'embedding.weight') : bare;
    };
    const stored = await writeCheckpoint(dir, {
      config: tinyText,
      edit: (sources) => sources.map((source) => ({ ...source, name: rename(source.name) })),
    });
    const w: reference.Weights = (name) => stored.get(`language_model.${name}`)!;
    await using model = await load(dir);
    const ids = await model.tokenize('How many dogs are there? ');
    const want = reference.languageModel(
      w,
      '',
      ids.map((id) => reference.embed(w, '', id)),
      tinyText,
    );
    close(await model.logits({ prompt: 'How many dogs are there? ' }), want, 2e-5, 'logits');
  }
});

test('the same bytes on 1 and 2 threads, and for a prompt of any length', async () => {
  const dir = dirs();
  const stored = await writeCheckpoint(dir, {
    config: tinyConfig(),
    dtype: 'BF16',
    preprocessor: tinyPreprocessor('siglip'),
  });
  assert.ok(stored.size > 0);
  const models: Model[] = [await load(dir, { threads: 1 }), await load(dir, { threads: 2 })];
  const words = 'one two three four five six seven eight nine ten '.repeat(60);
  for (const length of [1, 2, 255, 256, 257, 513, 700]) {
    const prompt = models[0]!.detokenize((await models[0]!.tokenize(words)).slice(0, length));
    const [one, two] = await Promise.all(models.map((model) => model.logits({ prompt })));
    assert.equal(one, two, `${length} tokens`);
  }
  for (const model of models) await model.dispose();
});

test.run();
