/**
 * node camera.mjs MODEL FOLDER ['PROMPT {question}']
 *
 * Reads every picture that appears in a folder into one state, for ever: constant memory, constant time. A line on stdin is a
 * question, answered on a fork, so that asking does not disturb the watching. The prompt is what the model was trained to be
 * asked with. For a real camera: ffmpeg -i /dev/video0 -vf fps=1 -atomic_writing 1 FOLDER/%06d.jpg
 */
import { watch } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { argv, stdin, stdout } from 'node:process';
import { createInterface } from 'node:readline';
import { load } from 'vl-mamba';

const [, , name = 'demo', folder = '.', prompt = '\n{question}\nAnswer:'] = argv;
const model = await load(name);
const watching = model.session();

async function answerQuestions() {
  for await (const question of createInterface({ input: stdin })) {
    const fork = watching.fork();
    try {
      const answer = fork.generate({ text: prompt.replace('{question}', () => question), maxNewTokens: 64 });
      for await (const text of answer) stdout.write(text);
      stdout.write('\n');
    } catch (error) {
      console.error(error.message);
    } finally {
      fork.dispose();
    }
  }
}

/** Frames that come while one is read are dropped but for the newest: a camera does not wait. */
let newest;
let reading = false;
let last = '';
async function readFrames() {
  if (reading) return;
  reading = true;
  while (newest !== undefined) {
    const frame = join(folder, newest);
    newest = undefined;
    try {
      const { mtimeMs, size } = await stat(frame);
      const version = `${frame} ${mtimeMs} ${size}`;
      if (version === last) continue; // one file is announced several times
      await watching.append({ images: [frame] });
      last = version;
      console.error(`${frame}: ${watching.tokens} positions in ${watching.stateBytes} bytes`);
    } catch (error) {
      console.error(error.message); // a file that is not whole yet will be announced again
    }
  }
  reading = false;
}

const camera = watch(folder, (_, file) => {
  if (!/\.(jpe?g|png|webp)$/i.test(file ?? '')) return;
  newest = file;
  void readFrames();
});
console.error(`watching ${folder}`);
await answerQuestions(); // until stdin ends
camera.close();
await model.dispose();
