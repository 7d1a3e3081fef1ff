const SLICE = 8192;
const LONG_RUN = 256;
const MARKS_PER_PAUSE = 4096;

// A text may be cut before such a character: it never combines with what stands before it. What does (the second halves
// of canonical compositions, and everything with a combining class) are marks, Jamo vowels and finals, and Kirat Rai vowels.
const starter = /(?![\p{M}\p{Cn}\u1160-\u11ff\ud800-\udfff\u{16d40}-\u{16d7f}])[\s\S]/u;
const longRun = new RegExp(`\\p{M}{${LONG_RUN},}`, 'gu');

/**
 * Unicode's form NFC in steps: yields where the work may pause, returns the text. Equal to `text.normalize('NFC')`, but
 * linear also in runs of combining marks, where the built-in one sorts by insertion; only composing one run is a single
 * call, of some 20 ns a mark. The text must hold no lone surrogates.
 */
export function* nfcSteps(text: string): Generator<void, string> {
  let out = '';
  let from = 0;
  while (text.length - from > SLICE) {
    const to = yield* nextStarter(text, from + SLICE);
    out += (yield* sortRuns(text.slice(from, to))).normalize('NFC');
    from = to;
    yield;
  }
  return out + (yield* sortRuns(text.slice(from))).normalize('NFC');
}

function* nextStarter(text: string, from: number): Generator<void, number> {
  for (let at = from; at < text.length; at += SLICE) {
    const found = starter.exec(text.slice(at, at + SLICE));
    if (found) return at + found.index;
    yield;
  }
  return text.length;
}

/** Puts every long run of marks into canonical order (Unicode Standard, D109). */
function* sortRuns(text: string): Generator<void, string> {
  if (text.length > 2 * SLICE) return yield* sortMarks(text);
  let out = '';
  let from = 0;
  for (const { 0: run, index } of text.matchAll(longRun)) {
    out += text.slice(from, index) + (yield* sortMarks(run));
    from = index + run.length;
  }
  return out + text.slice(from);
}

/** The text decomposed (NFD), without sorting by insertion. */
function* sortMarks(text: string): Generator<void, string> {
  const distinct = new Set<string>();
  let count = 0;
  for (const char of text) {
    distinct.add(char);
    if (++count % MARKS_PER_PAUSE === 0) yield;
  }
  const classOf = classes(distinct);
  let out = '';
  let buckets: Chunks[] = [];
  for (const char of text) {
    for (const mark of char.normalize('NFD')) {
      const order = classOf.get(mark) ?? 0;
      if (order > 0) (buckets[order] ??= new Chunks()).add(mark);
      else {
        out += buckets.join('') + mark;
        buckets = [];
      }
    }
    if (++count % MARKS_PER_PAUSE === 0) yield;
  }
  return out + buckets.join('');
}

/** A string that grows by characters: one made of a million concatenations would be slow to read. */
class Chunks {
  readonly #full: string[] = [];
  #last = '';

  add(char: string): void {
    this.#last += char;
    if (this.#last.length < MARKS_PER_PAUSE) return;
    this.#full.push(this.#last);
    this.#last = '';
  }

  toString(): string {
    return this.#full.join('') + this.#last;
  }
}

/** Numbers the marks by combining class, 0 for class 0, by asking the built-in normaliser which of two goes first. */
function classes(chars: ReadonlySet<string>): Map<string, number> {
  const swaps = (first: string, second: string) => (first + second).normalize('NFD') !== first + second;
  // U+0345 has the highest class there is, 240, so every other mark with a class moves before it.
  const marks = new Set([...chars].flatMap((char) => [...char.normalize('NFD')]));
  const moving = [...marks].filter((mark) => mark === '\u0345' || swaps('\u0345', mark));
  moving.sort((a, b) => (swaps(a, b) ? 1 : swaps(b, a) ? -1 : 0));
  const numbers = new Map<string, number>();
  let number = 0;
  moving.forEach((mark, i) => {
    if (i === 0 || swaps(mark, moving[i - 1]!)) number++;
    numbers.set(mark, number);
  });
  return numbers;
}
