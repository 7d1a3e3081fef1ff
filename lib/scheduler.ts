import { CancelToken } from './device.ts';
import type { Ending, Engine, Outcome } from './engine.ts';
import { VLMambaError } from './errors.ts';
import type { Sampling } from './sampling.ts';

/** A text that is being read or written. */
export interface Task {
  readonly slot: number;
  /** What it has yet to read. An id below 0 is a row of the pictures, −1 the first. */
  ids: Int32Array;
  /** What is wanted after the last id. */
  readonly ending: Ending;
  readonly sampling?: Sampling;
  /** Tokens that it will take, one after another, unless one of the scheduler's `stops` is among them. */
  ahead?(): number;
  /** Positions read so far. */
  position: number;
  /** Takes what came after the last id. What to read next, or null when the task is done. */
  take(outcome: Outcome): Int32Array | null;
}

interface Entry {
  task: Task;
  done: () => void;
  fail: (reason: unknown) => void;
}

interface Turn {
  entries: Entry[];
  length: number;
  ending: Ending;
  token: CancelToken;
}

export interface SchedulerOptions {
  /** Texts that are worked on at the same time. */
  maxBatch: number;
  /** Texts that may wait for that. */
  maxQueue: number;
  /** Tokens that end a text. */
  stops: Iterable<number>;
}

/**
 * Decides what the device does next. Work goes in turns: either the next piece of what has to be read, or a step of all
 * texts that are being written. Both kinds alternate and every text's turn comes round, so nobody waits for a neighbour
 * longer than one piece. Texts join and leave between turns. While nobody else waits, a turn of writing takes as many steps
 * as will be wanted for certain, so that the device does not wait for JavaScript between them.
 */
export class Scheduler {
  readonly engine: Engine;
  readonly #options: SchedulerOptions;
  readonly #stops: Int32Array;
  readonly #queue: Entry[] = [];
  readonly #waiting: (() => void)[] = [];
  #admitted = 0;
  #turn: Turn | undefined;
  /** Slots that were let go while their turn was going on. */
  #late: number[] = [];
  #alternate = false;

  constructor(engine: Engine, options: SchedulerOptions) {
    this.engine = engine;
    this.#options = options;
    this.#stops = Int32Array.from(options.stops);
  }

