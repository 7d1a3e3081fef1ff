import type { Outcome } from './engine.ts';
import type { FinishReason } from './generation.ts';
import type { Sampling } from './sampling.ts';
import type { Scheduler, Task } from './scheduler.ts';
import { StopMatcher } from './text/text_stream.ts';
import type { Tokenizer } from './text/tokenizer.ts';

/** What a sequence has written so far. */
export class Written {
  text = '';
  readonly tokens: number[] = [];
  /** Tokens drawn, the one that ended the text included, and the natural log-probability of all of them. */
  drawn = 0;
  logprob = 0;
  finishReason: FinishReason = 'length';
}

export interface WriteOptions {
  sampling: Sampling;
  signal: AbortSignal;
  emit: (text: string) => void;
  /** Called when the prompt is read and, unless none is asked for, the first token drawn. */
  onRead: () => void;
}

/** Everything about a text that has been read besides the recurrent state. */
export interface Notes {
  /** Positions read. */
  position: number;
  /** The last token, when the model has yet to read it. */
  unread: Int32Array;
  /** Tokens of the text, for the repetition penalty. */
  seen: ReadonlySet<number>;
}

const NOTHING: Notes = { position: 0, unread: new Int32Array(), seen: new Set() };

/**
 * What the model remembers of a text that it has read: a recurrent state that nobody changes any more, shared by all who
 * hold it. Going on from it works on a copy.
 */
export class Memory {
  readonly #scheduler: Scheduler;
  readonly slot: number;
  readonly notes: Notes;
  #holders = 1;

  constructor(scheduler: Scheduler, slot: number, notes: Notes) {
    this.#scheduler = scheduler;
    this.slot = slot;
    this.notes = notes;
  }

  /** Tokens and rows of pictures in the text. */
  get tokens(): number {
    return this.notes.position + this.notes.unread.length;
  }

  hold(): this {
    this.#holders++;
    return this;
  }

  release(): void {
    this.#holders--;
    if (this.#holders === 0) this.#scheduler.release(this.slot);
  }
}

/** A text that is being read or written, from the beginning or from a memory on. */
export class Sequence {
  readonly #scheduler: Scheduler;
  readonly #tokenizer: Tokenizer;
  readonly #slot: number;
  readonly #seen: Set<number>;
  #position: number;
  #unread: Int32Array;

  private constructor(scheduler: Scheduler, tokenizer: Tokenizer, slot: number, notes: Notes) {
    this.#scheduler = scheduler;
    this.#tokenizer = tokenizer;
    this.#slot = slot;
    this.#position = notes.position;
    this.#unread = notes.unread;
    this.#seen = new Set(notes.seen);
  }

  /** Waits until the text may be worked on; `close` or `keep` has to be called afterwards. */
  static async open(
    scheduler: Scheduler,
    tokenizer: Tokenizer,
    from?: Memory,
    signal?: AbortSignal,
  ): Promise<Sequence> {
    await scheduler.enter(signal);
    try {
      const slot = await scheduler.engine.acquire(from?.slot);
      return new Sequence(scheduler, tokenizer, slot, from?.notes ?? NOTHING);
    } catch (error) {
      scheduler.leave();
      throw error;
    }
  }

  /** Forgets the text. */
  close(): void {
    this.#scheduler.release(this.#slot);
    this.#scheduler.leave();
  }

  /** Ends the work and keeps what it came to. */
  keep(): Memory {
    this.#scheduler.leave();
    return new Memory(this.#scheduler, this.#slot, {
      position: this.#position,
      unread: this.#unread,
      seen: this.#seen,
    });
  }

  /** Reads `ids` (below 0: a row of a picture). The last one waits for what comes next, unless it is a picture's. */
  async read(ids: Int32Array, signal: AbortSignal): Promise<void> {
    const all = this.#begin(ids);
    const rest = all.length > 0 && all.at(-1)! >= 0 ? all.length - 1 : all.length;
    if (rest > 0) await this.#run(all.subarray(0, rest), 'none', () => null, signal);
    this.#unread = all.slice(rest);
  }

