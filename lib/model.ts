import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Chat } from './chat.ts';
import { openCheckpoint } from './checkpoint/checkpoint.ts';
import { type GenerationConfig, type ModelConfig, readConfig, readGenerationConfig } from './checkpoint/config.ts';
import { readSmallFile } from './checkpoint/regular_file.ts';
import { parseJsonData } from './checkpoint/strict_json.ts';
import { CancelToken, Device } from './device.ts';
import { cudaReason } from './devices.ts';
import { Engine } from './engine.ts';
import { rangeError, show, typeError, VLMambaError } from './errors.ts';
import { type GenerateResult, Generation } from './generation.ts';
import { type ImageInput, type PreprocessConfig, parsePreprocessConfig, pixels } from './image/preprocess.ts';
import { resizeOn } from './image/resize.ts';
import { unread, vlMambaParams } from './models/vl_mamba.ts';
import { resolveSampling, type Sampling, type SamplingOptions } from './sampling.ts';
import { Sequence, Written } from './sequence.ts';
import { readChatTemplate } from './text/chat_template.ts';
import { fromMessages, fromPrompt, type Message, type Piece } from './text/prompt.ts';
import { loadTokenizer, type Tokenizer } from './text/tokenizer.ts';
import { bytesToRead, loadWeights } from './weights.ts';

export interface LoadProgress {
  phase: 'read';
  /** Bytes of weights. */
  loaded: number;
  total: number;
}

export interface LoadOptions {
  device?: 'auto' | 'cpu' | (string & {});
  /** The dtype of the weights of products; `auto` keeps what the checkpoint stores. */
  dtype?: 'auto' | 'f32' | 'bf16' | 'f16';
  /** CPU threads; by default one for each physical core. */
  threads?: number;
  signal?: AbortSignal;
  onProgress?: (progress: LoadProgress) => void;
}

/** What a prompt is made of: an author's string with `<image>` marks, or the messages of a conversation. */
export interface PromptOptions {
  prompt?: string;
  messages?: readonly Message[];
  images?: readonly ImageInput[];
  signal?: AbortSignal;
}

export interface GenerateOptions extends PromptOptions, SamplingOptions {}

/** @internal */
export interface ReadPrompt {
  pieces: Piece[];
  images: readonly ImageInput[];
}

interface LookOptions {
  signal?: AbortSignal;
  token: CancelToken;
  timings?: { image: number; vision: number };
}

/** @internal */
export interface WriteRequest {
  sampling: Sampling;
  signal?: AbortSignal;
  leave: AbortSignal;
  emit: (text: string) => void;
  /** `performance.now()` at the call. */
  start: number;
}

const MAX_IMAGES = 16;
const MAX_PREPROCESSOR_BYTES = 2 ** 20;
const PROGRESS_MS = 50;

function checkCount(read: ReadPrompt): ReadPrompt {
  if (read.images.length > MAX_IMAGES)
    throw rangeError('ERR_PROMPT_IMAGES', `a prompt can hold ${MAX_IMAGES} pictures, got ${read.images.length}`);
  return read;
}

/** A model in memory: made by {@link load}. */
export class Model {
  readonly config: ModelConfig;
  /** Things about the checkpoint that are odd and did not stop it from loading. */
  readonly warnings: readonly string[];
  readonly #engine: Engine;
  readonly #tokenizer: Tokenizer;
  readonly #template: string | null;
  readonly #preprocess: PreprocessConfig | null;
  readonly #defaults: GenerationConfig;
  /** Pictures of one prompt at a time are on the device. */
  #pictures: Promise<void> = Promise.resolve();
  #disposed: Promise<void> | undefined;

  /** @internal */
  constructor(parts: {
    config: ModelConfig;
    engine: Engine;
    tokenizer: Tokenizer;
    template: string | null;
    preprocess: PreprocessConfig | null;
    defaults: GenerationConfig;
    warnings: string[];
  }) {
    this.config = parts.config;
    this.warnings = parts.warnings;
    this.#engine = parts.engine;
    this.#tokenizer = parts.tokenizer;
    this.#template = parts.template;
    this.#preprocess = parts.preprocess;
    this.#defaults = parts.defaults;
  }

