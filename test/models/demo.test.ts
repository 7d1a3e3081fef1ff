/** The shipped checkpoint through the public API: held-out pictures, and what PyTorch computes from the same weights. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import type { Model } from '../../lib/index.ts';
import { close, load, suite } from '../kit.ts';

const test = suite('demo');
const held = join('test', 'fixtures', 'demo');
let model: Model;
test.before(async () => {
  model = await load(join('models', 'demo'));
});
test.after(() => model.dispose());

interface Picture {
  set: string;
  image: string;
  questions: { kind: string; question: string; answer: string }[];
}

const pictures = JSON.parse(readFileSync(join(held, 'questions.json'), 'utf8')) as Picture[];
const plain = (text: string) =>
  text
    .toLowerCase()
    .replace(/[^\p{L}\p{N}\s]/gu, '')
    .trim();

/** The least that each set has to reach; the card in models/demo states what larger sets reached. */
const floors: Record<string, number> = { fresh: 0.93, 'held-out-pairs': 0.85, 'drawn-another-way': 0.85 };

test('the answers about held-out pictures, drawn in several ways, are right as often as the card says', async () => {
  const sets = new Map<string, { right: number; all: number }>();
  for (const { set, image, questions } of pictures)
    for (const { question, answer } of questions) {
      const { text } = await model.generate({
        messages: [{ role: 'user', content: question }],
        images: [join(held, image)],
        maxNewTokens: 64,
      });
      const score = sets.get(set) ?? { right: 0, all: 0 };
      score.all++;
      if (plain(text) === plain(answer)) score.right++;
      sets.set(set, score);
    }
  const all = [...sets.values()].reduce((sum, score) => sum + score.all, 0);
  assert.ok(all >= 120, `${all} questions`);
  for (const [set, { right, all }] of sets) {
    const floor = floors[set];
    assert.ok(floor !== undefined, `a floor for the set ${set}`);
    assert.ok(right / all >= floor, `${set}: ${right} of ${all} right, at least ${floor} expected`);
  }
});

interface Reference {
  image: string;
  prompt: string;
  tokens: number[];
  /** The smallest lead of the winning logit on the way. */
  margin: number;
  /** Little-endian float32 in base64, for the first few. */
  logits?: string;
}

test('PyTorch computes the same logits and says the same to 100 questions', async () => {
  await using exact = await load(join('models', 'demo'), { dtype: 'f32' });
  const list = JSON.parse(readFileSync(join(held, 'reference.json'), 'utf8')) as Reference[];
  assert.is(list.length, 100);
  let compared = 0;
  for (const { image, prompt, tokens, margin, logits } of list) {
    const options = { prompt, images: [join(held, image)] };
    if (logits) {
      const bytes = Buffer.from(logits, 'base64');
      close(await exact.logits(options), new Float32Array(new Uint8Array(bytes).buffer), 2e-4, image);
      compared++;
    }
    const result = await exact.generate({ ...options, maxNewTokens: 64 });
    // A lead this small is within the rounding of either side.
    if (margin > 0.002) assert.equal(result.tokens, tokens, `${image}: ${prompt}`);
  }
  assert.ok(compared >= 20, `${compared} compared`);
});

test.run();
