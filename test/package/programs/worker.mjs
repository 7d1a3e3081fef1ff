import { once } from 'node:events';
import { isMainThread, parentPort, Worker } from 'node:worker_threads';
import { load } from 'vl-mamba';
import { answer } from './answer.cjs';

if (isMainThread) {
  const ask = async () => (await once(new Worker(new URL(import.meta.url)), 'message'))[0];
  console.log((await Promise.all([ask(), ask()])).join(' '));
} else {
  parentPort.postMessage(await answer({ load }));
}
