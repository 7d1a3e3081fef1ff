import { stat } from 'node:fs/promises';
import { bestOf, type Score, type ScoreOptions, score } from './best_of.ts';
import { Chat } from './chat.ts';
import { openCheckpoint } from './checkpoint/checkpoint.ts';
import { type ModelConfig, readConfig, readGenerationConfig } from './checkpoint/config.ts';
import { fingerprint } from './checkpoint/fingerprint.ts';
import { CancelToken, type Device, type StepProfile } from './device.ts';
import { checkDeviceName, type DeviceName, onDevice } from './devices.ts';
import { Engine } from './engine.ts';
import { checkSignal, rangeError, show, typeError, VLMambaError } from './errors.ts';
import { Generation } from './generation.ts';
import { locate } from './hub/index.ts';
import type { DownloadProgress } from './hub/pull.ts';
import { abortable } from './image/async.ts';
import { readPreprocessConfig } from './image/config.ts';
import type { ImageInput } from './image/preprocess.ts';
import { unread, vlMambaParams } from './models/vl_mamba.ts';
import { reporting } from './progress.ts';
import { checkCount, type ReadPrompt, Runtime } from './runtime.ts';
import { resolveSampling, type SamplingOptions } from './sampling.ts';
import { Scheduler } from './scheduler.ts';
import { lookingAt, newSession, type QuestionOptions, restored, type Session } from './session.ts';
import { decodeSnapshot } from './snapshot.ts';
import { readChatTemplate } from './text/chat_template.ts';
import { fromMessages, fromPrompt, type Message } from './text/prompt.ts';
import { loadTokenizer } from './text/tokenizer.ts';
import { checkWeightDtype, loadWeights, planWeights, quantisedAsked } from './weights.ts';

/** How far the reading of weights is. */
export interface ReadProgress {
  /** Tells it from a download, which comes before. */
  phase: 'read';
  /** Bytes of weights. */
  loaded: number;
  /** Bytes of all of them. */
  total: number;
}

/** A model of the hub is downloaded, where it is not here already; then its weights are read. */
export type LoadProgress = DownloadProgress | ReadProgress;

/** How a model is loaded. */
export interface LoadOptions {
  /** `auto` takes the first GPU that can be used and has room for the model, else the CPU. */
  device?: 'auto' | 'cpu' | 'cuda' | `cuda:${number}` | (string & {});
  /**
   * The dtype of the weights of products; `auto` keeps what the checkpoint stores. int8 and int4 (docs/quantization.md) are made
   * while reading, and for the CPU.
   */
  dtype?: 'auto' | 'f32' | 'bf16' | 'f16' | 'int8' | 'int4';
  /** CPU threads; by default one for each physical core. */
  threads?: number;
  /** Texts that are worked on at the same time, 1 to 256; 64 by default. */
  maxBatch?: number;
  /** Texts that may wait for that, 0 to 65536; 1024 by default. One more fails with ERR_QUEUE_FULL. */
  maxQueue?: number;
  /** For debugging on a GPU: false launches every step by itself instead of replaying the program as one graph. */
  graph?: boolean;
  /** For debugging on a GPU: repeats every step on the CPU and fails at the first that differs (ERR_VERIFY). */
  verify?: boolean;
  /** Ends the loading, which rejects with its reason. */
  signal?: AbortSignal;
  /** Told up to twenty times a second; what it throws ends the loading. */
  onProgress?: (progress: LoadProgress) => void;
}

/** What a prompt is made of: an author's string with `<image>` marks, or the messages of a conversation. */
export interface PromptOptions {
  /** An author's text, with `<image>` for each picture; or else `messages`. */
  prompt?: string;
  /** A conversation; the chat template writes what the model reads. Its text is data. */
  messages?: readonly Message[];
  /** The pictures, in the order of their places. */
  images?: readonly ImageInput[];
  /** Ends the work; the call rejects with its reason. */
  signal?: AbortSignal;
}

/** What is read, and how the answer is drawn. */
export interface GenerateOptions extends PromptOptions, SamplingOptions {
  /** Write this many texts, 1 to 128, and give the likeliest for its length. */
  n?: number;
}

const MAX_N = 128;

