import type { GenerationConfig, ModelConfig } from './checkpoint/config.ts';
import { CancelToken, type Device } from './device.ts';
import { sharedDevice } from './devices.ts';
import type { Engine } from './engine.ts';
import { checkSignal, rangeError, VLMambaError } from './errors.ts';
import type { GenerateResult } from './generation.ts';
import { abortable } from './image/async.ts';
import { type ImageInput, type PreprocessConfig, pixels } from './image/preprocess.ts';
import { resizeOn } from './image/resize.ts';
import type { Quantised } from './quantised.ts';
import type { Sampling } from './sampling.ts';
import type { Scheduler } from './scheduler.ts';
import { type Memory, Sequence, Written } from './sequence.ts';
import type { Piece } from './text/prompt.ts';
import type { Tokenizer } from './text/tokenizer.ts';

/** A prompt that is to be read: what it says, and its pictures. */
export interface ReadPrompt {
  pieces: Piece[];
  images: readonly ImageInput[];
}

/** A prompt with its pictures on the device, where they stay until `release` is called. */
export interface Looked {
  ids: Int32Array;
  release: () => void;
}

/** Milliseconds. */
export interface LookTimings {
  image: number;
  vision: number;
}

export interface WriteRequest {
  sampling: Sampling;
  /** Signals that end the work with an error. */
  signals: readonly (AbortSignal | undefined)[];
  /** Ends the work with what there is. */
  leave: AbortSignal;
  emit: (text: string) => void;
  /** `performance.now()` at the call. */
  start: number;
}

/** A prompt, and what reading its pictures took, when that was done before. */
export interface Source {
  prompt: ReadPrompt;
  looked?: LookTimings;
}

export interface Parts {
  config: ModelConfig;
  engine: Engine;
  scheduler: Scheduler;
  tokenizer: Tokenizer;
  template: string | null;
  preprocess: PreprocessConfig | null;
  defaults: GenerationConfig;
  fingerprint: string;
  quantised: Quantised | null;
}

const MAX_IMAGES = 16;

/** Where pictures are resized: on a CPU, whose bytes are the reference's; what goes to a GPU is the small result. */
const cpu = async (device: Device): Promise<Device> => (device.cuda ? sharedDevice('cpu') : device);

export function checkCount(prompt: ReadPrompt): ReadPrompt {
  if (prompt.images.length > MAX_IMAGES)
    throw rangeError('ERR_PROMPT_IMAGES', `a prompt can hold ${MAX_IMAGES} pictures, got ${prompt.images.length}`);
  return prompt;
}

/** What a model, its sessions and its conversations work with. */
export class Runtime {
  readonly parts: Readonly<Parts>;
  /** Pictures of one prompt at a time are on the device. */
  #pictures: Promise<void> = Promise.resolve();
  #disposed: Promise<void> | undefined;

  constructor(parts: Parts) {
    this.parts = parts;
  }

