/** The ends of things: dispose, abort, break, workers and processes that go in the middle of a run. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, readdirSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';
import * as assert from 'uvu/assert';
import { type Native, native } from '../../lib/binding.ts';
import { type GenerateOptions, type ImageInput, load, type Model } from '../../lib/index.ts';
import { failure, suite } from '../kit.ts';
import { slowCheckpoint } from './model.ts';

const test = suite('lifetime');
const child = join(dirname(fileURLToPath(import.meta.url)), 'child.ts');
let dir: string;
let remove: () => void;
test.before(async () => {
  ({ dir, remove } = await slowCheckpoint());
});
test.after(() => remove());

const long: GenerateOptions = { prompt: 'for ever', maxNewTokens: 100_000, temperature: 1, seed: 5 };

const builtAddon = () => join(process.env.VL_MAMBA_PREBUILD ?? '.', 'build', 'Release', 'vl_mamba.node');

/** The first piece of text is there, so the model is in the middle of its work. */
async function begun(model: Model, options: GenerateOptions = long) {
  const generation = model.generate(options);
  const pieces = generation[Symbol.asyncIterator]();
  await pieces.next();
  return { generation, pieces };
}

test('leaving the loop stops the work and keeps what there is', async () => {
  await using model = await load(dir);
  const generation = model.generate(long);
  let text = '';
  for await (const piece of generation) {
    text += piece;
    if (text.length > 10) break;
  }
  const result = await generation;
  assert.is(result.finishReason, 'abort');
  assert.ok(result.text.startsWith(text));
  assert.is(result.usage.completionTokens, result.tokens.length);
  assert.is((await model.generate({ prompt: 'again', maxNewTokens: 3 })).tokens.length, 3);
});

test('an abort rejects with its reason within 100 ms, wherever it comes', async () => {
  await using model = await load(dir);
  const reason = new Error('enough');
  for (const wait of [0, 1, 5, 50]) {
    const controller = new AbortController();
    const generation = model.generate({
      ...long,
      prompt: 'word '.repeat(wait < 5 ? 2000 : 5),
      signal: controller.signal,
    });
    await new Promise((resolve) => setTimeout(resolve, wait));
    const start = performance.now();
    controller.abort(reason);
    assert.is(await failure(() => generation), reason);
    assert.ok(performance.now() - start < 100, `after ${wait} ms: took ${performance.now() - start} ms`);
  }
  const controller = new AbortController();
  controller.abort(reason);
  assert.is(await failure(() => model.generate({ ...long, signal: controller.signal })), reason);
  assert.is(await failure(() => load(dir, { signal: controller.signal })), reason);
});

test('dispose while generating, twice, and use after it', async () => {
  const model = await load(dir);
  const { generation } = await begun(model);
  const [first, second] = [model.dispose(), model.dispose()];
  assert.is(first, second);
  assert.is((await failure(() => generation)).code, 'ERR_DISPOSED');
  await first;
  for (const use of [
    () => model.generate({ prompt: 'x' }),
    () => model.logits({ prompt: 'x' }),
    () => model.imageEmbeds({ data: new Uint8Array(3), width: 1, height: 1, channels: 3 }),
    () => model.pixels({ data: new Uint8Array(3), width: 1, height: 1, channels: 3 }),
    () => model.profile(),
    () => model.chat(),
  ])
    assert.is((await failure(use)).code, 'ERR_DISPOSED');
});

test('models that nobody disposed are collected', async () => {
  const gc = (globalThis as { gc?: () => void }).gc;
  assert.ok(gc, 'run with --expose-gc');
  const threads = () => (process.platform === 'linux' ? readdirSync('/proc/self/task').length : 0);
  await load(dir).then((model) => model.logits({ prompt: 'x' }));
  const settle = async () => {
    for (let i = 0; i < 5; i++) {
      gc!();
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  };
  await settle();
  const before = threads();
  for (let i = 0; i < 10; i++) await load(dir).then((model) => model.logits({ prompt: 'x' }));
  await settle();
  assert.ok(threads() <= before + 1, `${threads()} threads, ${before} before`);
});

test('eight at once and more waiting, each as if alone', async () => {
  await using model = await load(dir);
  const alone = await Promise.all(
    Array.from({ length: 12 }, (_, i) => i).map(async (seed) => {
      const one = await load(dir);
      const result = await one.generate({ prompt: `text ${seed}`, maxNewTokens: 12, temperature: 0.8, seed });
      await one.dispose();
      return result.tokens;
    }),
  );
  const together = await Promise.all(
    alone.map((_, seed) => model.generate({ prompt: `text ${seed}`, maxNewTokens: 12, temperature: 0.8, seed })),
  );
  assert.equal(
    together.map(({ tokens }) => tokens),
    alone,
  );
});

test('worker.terminate() in the middle of a run, 20 times', async () => {
  for (let i = 0; i < 20; i++) {
    const code = `import('tsx/esm/api').then((tsx) => (tsx.register(), import(${JSON.stringify(pathToFileURL(child))})));`;
    const worker = new Worker(code, {
      eval: true,
      workerData: { dir, how: 'run' },
    });
    await once(worker, 'message');
    const start = performance.now();
    await worker.terminate();
    assert.ok(performance.now() - start < 500, `terminate took ${performance.now() - start} ms`);
  }
});

const start = (how: string): ChildProcess =>
  spawn(process.execPath, ['--import', 'tsx', child, JSON.stringify({ dir, how })], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });

