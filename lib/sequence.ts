import type { CancelToken } from './device.ts';
import type { Engine } from './engine.ts';
import type { FinishReason } from './generation.ts';
import type { Sampling } from './sampling.ts';
import { StopMatcher } from './text/text_stream.ts';
import type { Tokenizer } from './text/tokenizer.ts';

/** What a sequence has written so far. */
export class Written {
  text = '';
  readonly tokens: number[] = [];
  finishReason: FinishReason = 'length';
}

export interface WriteOptions {
  sampling: Sampling;
  token: CancelToken;
  emit: (text: string) => void;
  /** Called when the prompt is read and, unless none is asked for, the first token drawn. */
  onRead: () => void;
}

/** One text in the model's memory: what it has read and written so far is in its slot of the recurrent state. */
export class Sequence {
  readonly #engine: Engine;
  readonly #tokenizer: Tokenizer;
  readonly #slot: number;
  /** Positions read. */
  #length = 0;
  /** The last token drawn, which the model has not read. */
  #unread: number[] = [];
  /** Tokens of the text, for the repetition penalty. */
  readonly #seen = new Set<number>();

  private constructor(engine: Engine, tokenizer: Tokenizer, slot: number) {
    this.#engine = engine;
    this.#tokenizer = tokenizer;
    this.#slot = slot;
  }

  static async open(engine: Engine, tokenizer: Tokenizer, signal?: AbortSignal): Promise<Sequence> {
    return new Sequence(engine, tokenizer, await engine.acquire(signal));
  }

  close(): void {
    this.#engine.release(this.#slot);
  }

  /** Reads `ids` (below 0: a row of a picture) and gives the logits of the token that follows. */
  logits(ids: Int32Array, token: CancelToken): Promise<Float32Array> {
    return this.#engine.logits(this.#slot, ids, token);
  }

  /**
   * Reads `ids` and writes on until a stop token, a stop string, or as many tokens as were asked for. `written` grows as
   * it goes, so that a caller who cancels has what there was.
   */
  async write(ids: Int32Array, { sampling, token, emit, onRead }: WriteOptions, written: Written): Promise<void> {
    const { maxNewTokens, stop, repetitionPenalty } = sampling;
    const stream = this.#tokenizer.stream();
    const stops = new StopMatcher(stop);
    const add = (text: string) => {
      if (!text) return;
      written.text += text;
      emit(text);
    };
    for (const id of ids) if (id >= 0) this.#seen.add(id);
    if (repetitionPenalty !== 1) await this.#engine.setSeen(this.#slot, this.#seen);
    let next = Int32Array.from([...this.#unread, ...ids]);
    this.#unread = [];
    if (maxNewTokens === 0) {
      await this.#engine.read(this.#slot, next, token);
      this.#length += next.length;
      onRead();
    }
    for (let count = 0; count < maxNewTokens; count++) {
      const drawn = await this.#engine.next(this.#slot, next, sampling, this.#length + next.length, token);
      this.#length += next.length;
      if (count === 0) onRead();
      if (this.#tokenizer.eosIds.has(drawn.token)) {
        written.finishReason = 'stop';
        break;
      }
      written.tokens.push(drawn.token);
      this.#seen.add(drawn.token);
      this.#unread = [drawn.token];
      const { text, stopped } = stops.push(stream.push(drawn.token));
      add(text);
      if (stopped) {
        written.finishReason = 'stop';
        return;
      }
      next = Int32Array.of(drawn.token);
    }
    const { text, stopped } = stops.push(stream.flush());
    add(text);
    if (stopped) written.finishReason = 'stop';
    else add(stops.flush().text);
  }
}
