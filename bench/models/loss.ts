/**
 * npx tsx bench/models/loss.ts [MODEL…] [--device cpu|cuda]
 *
 * What int8 and int4 lose, as the tables of docs/quantization.md. The bundled model answers its held-out questions: how many
 * right, the perplexity of the right answers, and how far next-token probabilities move. Other checkpoints, with random
 * weights too (npm run random-checkpoint): how far the tower's features move, and the probabilities after random tokens.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { openCheckpoint } from '../../lib/checkpoint/checkpoint.ts';
import { type ModelConfig, readConfig } from '../../lib/checkpoint/config.ts';
import { Device } from '../../lib/device.ts';
import { Engine } from '../../lib/engine.ts';
import { readPreprocessConfig } from '../../lib/image/config.ts';
import { pixels } from '../../lib/image/preprocess.ts';
import { resizeOn } from '../../lib/image/resize.ts';
import { clip } from '../../lib/models/clip.ts';
import { siglip } from '../../lib/models/siglip.ts';
import { unread, vlMambaParams } from '../../lib/models/vl_mamba.ts';
import { Graph } from '../../lib/program.ts';
import { loadTokenizer } from '../../lib/text/tokenizer.ts';
import { loadWeights, Param, planWeights, type WeightDtype } from '../../lib/weights.ts';
import { random, relL2 } from '../../test/kit.ts';
import { machine } from '../kit.ts';

type Bits = Param['fewestBits'];

/** A way to keep the weights, with other bits for some than lib/nn and lib/models allow them. */
interface Way {
  name: string;
  dtype: WeightDtype;
  bits?: [RegExp, Bits][];
}

const HEAD = /(embeddings?|lm_head)\.weight$/;
const TOWER = /^vision_tower/;
const STEPS = /(x_proj|dt_proj)\.weight$/;

const WAYS: Way[] = [
  { name: 'as stored', dtype: null },
  { name: 'int8', dtype: 'int8' },
  { name: 'int8, head as stored', dtype: 'int8', bits: [[HEAD, 16]] },
  { name: 'int4', dtype: 'int4' },
  { name: 'int4, head as stored', dtype: 'int4', bits: [[HEAD, 16]] },
  { name: 'int4, x_proj and dt_proj too', dtype: 'int4', bits: [[STEPS, 4]] },
  { name: 'int4, tower too', dtype: 'int4', bits: [[TOWER, 4]] },
];

/** A tree of Params in which those of other names have other bits. */
function withBits<T>(tree: T, bits: readonly [RegExp, Bits][]): T {
  if (tree instanceof Param) {
    const { name, shape, kind, sources, fewestBits } = tree;
    const [, other = fewestBits] = bits.find(([pattern]) => pattern.test(name) && fewestBits < 16) ?? [];
    return new Param(name, shape, kind, sources, other) as T;
  }
  if (Array.isArray(tree)) return tree.map((child) => withBits(child, bits)) as T;
  if (typeof tree !== 'object' || tree === null) return tree;
  return Object.fromEntries(Object.entries(tree).map(([key, child]) => [key, withBits(child, bits)])) as T;
}

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: { device: { type: 'string', default: 'cpu' } },
});
const on = () => new Device({ name: values.device === 'cuda' ? 'cuda:0' : 'cpu' });

async function engineOf(dir: string, { dtype, bits = [] }: Way): Promise<Engine> {
  const config = await readConfig(dir);
  const plan = planWeights(await openCheckpoint(dir), withBits(vlMambaParams(config), bits), unread);
  const device = on();
  return Engine.create(device, config, await loadWeights(device, plan, { dtype }));
}

/** log_softmax */
function logprobs(logits: Float32Array): Float64Array {
  const top = logits.reduce((a, b) => Math.max(a, b));
  const sum = logits.reduce((sum, logit) => sum + Math.exp(logit - top), 0);
  return Float64Array.from(logits, (logit) => logit - top - Math.log(sum));
}

