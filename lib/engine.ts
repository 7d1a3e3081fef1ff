import type { ModelConfig } from './checkpoint/config.ts';
import type { CancelToken, Device, DeviceBuffer, Program } from './device.ts';
import { head, mamba, stateFloats, stateViews } from './models/mamba.ts';
import { pictureEmbeds, pictureRows, type VlMambaWeights } from './models/vl_mamba.ts';
import type { MambaState } from './nn/mamba_block.ts';
import { sample } from './ops/index.ts';
import { Graph } from './program.ts';
import type { Sampling } from './sampling.ts';
import { tensorOf } from './tensor.ts';
import type { LoadedWeights } from './weights.ts';

/** Positions read by one run of a program: activations take memory for so many, however long the prompt is. */
const CHUNK = 256;
/** Sequences that may have a state at the same time. Memory that no sequence has used is not there yet. */
const SLOTS = 8;
/** Programs for the last, shorter piece of a prompt that are kept ready. */
const KEPT = 12;

export interface Drawn {
  token: number;
  /** Natural log-probability of the token. */
  logprob: number;
}

type Ending = 'none' | 'logits' | 'sample';

/** A model on a device: its weights, the states of the sequences it is reading, and the programs that work on them. */
export class Engine {
  readonly #programs = new Map<string, Promise<Program>>();
  readonly #states: MambaState[];
  readonly #free: number[] = Array.from({ length: SLOTS }, (_, slot) => slot);
  readonly #waiting: ((slot: number) => void)[] = [];
  #pictures: DeviceBuffer | undefined;

  private constructor(
    readonly device: Device,
    readonly config: ModelConfig,
    readonly loaded: LoadedWeights<unknown>,
    readonly weights: VlMambaWeights,
    readonly state: DeviceBuffer,
    readonly seen: DeviceBuffer,
    readonly embeds: DeviceBuffer | undefined,
  ) {
    this.#states = stateViews(state, SLOTS, config.text);
  }

  static async create(device: Device, config: ModelConfig, loaded: LoadedWeights<unknown>): Promise<Engine> {
    const state = await device.alloc(SLOTS * Engine.stateBytes(config), 'state');
    const seen = await device.alloc(SLOTS * config.text.vocabSize, 'seen');
    const embeds = config.vision
      ? await device.alloc(pictureRows(config) * config.text.hiddenSize * 4, 'embeds')
      : undefined;
    return new Engine(device, config, loaded, loaded.weights as VlMambaWeights, state, seen, embeds);
  }

  /** Bytes of recurrent state that a sequence has, however long it is. */
  static stateBytes = (config: ModelConfig): number => stateFloats(config.text) * 4;

  /** Rows a picture takes in a prompt. */
  get pictureRows(): number {
    return pictureRows(this.config);
  }

  /** A state of its own for a sequence, all zero; waits for one to come free when all are taken. */
  async acquire(signal?: AbortSignal): Promise<number> {
    const slot = this.#free.pop() ?? (await this.#wait(signal));
    const bytes = Engine.stateBytes(this.config);
    await this.device.zero(this.state, slot * bytes, bytes);
    return slot;
  }

  release(slot: number): void {
    const next = this.#waiting.shift();
    if (next) next(slot);
    else this.#free.push(slot);
  }