  /** Reads `ids` and gives the logits of the token that follows. */
  async logits(ids: Int32Array, signal: AbortSignal): Promise<Float32Array> {
    let result: Float32Array | undefined;
    const take = ({ logits }: Outcome) => {
      result = logits;
      return null;
    };
    await this.#run(this.#begin(ids), 'logits', take, signal);
    return result!;
  }

  /** Natural log-probability of each of `ids` but the first, where the text goes on with them. */
  async follow(ids: readonly number[], signal: AbortSignal): Promise<number[]> {
    const found: number[] = [];
    const take = ({ logits }: Outcome) => {
      found.push(logprobOf(logits!, ids[found.length + 1]!));
      return found.length < ids.length - 1 ? Int32Array.of(ids[found.length]!) : null;
    };
    await this.#run(this.#begin(Int32Array.of(ids[0]!)), 'logits', take, signal);
    return found;
  }

  /**
   * Reads `ids` and writes on until a stop token, a stop string, or as many tokens as were asked for. `written` grows as
   * it goes, so that a caller who cancels has what there was.
   */
  async write(ids: Int32Array, { sampling, signal, emit, onRead }: WriteOptions, written: Written): Promise<void> {
    const { maxNewTokens, stop, repetitionPenalty } = sampling;
    const stream = this.#tokenizer.stream();
    const stops = new StopMatcher(stop);
    const add = (text: string) => {
      if (!text) return;
      written.text += text;
      emit(text);
    };
    if (maxNewTokens === 0) {
      await this.read(ids, signal);
      return onRead();
    }
    const first = this.#begin(ids);
    if (repetitionPenalty !== 1) await this.#scheduler.engine.setSeen(this.#slot, this.#seen);
    let stopped = false;
    const take = ({ drawn }: Outcome): Int32Array | null => {
      const { token, logprob } = drawn!;
      if (written.tokens.length === 0) onRead();
      written.drawn++;
      written.logprob += logprob;
      if (this.#tokenizer.eosIds.has(token)) {
        written.finishReason = 'stop';
        return null;
      }
      written.tokens.push(token);
      this.#seen.add(token);
      this.#unread = Int32Array.of(token);
      const piece = stops.push(stream.push(token));
      add(piece.text);
      stopped = piece.stopped;
      if (stopped) written.finishReason = 'stop';
      if (stopped || written.tokens.length === maxNewTokens) return null;
      const next = this.#unread;
      this.#unread = new Int32Array();
      return next;
    };
    // What ends with one of these strings is only known here, and then the model must not have read on.
    const ahead = () => (stop.length > 0 ? 1 : maxNewTokens - written.tokens.length);
    await this.#run(first, 'sample', take, signal, { sampling, ahead });
    if (stopped) return;
    const rest = stops.push(stream.flush());
    add(rest.text);
    if (rest.stopped) written.finishReason = 'stop';
    else add(stops.flush().text);
  }

  /** What has to be read next, with what was left of the text so far. */
  #begin(ids: Int32Array): Int32Array {
    for (const id of ids) if (id >= 0) this.#seen.add(id);
    const all = concat(this.#unread, ids);
    this.#unread = new Int32Array();
    return all;
  }

  async #run(
    ids: Int32Array,
    ending: 'none' | 'logits' | 'sample',
    take: (outcome: Outcome) => Int32Array | null,
    signal: AbortSignal,
    more: Pick<Task, 'sampling' | 'ahead'> = {},
  ): Promise<void> {
    const task: Task = { slot: this.#slot, ids, ending, position: this.#position, take, ...more };
    await this.#scheduler.run(task, signal);
    this.#position = task.position;
  }
}

function concat(a: Int32Array, b: Int32Array): Int32Array {
  const both = new Int32Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}

/** log_softmax(logits)[id] */
export function logprobOf(logits: Float32Array, id: number): number {
  let top = Number.NEGATIVE_INFINITY;
  for (const logit of logits) if (logit > top) top = logit;
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - top);
  return logits[id]! - top - Math.log(sum);
}
