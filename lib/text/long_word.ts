import { byteSymbols } from './byte_symbols.ts';
import type { TokenizerFile } from './tokenizer_file.ts';

const STEPS_PER_PAUSE = 1024;
const BYTES_PER_PAUSE = 1 << 16;

/** What byte-pair encoding needs, as numbers. */
interface Table {
  idOfByte: Int32Array;
  /** left id · width + right id → rank */
  rankOf: Map<number, number>;
  width: number;
  /** rank → id of the merged token */
  merged: Int32Array;
}

/**
 * Byte-pair encoding of one long word in steps, so that a megabyte without a space neither freezes the process nor takes
 * quadratic time: n log n in the bytes (Sennrich et al. 2016; lowest rank first, at one rank the leftmost).
 */
export class LongWordEncoder {
  readonly #file: TokenizerFile;
  #table: Table | null = null;

  constructor(file: TokenizerFile) {
    this.#file = file;
  }

  /** Appends the ids of `word` to `ids`; yields where the work may pause. */
  *steps(word: string, ids: number[]): Generator<void> {
    const bytes = new TextEncoder().encode(word);
    if (this.#file.ignoreMerges) {
      const whole = this.#file.vocab.get(Array.from(bytes, (byte) => byteSymbols[byte]).join(''));
      if (whole !== undefined) {
        ids.push(whole);
        return;
      }
    }
    this.#table ??= yield* this.#build();
    const { idOfByte, rankOf, width, merged } = this.#table;
    const n = bytes.length;
    const symbol = new Int32Array(n);
    const next = new Int32Array(n);
    const previous = new Int32Array(n);
    for (let i = 0; i < n; i++) {
      symbol[i] = idOfByte[bytes[i]!]!;
      next[i] = i + 1;
      previous[i] = i - 1;
      if (i % BYTES_PER_PAUSE === 0) yield;
    }
    const rankAt = (at: number): number | undefined => {
      const right = next[at]!;
      if (right >= n || symbol[at]! < 0 || symbol[right]! < 0) return undefined;
      return rankOf.get(symbol[at]! * width + symbol[right]!);
    };
    // One number per candidate, rank · n + place: the smallest is the merge to do next. Fewer than n at first, and a merge
    // takes one and proposes two, so 2 n is room enough.
    const queue = new MinQueue(2 * n);
    const propose = (at: number): void => {
      const rank = rankAt(at);
      if (rank !== undefined) queue.push(rank * n + at);
    };
    for (let at = 0; at < n - 1; at++) {
      propose(at);
      if (at % STEPS_PER_PAUSE === 0) yield;
    }
    const GONE = -2;
    for (let step = 1, top = queue.pop(); top !== undefined; step++, top = queue.pop()) {
      if (step % STEPS_PER_PAUSE === 0) yield;
      const rank = Math.floor(top / n);
      const at = top - rank * n;
      if (rankAt(at) !== rank) continue;
      const right = next[at]!;
      symbol[at] = merged[rank]!;
      symbol[right] = GONE;
      next[at] = next[right]!;
      if (next[at]! < n) previous[next[at]!] = at;
      if (previous[at]! >= 0) propose(previous[at]!);
      propose(at);
    }
    for (let at = 0, step = 1; at < n; at = next[at]!, step++) {
      if (symbol[at]! >= 0) ids.push(symbol[at]!);
      if (step % STEPS_PER_PAUSE === 0) yield;
    }
  }

  *#build(): Generator<void, Table> {
    const { vocab, merges } = this.#file;
    const rankOf = new Map<number, number>();
    const merged = new Int32Array(merges.length);
    let width = 0;
    for (const id of vocab.values()) width = Math.max(width, id + 1);
    for (let rank = 0; rank < merges.length; rank++) {
      const [left, right] = merges[rank]!;
      merged[rank] = vocab.get(left + right)!;
      rankOf.set(vocab.get(left)! * width + vocab.get(right)!, rank);
      if (rank % STEPS_PER_PAUSE === 0) yield;
    }
    return { idOfByte: Int32Array.from(byteSymbols, (symbol) => vocab.get(symbol) ?? -1), rankOf, width, merged };
  }
}

/** A binary heap of numbers. */
class MinQueue {
  readonly #heap: Float64Array;
  #size = 0;

  constructor(capacity: number) {
    this.#heap = new Float64Array(capacity);
  }

  push(value: number): void {
    const heap = this.#heap;
    let at = this.#size++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (heap[parent]! <= value) break;
      heap[at] = heap[parent]!;
      at = parent;
    }
    heap[at] = value;
  }

  pop(): number | undefined {
    if (this.#size === 0) return undefined;
    const heap = this.#heap;
    const top = heap[0];
    const last = heap[--this.#size]!;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= this.#size) break;
      if (child + 1 < this.#size && heap[child + 1]! < heap[child]!) child++;
      if (heap[child]! >= last) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = last;
    return top;
  }
}
