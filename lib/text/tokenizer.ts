import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Tokenizer as Library } from '@huggingface/tokenizers';
import { rangeError, show, typeError } from '../errors.ts';
import { type AddedMatch, AddedTokenFinder } from './added_tokens.ts';
import { symbolBytes } from './byte_symbols.ts';
import { LongWordEncoder } from './long_word.ts';
import { nfcSteps } from './nfc.ts';
import { TextStream } from './text_stream.ts';
import { readTokenizerFile, type TokenizerFile, type TokenizerOptions } from './tokenizer_file.ts';
import { WORD_PATTERN, wordEnds } from './words.ts';

/** The longest text that is encoded, in UTF-16 units. */
export const MAX_TEXT_LENGTH = 1 << 22;
/** Longest stretch of text, in UTF-16 units, handed to the library at once: 1 to 2 ms of its time. */
const BATCH = 512;
const TURN_MS = 2;

/** A stretch of prompt. Only in trusted text (a template's, an author's) do special tokens count as such. */
export interface Span {
  text: string;
  trusted: boolean;
}

export interface Tokenizer {
  /**
   * Ids of a user's text: `<|endoftext|>` typed by a user is ordinary text. Added tokens that are not special (runs of
   * spaces in GPT-NeoX) count. Half a surrogate pair is read as U+FFFD.
   *
   * @throws TypeError `ERR_PROMPT_TYPE` when `text` is no string
   * @throws RangeError `ERR_PROMPT_TOO_LONG` over 2²² UTF-16 units
   */
  encode(text: string): Promise<number[]>;
  /** Ids of an author's text: special tokens written out are recognised. Errors as in `encode`. */
  encodeRaw(text: string): Promise<number[]>;
  /** Ids of text from both kinds of hand, encoded as one text: merges go across the borders. Errors as in `encode`. */
  encodeSpans(spans: readonly Span[]): Promise<number[]>;
  /**
   * The text of the ids. Special tokens are left out and so are ids below `rows` without a token, as the Rust tokenizers
   * do; bytes that are no UTF-8 are U+FFFD.
   *
   * @throws RangeError `ERR_TOK_ID` for an id that is not an integer from 0 to rows - 1
   */
  decode(ids: readonly number[]): string;
  /** A decoder for ids that arrive one by one. */
  stream(): TextStream;
  readonly specialIds: ReadonlySet<number>;
  /** The ids that end an answer. */
  readonly eosIds: ReadonlySet<number>;
  /** The tokens that a chat template may print; '' for one the model does not have. */
  readonly named: Readonly<TokenizerFile['named']>;
  /** Id of a token written as in the vocabulary (`Ġthe`), or of an added token. */
  idOf(token: string): number | undefined;
  readonly warnings: readonly string[];
}

/**
 * Loads the tokenizer of a checkpoint: `tokenizer.json` and, where present, `tokenizer_config.json`.
 *
 * @throws VLMambaError with an `ERR_TOK_…` code for a file that is missing, damaged, unsupported or of another model
 */
export async function loadTokenizer(dir: string, options: TokenizerOptions): Promise<Tokenizer> {
  const file = await readTokenizerFile(dir, options);
  return new ByteLevelTokenizer(file, await wordEncoder(file), options);
}

class ByteLevelTokenizer implements Tokenizer {
  readonly specialIds: ReadonlySet<number>;
  readonly eosIds: ReadonlySet<number>;
  readonly named: TokenizerFile['named'];
  readonly warnings: readonly string[];
  readonly #file: TokenizerFile;
  readonly #rows: number;
  readonly #library: Library;
  readonly #longWords: LongWordEncoder;
  readonly #beforeNfc: AddedTokenFinder;
  readonly #afterNfc: AddedTokenFinder;
  readonly #tokenOf: string[] = [];
  readonly #addedById: Map<number, string>;

