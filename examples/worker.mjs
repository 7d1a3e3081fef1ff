/**
 * node worker.mjs MODEL PICTURE QUESTION…
 *
 * A model in a worker thread that answers the main thread. The work is never done on a JavaScript thread, so a worker is no
 * faster; it is for programs that keep what they do with the answers off the main thread too, or end a worker as a whole.
 */
import { once } from 'node:events';
import { argv } from 'node:process';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { load } from 'vl-mamba';

if (isMainThread) {
  const [, , name = 'demo', picture, ...questions] = argv;
  const worker = new Worker(new URL(import.meta.url), { workerData: { name } });
  for (const [id, question] of questions.entries()) worker.postMessage({ id, picture, question });
  for (let left = questions.length; left > 0; left--) {
    const [{ id, text, error }] = await once(worker, 'message');
    console.log(`${questions[id]} ${text ?? `failed: ${error}`}`);
  }
  await worker.terminate(); // in the middle of its work would do as well
} else {
  const model = await load(workerData.name);
  parentPort.on('message', async ({ id, picture, question }) => {
    try {
      const { text } = await model.generate({ messages: [{ role: 'user', content: question }], images: [picture] });
      parentPort.postMessage({ id, text });
    } catch ({ code, message }) {
      parentPort.postMessage({ id, error: `${code}: ${message}` });
    }
  });
}
