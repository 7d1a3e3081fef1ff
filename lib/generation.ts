/** Why a text ended: a stop token or string, the number of tokens asked for, or a reader who left. */
export type FinishReason = 'stop' | 'length' | 'abort';

/** What was read and written, in tokens. */
export interface Usage {
  /** Tokens of text in the prompt. */
  promptTokens: number;
  /** Rows of pictures in the prompt. */
  imageTokens: number;
  /** Tokens that were written, those of all choices together. */
  completionTokens: number;
}

/** Milliseconds. */
export interface Timings {
  /** Reading, decoding and resizing the pictures. */
  image: number;
  /** Tower and connector. */
  vision: number;
  /** Reading the prompt, up to and with the first token. */
  prefill: number;
  /** From the call to the first token. */
  firstToken: number;
  /** All tokens after the first. */
  decode: number;
  /** From the call to the end. */
  total: number;
  /** Tokens after the first, by the time they took. */
  tokensPerSecond: number;
}

/** One of several texts that were written after the same prompt. */
export interface Choice {
  /** What was written. */
  text: string;
  /** Its ids, without the one that ended it. */
  tokens: number[];
  /** Why it ended. */
  finishReason: FinishReason;
  /** Natural log-probability of all its tokens, the one that ended it included. */
  logprob: number;
}

/** A text that has been written. */
export interface GenerateResult {
  /** What was written, without the prompt and without the stop string. */
  text: string;
  /** Ids, without the one that ended the text. */
  tokens: number[];
  /** Why it ended. */
  finishReason: FinishReason;
  /** Tokens read and written. */
  usage: Usage;
  /** Milliseconds of its parts. */
  timings: Timings;
  /** With `n` above 1: all of them, the likeliest for its length first. Its text and tokens are those of the result. */
  choices?: Choice[];
}

/** Does the work: passes text on as it comes, ends early when told to leave, returns the result. */
export type Producer = (emit: (text: string) => void, leave: AbortSignal) => Promise<GenerateResult>;

/**
 * A text that is being written. Iterate it for the pieces of text as they come, await it for the whole result, or both.
 * Leaving the loop stops the work; the result then has what there was, with the finishReason 'abort'.
 */
export class Generation implements AsyncIterable<string>, PromiseLike<GenerateResult> {
  readonly #result: Promise<GenerateResult>;
  readonly #leave = new AbortController();
  #text = '';
  #done = false;
  #wake: () => void = () => {};

  /** @internal */
  constructor(produce: Producer) {
    const emit = (text: string) => {
      this.#text += text;
      this.#wake();
    };
    this.#result = produce(emit, this.#leave.signal).finally(() => {
      this.#done = true;
      this.#wake();
    });
    // Whoever iterates or awaits gets the error; a generation that nobody looks at must not end the process.
    this.#result.catch(() => {});
  }

  /** As a promise's: what `await` calls. */
  // biome-ignore lint/suspicious/noThenProperty: a generation is awaited for its result
  then<A = GenerateResult, B = never>(
    fulfilled?: ((result: GenerateResult) => A | PromiseLike<A>) | null,
    rejected?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    return this.#result.then(fulfilled, rejected);
  }

  /** As a promise's: for a text that failed. */
  catch<B = never>(rejected?: ((reason: unknown) => B | PromiseLike<B>) | null): Promise<GenerateResult | B> {
    return this.#result.catch(rejected);
  }

  /** As a promise's: when the text is written or has failed. */
  finally(settled?: (() => void) | null): Promise<GenerateResult> {
    return this.#result.finally(settled);
  }

  /** Text that no reader has taken yet comes in one piece, so a slow reader costs no memory. */
  async *[Symbol.asyncIterator](): AsyncGenerator<string, void, undefined> {
    try {
      for (;;) {
        if (this.#text) {
          const text = this.#text;
          this.#text = '';
          yield text;
        } else if (this.#done) {
          await this.#result;
          return;
        } else {
          await new Promise<void>((resolve) => {
            this.#wake = resolve;
          });
        }
      }
    } finally {
      this.#leave.abort();
    }
  }
}
