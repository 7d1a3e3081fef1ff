/**
 * node library.mjs MODEL FOLDER 'Is there a dog?'
 *
 * Finds pictures by a question. Each picture is read once and kept as a snapshot beside it; later questions touch no pixel.
 * `vl-mamba index` and `vl-mamba ask` do the same as commands.
 */
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { argv } from 'node:process';
import { load } from 'vl-mamba';

const [, , name = 'demo', folder = '.', question = 'Is there any text?'] = argv;
const model = await load(name);
const memory = join(folder, '.vl-mamba', model.fingerprint.slice(0, 16));
await mkdir(memory, { recursive: true });

async function remembered(picture) {
  const file = join(memory, `${picture}.safetensors`);
  try {
    return await model.restore(await readFile(file));
  } catch (error) {
    if (error.code !== 'ENOENT') throw error;
  }
  const session = await model.look(join(folder, picture));
  await writeFile(file, await session.snapshot({ dtype: 'bf16', label: picture }));
  console.error(`read ${picture}`);
  return session;
}

const pictures = (await readdir(folder)).filter((file) => /\.(jpe?g|png|webp)$/i.test(file)).sort();
const answers = [];
for (const picture of pictures) {
  const session = await remembered(picture);
  const answer = session.ask(question); // not awaited here: questions that go on together share their steps
  answers.push(answer.finally(() => session.dispose()));
}
for (const [i, { text }] of (await Promise.all(answers)).entries())
  if (/^\s*yes/i.test(text)) console.log(join(folder, pictures[i]));
await model.dispose();
