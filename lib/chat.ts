import type { GenerationConfig } from './checkpoint/config.ts';
import { VLMambaError } from './errors.ts';
import { type GenerateResult, Generation } from './generation.ts';
import type { ImageInput } from './image/preprocess.ts';
import type { ReadPrompt, WriteRequest } from './model.ts';
import { resolveSampling, type SamplingOptions } from './sampling.ts';
import type { Sequence } from './sequence.ts';
import { continueMessages, fromMessages, type Message } from './text/prompt.ts';
import type { Tokenizer } from './text/tokenizer.ts';

export interface SayOptions extends SamplingOptions {
  /** Pictures that come before the text. */
  images?: readonly ImageInput[];
  signal?: AbortSignal;
}

interface Parts {
  tokenizer: Tokenizer;
  template: string | null;
  defaults: GenerationConfig;
  open: (signal?: AbortSignal) => Promise<Sequence>;
  write: (sequence: Sequence, prompt: ReadPrompt, request: WriteRequest) => Promise<GenerateResult>;
}

/**
 * A conversation. The model's memory of it is one state of fixed size, kept between turns, so a turn reads only the new
 * message. Where the chat template writes the past anew, and after a turn that was cancelled, everything is read again.
 */
export class Chat {
  readonly #parts: Parts;
  /** What was said, pictures in their places; the last is an answer. */
  #messages: Message[] = [];
  /** What has read all of it, if anything has. */
  #sequence: Sequence | undefined;
  #turn: Promise<unknown> = Promise.resolve();
  #disposed = false;

  /** @internal */
  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** The conversation so far, answers included. */
  get messages(): readonly Message[] {
    return this.#messages;
  }

  /** Says something and gets the answer. A turn begun before the last has ended waits for it. */
  say(text: string, { images = [], ...options }: SayOptions = {}): Generation {
    const pictures = images.map((image) => ({ type: 'image' as const, image }));
    const message: Message = { role: 'user', content: [...pictures, { type: 'text', text }] };
    return new Generation((emit, leave) => {
      const turn = this.#turn.then(() => this.#say(message, options, emit, leave));
      this.#turn = turn.catch(() => {});
      return turn;
    });
  }

  /** Forgets the conversation, once the turns begun have ended. */
  async reset(): Promise<void> {
    await this.#turn;
    this.#forget();
    this.#messages = [];
  }

  /** Gives the state back. */
  async dispose(): Promise<void> {
    this.#disposed = true;
    await this.reset();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  #forget(): void {
    this.#sequence?.close();
    this.#sequence = undefined;
  }

  async #say(
    message: Message,
    { signal, ...rest }: SayOptions,
    emit: (text: string) => void,
    leave: AbortSignal,
  ): Promise<GenerateResult> {
    const { tokenizer, template, defaults, open, write } = this.#parts;
    if (this.#disposed) throw new VLMambaError('ERR_DISPOSED', 'the chat was disposed');
    const sampling = resolveSampling(rest, defaults);
    const start = performance.now();
    signal?.throwIfAborted();
    const past = this.#messages.slice(0, -1);
    const answer = this.#messages.at(-1)?.content as string | undefined;
    const more = this.#sequence && (await continueMessages(tokenizer, template, past, answer!, [message]));
    const prompt = more ?? (await fromMessages(tokenizer, template, [...this.#messages, message]));
    if (!more) this.#forget();
    this.#sequence ??= await open(signal);
    try {
      const read = { pieces: prompt.pieces, images: prompt.images as ImageInput[] };
      const result = await write(this.#sequence, read, { sampling, signal, leave, emit, start });
      this.#messages = [...prompt.messages, { role: 'assistant', content: result.text }];
      // A state that was left in the middle of a step is no state of this conversation.
      if (result.finishReason === 'abort') this.#forget();
      return result;
    } catch (error) {
      this.#forget();
      throw error;
    }
  }
}