/** Σ p (log p − log q), in nats. */
const divergence = (p: Float64Array, q: Float64Array): number =>
  p.reduce((sum, logprob, i) => sum + Math.exp(logprob) * (logprob - q[i]!), 0);

const mean = (list: readonly number[]) => list.reduce((a, b) => a + b, 0) / list.length;
const most = (list: readonly number[]) => list.reduce((a, b) => Math.max(a, b));
const best = (list: ArrayLike<number>) => Array.prototype.indexOf.call(list, Math.max(...Array.from(list)));

const row = (...cells: (string | number)[]) => console.log(`| ${cells.join(' | ')} |`);
const head = (...cells: string[]) => {
  row(...cells);
  row(...cells.map(() => '---'));
};
const digits = (x: number) => (x === 0 ? '0' : x.toPrecision(3));
const mb = (engine: Engine) => (engine.loaded.bytes / 1e6).toFixed(1);

/** Reads ids after what the slot has read, one logits for each of the `last` positions. */
async function read(engine: Engine, slot: number, ids: number[], last: number): Promise<Float64Array[]> {
  const found: Float64Array[] = [];
  const run = async (part: number[], ending: 'none' | 'logits') =>
    (await engine.run([{ slot, ids: Int32Array.from(part), position: 0 }], ending))[0]!;
  const begin = ids.slice(0, ids.length - last + 1);
  found.push(logprobs((await run(begin, 'logits')).logits!));
  for (const id of ids.slice(begin.length)) found.push(logprobs((await run([id], 'logits')).logits!));
  return found;
}

interface Answers {
  right: number;
  asked: number;
  /** At every token of the right answers, its end included. */
  positions: Float64Array[];
  /** Natural log-probabilities of those tokens. */
  surprises: number[];
}

async function answer(engine: Engine, dir: string, held: string): Promise<Answers> {
  const { config, device } = engine;
  const tokenizer = await loadTokenizer(dir, { rows: config.text.vocabSize, eosTokenIds: config.text.eosTokenIds });
  const preprocess = await readPreprocessConfig(dir, config.vision!.imageSize);
  const pictures: { image: string; questions: { question: string; answer: string }[] }[] = JSON.parse(
    readFileSync(join(held, 'questions.json'), 'utf8'),
  );
  const picture = Array.from({ length: engine.pictureRows }, (_, row) => -1 - row);
  const [end] = config.text.eosTokenIds;
  const found: Answers = { right: 0, asked: 0, positions: [], surprises: [] };
  const resize = resizeOn(device.cuda ? new Device() : device);
  await engine.reservePictures(1);
  for (const { image, questions } of pictures) {
    const { data } = await pixels(join(held, image), preprocess, { resize });
    await engine.look(data, 0);
    const seen = await engine.acquire();
    await engine.run([{ slot: seen, ids: Int32Array.from(picture), position: 0 }], 'none');
    for (const { question, answer } of questions) {
      const prompt = await tokenizer.encode(`\n${question}\nAnswer:`);
      const right = [...(await tokenizer.encode(answer)), end!];
      const slot = await engine.acquire(seen);
      const after = await read(engine, slot, [...prompt, ...right.slice(0, -1)], right.length);
      engine.release(slot);
      found.asked++;
      // Greedy, the answer comes out when its every token is the likeliest.
      if (after.every((logprobs, i) => best(logprobs) === right[i])) found.right++;
      found.positions.push(...after);
      found.surprises.push(...after.map((logprobs, i) => -logprobs[right[i]!]!));
    }
    engine.release(seen);
  }
  return found;
}

