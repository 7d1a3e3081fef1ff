/**
 * node --expose-gc --import tsx fault_loop.ts CONTROL STEP, with the mock driver and a mock that counts its calls: the Nth fails,
 * alone and with all later ones, N = 1, 1 + STEP, 1 + 2 · STEP … until nothing fails any more. Whatever fails has a code; what was
 * loaded works afterwards, or says that the GPU is lost; nothing is left. Prints a line of JSON.
 */
import * as assert from 'node:assert/strict';
import { openSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { load, type Model } from '../../lib/index.ts';
import { root } from './mocks.ts';

const [path, step] = process.argv.slice(2);
const file = openSync(path!, 'r+');
const words = new Int32Array(4);
function arm(at: number, later: boolean): void {
  readSync(file, words, 0, 16, 0);
  writeSync(file, Int32Array.of(at, Number(later), 0), 0, 12, 0);
}
function state(): { calls: number; alive: number } {
  readSync(file, words, 0, 16, 0);
  return { calls: words[2]!, alive: words[3]! };
}

const grey = { data: new Uint8Array(3 * 32 * 32), width: 32, height: 32, channels: 3 as const };
const demo = () => load(join(root, 'models', 'demo'), { device: 'cuda' });

/** A bit of everything that reaches the device. */
async function use(model: Model): Promise<void> {
  await model.generate({ prompt: 'What is this? <image>', images: [grey], maxNewTokens: 3 });
  using session = model.session();
  await session.append({ text: 'one two three' });
  using back = await model.restore(await session.snapshot());
  await back.generate({ text: 'and', maxNewTokens: 2, repetitionPenalty: 1.2 });
  await Promise.all([1, 2, 3].map((seed) => model.generate({ prompt: `${seed}`, maxNewTokens: 2, seed })));
  await model.score({ prompt: 'a', choices: ['b', 'c d'] });
}

const coded = (error: unknown) =>
  assert.match(
    String((error as { code?: string }).code),
    /^ERR_(CUDA|CUDA_LOST|CUDA_UNAVAILABLE|OUT_OF_MEMORY)$/,
    String(error),
  );

/** Memory is given back by finalizers and by the device's own thread: a moment later. */
async function nothingLeft(what: string): Promise<void> {
  for (let i = 0; i < 200 && state().alive !== 0; i++) {
    globalThis.gc!();
    await setImmediate();
  }
  assert.equal(state().alive, 0, `${what}: ${state().alive} things left`);
}

let failed = 0;
for (const later of [false, true]) {
  for (let n = 1; ; n += Number(step)) {
    const what = `call ${n}${later ? ' and all later ones' : ''}`;
    let model: Model | undefined;
    arm(n, later);
    try {
      model = await demo();
      await use(model);
    } catch (error) {
      failed++;
      coded(error);
    }
    const { calls } = state();
    arm(0, false);
    if (model)
      await use(model).catch((error) => {
        // What stopped the whole GPU can't be taken back: see guarded() in cuda/backend.cu.
        if (!later || error.code !== 'ERR_CUDA_LOST') throw error;
      });
    await model?.dispose();
    model = undefined;
    await nothingLeft(what);
    if (calls < n) break;
  }
}
await (await demo()).dispose();
console.log(JSON.stringify({ failed }));
