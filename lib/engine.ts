import type { ModelConfig } from './checkpoint/config.ts';
import {
  type CancelToken,
  type Device,
  type DeviceBuffer,
  logitsLeft,
  type Program,
  type RunInput,
  type RunOutput,
  type StepProfile,
} from './device.ts';
import { head, mamba, stateFloats, stateViews } from './models/mamba.ts';
import { pictureEmbeds, pictureRows, type VlMambaWeights } from './models/vl_mamba.ts';
import type { MambaState } from './nn/mamba_block.ts';
import { sample } from './ops/index.ts';
import { Graph } from './program.ts';
import type { Sampling } from './sampling.ts';
import { type Dtype, type Tensor, tensorOf } from './tensor.ts';
import type { LoadedWeights } from './weights.ts';

/** Positions read by one run of a program: activations take memory for so many, however long the prompt is. */
const CHUNK = { cpu: 256, cuda: 2048 };
/** States there is memory for at first; it doubles when more are needed at the same time. */
const SLOTS = 8;
/** Programs that are kept ready. */
const KEPT = 96;

export interface Drawn {
  token: number;
  /** Natural log-probability of the token. */
  logprob: number;
}

/** What a run leaves behind, besides the states: nothing, the next token's logits, or the next token. */
export type Ending = 'none' | 'logits' | 'sample';

/** One text's part of a run. */
export interface Row {
  slot: number;
  /** An id below 0 is a row of the pictures, −1 the first. All rows of a run have the same number of ids. */
  ids: Int32Array;
  /** How the next token is drawn. */
  sampling?: Sampling | undefined;
  /** The next token's place in the text, for the random numbers. */
  position: number;
}

/** What a run gives for one row: logits [v] for the ending 'logits', a token for 'sample', or why there is none. */
export interface Outcome {
  logits?: Float32Array;
  drawn?: Drawn;
  error?: unknown;
}

/** What the steps of a program took in one run, and what some runs took as wholes. */
export interface Profile {
  program: Program;
  steps: StepProfile[];
  /** Milliseconds of each run. */
  ms: number[];
}

interface Memory {
  slots: number;
  state: DeviceBuffer;
  /** [slots, v] u8: the tokens that a repetition penalty is for. */
  seen: DeviceBuffer;
  views: MambaState[];
}

/** A model on a device: its weights, the states of the texts it is reading, and the programs that work on them. */
export class Engine {
  #programs = new Map<string, Promise<Program>>();
  #memory: Memory;
  #free: number[];
  #growing: Promise<void> | undefined;
  #pictures: DeviceBuffer | undefined;

  private constructor(
    readonly device: Device,
    readonly config: ModelConfig,
    readonly loaded: LoadedWeights<unknown>,
    readonly weights: VlMambaWeights,
    memory: Memory,
    readonly embeds: DeviceBuffer | undefined,
  ) {
    this.#memory = memory;
    this.#free = [...Array(memory.slots).keys()].reverse();
  }

  static async create(device: Device, config: ModelConfig, loaded: LoadedWeights<unknown>): Promise<Engine> {
    const memory = await allocate(device, config, SLOTS);
    const embeds = config.vision
      ? await device.alloc(pictureRows(config) * config.text.hiddenSize * 4, 'embeds')
      : undefined;
    return new Engine(device, config, loaded, loaded.weights as VlMambaWeights, memory, embeds);
  }

  /** Positions that one run of a program reads at most. */
  get chunk(): number {
    return this.device.cuda ? CHUNK.cuda : CHUNK.cpu;
  }

  /** Bytes of recurrent state that a text has, however long it is. */
  static stateBytes = (config: ModelConfig): number => stateFloats(config.text) * 4;

  get stateBytes(): number {
    return Engine.stateBytes(this.config);
  }

  /** Rows a picture takes in a prompt. */
  get pictureRows(): number {
    return pictureRows(this.config);
  }

  /** States that are in use. */
  get slotsInUse(): number {
    return this.#memory.slots - this.#free.length;
  }

  /** Memory for a state of its own: a copy of the one at `from`, or the state of an empty text. */
  async acquire(from?: number): Promise<number> {
    const slot = await this.#take();
    const { stateBytes: bytes, device } = this;
    const { state } = this.#memory;
    try {
      await (from === undefined
        ? device.zero(state, slot * bytes, bytes)
        : device.copy(state, from * bytes, state, slot * bytes, bytes));
    } catch (error) {
      this.release(slot);
      throw error;
    }
    return slot;
  }

