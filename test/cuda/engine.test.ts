/** Whole models on a GPU: its ways to run a program answer alike, and a state goes from a CPU to a GPU and back. */
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { devices } from '../../lib/devices.ts';
import { type LoadOptions, load, type Model } from '../../lib/index.ts';
import { relL2, same, suite } from '../kit.ts';

const demo = join('models', 'demo');
const picture = join(demo, 'pictures', 'shapes.png');
const question = 'Describe the picture.';
const gpu = devices()[1]!;

const test = suite('a model on a GPU');
const onGpu = (title: string, run: () => Promise<void>) => (gpu.available ? test(title, run) : test.skip(title));

const prompt = { messages: [{ role: 'user' as const, content: question }], images: [picture] };

async function answer(options: LoadOptions): Promise<{ tokens: number[]; logits: Float32Array }> {
  await using model = await load(demo, { device: 'cuda', ...options });
  const logits = await model.logits(prompt);
  return { tokens: (await model.generate({ ...prompt, maxNewTokens: 32 })).tokens, logits };
}

onGpu('launched step by step, a program leaves the bytes of its graph', async () => {
  const [graph, steps] = [await answer({}), await answer({ graph: false })];
  same(steps.logits, graph.logits, 'logits');
  assert.equal(steps.tokens, graph.tokens);
});

onGpu('every step holds against the CPU', async () => {
  assert.equal((await answer({ verify: true })).tokens, (await answer({})).tokens);
});

onGpu('the CPU reads the same picture to logits within the tolerance of its dtype', async () => {
  const [cuda, cpu] = [await answer({ dtype: 'f32' }), await answer({ device: 'cpu', dtype: 'f32' })];
  const error = relL2(cuda.logits, cpu.logits);
  assert.ok(error < 2e-4, `relative L2 error ${error.toExponential(2)}`);
  assert.equal(cuda.tokens, cpu.tokens);
});

async function carried(from: Model, to: Model, dtype: 'f32' | 'bf16'): Promise<void> {
  using seen = await from.look(picture);
  using restored = await to.restore(await seen.snapshot({ dtype }));
  assert.is(restored.tokens, seen.tokens);
  const [there, here] = await Promise.all([restored.ask(question), seen.ask(question)]);
  assert.is(there.text, here.text);
}

onGpu('a snapshot goes from the CPU to the GPU and back', async () => {
  await using cpu = await load(demo, { device: 'cpu' });
  await using cuda = await load(demo, { device: 'cuda' });
  for (const dtype of ['f32', 'bf16'] as const) {
    await carried(cpu, cuda, dtype);
    await carried(cuda, cpu, dtype);
  }
});

test.run();
