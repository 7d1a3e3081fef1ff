import { readFile } from 'node:fs/promises';
import { stdout } from 'node:process';
import { rangeError, VLMambaError } from '../errors.ts';
import type { GenerateResult } from '../generation.ts';
import type { Model } from '../model.ts';
import { openLibrary } from './library.ts';
import { type LoadFlags, loadModel } from './load.ts';
import { type SamplingFlags, sampling } from './options.ts';
import { report } from './report.ts';

interface AskFlags extends LoadFlags, SamplingFlags {
  prompt: string;
  model?: string;
  json?: boolean;
}

/** Snapshots that are in memory at the same time. */
const AT_ONCE = 32;

interface Answer {
  picture: string;
  result: GenerateResult;
}

/** One question about every picture of a library, answered together and printed in order; no picture is read again. */
export async function ask(dir: string, flags: AskFlags, signal: AbortSignal): Promise<void> {
  const library = await openLibrary(dir);
  const { snapshots } = library;
  if (snapshots.length === 0) throw rangeError('ERR_USAGE_LIBRARY', `${dir} holds no snapshots`);
  await using model = await loadModel(flags.model ?? library.model, flags, signal);
  const options = { ...sampling(flags), signal };
  const answers: (Promise<Answer> | undefined)[] = [];
  let failed = 0;
  for (let next = 0; next < snapshots.length; next++) {
    for (let i = answers.length; i < Math.min(next + AT_ONCE, snapshots.length); i++) {
      const answer = answered(model, snapshots[i]!, flags.prompt, options);
      answer.catch(() => {});
      answers.push(answer);
    }
    try {
      const { picture, result } = await answers[next]!;
      stdout.write(flags.json ? `${JSON.stringify({ picture, ...result })}\n` : `${picture}: ${result.text}\n`);
    } catch (error) {
      signal.throwIfAborted();
      report(error);
      failed++;
    }
    answers[next] = undefined;
  }
  if (failed > 0) throw new VLMambaError('ERR_ASK_INCOMPLETE', `${failed} of ${snapshots.length} gave no answer`);
}

async function answered(model: Model, path: string, question: string, options: object): Promise<Answer> {
  try {
    using session = await model.restore(await readFile(path));
    return { picture: session.label, result: await session.ask(question, options) };
  } catch (error) {
    const { code, message } = error as { code?: string; message: string };
    if (!code?.startsWith('ERR_SNAPSHOT_')) throw error;
    throw new VLMambaError(code, `${path}: ${message}`, { cause: error });
  }
}