  /** Where the model runs. */
  get device(): { name: string; threads: number } {
    const { name, threads } = this.#engine.device;
    return { name, threads };
  }

  /** Bytes of weights in memory. */
  get weightBytes(): number {
    return this.#engine.loaded.bytes;
  }

  get parameters(): number {
    return this.#engine.loaded.parameters;
  }

  /** Bytes of memory that one conversation takes, however long it is. */
  get stateBytes(): number {
    return Engine.stateBytes(this.config);
  }

  /**
   * Writes what follows a prompt: iterate the result for the text as it comes, await it for the whole.
   *
   * Sampling is greedy unless `temperature` says otherwise. Every error, an argument's too, comes where the result is
   * awaited or iterated; when `signal` is aborted, its reason does.
   */
  generate(options: GenerateOptions): Generation {
    return new Generation(async (emit, leave) => {
      this.#open();
      const { prompt, messages, images, signal, ...rest } = options;
      const sampling = resolveSampling(rest, this.#defaults);
      const start = performance.now();
      signal?.throwIfAborted();
      const read = await this.#prompt({ prompt, messages, images });
      const sequence = await Sequence.open(this.#engine, this.#tokenizer, signal);
      try {
        return await this.#write(sequence, read, { sampling, signal, leave, emit, start });
      } finally {
        sequence.close();
      }
    });
  }

  /** A conversation that keeps what it has read: each turn reads only what is new. */
  chat(): Chat {
    this.#open();
    return new Chat({
      tokenizer: this.#tokenizer,
      template: this.#template,
      defaults: this.#defaults,
      open: (signal) => Sequence.open(this.#engine, this.#tokenizer, signal),
      write: (sequence, prompt, options) => this.#write(sequence, prompt, options),
    });
  }

  /** The logits [vocab] of the token that follows a prompt. */
  async logits(options: PromptOptions): Promise<Float32Array> {
    this.#open();
    const { signal } = options;
    const read = await this.#prompt(options);
    const sequence = await Sequence.open(this.#engine, this.#tokenizer, signal);
    try {
      return await this.#cancellable([signal], async (token) => {
        const { ids, release } = await this.#look(read, { signal, token });
        return sequence.logits(ids, token).finally(release);
      });
    } finally {
      sequence.close();
    }
  }

  /** What the connector hands over for a picture: [rows, d_lm]. */
  async imageEmbeds(
    image: ImageInput,
    { signal }: { signal?: AbortSignal } = {},
  ): Promise<{ data: Float32Array; shape: number[] }> {
    const { data } = await this.pixels(image, { signal });
    return this.#cancellable([signal], async (token) => ({
      data: await this.#engine.pictureEmbeds(data, token),
      shape: [this.#engine.pictureRows, this.config.text.hiddenSize],
    }));
  }