  /** Texts that are worked on, and that wait. */
  get load(): { running: number; waiting: number } {
    return { running: this.#admitted, waiting: this.#waiting.length };
  }

  /**
   * Waits until a text may be worked on; `leave` has to be called afterwards.
   * @throws VLMambaError ERR_QUEUE_FULL; the signal's reason
   */
  async enter(signal?: AbortSignal): Promise<void> {
    const { maxBatch, maxQueue } = this.#options;
    signal?.throwIfAborted();
    if (this.#admitted < maxBatch) {
      this.#admitted++;
      return;
    }
    if (this.#waiting.length >= maxQueue)
      throw new VLMambaError(
        'ERR_QUEUE_FULL',
        `${this.#admitted} texts are being worked on and ${this.#waiting.length} wait: try again later, or load the model with a larger maxQueue`,
        { details: { maxBatch, maxQueue } },
      );
    await new Promise<void>((resolve, reject) => {
      const start = () => {
        signal?.removeEventListener('abort', giveUp);
        resolve();
      };
      const giveUp = () => {
        this.#waiting.splice(this.#waiting.indexOf(start), 1);
        reject(signal!.reason);
      };
      this.#waiting.push(start);
      signal?.addEventListener('abort', giveUp, { once: true });
    });
  }

  /** Makes room for the text that has waited longest. */
  leave(): void {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#admitted--;
  }

  /** Works on a task until it is done. When the signal is aborted, its reason is thrown at once. */
  run(task: Task, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    return new Promise<void>((resolve, reject) => {
      const entry: Entry = {
        task,
        done: () => {
          signal?.removeEventListener('abort', abort);
          resolve();
        },
        fail: (reason) => {
          signal?.removeEventListener('abort', abort);
          reject(reason);
        },
      };
      const abort = () => {
        this.#withdraw(entry);
        reject(signal!.reason);
      };
      signal?.addEventListener('abort', abort, { once: true });
      this.#queue.push(entry);
      if (this.#turn) this.#turn.token.halt();
      else if (this.#queue.length === 1) void this.#work();
    });
  }

  /** Gives a slot back, once the turn that it takes part in is over. */
  release(slot: number): void {
    if (this.#turn) this.#late.push(slot);
    else this.engine.release(slot);
  }

  #withdraw(entry: Entry): void {
    const queued = this.#queue.indexOf(entry);
    if (queued >= 0) this.#queue.splice(queued, 1);
    const turn = this.#turn;
    if (!turn?.entries.includes(entry)) return;
    turn.entries = turn.entries.filter((other) => other !== entry);
    if (turn.entries.length === 0) turn.token.cancel();
    else turn.token.halt();
  }

  async #work(): Promise<void> {
    while (this.#queue.length > 0) {
      const turn = this.#next();
      this.#turn = turn;
      await this.#run(turn);
      this.#turn = undefined;
      for (const slot of this.#late.splice(0)) this.engine.release(slot);
    }
  }

  /** Positions of a piece while others write; texts with less to read than that share a turn. */
  get #piece(): number {
    return this.engine.chunk / 4;
  }

  /** Takes the texts of the next turn out of the queue. */
  #next(): Turn {
    const drawing = this.#queue.filter(({ task }) => task.ids.length === 1 && task.ending !== 'none');
    const reading = this.#queue.filter((entry) => !drawing.includes(entry));
    this.#alternate = !this.#alternate;
    const turn =
      reading.length > 0 && (this.#alternate || drawing.length === 0)
        ? this.#read(reading, drawing.length > 0 ? this.#piece : this.engine.chunk)
        : this.#draw(drawing);
    const taken = new Set(turn.entries);
    this.#queue.splice(0, this.#queue.length, ...this.#queue.filter((entry) => !taken.has(entry)));
    return turn;
  }

  #draw(drawing: Entry[]): Turn {
    const { ending } = drawing[0]!.task;
    const entries = drawing.filter(({ task }) => task.ending === ending).slice(0, this.#options.maxBatch);
    return { entries, length: 1, ending, token: new CancelToken() };
  }

  /**
   * Short texts read a piece together: as much as the first can, with all who have as much to read; the last id of each is
   * then a step of writing. Lengths and numbers of texts are powers of two, so that a few programs serve them all.
   */
  #read(reading: Entry[], piece: number): Turn {
    const [first] = reading as [Entry];
    if (this.engine.device.cuda) return this.#readUncut(reading);
    const ahead = ({ task }: Entry) => task.ids.length - (task.ending === 'none' ? 0 : 1);
    const token = new CancelToken();
    const short = this.#piece;
    if (ahead(first) < short) {
      const length = powerOfTwo(ahead(first));
      const alike = reading.filter((entry) => ahead(entry) >= length && ahead(entry) < short);
      const count = powerOfTwo(Math.min(alike.length, this.#options.maxBatch, this.engine.chunk / length));
      if (count > 1) return { entries: alike.slice(0, count), length, ending: 'none', token };
    }
    const { ids, ending } = first.task;
    const length = Math.min(ids.length, piece);
    return { entries: [first], length, ending: length === ids.length ? ending : 'none', token };
  }

  /**
   * On a GPU other kernels read one position than many, so a text's last bits depend on where it is cut. It is cut by itself
   * then, whatever its neighbours do; those with as much to read share the turn.
   */
  #readUncut(reading: Entry[]): Turn {
    const { chunk } = this.engine;
    const piece = ({ task }: Entry) => Math.min(task.ids.length, chunk);
    const ending = ({ task }: Entry): Ending => (task.ids.length <= chunk ? task.ending : 'none');
    const [first] = reading as [Entry];
    const length = piece(first);
    const alike = reading.filter((entry) => piece(entry) === length && ending(entry) === ending(first));
    const count = powerOfTwo(Math.min(alike.length, this.#options.maxBatch, Math.max(1, chunk / length)));
    return { entries: alike.slice(0, count), length, ending: ending(first), token: new CancelToken() };
  }

  async #run(turn: Turn): Promise<void> {
    const { length, ending } = turn;
    const rows = turn.entries.map(({ task }) => ({
      slot: task.slot,
      ids: task.ids.subarray(0, length),
      sampling: task.sampling,
      position: task.position + length,
    }));
    const all = [...turn.entries];
    const take = (outcomes: Outcome[]) => {
      const left = turn.entries.length;
      turn.entries = all.filter(
        (entry, i) => turn.entries.includes(entry) && this.#advance(entry, length, outcomes[i]!),
      );
      if (turn.entries.length < left) turn.token.halt();
    };
    try {
      if (ending === 'sample' && length === 1)
        await this.engine.write(rows, { steps: this.#steps(turn), stops: this.#stops, token: turn.token }, take);
      else take(await this.engine.run(rows, ending, turn.token));
      this.#queue.push(...turn.entries);
    } catch (error) {
      for (const entry of turn.entries) entry.fail(error);
    }
  }

  /** Steps that a turn of writing takes at most. */
  #steps({ entries }: Turn): number {
    if (this.#queue.length > 0) return 1;
    return Math.max(1, Math.min(...entries.map(({ task }) => task.ahead?.() ?? 1)));
  }

  /** False when the task is over. */
  #advance({ task, done, fail }: Entry, length: number, outcome: Outcome): boolean {
    try {
      if (outcome.error !== undefined) throw outcome.error;
      task.position += length;
      task.ids = task.ids.subarray(length);
      if (task.ids.length > 0) return true;
      const next = task.take(outcome);
      if (next) task.ids = next;
      else done();
      return next !== null;
    } catch (error) {
      fail(error);
      return false;
    }
  }
}

/** The largest that is no more than `n`. */
const powerOfTwo = (n: number): number => 2 ** Math.floor(Math.log2(n));