  /** @throws VLMambaError ERR_DISPOSED */
  check(): void {
    if (this.#disposed) throw new VLMambaError('ERR_DISPOSED', 'the model was disposed');
  }

  dispose(): Promise<void> {
    this.#disposed ??= this.parts.engine.dispose();
    return this.#disposed;
  }

  /** What the encoder reads of a picture: [3, H, W]. */
  async pixels(image: ImageInput, signal?: AbortSignal): Promise<{ data: Float32Array; shape: number[] }> {
    this.check();
    checkSignal('pixels', signal);
    const { preprocess, engine } = this.parts;
    if (!preprocess)
      throw new VLMambaError('ERR_NO_VISION', 'this checkpoint only reads text: it has no vision_config');
    return pixels(image, preprocess, { resize: resizeOn(await cpu(engine.device)), signal });
  }

  /** A text that goes on from a memory, or a new one; waits until it may be worked on. */
  sequence(from: Memory | undefined, signal: AbortSignal): Promise<Sequence> {
    const { scheduler, tokenizer } = this.parts;
    return Sequence.open(scheduler, tokenizer, from, signal);
  }

  /** Works under the signals that may end it, and gives the error its right name. */
  async cancellable<T>(
    signals: readonly (AbortSignal | undefined)[],
    work: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const given = signals.filter((signal) => signal !== undefined);
    for (const signal of given) checkSignal('model', signal);
    try {
      for (const signal of given) signal.throwIfAborted();
      return await work(AbortSignal.any(given));
    } catch (error) {
      for (const signal of given) signal.throwIfAborted();
      this.check();
      throw error;
    }
  }

  /** Goes on from a memory and keeps what comes of it; a failure changes nothing. */
  async goOn(
    from: Memory | undefined,
    signal: AbortSignal,
    work: (sequence: Sequence) => Promise<void>,
  ): Promise<Memory> {
    const sequence = await this.sequence(from, signal);
    try {
      await work(sequence);
    } catch (error) {
      sequence.close();
      throw error;
    }
    return sequence.keep();
  }

  /** The ids of a prompt, a row of a picture being below 0. */
  ids({ pieces, images }: ReadPrompt): Int32Array {
    const rows = images.length ? this.parts.engine.pictureRows : 0;
    return Int32Array.from(
      pieces.flatMap((piece) =>
        'ids' in piece ? piece.ids : Array.from({ length: rows }, (_, row) => -1 - (piece.image * rows + row)),
      ),
    );
  }

  /** Encodes the pictures of a prompt; until `release` is called, no other prompt's can take their place. */
  async look(prompt: ReadPrompt, signal: AbortSignal, timings: LookTimings = { image: 0, vision: 0 }): Promise<Looked> {
    const { images } = prompt;
    if (images.length === 0) return { ids: this.ids(prompt), release: () => {} };
    if (!this.parts.preprocess) await this.pixels(images[0]!);
    const { engine } = this.parts;
    let release = () => {};
    const before = this.#pictures;
    this.#pictures = new Promise((resolve) => {
      release = resolve;
    });
    const token = new CancelToken(signal);
    try {
      await abortable(before, signal);
      await engine.reservePictures(images.length);
      for (const [place, image] of images.entries()) {
        const start = performance.now();
        const { data } = await this.pixels(image, signal);
        const decoded = performance.now();
        await engine.look(data, place, token);
        timings.image += decoded - start;
        timings.vision += performance.now() - decoded;
      }
      return { ids: this.ids(prompt), release };
    } catch (error) {
      void before.then(release);
      throw error;
    } finally {
      token.release();
    }
  }

  /** Reads a whole prompt after a memory; a failure changes nothing. */
  read(from: Memory | undefined, prompt: ReadPrompt, signal: AbortSignal, timings?: LookTimings): Promise<Memory> {
    return this.goOn(from, signal, async (sequence) => {
      const { ids, release } = await this.look(prompt, signal, timings);
      await sequence.read(ids, signal).finally(release);
    });
  }

  /** The logits [vocab] of the token that follows a prompt, and the memory of it. */
  async logits(prompt: ReadPrompt, signal: AbortSignal): Promise<{ logits: Float32Array; memory: Memory }> {
    let logits: Float32Array | undefined;
    const memory = await this.goOn(undefined, signal, async (sequence) => {
      const { ids, release } = await this.look(prompt, signal);
      logits = await sequence.logits(ids, signal).finally(release);
    });
    return { logits: logits!, memory };
  }

  /**
   * Reads what is new after a memory and writes what follows. The result, and what the model remembers then; null when the
   * reader left, as a text that was left in the middle of a step is none.
   */
  async write(
    from: Memory | undefined,
    { prompt, looked }: Source,
    { sampling, signals, leave, emit, start }: WriteRequest,
  ): Promise<{ result: GenerateResult; logprob: number; drawn: number; memory: Memory | null }> {
    const written = new Written();
    const seen = { image: 0, vision: 0, ...looked };
    let memory: Memory | null = null;
    let readFrom = start;
    let firstAt: number | undefined;
    try {
      memory = await this.cancellable([...signals, leave], (signal) =>
        this.goOn(from, signal, async (sequence) => {
          const { ids, release } = looked
            ? { ids: new Int32Array(), release() {} }
            : await this.look(prompt, signal, seen);
          readFrom = performance.now();
          const onRead = () => {
            firstAt = performance.now();
            release();
          };
          await sequence.write(ids, { sampling, signal, emit, onRead }, written).finally(release);
        }),
      );
    } catch (error) {
      if (!leave.aborted || error !== leave.reason) throw error;
      written.finishReason = 'abort';
    }
    const end = performance.now();
    const decode = end - (firstAt ?? end);
    const result = {
      text: written.text,
      tokens: written.tokens,
      finishReason: written.finishReason,
      usage: {
        promptTokens: prompt.pieces.reduce((sum, piece) => sum + ('ids' in piece ? piece.ids.length : 0), 0),
        imageTokens: prompt.images.length ? prompt.images.length * this.parts.engine.pictureRows : 0,
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
    const { logprob, drawn } = written;
    return { result, logprob, drawn, memory };
  }
}