/** A model in memory: made by {@link load}. */
export class Model {
  /** Its config.json, with defaults for what is absent. */
  readonly config: ModelConfig;
  /** Things about the checkpoint that are odd and did not stop it from loading. */
  readonly warnings: readonly string[];
  readonly #runtime: Runtime;

  /** @internal */
  constructor(runtime: Runtime, warnings: string[]) {
    this.config = runtime.parts.config;
    this.warnings = warnings;
    this.#runtime = runtime;
  }

  /** Where the model runs. */
  get device(): { name: string; threads: number } {
    const { name, threads } = this.#runtime.parts.engine.device;
    return { name, threads };
  }

  /** Tells checkpoints apart: a snapshot can be restored where this is the same. */
  get fingerprint(): string {
    return this.#runtime.parts.fingerprint;
  }

  /** Bytes of weights in memory. */
  get weightBytes(): number {
    return this.#runtime.parts.engine.loaded.bytes;
  }

  /** Numbers that the weights have. */
  get parameters(): number {
    return this.#runtime.parts.engine.loaded.parameters;
  }

  /** Bytes of memory that one conversation takes, however long it is. */
  get stateBytes(): number {
    return this.#runtime.parts.engine.stateBytes;
  }

  /** Texts that are being worked on, texts that wait for that, and states in memory. */
  get load(): { running: number; waiting: number; states: number } {
    const { scheduler, engine } = this.#runtime.parts;
    return { ...scheduler.load, states: engine.slotsInUse };
  }