  constructor(file: TokenizerFile, library: Library, { rows, eosTokenIds }: TokenizerOptions) {
    this.#file = file;
    this.#rows = rows;
    this.#library = library;
    this.#longWords = new LongWordEncoder(file);
    // A special token is a literal of the template, found before normalisation whatever its flag says.
    this.#beforeNfc = new AddedTokenFinder(file.added.filter((token) => token.special || !token.normalized));
    this.#afterNfc = new AddedTokenFinder(
      file.added.filter((token) => !token.special && token.normalized),
      (content) => (file.nfc ? content.normalize('NFC') : content),
    );
    for (const [token, id] of file.vocab) this.#tokenOf[id] = token;
    this.#addedById = new Map(file.added.map(({ id, content }) => [id, content]));
    this.specialIds = new Set(file.added.filter((token) => token.special).map((token) => token.id));
    this.named = file.named;
    this.warnings = file.warnings;
    const eos = this.idOf(file.named.eos);
    this.eosIds = new Set(eosTokenIds.length > 0 || eos === undefined ? eosTokenIds : [eos]);
  }

  encode(text: string): Promise<number[]> {
    return this.encodeSpans([{ text, trusted: false }]);
  }

  encodeRaw(text: string): Promise<number[]> {
    return this.encodeSpans([{ text, trusted: true }]);
  }

  async encodeSpans(spans: readonly Span[]): Promise<number[]> {
    let length = 0;
    for (const { text } of spans) {
      if (typeof text !== 'string') throw typeError('ERR_PROMPT_TYPE', `text must be a string, found ${show(text)}`);
      length += text.length;
    }
    if (length > MAX_TEXT_LENGTH)
      throw rangeError('ERR_PROMPT_TOO_LONG', `the text has ${length} characters, at most ${MAX_TEXT_LENGTH} are read`);
    const ids: number[] = [];
    let since = performance.now();
    for (const _ of this.#steps(spans, ids)) {
      if (performance.now() - since < TURN_MS) continue;
      await nextTurn();
      since = performance.now();
    }
    return ids;
  }

  decode(ids: readonly number[]): string {
    if (!Array.isArray(ids) && !ArrayBuffer.isView(ids))
      throw typeError('ERR_TOK_ID', `ids must be an array of token ids, got ${show(ids)}`);
    const stream = this.stream();
    let text = '';
    for (let i = 0; i < ids.length; i++) {
      const id = ids[i]!;
      if (!Number.isInteger(id) || id < 0 || id >= this.#rows)
        throw rangeError('ERR_TOK_ID', `ids[${i}] must be an integer from 0 to ${this.#rows - 1}, found ${show(id)}`);
      text += stream.push(id);
    }
    return text + stream.flush();
  }

  stream(): TextStream {
    return new TextStream((id) => this.#bytesOf(id));
  }

  idOf(token: string): number | undefined {
    return this.#file.added.find(({ content }) => content === token)?.id ?? this.#file.vocab.get(token);
  }

  #bytesOf(id: number): Uint8Array {
    if (this.specialIds.has(id)) return NOTHING;
    const added = this.#addedById.get(id);
    if (added !== undefined) return encoder.encode(added);
    const token = this.#tokenOf[id];
    return token === undefined ? NOTHING : (symbolBytes(token) ?? encoder.encode(token));
  }

  /** The whole encoding, stopping for breath at every yield. */
  *#steps(spans: readonly Span[], ids: number[]): Generator<void> {
    const [text, trusts] = join(spans);
    const accept = ({ token, start, end }: AddedMatch) => !token.special || trusts(start, end);
    let from = 0;
    for (const match of this.#beforeNfc.find(text, accept)) {
      yield;
      if (!match) continue;
      yield* this.#normalised(text.slice(from, match.start), ids);
      ids.push(match.token.id);
      from = match.end;
    }
    yield* this.#normalised(text.slice(from), ids);
  }

  *#normalised(raw: string, ids: number[]): Generator<void> {
    const text = this.#file.nfc ? yield* nfcSteps(raw) : raw;
    let from = 0;
    for (const match of this.#afterNfc.find(text)) {
      yield;
      if (!match) continue;
      yield* this.#words(text.slice(from, match.start), ids);
      ids.push(match.token.id);
      from = match.end;
    }
    yield* this.#words(text.slice(from), ids);
  }

  /** Whole words in batches: where a word ends, cutting the text changes no word. */
  *#words(text: string, ids: number[]): Generator<void> {
    let from = 0;
    let start = 0;
    for (const end of wordEnds(text)) {
      if (end === null) {
        yield;
        continue;
      }
      if (end - from > BATCH) {
        this.#batch(text.slice(from, start), ids);
        yield;
        from = start;
      }
      if (end - start > BATCH) {
        yield* this.#longWords.steps(text.slice(start, end), ids);
        from = end;
      }
      start = end;
    }
    this.#batch(text.slice(from), ids);
  }

  #batch(text: string, ids: number[]): void {
    if (text.length > 0) for (const id of this.#library.encode(text, { add_special_tokens: false }).ids) ids.push(id);
  }
}

const encoder = new TextEncoder();
const NOTHING = new Uint8Array(0);

/** The library as an encoder of plain text: what it would do differently from the reference is done here instead. */
async function wordEncoder(file: TokenizerFile): Promise<Library> {
  const { Tokenizer } = await import('@huggingface/tokenizers');
  return new Tokenizer(
    {
      added_tokens: [],
      normalizer: null,
      pre_tokenizer: {
        type: 'Sequence',
        pretokenizers: [
          { type: 'Split', pattern: { Regex: WORD_PATTERN }, behavior: 'Isolated', invert: false },
          { type: 'ByteLevel', add_prefix_space: false, use_regex: false },
        ],
      },
      post_processor: null,
      decoder: null,
      model: {
        type: 'BPE',
        vocab: Object.fromEntries(file.vocab),
        merges: file.merges,
        unk_token: null,
        fuse_unk: false,
        byte_fallback: false,
        ignore_merges: file.ignoreMerges,
      },
    },
    {},
  );
}

/** The spans as one text, and a test whether a stretch of it lies within one trusted span; to be asked from left to right. */
function join(spans: readonly Span[]): [text: string, trusts: (start: number, end: number) => boolean] {
  let text = '';
  const trusted: { start: number; end: number }[] = [];
  for (const span of spans) {
    const start = text.length;
    // Per span, so that halves of two spans never make a character.
    text += wellFormed(span.text);
    if (span.trusted) trusted.push({ start, end: text.length });
  }
  let at = 0;
  const trusts = (start: number, end: number): boolean => {
    while (at < trusted.length && trusted[at]!.end <= start) at++;
    const span = trusted[at];
    return span !== undefined && span.start <= start && end <= span.end;
  };
  return [text, trusts];
}

/** Half a surrogate pair becomes U+FFFD. ES2024's method, which Node has from version 20. */
const wellFormed = (text: string): string => (text as string & { toWellFormed(): string }).toWellFormed();