test('process.exit() in the middle of a run keeps its status', async () => {
  for (let i = 0; i < 3; i++) assert.equal(await once(start('exit'), 'close'), [7, null]);
});

test('a process ends by itself when nothing is left to do', async () => {
  assert.equal(await once(start('abandon'), 'close'), [0, null]);
});

test('a signal ends the process at once', async () => {
  const running = start('signal');
  await once(running.stdout!, 'data');
  running.kill('SIGTERM');
  assert.equal(await once(running, 'close'), [null, 'SIGTERM']);
});

test('what the reader throws stops the work, wherever it is thrown', async () => {
  await using model = await load(dir);
  const own = new Error('mine');
  const thrown = failure(async () => {
    for await (const _ of model.generate(long)) throw own;
  });
  assert.is(await thrown, own);
  const { pieces } = await begun(model);
  assert.is(await failure(() => pieces.throw!(own)), own);
  assert.is(
    await failure(() =>
      load(dir, {
        onProgress: () => {
          throw own;
        },
      }),
    ),
    own,
  );
  while (model.load.running > 0) await new Promise((resolve) => setTimeout(resolve, 1));
  assert.is((await model.generate({ prompt: 'again', maxNewTokens: 3 })).tokens.length, 3);
});

/** Memory that gets smaller under the hands of whoever reads it. */
function shrinking(bytes: Uint8Array): { view: Uint8Array; shrink: () => void } {
  const buffer = new (
    ArrayBuffer as unknown as new (
      n: number,
      o: object,
    ) => ArrayBuffer & { resize(n: number): void }
  )(bytes.length, { maxByteLength: bytes.length });
  const view = new Uint8Array(buffer);
  view.set(bytes);
  return { view, shrink: () => buffer.resize(0) };
}

test('memory that the caller takes away after the call: the whole picture, or an error', async () => {
  await using model = await load(dir);
  const png = new Uint8Array(readFileSync('models/demo/pictures/ring.png'));
  const raw = new Uint8Array(200 * 200 * 3).fill(7);
  const pictures: [name: string, make: (view: Uint8Array) => ImageInput, bytes: Uint8Array][] = [
    ['a file', (view) => view, png],
    ['pixels', (data) => ({ data, width: 200, height: 200, channels: 3 }), raw],
  ];
  for (const [name, make, bytes] of pictures) {
    const want = await model.pixels(make(bytes));
    for (const turns of [0, 1, 2, 5]) {
      for (const take of ['resize', 'transfer']) {
        const { view, shrink } = take === 'resize' ? shrinking(bytes) : { view: bytes.slice(), shrink: () => {} };
        const running = model.pixels(make(view)).catch((error) => error);
        for (let i = 0; i < turns; i++) await Promise.resolve();
        if (take === 'resize') shrink();
        else structuredClone(view, { transfer: [view.buffer as ArrayBuffer] });
        const got = await running;
        if (got instanceof Error) assert.match((got as { code?: string }).code!, /^ERR_(ARG_)?IMAGE/, name);
        else assert.equal(got, want, name);
      }
    }
  }
  using session = model.session();
  await session.append({ text: 'a b c' });
  const snapshot = await session.snapshot({ dtype: 'f32' });
  const { view, shrink } = shrinking(snapshot);
  const restoring = model.restore(view).catch((error) => error);
  shrink();
  const restored = await restoring;
  if (restored instanceof Error) assert.match((restored as { code?: string }).code!, /^ERR_/);
  else assert.is(restored.tokens, session.tokens);
});

