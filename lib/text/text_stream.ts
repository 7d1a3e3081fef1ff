import { rangeError, show, typeError } from '../errors.ts';

const MAX_STOPS = 16;
const MAX_STOP_BYTES = 256;

const utf8 = new TextDecoder('utf-8', { ignoreBOM: true });

/** The bytes that a UTF-8 sequence has after this lead byte; 0 for ASCII, continuation bytes and bytes UTF-8 never uses. */
const following = (lead: number): number => (lead < 0xc2 || lead > 0xf4 ? 0 : lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3);

/** How many bytes at the end may still become a character: 0 to 3. */
function unfinished(bytes: Uint8Array): number {
  for (let held = 1; held <= Math.min(3, bytes.length); held++) {
    const byte = bytes[bytes.length - held]!;
    if ((byte & 0xc0) !== 0x80) return held <= following(byte) ? held : 0;
  }
  return 0;
}

/**
 * Turns token ids into text while they arrive. A character is emitted whole or not at all; bytes that are no UTF-8 become
 * U+FFFD. The pieces joined are the decoding of all ids.
 */
export class TextStream {
  readonly #bytesOf: (id: number) => Uint8Array;
  #pending: Uint8Array = new Uint8Array(0);

  constructor(bytesOf: (id: number) => Uint8Array) {
    this.#bytesOf = bytesOf;
  }

