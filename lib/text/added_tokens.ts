import type { AddedToken } from './tokenizer_file.ts';

export interface AddedMatch {
  token: AddedToken;
  start: number;
  end: number;
}

interface Node {
  next: Map<number, Node>;
  token: AddedToken | null;
}

const UNITS_PER_PAUSE = 8192;

/** Finds added tokens in a text: from left to right, the longest at each place. Linear in the text. */
export class AddedTokenFinder {
  readonly #root: Node = { next: new Map(), token: null };

  /** `spelling` gives the form in which a token is looked for. */
  constructor(tokens: readonly AddedToken[], spelling: (content: string) => string = (content) => content) {
    for (const token of tokens) {
      let node = this.#root;
      const text = spelling(token.content);
      for (let i = 0; i < text.length; i++) {
        const unit = text.charCodeAt(i);
        let next = node.next.get(unit);
        if (!next) node.next.set(unit, (next = { next: new Map(), token: null }));
        node = next;
      }
      node.token ??= token;
    }
  }

  /** Yields the matches that `accept` takes, and null now and then: a place to pause. */
  *find(text: string, accept?: (match: AddedMatch) => boolean): Generator<AddedMatch | null> {
    if (this.#root.next.size === 0) return;
    for (let start = 0; start < text.length; start++) {
      if (start % UNITS_PER_PAUSE === UNITS_PER_PAUSE - 1) yield null;
      const match = this.#at(text, start, accept);
      if (!match) continue;
      yield match;
      start = match.end - 1;
    }
  }

  #at(text: string, start: number, accept?: (match: AddedMatch) => boolean): AddedMatch | null {
    let longest: AddedMatch | null = null;
    let node = this.#root.next.get(text.charCodeAt(start));
    for (let end = start + 1; node; end++) {
      if (node.token) {
        const match = { token: node.token, start, end };
        if (!accept || accept(match)) longest = match;
      }
      node = node.next.get(text.charCodeAt(end));
    }
    return longest;
  }
}