test('garbage is collected while it runs, and nothing that runs is garbage', async () => {
  const { gc } = globalThis as unknown as { gc: () => void };
  await using model = await load(dir);
  const options = { prompt: 'a b c', maxNewTokens: 40, temperature: 1, seed: 3 };
  const want = (await model.generate(options)).tokens;
  const timer = setInterval(gc, 1);
  // Nobody holds these models; what they write does.
  const alone = await Promise.all([1, 2, 3].map(() => load(dir).then((one) => one.generate(options))));
  const together = await Promise.all(Array.from({ length: 8 }, () => model.generate(options)));
  clearInterval(timer);
  for (const { tokens } of [...alone, ...together]) assert.equal(tokens, want);
});

test('two copies of the addon in one process, and one of them in a worker', async () => {
  const copy = join(dir, 'copy.node');
  copyFileSync(builtAddon(), copy);
  const other = createRequire(import.meta.url)(copy) as Native;
  const device = other.open(2);
  const buffer = await other.alloc(device, 64);
  await using model = await load(dir);
  const options = { prompt: 'a b c', maxNewTokens: 20, temperature: 1, seed: 3 };
  const want = (await model.generate(options)).tokens;
  const script = `
    const { parentPort, workerData } = require('node:worker_threads');
    const addon = require(workerData);
    const device = addon.open(2);
    addon.alloc(device, 64).then(() => parentPort.postMessage('there'));
    setInterval(() => addon.alloc(device, 64), 1);`;
  const worker = new Worker(script, { eval: true, workerData: copy });
  await once(worker, 'message');
  const running = model.generate(options);
  for (let i = 0; i < 50; i++) await other.fill(device, buffer, 0, 64, i);
  // A handle of one is nothing to the other.
  assert.instance(await failure(() => native().read(device, buffer, 0, 64)), TypeError);
  await worker.terminate();
  await other.close(device);
  assert.equal((await running).tokens, want);
});

test('the addon is loaded again in one thread, and both work', async () => {
  const load = createRequire(import.meta.url);
  const copy = join(dir, 'again.node');
  copyFileSync(builtAddon(), copy);
  const addons = [1, 2, 3].map(() => {
    delete load.cache[copy];
    return load(copy) as Native;
  });
  const devices = addons.map((addon) => addon.open(1));
  for (const [i, addon] of addons.entries())
    await addon.fill(devices[i]!, await addon.alloc(devices[i]!, 64), 0, 64, i);
  for (const [i, addon] of addons.entries()) await addon.close(devices[i]!);
});

test('calls where the stack ends: a RangeError or an answer, and the next call works', async () => {
  await using model = await load(dir);
  const options = { prompt: 'a b c', maxNewTokens: 2 };
  const { tokens } = await model.generate(options);
  const outcomes: Promise<unknown>[] = [];
  const dive = (): void => {
    try {
      dive();
    } finally {
      // On the way up from the end, each call with a little more room than the one before.
      if (outcomes.length < 20) outcomes.push((async () => await model.generate(options))().catch((error) => error));
    }
  };
  assert.throws(dive, (error: unknown) => error instanceof RangeError);
  for (const outcome of await Promise.all(outcomes))
    if (outcome instanceof Error) assert.instance(outcome, RangeError);
    else assert.equal((outcome as { tokens: number[] }).tokens, tokens);
  assert.equal((await model.generate(options)).tokens, tokens);
});

test('files are read while it generates', async () => {
  await using model = await load(dir);
  const all = Array.from({ length: 8 }, () => model.generate({ ...long, maxNewTokens: 2000 }));
  const took: number[] = [];
  for (let i = 0; i < 200; i++) {
    const start = performance.now();
    await readFile('package.json');
    took.push(performance.now() - start);
  }
  await model.dispose();
  await Promise.allSettled(all);
  took.sort((a, b) => a - b);
  assert.ok(took[198]! < 20, `99th percentile ${took[198]!.toFixed(1)} ms`);
});

test('the event loop stays free while it generates', async () => {
  await using model = await load(dir);
  const { generation, pieces } = await begun(model);
  const late: number[] = [];
  let last = performance.now();
  const timer = setInterval(() => {
    const now = performance.now();
    late.push(now - last - 1);
    last = now;
  }, 1);
  await new Promise((resolve) => setTimeout(resolve, 1500));
  clearInterval(timer);
  await pieces.return?.(undefined);
  await generation;
  late.sort((a, b) => a - b);
  const p99 = late[Math.floor(late.length * 0.99)]!;
  assert.ok(p99 <= 10, `99th percentile ${p99.toFixed(1)} ms late`);
});

test.run();
