import { rangeError, show, typeError } from './errors.ts';
import type { Choice, GenerateResult } from './generation.ts';
import type { ImageInput } from './image/preprocess.ts';
import type { ReadPrompt, Runtime, WriteRequest } from './runtime.ts';
import { logprobOf } from './sequence.ts';
import type { Message } from './text/prompt.ts';

/** What `model.score` reads, once, and what may follow it. */
export interface ScoreOptions {
  /** An author's text, with `<image>` for each picture; or else `messages`. */
  prompt?: string;
  /** A conversation; the chat template writes what the model reads. */
  messages?: readonly Message[];
  /** The pictures, in the order of their places. */
  images?: readonly ImageInput[];
  /** Texts that may follow, 1 to 1024; with their blanks, as in " yes". */
  choices: readonly string[];
  /** Ends the work; the call rejects with its reason. */
  signal?: AbortSignal;
}

/** How likely one of several texts is. */
export interface Score {
  /** The text, as it was given. */
  choice: string;
  /** Its length in tokens. */
  tokens: number;
  /** Natural log-probability of the choice's tokens after the prompt. */
  logprob: number;
  /** The choice's share of the probability of all choices, 0 to 1. */
  share: number;
}

const MAX_CHOICES = 1024;

/** Runs all of them; the first that fails ends the others, so that nothing goes on when this is over. */
async function all<T>(
  signal: AbortSignal | undefined,
  works: readonly ((signal: AbortSignal) => Promise<T>)[],
): Promise<T[]> {
  const failed = new AbortController();
  const any = signal ? AbortSignal.any([signal, failed.signal]) : failed.signal;
  const results = works.map((work) =>
    work(any).catch((error) => {
      failed.abort(error);
      throw error;
    }),
  );
  await Promise.allSettled(results);
  if (failed.signal.aborted) throw failed.signal.reason;
  return Promise.all(results);
}

/** Writes `n` texts after one prompt; number i draws with the seed + i. */
export async function bestOf(
  runtime: Runtime,
  n: number,
  prompt: ReadPrompt,
  { sampling, signals, leave, emit, start }: WriteRequest,
): Promise<GenerateResult> {
  const looked = { image: 0, vision: 0 };
  const [signal] = signals;
  const from = await runtime.cancellable([signal], (any) => runtime.read(undefined, prompt, any, looked));
  try {
    if (from.notes.unread.length === 0)
      throw rangeError('ERR_GEN_N', 'n above 1 needs a prompt that ends with text, this one ends with a picture');
    const seed = (i: number) => BigInt.asUintN(64, sampling.seed + BigInt(i));
    const written = await all(
      signal,
      Array.from({ length: n }, (_, i) => async (any: AbortSignal) => {
        const request = { sampling: { ...sampling, seed: seed(i) }, signals: [any], leave, emit: () => {}, start };
        const { result, logprob, drawn, memory } = await runtime.write(from, { prompt, looked }, request);
        memory?.release();
        return { result, logprob, mean: logprob / Math.max(drawn, 1) };
      }),
    );
    written.sort((a, b) => b.mean - a.mean);
    const choices = written.map(
      ({ result: { text, tokens, finishReason }, logprob }): Choice => ({ text, tokens, finishReason, logprob }),
    );
    const best = written[0]!.result;
    const completionTokens = choices.reduce((sum, { tokens }) => sum + tokens.length, 0);
    const last = written.reduce(
      (late, { result }) => (result.timings.total > late.total ? result.timings : late),
      best.timings,
    );
    const tokensPerSecond = last.decode > 0 ? (Math.max(completionTokens - n, 0) / last.decode) * 1000 : 0;
    emit(best.text);
    return {
      ...best,
      usage: { ...best.usage, completionTokens },
      timings: { ...last, tokensPerSecond },
      choices,
    };
  } finally {
    from.release();
  }
}

/** Log-probabilities of texts that may follow a prompt. */
export async function score(
  runtime: Runtime,
  { choices, signal, ...options }: ScoreOptions,
  read: (prompt: Omit<ScoreOptions, 'choices' | 'signal'>) => Promise<ReadPrompt>,
): Promise<Score[]> {
  runtime.check();
  if (!Array.isArray(choices) || !choices.every((choice) => typeof choice === 'string'))
    throw typeError('ERR_SCORE_CHOICES', `choices must be an array of strings, got ${show(choices)}`);
  if (choices.length === 0 || choices.length > MAX_CHOICES || choices.includes(''))
    throw rangeError(
      'ERR_SCORE_CHOICES',
      `choices must be 1 to ${MAX_CHOICES} strings, none of them empty, got ${show(choices)}`,
    );
  const ids = await Promise.all(choices.map((choice) => runtime.parts.tokenizer.encode(choice)));
  const prompt = await read(options);
  return runtime.cancellable([signal], async (any) => {
    const { logits, memory } = await runtime.logits(prompt, any);
    try {
      const logprobs = await all(
        any,
        ids.map((tokens) => async (any: AbortSignal) => {
          let logprob = logprobOf(logits, tokens[0]!);
          if (tokens.length > 1) {
            const after = await runtime.goOn(memory, any, async (sequence) => {
              for (const step of await sequence.follow(tokens, any)) logprob += step;
            });
            after.release();
          }
          return logprob;
        }),
      );
      const top = Math.max(...logprobs);
      const sum = logprobs.reduce((sum, logprob) => sum + Math.exp(logprob - top), 0);
      return choices.map((choice, i) => ({
        choice,
        tokens: ids[i]!.length,
        logprob: logprobs[i]!,
        share: Math.exp(logprobs[i]! - top) / sum,
      }));
    } finally {
      memory.release();
    }
  });
}
