// A worker or a process of churn.ts, over the package as it is built: says when it has begun and goes on until it is ended.
import { parentPort, workerData } from 'node:worker_threads';
import { load } from '../../dist/index.mjs';

const { dir, what, device, exitAfter } = workerData ?? JSON.parse(process.argv[2]);
const picture = { data: new Uint8Array(48).fill(9), width: 4, height: 4, channels: 3 };
const endless = { maxNewTokens: 100_000, temperature: 1 };

const work = {
  loading: async () => (await load(dir, { device })).dispose(),
  reading: (model, i) => model.generate({ prompt: `${i} words `.repeat(500), maxNewTokens: 1 }),
  looking: (model) => model.imageEmbeds(picture),
  writing: (model, i) => model.generate({ prompt: 'for ever', ...endless, seed: i }),
  'writing several': (model) =>
    Promise.all(Array.from({ length: 8 }, (_, i) => model.generate({ prompt: `${i}`, ...endless, seed: i }))),
};

const model = what === 'loading' ? undefined : await load(dir, { device });
parentPort ? parentPort.postMessage('begun') : process.stdout.write('begun\n');
if (exitAfter !== undefined) setTimeout(() => process.exit(7), exitAfter);
for (let i = 0; ; i++) await work[what](model, i);
