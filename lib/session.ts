import { checkSignal, rangeError, show, typeError, VLMambaError } from './errors.ts';
import { type GenerateResult, Generation } from './generation.ts';
import type { ImageInput } from './image/preprocess.ts';
import { checkCount, type ReadPrompt, type Runtime } from './runtime.ts';
import { resolveSampling, type SamplingOptions } from './sampling.ts';
import { Memory } from './sequence.ts';
import {
  type Conversation,
  checkSnapshotOptions,
  encodeSnapshot,
  type SessionState,
  type SnapshotOptions,
} from './snapshot.ts';
import { continueMessages, fromMessages, fromPrompt, type Message } from './text/prompt.ts';
import { IMAGE_MARK } from './text/tokenizer_file.ts';

/** What a session reads next: an author's text, with `<image>` where a picture goes, or messages, or pictures alone. */
export interface AppendOptions {
  /** Pictures without a mark in the text come before it. */
  text?: string;
  /** Messages that follow those that were read. */
  messages?: readonly Message[];
  /** The pictures, in the order of their places. */
  images?: readonly ImageInput[];
  /** Ends the call, which rejects with its reason; the session stays as it was. */
  signal?: AbortSignal;
}

/** What a session reads before it writes, and how it draws. */
export interface SessionGenerateOptions extends AppendOptions, SamplingOptions {}

/** How an answer about a picture is drawn. */
export interface QuestionOptions extends SamplingOptions {
  /** Ends the answer, which rejects with its reason. */
  signal?: AbortSignal;
}

/** A place in a session to come back to. */
export class Mark {
  /** @internal */
  readonly saved: Saved;

  /** @internal */
  constructor(saved: Saved) {
    this.saved = saved;
  }

  /** Tokens and rows of pictures before the mark. */
  get tokens(): number {
    return this.saved.memory?.tokens ?? 0;
  }

  /** Gives the state back that the mark keeps. Idempotent. */
  dispose(): void {
    this.saved.release();
  }

  /** `dispose`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** What a session or a mark keeps. Apart from its owner, so that an owner who is forgotten can be followed by its state. */
class Saved {
  memory: Memory | undefined;
  conversation: Conversation | null;
  released = false;

  constructor(memory?: Memory, conversation: Conversation | null = null) {
    this.memory = memory;
    this.conversation = conversation;
  }

  share(): Saved {
    return new Saved(this.memory?.hold(), this.conversation);
  }

  become(memory: Memory | undefined, conversation: Conversation | null): void {
    this.memory?.release();
    this.memory = memory;
    this.conversation = conversation;
  }

  release(): void {
    this.released = true;
    this.become(undefined, null);
  }
}

const forgotten = new FinalizationRegistry<Saved>((saved) => saved.release());

const APPEND = ['text', 'messages', 'images', 'signal'];

/** What is about to be read, and the conversation as it stands then. */
interface Next {
  prompt: ReadPrompt;
  conversation: Conversation | null;
}

/**
 * One text in the model's memory. What has been read and written is a state of a fixed size, however long the text is;
 * each call goes on from there. Calls on one session take turns in the order in which they are made. A call that fails, is
 * cancelled, or whose reader leaves the loop, leaves the session as it was.
 */
export class Session {
  readonly #runtime: Runtime;
  readonly #saved: Saved;
  readonly #gone = new AbortController();
  #turn: Promise<unknown> = Promise.resolve();
  #busy = 0;
  /** What a snapshot was given as its label; empty for a new session. */
  readonly label: string;

  /** @internal */
  constructor(runtime: Runtime, saved = new Saved(), label = '') {
    this.#runtime = runtime;
    this.#saved = saved;
    this.label = label;
    forgotten.register(this, saved, this);
  }

  /** Tokens and rows of pictures read and written so far. */
  get tokens(): number {
    return this.#saved.memory?.tokens ?? 0;
  }

  /** Bytes of the state, the same for every length. */
  get stateBytes(): number {
    return this.#runtime.parts.engine.stateBytes;
  }

  /** The conversation so far, when it was given as messages. */
  get messages(): readonly Message[] {
    const { conversation } = this.#saved;
    if (!conversation) return [];
    const { messages, answer } = conversation;
    return answer === null ? messages : [...messages, { role: 'assistant', content: answer }];
  }