  /**
   * Writes what follows a prompt: iterate the result for the text as it comes, await it for the whole. Calls made at the
   * same time share the work; none changes another's text.
   *
   * Sampling is greedy unless `temperature` says otherwise. Every error, an argument's too, comes where the result is
   * awaited or iterated; when `signal` is aborted, its reason does. With `n` above 1 the prompt is read once and continued
   * n times, number i as if it had been asked for alone with the seed + i; the likeliest text comes in one piece.
   */
  generate(options: GenerateOptions): Generation {
    return new Generation(async (emit, leave) => {
      this.#runtime.check();
      const { prompt, messages, images, signal, n = 1, ...rest } = options;
      if (!Number.isInteger(n) || n < 1 || n > MAX_N)
        throw rangeError('ERR_GEN_N', `n must be an integer from 1 to ${MAX_N}, got ${show(n)}`);
      const sampling = resolveSampling(rest, this.#runtime.parts.defaults);
      const start = performance.now();
      checkSignal('generate', signal);
      signal?.throwIfAborted();
      const request = { sampling, signals: [signal], leave, emit, start };
      const read = await this.#prompt({ prompt, messages, images });
      if (n > 1) return bestOf(this.#runtime, n, read, request);
      const { result, memory } = await this.#runtime.write(undefined, { prompt: read }, request);
      memory?.release();
      return result;
    });
  }

  /** A text that is kept in memory, to go on from, to copy and to save. */
  session(): Session {
    this.#runtime.check();
    return newSession(this.#runtime);
  }

  /** A session that has read a picture, for any number of questions with its `ask`. */
  async look(image: ImageInput, { signal }: { signal?: AbortSignal } = {}): Promise<Session> {
    this.#runtime.check();
    return lookingAt(this.#runtime, image, signal);
  }

  /**
   * Asks several questions about one picture, which is encoded and read once. The answers come in any order, each as
   * `generate` would give it to a message of the picture and the question.
   */
  ask(image: ImageInput, questions: readonly string[], options: QuestionOptions = {}): Generation[] {
    this.#runtime.check();
    if (!Array.isArray(questions))
      throw typeError('ERR_ARG_TYPE', `questions must be an array of strings, got ${show(questions)}`);
    const session = this.look(image, options);
    const answers = questions.map(
      (question) =>
        new Generation(async (emit, leave) => (await abortable(session, leave)).answer(question, options, emit, leave)),
    );
    const release = () =>
      session.then(
        (session) => session.dispose(),
        () => {},
      );
    void Promise.allSettled(answers).then(release);
    return answers;
  }

  /**
   * A session from a snapshot's bytes, taken by any process and on any device of the same checkpoint.
   * @throws VLMambaError ERR_SNAPSHOT_…
   */
  async restore(snapshot: Uint8Array | ArrayBuffer): Promise<Session> {
    this.#runtime.check();
    return restored(this.#runtime, await decodeSnapshot(snapshot, this.#runtime.parts));
  }

  /** How likely each of several texts is to follow a prompt, which is read once. In the order of `choices`. */
  score(options: ScoreOptions): Promise<Score[]> {
    return score(this.#runtime, options, (prompt) => this.#prompt(prompt));
  }

  /** A conversation that keeps what it has read: each turn reads only what is new. */
  chat(): Chat {
    this.#runtime.check();
    return new Chat(this.#runtime);
  }

  /** The logits [vocab] of the token that follows a prompt. */
  async logits({ signal, ...options }: PromptOptions): Promise<Float32Array> {
    this.#runtime.check();
    const prompt = await this.#prompt(options);
    const { logits, memory } = await this.#runtime.cancellable([signal], (any) => this.#runtime.logits(prompt, any));
    memory.release();
    return logits;
  }

  /** What the connector hands over for a picture: [rows, d_lm]. */
  async imageEmbeds(
    image: ImageInput,
    { signal }: { signal?: AbortSignal } = {},
  ): Promise<{ data: Float32Array; shape: number[] }> {
    const { engine } = this.#runtime.parts;
    const { data } = await this.pixels(image, { signal });
    return this.#runtime.cancellable([signal], async (any) => {
      const token = new CancelToken(any);
      try {
        const shape = [engine.pictureRows, this.config.text.hiddenSize];
        return { data: await engine.pictureEmbeds(data, token), shape };
      } finally {
        token.release();
      }
    });
  }

  /** What the encoder reads of a picture: [3, H, W]. */
  pixels(
    image: ImageInput,
    { signal }: { signal?: AbortSignal } = {},
  ): Promise<{ data: Float32Array; shape: number[] }> {
    return this.#runtime.pixels(image, signal);
  }

  /** Ids of a text, in which special tokens are ordinary characters. */
  tokenize(text: string): Promise<number[]> {
    return this.#runtime.parts.tokenizer.encode(text);
  }

  /** The text of ids. @throws RangeError ERR_TOK_ID for one that has no row */
  detokenize(ids: readonly number[]): string {
    return this.#runtime.parts.tokenizer.decode(ids);
  }

  /**
   * Milliseconds and GB/s of each step of reading `length` positions and drawing a token, for `batch` texts at a time, and the
   * milliseconds of `rounds` such runs as wholes; on a GPU by its own clock. `length` 'picture': of encoding a picture.
   */
  async profile(
    length: number | 'picture' = 1,
    options: { batch?: number; rounds?: number } = {},
  ): Promise<{ program: string; steps: StepProfile[]; ms: number[] }> {
    this.#runtime.check();
    const { engine } = this.#runtime.parts;
    const found = await (length === 'picture' ? engine.profileVision(options) : engine.profile(length, options));
    return { ...found, program: String(found.program) };
  }

  /** Cancels what is running and gives all memory back. Idempotent. */
  dispose(): Promise<void> {
    return this.#runtime.dispose();
  }

  /** `dispose`, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #prompt({ prompt, messages, images = [] }: PromptOptions): Promise<ReadPrompt> {
    const { tokenizer, template } = this.#runtime.parts;
    if (!Array.isArray(images)) throw typeError('ERR_ARG_TYPE', `images must be an array, got ${show(images)}`);
    if ((prompt === undefined) === (messages === undefined))
      throw typeError('ERR_PROMPT_TYPE', 'give either prompt, a string, or messages, a conversation');
    const read =
      messages === undefined
        ? { pieces: await fromPrompt(tokenizer, prompt!, images.length), images: [...images] }
        : await fromMessages(tokenizer, template, messages, images);
    return checkCount({ pieces: read.pieces, images: read.images as ImageInput[] });
  }
}

/**
 * Loads a checkpoint folder; where there is no such folder, a model of the hub (`org/name` or `org/name@revision`), or the one in
 * the package (`demo`).
 *
 * @throws VLMambaError with the code of what is wrong: ERR_HUB_…, ERR_CKPT_…, ERR_ST_…, ERR_SHARD_…, ERR_CFG_…, ERR_TOK_…,
 *   ERR_CUDA_UNAVAILABLE, ERR_OUT_OF_MEMORY; a TypeError or RangeError with ERR_ARG_… for an argument; the signal's reason
 */
export async function load(
  model: string,
  {
    device: where = 'auto',
    dtype = 'auto',
    threads,
    maxBatch = 64,
    maxQueue = 1024,
    graph,
    verify,
    signal,
    onProgress,
  }: LoadOptions = {},
): Promise<Model> {
  checkLoadOptions(model, where, dtype);
  const name = where as DeviceName;
  checkWhole('maxBatch', maxBatch, 1, 256);
  checkWhole('maxQueue', maxQueue, 0, 65_536);
  checkSignal('load', signal);
  signal?.throwIfAborted();
  const { path, warnings: found } = await locate(model, { signal, onProgress });
  await checkFolder(path);
  const config = await readConfig(path, { signal });
  const checkpoint = await openCheckpoint(path, { signal });
  const defaults = await readGenerationConfig(path, { vocabSize: config.text.vocabSize, signal });
  const eosTokenIds = defaults.eosTokenIds ?? config.text.eosTokenIds;
  const tokenizer = await loadTokenizer(path, { rows: config.text.vocabSize, eosTokenIds });
  const template = await readChatTemplate(path);
  const preprocess = config.vision && (await readPreprocessConfig(path, config.vision.imageSize));
  const plan = planWeights(checkpoint, vlMambaParams(config), unread);
  const total = [...plan.stored.values()].reduce((sum, tensor) => sum + tensor.bytes, 0);
  const kept = checkWeightDtype(plan, dtype === 'auto' ? null : dtype, path);
  const print = fingerprint(checkpoint, config, { quantised: quantisedAsked(kept), signal });
  print.catch(() => {});
  const fill = async (device: Device): Promise<Engine> => {
    let read: CancelToken | undefined;
    const report =
      onProgress && (() => onProgress({ phase: 'read', loaded: Math.min(read?.progress ?? 0, total), total }));
    const loaded = await reporting(report, signal, async (any) => {
      const token = new CancelToken(any);
      read = token;
      try {
        return await loadWeights(device, plan, { dtype: kept, token });
      } finally {
        token.release();
      }
    });
    return Engine.create(device, config, loaded);
  };
  const { result: engine, passedOver } = await onDevice(name, { threads, graph, verify }, fill).catch((error) => {
    signal?.throwIfAborted();
    throw error;
  });
  try {
    const scheduler = new Scheduler(engine, { maxBatch, maxQueue, stops: tokenizer.eosIds });
    const warnings = [
      ...found,
      ...config.warnings,
      ...checkpoint.warnings,
      ...defaults.warnings,
      ...tokenizer.warnings,
    ];
    const { quantised } = engine.loaded;
    const identity = { fingerprint: await print, quantised };
    const parts = { config, engine, scheduler, tokenizer, template, preprocess, defaults, ...identity };
    return new Model(new Runtime(parts), [...warnings, ...passedOver]);
  } catch (error) {
    await engine.dispose();
    signal?.throwIfAborted();
    throw error;
  }
}

function checkLoadOptions(model: unknown, device: unknown, dtype: unknown): void {
  if (typeof model !== 'string' || model === '')
    throw typeError('ERR_ARG_TYPE', `a model is a checkpoint folder or org/name, got ${show(model)}`);
  checkDeviceName(device);
  if (!['auto', 'f32', 'bf16', 'f16', 'int8', 'int4'].includes(dtype as string))
    throw rangeError(
      'ERR_ARG_DTYPE',
      `dtype must be 'auto', 'f32', 'bf16', 'f16', 'int8' or 'int4', got ${show(dtype)}`,
    );
}

function checkWhole(name: string, value: unknown, least: number, most: number): void {
  if (!Number.isInteger(value) || (value as number) < least || (value as number) > most)
    throw rangeError('ERR_ARG_RANGE', `${name} must be an integer from ${least} to ${most}, got ${show(value)}`);
}

/** @internal */
export async function checkFolder(path: string): Promise<void> {
  const found = await stat(path).catch((cause) => {
    throw new VLMambaError(
      'ERR_CKPT_NOT_FOUND',
      `${path}: no such folder; a model is a folder that holds config.json, org/name on the hub, or demo`,
      { cause },
    );
  });
  if (!found.isDirectory())
    throw new VLMambaError(
      'ERR_CKPT_NOT_FOUND',
      `${path}: is not a folder; a model is the folder that holds config.json`,
    );
}
