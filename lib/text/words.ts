const WINDOW = 4096;

/**
 * GPT-2's pattern, with `\s` as the Rust tokenizers read it (White_Space): JavaScript's `\s` has U+FEFF and lacks U+0085,
 * and other word borders are other ids.
 */
export const WORD_PATTERN = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+`;

const word = new RegExp(WORD_PATTERN, 'gu');
const blanks = new RegExp(`\\p{White_Space}{1,${WINDOW}}`, 'uy');
const runs = [`\\p{L}`, `\\p{N}`, `[^\\p{White_Space}\\p{L}\\p{N}]`]
  .map((set) => new RegExp(`${set}{1,${WINDOW}}`, 'uy'))
  .concat(blanks);

/**
 * Yields the end of each word of GPT-2's pattern, in order, and null now and then: a place to pause. The text must hold no
 * lone surrogates. Equal to matching the pattern over the whole text, but never more than a window at once.
 */
export function* wordEnds(text: string): Generator<number | null> {
  let at = 0;
  while (at < text.length) {
    const end = windowEnd(text, at);
    let used = at;
    for (const { 0: found, index } of text.slice(at, end).matchAll(word)) {
      // A word that touches the end of the window may go on behind it; all others are final, their lookahead included.
      if (at + index + found.length === end && end < text.length) break;
      used = at + index + found.length;
      yield used;
    }
    if (used === at) yield (used = yield* longWordEnd(text, end));
    else yield null;
    at = used;
  }
}

function windowEnd(text: string, from: number): number {
  const end = from + WINDOW;
  if (end >= text.length) return text.length;
  const unit = text.charCodeAt(end - 1);
  return unit >= 0xd800 && unit < 0xdc00 ? end + 1 : end;
}

/** The end of the word that fills the text up to `end`: as far as characters of the last one's kind go. */
function* longWordEnd(text: string, end: number): Generator<null, number> {
  const unit = text.charCodeAt(end - 1);
  const last = unit >= 0xdc00 && unit < 0xe000 ? end - 2 : end - 1;
  const kind = runs.find((run) => {
    run.lastIndex = last;
    return run.test(text);
  })!;
  let to = end;
  for (;;) {
    kind.lastIndex = to;
    const more = kind.exec(text);
    if (!more) break;
    to += more[0].length;
    yield null;
  }
  // Blanks before a word leave it the last one.
  return kind === blanks && to < text.length ? to - 1 : to;
}