  /** The text that is complete after token `id`: may be empty. */
  push(id: number): string {
    const added = this.#bytesOf(id);
    if (added.length === 0) return '';
    let bytes = added;
    if (this.#pending.length > 0) {
      bytes = new Uint8Array(this.#pending.length + added.length);
      bytes.set(this.#pending);
      bytes.set(added, this.#pending.length);
    }
    const ready = bytes.length - unfinished(bytes);
    this.#pending = bytes.subarray(ready);
    return utf8.decode(bytes.subarray(0, ready));
  }

  /** Ends the text: a character left half is U+FFFD. The stream can be used again. */
  flush(): string {
    const rest = this.#pending;
    this.#pending = new Uint8Array(0);
    return utf8.decode(rest);
  }
}

/** What {@link StopMatcher.push} found. */
export interface Stopped {
  /** Text that can be shown: it holds no part of a stop string. */
  text: string;
  /** A stop string was met; everything from its first character on is dropped. */
  stopped: boolean;
}

/** A state of the Aho–Corasick automaton: a prefix of a stop string. */
interface State {
  next: Map<number, number>;
  /** The longest proper suffix of this prefix that is a state too. */
  suffix: number;
  depth: number;
  /** Length of the longest stop string that ends here, 0 for none. */
  ends: number;
}

/**
 * Finds stop strings in text that arrives in pieces. The match that starts earliest wins, among those the longest; what may
 * still become one is held back. Linear in the text (Aho and Corasick, 1975, over UTF-16 units).
 *
 * @throws TypeError for what is no array of strings, RangeError unless they are at most 16, not empty, at most 256
 *   bytes each and well-formed; both with code `ERR_GEN_STOP`
 */
export class StopMatcher {
  readonly #states: State[] = [{ next: new Map(), suffix: 0, depth: 0, ends: 0 }];
  #state = 0;
  /** Text not shown yet; the automaton has read all of it. */
  #held = '';
  /** The best match so far, as offsets into `#held`. */
  #match: { start: number; end: number } | null = null;
  #stopped = false;

  constructor(stops: readonly string[]) {
    checkStops(stops);
    for (const stop of stops) this.#add(stop);
    this.#link();
  }

  /** Reads a piece of text. After a stop it returns nothing more. */
  push(text: string): Stopped {
    if (this.#stopped) return { text: '', stopped: true };
    if (this.#states.length === 1) return { text, stopped: false };
    for (let i = 0; i < text.length; i++) {
      const end = this.#held.length + i + 1;
      const state = this.#step(text.charCodeAt(i));
      // A longer match from the same place, or an earlier one, has to be alive in the automaton: else the best is final.
      if (this.#match && end - state.depth > this.#match.start) return this.#stop(this.#held + text.slice(0, i + 1));
      if (state.ends > 0) {
        const start = end - state.ends;
        if (!this.#match || start <= this.#match.start) this.#match = { start, end };
      }
      if (this.#match && end - state.depth === this.#match.start && state.next.size === 0)
        return this.#stop(this.#held + text.slice(0, i + 1));
    }
    const all = this.#held + text;
    const keep = this.#match ? all.length - this.#match.start : 0;
    const safe = all.length - Math.max(this.#states[this.#state]!.depth, keep);
    this.#held = all.slice(safe);
    if (this.#match) this.#match = { start: this.#match.start - safe, end: this.#match.end - safe };
    return { text: all.slice(0, safe), stopped: false };
  }

  /** Ends the text: what was held back and became no stop string. */
  flush(): Stopped {
    if (this.#stopped) return { text: '', stopped: true };
    if (this.#match) return this.#stop(this.#held);
    const text = this.#held;
    this.#held = '';
    this.#state = 0;
    return { text, stopped: false };
  }

  #stop(all: string): Stopped {
    this.#stopped = true;
    this.#held = '';
    return { text: all.slice(0, this.#match!.start), stopped: true };
  }

  #step(unit: number): State {
    let at = this.#state;
    for (;;) {
      const state = this.#states[at]!;
      const next = state.next.get(unit);
      if (next !== undefined) {
        this.#state = next;
        return this.#states[next]!;
      }
      if (at === 0) {
        this.#state = 0;
        return state;
      }
      at = state.suffix;
    }
  }

  #add(stop: string): void {
    let at = 0;
    for (let i = 0; i < stop.length; i++) {
      const unit = stop.charCodeAt(i);
      let next = this.#states[at]!.next.get(unit);
      if (next === undefined) {
        next = this.#states.push({ next: new Map(), suffix: 0, depth: i + 1, ends: 0 }) - 1;
        this.#states[at]!.next.set(unit, next);
      }
      at = next;
    }
    this.#states[at]!.ends = stop.length;
  }

  #link(): void {
    const queue = [...this.#states[0]!.next.values()];
    for (const at of queue) {
      const state = this.#states[at]!;
      for (const [unit, child] of state.next) {
        queue.push(child);
        let back = state.suffix;
        while (back !== 0 && !this.#states[back]!.next.has(unit)) back = this.#states[back]!.suffix;
        const target = this.#states[back]!.next.get(unit) ?? 0;
        this.#states[child]!.suffix = target;
      }
      if (state.ends === 0) state.ends = this.#states[state.suffix]!.ends;
    }
  }
}

function checkStops(stops: readonly string[]): void {
  if (!Array.isArray(stops)) throw typeError('ERR_GEN_STOP', `stop must be an array of strings, found ${show(stops)}`);
  if (stops.length > MAX_STOPS)
    throw rangeError('ERR_GEN_STOP', `stop holds ${stops.length} strings, at most ${MAX_STOPS} are allowed`);
  for (let i = 0; i < stops.length; i++) {
    const stop: unknown = stops[i];
    if (typeof stop !== 'string') throw typeError('ERR_GEN_STOP', `stop[${i}] must be a string, found ${show(stop)}`);
    if (stop.length === 0)
      throw rangeError('ERR_GEN_STOP', `stop[${i}] is empty: it would end every answer before it starts`);
    if (/\p{Cs}/u.test(stop))
      throw rangeError('ERR_GEN_STOP', `stop[${i}] holds half a surrogate pair, which no text has`);
    const bytes = Buffer.byteLength(stop);
    if (bytes > MAX_STOP_BYTES)
      throw rangeError('ERR_GEN_STOP', `stop[${i}] has ${bytes} bytes, at most ${MAX_STOP_BYTES} are allowed`);
  }
}