  /** Gives a state's memory to whoever needs it next. */
  release(slot: number): void {
    this.#free.push(slot);
  }

  /** A state's floats as `stateViews` lays them out. */
  async saveState(slot: number): Promise<Float32Array> {
    const { stateBytes: bytes } = this;
    return new Float32Array(await this.device.read(this.#memory.state, slot * bytes, bytes));
  }

  /** Memory for a state with these floats. */
  async restoreState(floats: Float32Array): Promise<number> {
    const slot = await this.#take();
    try {
      await this.device.write(this.#memory.state, floats, slot * this.stateBytes);
    } catch (error) {
      this.release(slot);
      throw error;
    }
    return slot;
  }

  /** Makes room for the rows of `count` pictures. */
  async reservePictures(count: number): Promise<void> {
    const bytes = count * this.embeds!.bytes;
    if (this.#pictures && this.#pictures.bytes >= bytes) return;
    const larger = await this.device.alloc(bytes, 'pictures');
    this.#pictures?.free();
    this.#pictures = larger;
    this.#forgetPrograms();
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

  /**
   * Reads each row's ids after what its text has read so far. A row's outcome and state do not depend, to the last bit, on
   * its neighbours, nor on how its text was cut into runs. When no token can be drawn for some of several rows, those
   * alone have an error.
   */
  async run(rows: readonly Row[], ending: Ending, token?: CancelToken): Promise<Outcome[]> {
    const inputs = rowInputs(rows, ending);
    const program = await this.#program(rows.length, rows[0]!.ids.length, ending);
    try {
      const results = await program.run(inputs, { token });
      if (ending === 'sample') return rows.map((_, i) => ({ drawn: drawnOf(results, i) }));
      if (ending === 'logits')
        return rows.map((_, i) => ({ logits: this.#logitsOf(results.logits as Float32Array, i) }));
      return rows.map(() => ({}));
    } catch (error) {
      return this.#drawEach(rows, error, token);
    }
  }

  /**
   * Writes on: each row's one id is read and a token drawn, which is read in turn, up to `steps` times. The step that draws
   * one of `stops` for any row is the last, and so is the one that goes on when the token is halted or anything else is asked
   * of the device. `take`, which must not throw, gets each step's outcomes some time after it.
   */
  async write(
    rows: readonly Row[],
    { steps, stops, token }: { steps: number; stops: Int32Array; token: CancelToken },
    take: (outcomes: Outcome[]) => void,
  ): Promise<void> {
    const inputs = rowInputs(rows, 'sample');
    const program = await this.#program(rows.length, 1, 'sample');
    const ports = { token: 'token', ids: 'ids', position: 'position' };
    let done = 0;
    const passOn = (results: Record<string, RunOutput>) => {
      for (let at = 0; at < results.token!.length; at += rows.length) {
        done++;
        take(rows.map((_, i) => ({ drawn: drawnOf(results, at + i) })));
      }
    };
    try {
      await program.chain(inputs, { ...ports, steps, stops, cancel: token }, passOn);
    } catch (error) {
      const late = rows.map((row) => ({ ...row, position: row.position + done }));
      take(await this.#drawEach(late, error, token));
    }
  }

  /**
   * What is left to do after a run in which no token could be drawn for some of several rows. The states have gone a step
   * further and can't be brought back; the logits are there, and nothing is marked as drawn.
   */
  #drawEach(rows: readonly Row[], error: unknown, token?: CancelToken): Promise<Outcome[]> {
    const logits = logitsLeft(error);
    if (!logits || rows.length === 1) throw error;
    return Promise.all(rows.map((row, i) => this.#draw(row, this.#logitsOf(logits, i), token)));
  }

  #logitsOf(all: Float32Array, i: number): Float32Array {
    const { vocabSize: v } = this.config.text;
    return all.slice(i * v, (i + 1) * v);
  }

  /** Draws one row's token again, from logits that a run of several rows has left. */
  async #draw(row: Row, logits: Float32Array, token?: CancelToken): Promise<Outcome> {
    try {
      const program = await this.#compiled('draw', undefined, (g) =>
        this.#recordDraw(g, g.input('logits', 'f32', [1, logits.length]), g.input('slots', 'i32', [1])),
      );
      const inputs = { logits, slots: Int32Array.of(row.slot), ...samplingInputs([row]) };
      return { drawn: drawnOf(await program.run(inputs, { token }), 0) };
    } catch (error) {
      return { error };
    }
  }

  /** Notes the tokens that a repetition penalty is for; forgets those of the slot's last text. */
  async setSeen(slot: number, ids: Iterable<number>): Promise<void> {
    const row = new Uint8Array(this.config.text.vocabSize);
    for (const id of ids) if (id >= 0) row[id] = 1;
    await this.device.write(this.#memory.seen, row, slot * row.length);
  }

  /**
   * Milliseconds and GB/s of each step of reading `length` positions of `batch` texts and drawing a token of each, and
   * milliseconds of such runs as wholes.
   */
  async profile(length: number, { batch = 1, rounds = 1 } = {}): Promise<Profile> {
    const slots: number[] = [];
    try {
      while (slots.length < batch) slots.push(await this.acquire());
      const program = await this.#program(batch, length, 'sample');
      const inputs = {
        ids: new Int32Array(batch * length),
        slots: Int32Array.from(slots),
        params: Float32Array.from(slots.flatMap(() => [0, 0, 1, 0, 1, 0])),
        seed: new Int32Array(2 * batch),
        position: new Int32Array(batch),
      };
      return await measured(program, inputs, rounds);
    } finally {
      for (const slot of slots) this.release(slot);
    }
  }

  /** The same of encoding a picture. */
  async profileVision({ rounds = 1 } = {}): Promise<Profile> {
    const { imageSize: side, numChannels } = this.config.vision!;
    return measured(await this.#vision(), { image: new Float32Array(numChannels * side * side) }, rounds);
  }

  async dispose(): Promise<void> {
    await this.device.dispose();
    await this.#growing?.catch(() => {});
    const programs = await Promise.allSettled(this.#programs.values());
    for (const program of programs) if (program.status === 'fulfilled') program.value.drop();
    const { state, seen } = this.#memory;
    for (const buffer of [...this.loaded.buffers, state, seen, this.embeds, this.#pictures]) buffer?.free();
  }

  async #take(): Promise<number> {
    for (;;) {
      const slot = this.#free.pop();
      if (slot !== undefined) return slot;
      this.#growing ??= this.#grow().finally(() => {
        this.#growing = undefined;
      });
      await this.#growing;
    }
  }

  async #grow(): Promise<void> {
    const { device, config } = this;
    const old = this.#memory;
    const memory = await allocate(device, config, 2 * old.slots);
    // Queued before any run over the new memory, and after every run over the old.
    const copied = Promise.all([
      device.copy(old.state, 0, memory.state, 0, old.state.bytes),
      device.copy(old.seen, 0, memory.seen, 0, old.seen.bytes),
    ]);
    this.#memory = memory;
    this.#forgetPrograms();
    await copied;
    old.state.free();
    old.seen.free();
    for (let slot = memory.slots - 1; slot >= old.slots; slot--) this.#free.push(slot);
  }

  /** Programs hold the memory they were recorded over: new memory, new programs. */
  #forgetPrograms(): void {
    const old = this.#programs;
    this.#programs = new Map();
    for (const program of old.values())
      program.then(
        (program) => program.drop(),
        () => {},
      );
  }

  #program(batch: number, length: number, ending: Ending): Promise<Program> {
    const { weights, config } = this;
    return this.#compiled(`${batch}×${length} ${ending}`, weights.language.layers[0]?.mixer.in_proj.weight, (g) => {
      const { hiddenSize: d } = config.text;
      const { views } = this.#memory;
      const ids = g.input('ids', 'i32', [batch, length]);
      const slots = g.input('slots', 'i32', [batch]);
      const rows = this.#pictures && tensorOf(this.#pictures, 'f32', [this.#pictures.bytes / 4 / d, d]);
      const h = mamba(g, weights.language, { ids, rows, slots }, views, config.text);
      if (ending === 'none') return;
      const logits = head(g, weights.language, h, config.text);
      if (ending === 'logits') return g.output('logits', logits);
      this.#recordDraw(g, logits, slots);
    });
  }

  /** logits: [batch, v] f32, slots: [batch] i32 */
  #recordDraw(g: Graph, logits: Tensor, slots: Tensor): void {
    const [batch, v] = logits.shape as [number, number];
    const params = g.input('params', 'f32', [batch, 6]);
    const seed = g.input('seed', 'i32', [batch, 2]);
    const position = g.input('position', 'i32', [batch]);
    const seen = tensorOf(this.#memory.seen, 'u8', [this.#memory.slots, v]);
    const drawn = sample(g, { logits, params, seed, position, seen, slots });
    g.output('token', drawn.token);
    g.output('logprob', drawn.logprob);
  }

  #vision(): Promise<Program> {
    const { weights, config, embeds } = this;
    const { siglip, clip } = weights.vision!;
    return this.#compiled('vision', (siglip ?? clip)!.embeddings.patch_embedding.weight, (g) => {
      const { imageSize: side, numChannels } = config.vision!;
      const image = g.input('image', 'f32', [1, numChannels, side, side]);
      g.place(pictureEmbeds(g, weights, image, config), embeds!);
    });
  }

  /**
   * A program recorded the first time it is asked for. On a GPU its activations have the dtype of `matrix`, bf16 where
   * that has fewer bits. The least recently used ones are let go.
   */
  async #compiled(key: string, matrix: Tensor | undefined, record: (g: Graph) => void): Promise<Program> {
    for (;;) {
      const programs = this.#programs;
      let program = programs.get(key);
      if (!program) {
        const g = new Graph(this.device.cuda ? activationsFor(matrix) : 'f32');
        record(g);
        program = this.device.compile(g);
        program.catch(() => programs.delete(key));
      }
      programs.delete(key);
      programs.set(key, program);
      if (programs.size > KEPT) programs.delete(programs.keys().next().value!);
      const compiled = await program;
      // Memory may have moved in the meantime; a program over the old memory must not run any more.
      if (programs === this.#programs) return compiled;
    }
  }
}

const activationsFor = (matrix: Tensor | undefined): Dtype | undefined =>
  matrix?.dtype === 'i8' || matrix?.dtype === 'u8' ? 'bf16' : matrix?.dtype;

async function allocate(device: Device, config: ModelConfig, slots: number): Promise<Memory> {
  const [state, seen] = await Promise.all([
    device.alloc(slots * Engine.stateBytes(config), 'state'),
    device.alloc(slots * config.text.vocabSize, 'seen'),
  ]);
  return { slots, state, seen, views: stateViews(state, slots, config.text) };
}

async function measured(program: Program, inputs: Record<string, RunInput>, rounds: number): Promise<Profile> {
  await program.run(inputs);
  const ms: number[] = [];
  while (ms.length < rounds) ms.push(await program.time(inputs));
  return { program, steps: await program.profile(inputs), ms };
}

function concat(parts: readonly Int32Array[]): Int32Array {
  const [first] = parts;
  const all = new Int32Array(parts.length * first!.length);
  for (const [i, part] of parts.entries()) all.set(part, i * first!.length);
  return all;
}

const rowInputs = (rows: readonly Row[], ending: Ending): Record<string, Float32Array | Int32Array> => ({
  ids: concat(rows.map(({ ids }) => ids)),
  slots: Int32Array.from(rows, ({ slot }) => slot),
  ...(ending === 'sample' && samplingInputs(rows)),
});

const samplingInputs = (rows: readonly Row[]) => ({
  params: Float32Array.from(rows.flatMap(({ sampling }) => paramsOf(sampling!))),
  seed: Int32Array.from(rows.flatMap(({ sampling }) => wordsOf(sampling!.seed))),
  position: Int32Array.from(rows, ({ position }) => position),
});

const drawnOf = ({ token, logprob }: Record<string, RunOutput>, row: number): Drawn => ({
  token: token![row]!,
  logprob: logprob![row]!,
});

const paramsOf = ({ temperature, topK, topP, minP, repetitionPenalty }: Sampling): number[] => [
  temperature,
  topK,
  topP,
  minP,
  repetitionPenalty,
  0,
];

const wordsOf = (seed: bigint): number[] => [Number(BigInt.asIntN(32, seed)), Number(BigInt.asIntN(32, seed >> 32n))];
