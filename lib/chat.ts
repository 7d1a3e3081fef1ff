import { VLMambaError } from './errors.ts';
import { type GenerateResult, Generation } from './generation.ts';
import type { ImageInput } from './image/preprocess.ts';
import type { Runtime } from './runtime.ts';
import type { SamplingOptions } from './sampling.ts';
import { newSession, type Session } from './session.ts';
import type { Message } from './text/prompt.ts';

/** What goes with a turn of a conversation, besides its text. */
export interface SayOptions extends SamplingOptions {
  /** Pictures that come before the text. */
  images?: readonly ImageInput[];
  /** Ends the turn, which rejects with its reason; the conversation stays as it was. */
  signal?: AbortSignal;
}

/**
 * A conversation in a session of its own, so a turn reads only the new message. Where the chat template writes the past
 * anew, and after an answer that its reader left, everything is read again.
 */
export class Chat {
  readonly #runtime: Runtime;
  /** What was said, pictures in their places; the last is an answer. */
  #messages: readonly Message[] = [];
  /** What has read all of it, if anything has. */
  #session: Session | undefined;
  #turn: Promise<unknown> = Promise.resolve();
  #disposed = false;

  /** @internal */
  constructor(runtime: Runtime) {
    this.#runtime = runtime;
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

  /** `dispose`, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  #forget(): void {
    this.#session?.dispose();
    this.#session = undefined;
  }

  async #say(
    message: Message,
    options: Omit<SayOptions, 'images'>,
    emit: (text: string) => void,
    leave: AbortSignal,
  ): Promise<GenerateResult> {
    if (this.#disposed) throw new VLMambaError('ERR_DISPOSED', 'the chat was disposed');
    const whole = [...this.#messages, message];
    const anew = async () => {
      this.#forget();
      const session = newSession(this.#runtime);
      try {
        const result = await session.produce({ ...options, messages: whole }, emit, leave);
        this.#session = session;
        return result;
      } catch (error) {
        session.dispose();
        throw error;
      }
    };
    const result = this.#session
      ? await this.#session.produce({ ...options, messages: [message] }, emit, leave).catch((error) => {
          if ((error as { code?: string }).code !== 'ERR_SESSION_TEMPLATE') throw error;
          return anew();
        })
      : await anew();
    if (result.finishReason === 'abort') {
      this.#messages = [...whole, { role: 'assistant', content: result.text }];
      this.#forget();
    } else {
      this.#messages = this.#session!.messages;
    }
    return result;
  }
}