  /** What the encoder reads of a picture: [3, H, W]. */
  async pixels(
    image: ImageInput,
    { signal }: { signal?: AbortSignal } = {},
  ): Promise<{ data: Float32Array; shape: number[] }> {
    this.#open();
    if (!this.#preprocess)
      throw new VLMambaError('ERR_NO_VISION', 'this checkpoint only reads text: it has no vision_config');
    return pixels(image, this.#preprocess, { resize: resizeOn(this.#engine.device), signal });
  }

  /** Ids of a text, in which special tokens are ordinary characters. */
  tokenize(text: string): Promise<number[]> {
    return this.#tokenizer.encode(text);
  }

  detokenize(ids: readonly number[]): string {
    return this.#tokenizer.decode(ids);
  }

  /** Milliseconds and GB/s of each step of reading `length` positions and drawing a token. */
  async profile(length = 1) {
    this.#open();
    const { program, steps } = await this.#engine.profile(length);
    return { program: String(program), steps };
  }

  /** Cancels what is running and gives all memory back. Idempotent. */
  dispose(): Promise<void> {
    this.#disposed ??= this.#engine.dispose();
    return this.#disposed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  #open(): void {
    if (this.#disposed) throw new VLMambaError('ERR_DISPOSED', 'the model was disposed');
  }

  async #prompt({ prompt, messages, images = [] }: PromptOptions): Promise<ReadPrompt> {
    if (!Array.isArray(images)) throw typeError('ERR_ARG_TYPE', `images must be an array, got ${show(images)}`);
    if ((prompt === undefined) === (messages === undefined))
      throw typeError('ERR_PROMPT_TYPE', 'give either prompt, a string, or messages, a conversation');
    const read =
      messages === undefined
        ? { pieces: await fromPrompt(this.#tokenizer, prompt!, images.length), images: [...images] }
        : await fromMessages(this.#tokenizer, this.#template, messages, images);
    return checkCount({ pieces: read.pieces, images: read.images as ImageInput[] });
  }

  /** Runs native work under the signals that may end it, and gives the error its right name. */
  async #cancellable<T>(
    signals: readonly (AbortSignal | undefined)[],
    work: (token: CancelToken) => Promise<T>,
  ): Promise<T> {
    const given = signals.filter((signal) => signal !== undefined);
    const token = new CancelToken(given.length > 1 ? AbortSignal.any(given) : given[0]);
    try {
      for (const signal of given) signal.throwIfAborted();
      return await work(token);
    } catch (error) {
      for (const signal of given) signal.throwIfAborted();
      this.#open();
      throw error;
    } finally {
      token.release();
    }
  }

  /**
   * Encodes the pictures of a prompt and turns all of it into ids, a row of a picture being below 0. The pictures stay on
   * the device until `release` is called; until then no other prompt's can take their place.
   */
  async #look(
    { pieces, images }: ReadPrompt,
    { signal, token, timings = { image: 0, vision: 0 } }: LookOptions,
  ): Promise<{ ids: Int32Array; release: () => void }> {
    const rows = images.length ? this.#engine.pictureRows : 0;
    const ids = Int32Array.from(
      pieces.flatMap((piece) =>
        'ids' in piece ? piece.ids : Array.from({ length: rows }, (_, row) => -1 - (piece.image * rows + row)),
      ),
    );
    if (images.length === 0) return { ids, release: () => {} };
    let release = () => {};
    const before = this.#pictures;
    this.#pictures = new Promise((resolve) => {
      release = resolve;
    });
    try {
      await before;
      await this.#engine.reservePictures(images.length);
      for (const [place, image] of images.entries()) {
        const start = performance.now();
        const { data } = await this.pixels(image, { signal });
        const decoded = performance.now();
        await this.#engine.look(data, place, token);
        timings.image += decoded - start;
        timings.vision += performance.now() - decoded;
      }
      return { ids, release };
    } catch (error) {
      release();
      throw error;
    }
  }

  async #write(
    sequence: Sequence,
    read: ReadPrompt,
    { sampling, signal, leave, emit, start }: WriteRequest,
  ): Promise<GenerateResult> {
    const written = new Written();
    const seen = { image: 0, vision: 0 };
    let readFrom = start;
    let firstAt: number | undefined;
    try {
      await this.#cancellable([signal, leave], async (token) => {
        const { ids, release } = await this.#look(read, { signal, token, timings: seen });
        readFrom = performance.now();
        const onRead = () => {
          firstAt = performance.now();
          release();
        };
        await sequence.write(ids, { sampling, token, emit, onRead }, written).finally(release);
      });
    } catch (error) {
      if (!leave.aborted || error !== leave.reason) throw error;
      written.finishReason = 'abort';
    }
    const end = performance.now();
    const imageTokens = read.images.length ? read.images.length * this.#engine.pictureRows : 0;
    const decode = end - (firstAt ?? end);
    return {
      text: written.text,
      tokens: written.tokens,
      finishReason: written.finishReason,
      usage: {
        promptTokens: read.pieces.reduce((sum, piece) => sum + ('ids' in piece ? piece.ids.length : 0), 0),
        imageTokens,
        completionTokens: written.tokens.length,
      },
      timings: {
        ...seen,
        prefill: (firstAt ?? end) - readFrom,
        firstToken: (firstAt ?? end) - start,
        decode,
        total: end - start,
        tokensPerSecond: decode > 0 ? (Math.max(written.tokens.length - 1, 0) / decode) * 1000 : 0,
      },
    };
  }
}

