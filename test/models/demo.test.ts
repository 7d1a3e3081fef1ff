/** The shipped checkpoint through the public API: held-out pictures, and what PyTorch computes from the same weights. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { load, type Model } from '../../lib/index.ts';
import { suite } from '../kit.ts';

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

test.run();
