/** Run by the lifetime tests as a worker or a process of its own: generates for ever, or does what it is told. */
import { parentPort, workerData } from 'node:worker_threads';
import { load } from '../../lib/index.ts';

const { dir, how } = (workerData ?? JSON.parse(process.argv[2]!)) as { dir: string; how: string };

async function main(): Promise<void> {
  const model = await load(dir);
  const generation = model.generate({ prompt: 'for ever', maxNewTokens: 100_000, temperature: 1, seed: 1 });
  let pieces = 0;
  for await (const _ of generation) {
    pieces++;
    if (pieces === 2) parentPort?.postMessage('running');
    if (pieces === 2 && how === 'exit') process.exit(7);
    if (pieces === 2 && how === 'signal') process.stdout.write('running\n');
    if (pieces === 2 && how === 'abandon') return;
  }
}

main();