async function demo(dir: string): Promise<void> {
  const held = join('test', 'fixtures', 'demo');
  console.log(`\n${dir}: held-out questions\n`);
  head('weights', 'MB', 'right', 'perplexity', 'KL, mean', 'KL, largest', 'same likeliest token');
  let exact: Answers | undefined;
  for (const way of WAYS) {
    const engine = await engineOf(dir, way);
    const found = await answer(engine, dir, held);
    exact ??= found;
    const kl = found.positions.map((q, i) => divergence(exact!.positions[i]!, q));
    const same = found.positions.filter((q, i) => best(q) === best(exact!.positions[i]!)).length;
    row(
      way.name,
      mb(engine),
      `${found.right} of ${found.asked}`,
      Math.exp(mean(found.surprises)).toFixed(4),
      digits(mean(kl)),
      digits(most(kl)),
      `${((100 * same) / kl.length).toFixed(2)} %`,
    );
    await engine.dispose();
  }
}

const TEXTS = 4;
const LENGTH = 48;
const COUNTED = 16;

/** Probabilities after random tokens: TEXTS · COUNTED positions. */
async function language(dir: string): Promise<void> {
  console.log(`\n${dir}: after random tokens\n`);
  head('weights', 'MB', 'loaded in s', 'KL, mean', 'KL, largest', 'same likeliest token');
  let exact: Float64Array[] | undefined;
  for (const way of WAYS.filter(({ name }) => !name.includes('tower'))) {
    const start = performance.now();
    const engine = await engineOf(dir, way);
    const seconds = (performance.now() - start) / 1000;
    const next = random(1);
    const found: Float64Array[] = [];
    for (let text = 0; text < TEXTS; text++) {
      const ids = Array.from({ length: LENGTH }, () => Math.floor(next() * engine.config.text.vocabSize));
      const slot = await engine.acquire();
      found.push(...(await read(engine, slot, ids, COUNTED)));
      engine.release(slot);
    }
    exact ??= found;
    const kl = found.map((q, i) => divergence(exact![i]!, q));
    const same = found.filter((q, i) => best(q) === best(exact![i]!)).length;
    row(
      way.name,
      mb(engine),
      seconds.toFixed(2),
      digits(mean(kl)),
      digits(most(kl)),
      `${((100 * same) / kl.length).toFixed(1)} %`,
    );
    await engine.dispose();
  }
}

async function features(engine: Engine): Promise<Float32Array> {
  const { weights, config, device } = engine;
  const { imageSize: side, numChannels } = config.vision!;
  const g = new Graph();
  const image = g.input('image', 'f32', [1, numChannels, side, side]);
  const { siglip: s, clip: c } = weights.vision!;
  g.output('features', s ? siglip(g, s, image, config.vision!) : clip(g, c!, image, config.vision!));
  const program = await device.compile(g);
  const next = random(2);
  const picture = Float32Array.from({ length: numChannels * side * side }, () => 2 * next() - 1);
  return (await program.run({ image: picture })).features as Float32Array;
}

/** What the tower leaves, beside what it leaves in f32. */
async function tower(dir: string): Promise<void> {
  console.log(`\n${dir}: features of the tower, beside those in f32\n`);
  head('weights', 'MB', 'relative L2 error');
  const exactly = await engineOf(dir, { name: 'f32', dtype: 'f32' });
  const exact = await features(exactly);
  await exactly.dispose();
  const ways = ['as stored', 'int8', 'int4, tower too'].map((name) => WAYS.find((way) => way.name === name)!);
  for (const way of ways) {
    const engine = await engineOf(dir, way);
    row(way.name, mb(engine), digits(relL2(await features(engine), exact)));
    await engine.dispose();
  }
}

async function main(): Promise<void> {
  const bundled = join('models', 'demo');
  const probe = on();
  console.log(`# ${machine(probe)}`);
  await probe.dispose();
  for (const dir of positionals.length > 0 ? positionals : [bundled]) {
    const config: ModelConfig = await readConfig(dir);
    if (dir === bundled) await demo(dir);
    else if (config.text.hiddenSize >= 512) await language(dir);
    if (config.vision) await tower(dir);
  }
}

main();