/**
 * Loads a checkpoint folder (contract.md §1).
 *
 * @throws VLMambaError with the code of what is wrong: ERR_CKPT_…, ERR_ST_…, ERR_SHARD_…, ERR_CFG_…, ERR_TOK_…,
 *   ERR_CUDA_UNAVAILABLE, ERR_OUT_OF_MEMORY; a TypeError or RangeError with ERR_ARG_… for an argument; the signal's reason
 */
export async function load(
  path: string,
  { device: where = 'auto', dtype = 'auto', threads, signal, onProgress }: LoadOptions = {},
): Promise<Model> {
  checkLoadOptions(path, where, dtype);
  signal?.throwIfAborted();
  await checkFolder(path);
  const config = await readConfig(path, { signal });
  const checkpoint = await openCheckpoint(path, { signal });
  const defaults = await readGenerationConfig(path, { vocabSize: config.text.vocabSize, signal });
  const eosTokenIds = defaults.eosTokenIds ?? config.text.eosTokenIds;
  const tokenizer = await loadTokenizer(path, { rows: config.text.vocabSize, eosTokenIds });
  const template = await readChatTemplate(path);
  const preprocess = config.vision && (await readPreprocessConfig(path, config.vision.imageSize));
  const tree = vlMambaParams(config);
  const total = bytesToRead(checkpoint, tree, unread);
  const device = new Device({ threads });
  const token = new CancelToken(signal);
  const report = () => onProgress?.({ phase: 'read', loaded: Math.min(token.progress, total), total });
  const timer = onProgress && setInterval(report, PROGRESS_MS);
  try {
    const loaded = await loadWeights(device, checkpoint, tree, {
      dtype: dtype === 'auto' ? null : dtype,
      ignore: unread,
      token,
    });
    report();
    const engine = await Engine.create(device, config, loaded);
    const warnings = [...config.warnings, ...checkpoint.warnings, ...defaults.warnings, ...tokenizer.warnings];
    return new Model({ config, engine, tokenizer, template, preprocess, defaults, warnings });
  } catch (error) {
    await device.dispose();
    signal?.throwIfAborted();
    throw error;
  } finally {
    clearInterval(timer);
    token.release();
  }
}

function checkLoadOptions(path: unknown, device: unknown, dtype: unknown): void {
  if (typeof path !== 'string' || path === '')
    throw typeError('ERR_ARG_TYPE', `path must be a checkpoint folder, got ${show(path)}`);
  if (device !== 'auto' && device !== 'cpu') {
    if (typeof device === 'string' && /^cuda(:\d+)?$/.test(device))
      throw new VLMambaError('ERR_CUDA_UNAVAILABLE', `device ${device}: ${cudaReason}; use device 'cpu' or 'auto'`);
    throw rangeError('ERR_ARG_DEVICE', `device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got ${show(device)}`);
  }
  if (!['auto', 'f32', 'bf16', 'f16'].includes(dtype as string))
    throw rangeError('ERR_ARG_DTYPE', `dtype must be 'auto', 'f32', 'bf16' or 'f16', got ${show(dtype)}`);
}

/** @internal */
export async function checkFolder(path: string): Promise<void> {
  const found = await stat(path).catch((cause) => {
    throw new VLMambaError('ERR_CKPT_NOT_FOUND', `${path}: no such folder`, { cause });
  });
  if (!found.isDirectory())
    throw new VLMambaError(
      'ERR_CKPT_NOT_FOUND',
      `${path}: is not a folder; a model is the folder that holds config.json`,
    );
}

async function readPreprocessConfig(dir: string, imageSize: number): Promise<PreprocessConfig> {
  const file = join(dir, 'preprocessor_config.json');
  const bytes = await readSmallFile(file, { code: 'ERR_CFG_FILE', maxBytes: MAX_PREPROCESSOR_BYTES });
  return parsePreprocessConfig(parseJsonData(bytes), file, imageSize);
}