  /** Reads without answering. @throws as `generate`, and TypeError ERR_SESSION_OPTION for an unknown option */
  async append(options: AppendOptions): Promise<void> {
    const unknown = Object.keys(options).find((key) => !APPEND.includes(key));
    if (unknown !== undefined)
      throw typeError('ERR_SESSION_OPTION', `there is no option ${show(unknown)}: known are ${APPEND.join(', ')}`);
    const { signal, ...what } = options;
    await this.#inTurn(
      (signals) =>
        this.#runtime.cancellable(signals, async (any) => {
          const { prompt, conversation } = await this.#next(what, false);
          this.#become(await this.#runtime.read(this.#saved.memory, prompt, any), conversation);
        }),
      signal,
    );
  }

  /**
   * Reads what is given, if anything, and writes what follows; both become part of the session.
   * @throws as Model.generate; VLMambaError ERR_SESSION_TEMPLATE when the chat template cannot go on from what was read
   */
  generate(options: SessionGenerateOptions = {}): Generation {
    return new Generation((emit, leave) => this.produce(options, emit, leave));
  }

  /** @internal */
  produce(
    { text, messages, images, signal, ...rest }: SessionGenerateOptions,
    emit: (text: string) => void,
    leave: AbortSignal,
  ): Promise<GenerateResult> {
    return this.#inTurn(async (signals) => {
      const sampling = resolveSampling(rest, this.#runtime.parts.defaults);
      const start = performance.now();
      for (const signal of signals) signal.throwIfAborted();
      const { prompt, conversation } = await this.#next({ text, messages, images }, true);
      const { result, memory } = await this.#runtime.write(
        this.#saved.memory,
        { prompt },
        { sampling, signals, leave, emit, start },
      );
      if (memory) this.#become(memory, conversation && { ...conversation, answer: result.text });
      return result;
    }, signal);
  }

  /**
   * Asks about the picture of a session that `model.look` made, each question as if it were the only one: the session
   * stays as it is, and so does the text of every answer when others are asked at the same time.
   */
  ask(question: string, options: QuestionOptions = {}): Generation {
    return new Generation((emit, leave) => this.answer(question, options, emit, leave));
  }

  /** @internal */
  async answer(
    question: string,
    { signal, ...rest }: QuestionOptions,
    emit: (text: string) => void,
    leave: AbortSignal,
  ): Promise<GenerateResult> {
    const own = this.#share();
    try {
      const sampling = resolveSampling(rest, this.#runtime.parts.defaults);
      const start = performance.now();
      const prompt = await this.#question(question);
      const signals = [signal, this.#gone.signal];
      const { result, memory } = await this.#runtime.write(
        own.memory,
        { prompt },
        { sampling, signals, leave, emit, start },
      );
      memory?.release();
      return result;
    } finally {
      own.release();
    }
  }

  /** An independent copy, of the session as the calls that have ended left it. Takes no memory until one of them goes on. */
  fork(): Session {
    return new Session(this.#runtime, this.#share(), this.label);
  }

  /** A mark at this place, as the calls that have ended left the session. */
  mark(): Mark {
    const saved = this.#share();
    const mark = new Mark(saved);
    forgotten.register(mark, saved);
    return mark;
  }

  /**
   * Goes back to a mark, of this session or of a fork; marks can be gone back to any number of times.
   * @throws VLMambaError ERR_SESSION_BUSY while a call has not ended, ERR_DISPOSED
   */
  rewind(mark: Mark): void {
    if (!(mark instanceof Mark)) throw typeError('ERR_ARG_TYPE', `rewind goes back to a mark, got ${show(mark)}`);
    this.#check();
    if (mark.saved.released) throw new VLMambaError('ERR_DISPOSED', 'the mark was disposed');
    if (this.#busy > 0)
      throw new VLMambaError('ERR_SESSION_BUSY', 'a call on this session has not ended yet: await it before rewinding');
    const { memory, conversation } = mark.saved;
    this.#saved.become(memory?.hold(), conversation);
  }

  /** The session as bytes that `model.restore` makes it of again: a safetensors file. */
  snapshot(options: SnapshotOptions = {}): Promise<Uint8Array<ArrayBuffer>> {
    return this.#inTurn(async () => {
      const { dtype, label } = checkSnapshotOptions({ label: this.label, ...options });
      const { engine } = this.#runtime.parts;
      const own = this.#share();
      try {
        const { memory, conversation } = own;
        const floats = memory ? await engine.saveState(memory.slot) : new Float32Array(this.stateBytes / 4);
        const notes = memory?.notes ?? { position: 0, unread: new Int32Array(), seen: new Set<number>() };
        return await encodeSnapshot({ floats, notes, conversation, label }, dtype, this.#runtime.parts);
      } finally {
        own.release();
      }
    });
  }

  /** Ends what is going on and gives the state back. Idempotent. */
  dispose(): void {
    if (this.#saved.released) return;
    this.#gone.abort(new VLMambaError('ERR_DISPOSED', 'the session was disposed'));
    forgotten.unregister(this);
    this.#saved.release();
  }

  /** `dispose`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  #check(): void {
    this.#runtime.check();
    this.#gone.signal.throwIfAborted();
  }

  #share(): Saved {
    this.#check();
    return this.#saved.share();
  }

  #become(memory: Memory, conversation: Conversation | null): void {
    if (this.#saved.released) memory.release();
    else this.#saved.become(memory, conversation);
  }

  #inTurn<T>(work: (signals: AbortSignal[]) => Promise<T>, signal?: AbortSignal): Promise<T> {
    this.#busy++;
    const turn = this.#turn.then(() => {
      this.#check();
      checkSignal('session', signal);
      return work(signal ? [signal, this.#gone.signal] : [this.#gone.signal]);
    });
    const settled = turn.finally(() => {
      this.#busy--;
    });
    this.#turn = settled.catch(() => {});
    return settled;
  }

  async #next({ text, messages, images = [] }: AppendOptions, answering: boolean): Promise<Next> {
    if (!Array.isArray(images)) throw typeError('ERR_ARG_TYPE', `images must be an array, got ${show(images)}`);
    if (text !== undefined && (messages !== undefined || typeof text !== 'string'))
      throw typeError(
        'ERR_PROMPT_TYPE',
        `give either text, a string, or messages, a conversation; text is ${show(text)}`,
      );
    const { conversation, memory } = this.#saved;
    const { tokenizer } = this.#runtime.parts;
    const open = conversation?.answer === null;
    if (messages !== undefined || (answering && open && text === undefined && images.length === 0))
      return this.#messages(messages ?? [], images, answering);
    if (text === undefined && images.length === 0) {
      if (!answering || !memory?.notes.unread.length)
        throw rangeError('ERR_PROMPT_EMPTY', 'there is nothing to read: give text, messages or images');
      return { prompt: { pieces: [], images: [] }, conversation };
    }
    const marked = text?.includes(IMAGE_MARK) ? text : IMAGE_MARK.repeat(images.length) + (text ?? '');
    const pieces = await fromPrompt(tokenizer, marked, images.length);
    return { prompt: checkCount({ pieces, images: [...images] }), conversation };
  }

  async #messages(
    messages: readonly Message[],
    images: readonly ImageInput[],
    addGenerationPrompt: boolean,
  ): Promise<Next> {
    const { tokenizer, template } = this.#runtime.parts;
    const { conversation, memory } = this.#saved;
    const prompt = conversation
      ? await continueMessages(tokenizer, template, conversation.messages, conversation.answer, messages, images, {
          addGenerationPrompt,
        })
      : await fromMessages(tokenizer, template, messages, images, { addGenerationPrompt });
    if (!prompt)
      throw new VLMambaError(
        'ERR_SESSION_TEMPLATE',
        "the checkpoint's chat template does not write the messages that were read again as they were: begin a new session with all of them",
      );
    if (prompt.pieces.length === 0 && !memory?.notes.unread.length)
      throw rangeError('ERR_PROMPT_EMPTY', 'the chat template adds nothing after the picture: give text');
    return {
      prompt: checkCount({ pieces: prompt.pieces, images: prompt.images as ImageInput[] }),
      conversation: { messages: prompt.messages, answer: null },
    };
  }

  /** What stands behind the picture in the prompt of a question. */
  async #question(question: string): Promise<ReadPrompt> {
    const { engine } = this.#runtime.parts;
    const { before, after } = await pictureAndQuestion(this.#runtime, question);
    const rows = before.reduce((sum, piece) => sum + ('ids' in piece ? piece.ids.length : engine.pictureRows), 0);
    if (rows !== this.tokens)
      throw new VLMambaError(
        'ERR_SESSION_ASK',
        `this session has read ${this.tokens} tokens, a picture and what the chat template writes before it are ${rows}: ask goes on from a session that model.look(image) made`,
      );
    return { pieces: after, images: [] };
  }
}

/** The prompt of a question about one picture, cut behind the picture. */
export async function pictureAndQuestion(runtime: Runtime, question: string) {
  const { tokenizer, template } = runtime.parts;
  const content = [{ type: 'image' as const }, { type: 'text' as const, text: question }];
  const { pieces } = await fromMessages(tokenizer, template, [{ role: 'user', content }], [null]);
  const cut = pieces.findIndex((piece) => 'image' in piece) + 1;
  return { before: pieces.slice(0, cut), after: pieces.slice(cut) };
}

/** @internal */
export const newSession = (runtime: Runtime): Session => new Session(runtime);

/** @internal A session that has read a picture and what the chat template writes before it. */
export async function lookingAt(runtime: Runtime, image: ImageInput, signal?: AbortSignal): Promise<Session> {
  const { before } = await pictureAndQuestion(runtime, '');
  const memory = await runtime.cancellable([signal], (any) =>
    runtime.read(undefined, { pieces: before, images: [image] }, any),
  );
  return new Session(runtime, new Saved(memory));
}

/** @internal */
export async function restored(runtime: Runtime, state: SessionState): Promise<Session> {
  const { engine, scheduler } = runtime.parts;
  const slot = await engine.restoreState(state.floats);
  return new Session(runtime, new Saved(new Memory(scheduler, slot, state.notes), state.conversation), state.label);
}
