import { stderr, stdin, stdout } from 'node:process';
import { rangeError } from '../errors.ts';
import { MAX_BYTES } from '../image/limits.ts';
import type { ImageInput } from '../image/preprocess.ts';
import type { GenerateOptions } from '../model.ts';
import { readStdin } from './input.ts';
import { type LoadFlags, loadModel } from './load.ts';
import { type SamplingFlags, sampling } from './options.ts';
import { stats } from './text.ts';

interface RunFlags extends LoadFlags, SamplingFlags {
  image?: string[];
  prompt?: string;
  raw?: boolean;
  json?: boolean;
  stats?: boolean;
}

const MAX_PROMPT_BYTES = 16 * 2 ** 20;
const DEFAULT_QUESTION = 'Describe the picture.';

/** One answer, streamed to stdout. */
export async function run(path: string, flags: RunFlags, signal: AbortSignal): Promise<void> {
  const { images, prompt } = await read(flags, signal);
  await using model = await loadModel(path, flags, signal);
  const generation = model.generate({ ...ask(prompt, images, flags.raw), images, ...sampling(flags), signal });
  if (!flags.json) {
    for await (const text of generation) stdout.write(text);
    stdout.write('\n');
  }
  const result = await generation;
  if (flags.json) stdout.write(`${JSON.stringify({ ...result, device: model.device.name })}\n`);
  if (flags.stats) stderr.write(`${stats(result)}\n`);
}

/**
 * A question goes through the chat template. A prompt that holds a mark for each of the pictures was written for the model
 * as it is.
 */
function ask(prompt: string, images: readonly ImageInput[], raw = false): Pick<GenerateOptions, 'prompt' | 'messages'> {
  const marks = prompt.split('<image>').length - 1;
  if (raw || (marks > 0 && marks === images.length)) return { prompt };
  return { messages: [{ role: 'user', content: prompt }] };
}

async function read(flags: RunFlags, signal: AbortSignal): Promise<{ images: ImageInput[]; prompt: string }> {
  const names = flags.image ?? [];
  if (names.filter((name) => name === '-').length > 1)
    throw rangeError('ERR_USAGE', '-i - reads stdin, which can be done once');
  const fromStdin = names.includes('-');
  const images: ImageInput[] = [];
  for (const name of names) images.push(name === '-' ? await readStdin('the picture', MAX_BYTES, signal) : name);
  let { prompt } = flags;
  if (prompt === undefined && !fromStdin && !stdin.isTTY)
    prompt = (await readStdin('the prompt', MAX_PROMPT_BYTES, signal)).toString('utf8').trim();
  if (prompt) return { images, prompt };
  if (images.length === 0)
    throw rangeError('ERR_USAGE', 'nothing to answer: give a picture with -i and a question with -p');
  return { images, prompt: DEFAULT_QUESTION };
}