  #wait(signal?: AbortSignal): Promise<number> {
    return new Promise((resolve, reject) => {
      const take = (slot: number) => {
        signal?.removeEventListener('abort', leave);
        resolve(slot);
      };
      const leave = () => {
        this.#waiting.splice(this.#waiting.indexOf(take), 1);
        reject(signal?.reason);
      };
      this.#waiting.push(take);
      signal?.addEventListener('abort', leave, { once: true });
    });
  }

  /** Makes room for the rows of `count` pictures. */
  async reservePictures(count: number): Promise<void> {
    const bytes = count * this.embeds!.bytes;
    if (this.#pictures && this.#pictures.bytes >= bytes) return;
    this.#pictures?.free();
    // Programs hold the old memory; they are let go here and recorded anew over the new.
    this.#programs.clear();
    this.#pictures = await this.device.alloc(bytes, 'pictures');
  }

  /** Encodes a picture and keeps its rows as number `place`; pixels is [3, s, s]. */
  async look(pixels: Float32Array, place: number, token?: CancelToken): Promise<void> {
    const { embeds } = this;
    const encode = await this.#vision();
    // Both are queued before anything else can be, so no other picture comes between them.
    await Promise.all([
      encode.run({ image: pixels }, { token, borrow: true }),
      this.device.copy(embeds!, 0, this.#pictures!, place * embeds!.bytes, embeds!.bytes),
    ]);
  }

  /** What the connector hands over for a picture: [rows, d_lm]. */
  async pictureEmbeds(pixels: Float32Array, token?: CancelToken): Promise<Float32Array> {
    const encode = await this.#vision();
    const [, bytes] = await Promise.all([
      encode.run({ image: pixels }, { token, borrow: true }),
      this.device.read(this.embeds!),
    ]);
    return new Float32Array(bytes);
  }

  /** Reads `ids` after what the sequence has read so far; an id below 0 is a row of the pictures, −1 the first. */
  async read(slot: number, ids: Int32Array, token?: CancelToken): Promise<void> {
    for (let at = 0; at < ids.length; at += CHUNK) await this.#chunk(slot, ids.subarray(at, at + CHUNK), 'none', token);
  }

  /** Reads `ids` and draws the token that follows them. `position` is its place in the text, for the random numbers. */
  async next(slot: number, ids: Int32Array, sampling: Sampling, position: number, token?: CancelToken): Promise<Drawn> {
    const { temperature, topK, topP, minP, repetitionPenalty, seed } = sampling;
    const rest = await this.#allButLast(slot, ids, token);
    const results = await this.#chunk(slot, rest, 'sample', token, {
      params: Float32Array.of(temperature, topK, topP, minP, repetitionPenalty, 0),
      seed: Int32Array.of(Number(BigInt.asIntN(32, seed)), Number(BigInt.asIntN(32, seed >> 32n))),
      position: Int32Array.of(position),
    });
    return { token: results.token![0]!, logprob: results.logprob![0]! };
  }

  /** Reads `ids` and gives the logits [v] of the token that follows them. */
  async logits(slot: number, ids: Int32Array, token?: CancelToken): Promise<Float32Array> {
    const rest = await this.#allButLast(slot, ids, token);
    return (await this.#chunk(slot, rest, 'logits', token)).logits as Float32Array;
  }

  /** Notes the tokens that a repetition penalty is for; forgets those of the slot's last sequence. */
  async setSeen(slot: number, ids: Iterable<number>): Promise<void> {
    const row = new Uint8Array(this.config.text.vocabSize);
    for (const id of ids) if (id >= 0) row[id] = 1;
    await this.device.write(this.seen, row, slot * row.length);
  }

  /** Milliseconds and GB/s of each step of reading `length` positions and drawing a token. */
  async profile(length: number): Promise<{ program: Program; steps: Awaited<ReturnType<Program['profile']>> }> {
    const slot = await this.acquire();
    try {
      const program = await this.#program(length, 'sample');
      const inputs = {
        ids: new Int32Array(length),
        slots: Int32Array.of(slot),
        params: Float32Array.of(0, 0, 1, 0, 1, 0),
        seed: new Int32Array(2),
        position: new Int32Array(1),
      };
      await program.run(inputs);
      return { program, steps: await program.profile(inputs) };
    } finally {
      this.release(slot);
    }
  }

  async dispose(): Promise<void> {
    await this.device.dispose();
    const programs = await Promise.allSettled(this.#programs.values());
    for (const program of programs) if (program.status === 'fulfilled') program.value.drop();
    for (const buffer of [...this.loaded.buffers, this.state, this.seen, this.embeds, this.#pictures]) buffer?.free();
  }

  async #allButLast(slot: number, ids: Int32Array, token?: CancelToken): Promise<Int32Array> {
    const rest = ids.length % CHUNK || Math.min(CHUNK, ids.length);
    await this.read(slot, ids.subarray(0, ids.length - rest), token);
    return ids.subarray(ids.length - rest);
  }

  async #chunk(
    slot: number,
    ids: Int32Array,
    ending: Ending,
    token?: CancelToken,
    inputs: Record<string, Float32Array | Int32Array> = {},
  ) {
    const program = await this.#program(ids.length, ending);
    return program.run({ ids, slots: Int32Array.of(slot), ...inputs }, { token });
  }

  #program(length: number, ending: Ending): Promise<Program> {
    const { weights, config } = this;
    return this.#compiled(`${length} ${ending}`, (g) => {
      const { hiddenSize: d, vocabSize: v } = config.text;
      const ids = g.input('ids', 'i32', [1, length]);
      const slots = g.input('slots', 'i32', [1]);
      const rows = this.#pictures && tensorOf(this.#pictures, 'f32', [this.#pictures.bytes / 4 / d, d]);
      const h = mamba(g, weights.language, { ids, rows, slots }, this.#states, config.text);
      if (ending === 'none') return;
      const logits = head(g, weights.language, h, config.text);
      if (ending === 'logits') return g.output('logits', logits);
      const params = g.input('params', 'f32', [1, 6]);
      const seed = g.input('seed', 'i32', [1, 2]);
      const position = g.input('position', 'i32', [1]);
      const seen = tensorOf(this.seen, 'u8', [SLOTS, v]);
      const drawn = sample(g, { logits, params, seed, position, seen, slots });
      g.output('token', drawn.token);
      g.output('logprob', drawn.logprob);
    });
  }

  #vision(): Promise<Program> {
    const { weights, config, embeds } = this;
    return this.#compiled('vision', (g) => {
      const { imageSize: side, numChannels } = config.vision!;
      const image = g.input('image', 'f32', [1, numChannels, side, side]);
      g.place(pictureEmbeds(g, weights, image, config), embeds!);
    });
  }

  /** A program recorded the first time it is asked for. The least recently used ones are let go. */
  #compiled(key: string, record: (g: Graph) => void): Promise<Program> {
    let program = this.#programs.get(key);
    if (!program) {
      const g = new Graph();
      record(g);
      program = this.device.compile(g);
      program.catch(() => this.#programs.delete(key));
    }
    this.#programs.delete(key);
    this.#programs.set(key, program);
    if (this.#programs.size > KEPT) this.#programs.delete(this.#programs.keys().next().value!);
    return program;
  }
}
