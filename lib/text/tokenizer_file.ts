import { join } from 'node:path';
import { readSmallFile } from '../checkpoint/regular_file.ts';
import { type JsonData, JsonError, type JsonRecord, parseJsonData } from '../checkpoint/strict_json.ts';
import { show, VLMambaError } from '../errors.ts';
import { byteSymbols } from './byte_symbols.ts';

const MAX_FILE_BYTES = 64 << 20;
const MAX_CONFIG_BYTES = 1 << 20;
const MAX_MERGES = 1 << 20;
const MAX_NESTING = 8;
const MAX_ADDED_LENGTH = 512;

/** The mark of a picture in a prompt. */
export const IMAGE_MARK = '<image>';

/** GPT-2's pattern, the only one a file may name: a pattern of the file's own could take exponential time. */
const GPT2_PATTERN = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

export interface AddedToken {
  id: number;
  content: string;
  /** Never made from a user's text, and left out of decoded text. */
  special: boolean;
  /** Looked for after normalisation instead of before. */
  normalized: boolean;
}

/** A checked tokenizer.json: byte-level BPE with GPT-2's pattern. */
export interface TokenizerFile {
  /** Token → id, without the special tokens. */
  vocab: Map<string, number>;
  /** In order of rank, each pair once. */
  merges: [string, string][];
  /** A word that is a token is that token, whatever the merges say. */
  ignoreMerges: boolean;
  added: AddedToken[];
  /** The text is brought to Unicode's form NFC first. */
  nfc: boolean;
  /** Content of bos_token, eos_token, unk_token and pad_token in tokenizer_config.json; '' where it names none. */
  named: { bos: string; eos: string; unk: string; pad: string };
  warnings: string[];
}

export interface TokenizerOptions {
  /** Rows of the embedding: every id must be below. */
  rows: number;
  /** The ids that end an answer, from config.json; when empty, tokenizer_config.json's eos_token decides. */
  eosTokenIds: readonly number[];
}

/**
 * Reads and checks `tokenizer.json` and, where there is one, `tokenizer_config.json`.
 *
 * @throws VLMambaError with an `ERR_TOK_…` code; the message names the file and the field
 */
export async function readTokenizerFile(dir: string, options: TokenizerOptions): Promise<TokenizerFile> {
  const path = join(dir, 'tokenizer.json');
  const root = await readRecord(path, MAX_FILE_BYTES, 'not a tokenizer.json');
  const check = new Checker(path);
  const version = root.version;
  if (version !== undefined && version !== '1.0')
    check.fail('ERR_TOK_VERSION', `version ${show(version)} is not supported; supported: "1.0"`);
  const model = check.record(root.model, 'model');
  checkModelKind(check, model);
  const fullVocab = readVocab(check, model, options.rows);
  const added = readAdded(check, root.added_tokens, fullVocab, options);
  const special = new Set(added.filter((token) => token.special).map((token) => token.content));
  const merges = readMerges(check, model, fullVocab, special);
  const vocab = new Map([...fullVocab].filter(([token]) => !special.has(token)));
  for (const content of special)
    if (byteSymbols.includes(content))
      check.fail('ERR_TOK_SPECIAL', `special token ${show(content)} is the symbol of a byte: any text could hold it`);
  const nfc = readNormalizer(check, root.normalizer);
  checkPreTokenizer(check, root.pre_tokenizer);
  checkDecoder(check, root.decoder);
  checkPostProcessor(check, root.post_processor, (token) => fullVocab.has(token) || special.has(token));
  if (root.padding != null) check.warn('padding is ignored: prompts are never padded');
  if (root.truncation != null) check.warn('truncation is ignored: prompts are never cut');
  const lost = byteSymbols.filter((symbol, byte) => !neverInUtf8(byte) && !vocab.has(symbol)).length;
  if (lost > 0) check.warn(`model.vocab lacks the symbols of ${lost} bytes: text loses them`);
  const named = await readNamed(join(dir, 'tokenizer_config.json'));
  const idOf = (token: string) => added.find(({ content }) => content === token)?.id ?? fullVocab.get(token);
  checkEos(check, named.eos, idOf(named.eos), options.eosTokenIds);
  return { vocab, merges, ignoreMerges: model.ignore_merges === true, added, nfc, named, warnings: check.warnings };
}

const neverInUtf8 = (byte: number): boolean => byte === 0xc0 || byte === 0xc1 || byte > 0xf4;

/** Collects warnings and throws errors that name the file. */
class Checker {
  readonly path: string;
  readonly warnings: string[] = [];

  constructor(path: string) {
    this.path = path;
  }

  fail(code: string, message: string): never {
    throw new VLMambaError(code, `${this.path}: ${message}`, { details: { path: this.path } });
  }

  warn(message: string): void {
    this.warnings.push(`${this.path}: ${message}`);
  }

  record(value: JsonData | undefined, field: string): JsonRecord {
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      this.fail('ERR_TOK_JSON', `${field} must be an object, found ${show(value)}`);
    return value;
  }

  array(value: JsonData | undefined, field: string): JsonData[] {
    if (!Array.isArray(value)) this.fail('ERR_TOK_JSON', `${field} must be an array, found ${show(value)}`);
    return value;
  }
}

async function readRecord(path: string, maxBytes: number, otherwise: string): Promise<JsonRecord> {
  const bytes = await readSmallFile(path, { code: 'ERR_TOK_FILE', maxBytes });
  const fail = (what: string, cause?: unknown): never => {
    throw new VLMambaError('ERR_TOK_JSON', `${path}: ${otherwise}: ${what}`, { details: { path }, cause });
  };
  try {
    const value = parseJsonData(bytes);
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value;
    return fail(`expected an object at byte 0, found ${show(value)}`);
  } catch (cause) {
    if (!(cause instanceof JsonError)) throw cause;
    return fail(cause.message, cause);
  }
}

function checkModelKind(check: Checker, model: JsonRecord): void {
  const { type = 'BPE', dropout, unk_token: unk, byte_fallback: fallback } = model;
  if (type !== 'BPE') check.fail('ERR_TOK_MODEL', `model.type ${show(type)} is not supported; supported: "BPE"`);
  if (dropout != null && dropout !== 0)
    check.fail('ERR_TOK_DROPOUT', `model.dropout ${show(dropout)} would make ids random; expected null`);
  for (const field of ['continuing_subword_prefix', 'end_of_word_suffix'])
    if (model[field] != null && model[field] !== '')
      check.fail('ERR_TOK_UNSUPPORTED', `model.${field} ${show(model[field])} is not supported; expected null`);
  if (fallback === true) check.fail('ERR_TOK_UNSUPPORTED', 'model.byte_fallback true is not supported; expected false');
  const vocab = check.record(model.vocab, 'model.vocab');
  if (unk != null && (typeof unk !== 'string' || vocab[unk] === undefined))
    check.fail('ERR_TOK_UNK', `model.unk_token ${show(unk)} is not in model.vocab`);
}

function checkId(check: Checker, id: JsonData | undefined, rows: number, what: string): number {
  if (typeof id !== 'number' || !Number.isInteger(id) || id < 0)
    check.fail('ERR_TOK_ID', `${what}: the id must be an integer from 0, found ${show(id)}`);
  if (id >= rows)
    check.fail(
      'ERR_TOK_ID',
      `${what}: id ${id} is not below the embedding's ${rows} rows; is it another model's file?`,
    );
  return id;
}

function readVocab(check: Checker, model: JsonRecord, rows: number): Map<string, number> {
  const entries = Object.entries(check.record(model.vocab, 'model.vocab'));
  if (entries.length === 0) check.fail('ERR_TOK_VOCAB', 'model.vocab is empty');
  const vocab = new Map<string, number>();
  const tokens = new Map<number, string>();
  for (const [token, value] of entries) {
    const id = checkId(check, value, rows, `model.vocab[${show(token)}]`);
    const other = tokens.get(id);
    if (other !== undefined)
      check.fail('ERR_TOK_DUPLICATE', `model.vocab: ${show(other)} and ${show(token)} have the same id ${id}`);
    tokens.set(id, token);
    vocab.set(token, id);
  }
  return vocab;
}

function readAdded(
  check: Checker,
  value: JsonData | undefined,
  vocab: ReadonlyMap<string, number>,
  { rows, eosTokenIds }: TokenizerOptions,
): AddedToken[] {
  const tokenOf = new Map([...vocab].map(([token, id]) => [id, token]));
  const seen = new Set<string>();
  return check.array(value ?? [], 'added_tokens').map((item, i) => {
    const field = `added_tokens[${i}]`;
    const { id: rawId, content, special, normalized, ...rules } = check.record(item, field);
    if (typeof content !== 'string' || content.length === 0 || content.length > MAX_ADDED_LENGTH)
      check.fail(
        'ERR_TOK_ADDED',
        `${field}.content must be a string of 1 to ${MAX_ADDED_LENGTH} characters, found ${show(content)}`,
      );
    const id = checkId(check, rawId, rows, `${field} ${show(content)}`);
    for (const rule of ['single_word', 'lstrip', 'rstrip'])
      if (rules[rule] != null && rules[rule] !== false)
        check.fail('ERR_TOK_UNSUPPORTED', `${field}.${rule} ${show(rules[rule])} is not supported; expected false`);
    if (seen.has(content)) check.fail('ERR_TOK_DUPLICATE', `${field}: ${show(content)} is added twice`);
    seen.add(content);
    const [inVocab, other] = [vocab.get(content), tokenOf.get(id)];
    if (inVocab !== undefined && inVocab !== id)
      check.fail('ERR_TOK_DUPLICATE', `${field}: ${show(content)} has id ${id} here and ${inVocab} in model.vocab`);
    if (other !== undefined && other !== content)
      check.fail('ERR_TOK_DUPLICATE', `${field}: ${show(content)} and ${show(other)} have the same id ${id}`);
    tokenOf.set(id, content);
    return {
      id,
      content,
      special: special === true || content === IMAGE_MARK || eosTokenIds.includes(id),
      normalized: typeof normalized === 'boolean' ? normalized : special !== true,
    };
  });
}

function readMerges(
  check: Checker,
  model: JsonRecord,
  vocab: ReadonlyMap<string, number>,
  special: ReadonlySet<string>,
): [string, string][] {
  const list = check.array(model.merges, 'model.merges');
  if (list.length > MAX_MERGES)
    check.fail('ERR_TOK_MERGES', `model.merges holds ${list.length} merges, at most ${MAX_MERGES} are allowed`);
  const pairs = typeof list[0] !== 'string';
  const seen = new Set<string>();
  const merges: [string, string][] = [];
  let repeated = 0;
  list.forEach((item, i) => {
    const field = `model.merges[${i}]`;
    if (Array.isArray(item) !== pairs)
      check.fail(
        'ERR_TOK_MERGES',
        `${field} is ${show(item)}, model.merges[0] is ${show(list[0])}: one form is expected`,
      );
    const parts = typeof item === 'string' ? item.split(' ') : item;
    if (!Array.isArray(parts) || parts.length !== 2 || parts.some((part) => typeof part !== 'string' || part === ''))
      check.fail('ERR_TOK_MERGES', `${field} must have two parts, found ${show(item)}`);
    const [left, right] = parts as [string, string];
    for (const token of [left, right, left + right]) {
      if (!vocab.has(token))
        check.fail('ERR_TOK_MERGES', `${field} ${show(item)}: ${show(token)} is not in model.vocab`);
      if (special.has(token))
        check.fail('ERR_TOK_SPECIAL', `${field} ${show(item)}: a merge would make the special token ${show(token)}`);
    }
    const key = `${left} ${right}`;
    if (seen.has(key)) repeated++;
    else merges.push([left, right]);
    seen.add(key);
  });
  if (repeated > 0) check.warn(`model.merges repeats ${repeated} merges: the first of each counts`);
  return merges;
}

/** The steps of a pipeline in order: `Sequence`s laid open. */
function steps(check: Checker, value: JsonData | undefined, field: string, list: string, depth = 1): JsonRecord[] {
  if (value == null) return [];
  const step = check.record(value, field);
  if (step.type !== 'Sequence') return [step];
  if (depth > MAX_NESTING) check.fail('ERR_TOK_UNSUPPORTED', `${field}: Sequence nested more than ${MAX_NESTING} deep`);
  return check
    .array(step[list], `${field}.${list}`)
    .flatMap((item, i) => steps(check, item, `${field}.${list}[${i}]`, list, depth + 1));
}

function readNormalizer(check: Checker, value: JsonData | undefined): boolean {
  const list = steps(check, value, 'normalizer', 'normalizers');
  for (const { type } of list)
    if (type !== 'NFC')
      check.fail('ERR_TOK_UNSUPPORTED', `normalizer ${show(type)} is not supported; supported: "NFC", none`);
  return list.length > 0;
}

function checkPreTokenizer(check: Checker, value: JsonData | undefined): void {
  const list = steps(check, value, 'pre_tokenizer', 'pretokenizers');
  for (const { type } of list)
    if (type !== 'ByteLevel' && type !== 'Split')
      check.fail('ERR_TOK_UNSUPPORTED', `pre_tokenizer ${show(type)} is not supported; supported: "ByteLevel"`);
  const last = list.at(-1);
  if (last?.type !== 'ByteLevel')
    check.fail(
      'ERR_TOK_UNSUPPORTED',
      `pre_tokenizer must be, or end with, "ByteLevel", found ${show(last?.type ?? null)}`,
    );
  if (last.add_prefix_space === true)
    check.fail(
      'ERR_TOK_UNSUPPORTED',
      'pre_tokenizer: ByteLevel.add_prefix_space true is not supported; expected false',
    );
  const splits = list.slice(0, -1);
  if (splits.length !== (last.use_regex === false ? 1 : 0) || splits.some(({ type }) => type !== 'Split'))
    check.fail(
      'ERR_TOK_UNSUPPORTED',
      'pre_tokenizer must be ByteLevel with its own pattern, or one Split and ByteLevel with use_regex false',
    );
  for (const { pattern, behavior, invert } of splits) {
    const regex = check.record(pattern, 'pre_tokenizer: Split.pattern').Regex;
    if (regex !== GPT2_PATTERN || behavior !== 'Isolated' || invert === true)
      check.fail(
        'ERR_TOK_UNSUPPORTED',
        `pre_tokenizer: Split ${show(regex ?? pattern)} is not supported; supported: GPT-2's pattern, "Isolated"`,
      );
  }
}

function checkDecoder(check: Checker, value: JsonData | undefined): void {
  const list = steps(check, value, 'decoder', 'decoders');
  if (list.length !== 1 || list[0]!.type !== 'ByteLevel')
    check.fail(
      'ERR_TOK_UNSUPPORTED',
      `decoder ${show(list.map(({ type }) => type))} is not supported; supported: "ByteLevel"`,
    );
}

/** Post-processors add special tokens around a text, which prompts never get; they are only checked. */
function checkPostProcessor(check: Checker, value: JsonData | undefined, known: (token: string) => boolean): void {
  for (const step of steps(check, value, 'post_processor', 'processors')) {
    if (step.type === 'ByteLevel') continue;
    if (step.type !== 'TemplateProcessing')
      check.fail(
        'ERR_TOK_UNSUPPORTED',
        `post_processor ${show(step.type)} is not supported; supported: "ByteLevel", "TemplateProcessing"`,
      );
    const defined =
      step.special_tokens == null ? {} : check.record(step.special_tokens, 'post_processor.special_tokens');
    for (const template of ['single', 'pair'])
      for (const item of check.array(step[template] ?? [], `post_processor.${template}`)) {
        const special = check.record(item, `post_processor.${template}`).SpecialToken;
        const id = special === undefined ? undefined : check.record(special, 'SpecialToken').id;
        if (id === undefined) continue;
        if (typeof id !== 'string' || defined[id] === undefined || !known(id))
          check.fail('ERR_TOK_SPECIAL', `post_processor.${template} names the unknown special token ${show(id)}`);
      }
    check.warn('post_processor TemplateProcessing is ignored: prompts get no special tokens added');
  }
}

async function readNamed(path: string): Promise<TokenizerFile['named']> {
  const config = await readOptional(path);
  const content = (field: string): string => {
    const value = config?.[field];
    if (value == null) return '';
    const text = typeof value === 'object' && !Array.isArray(value) ? value.content : value;
    if (typeof text === 'string') return text;
    throw new VLMambaError('ERR_TOK_CONFIG', `${path}: ${field} must be a string, found ${show(value)}`, {
      details: { path, field },
    });
  };
  return { bos: content('bos_token'), eos: content('eos_token'), unk: content('unk_token'), pad: content('pad_token') };
}

/** `tokenizer_config.json`, null where there is none. */
export async function readOptional(path: string): Promise<JsonRecord | null> {
  try {
    return await readRecord(path, MAX_CONFIG_BYTES, 'not a tokenizer_config.json');
  } catch (error) {
    if (error instanceof VLMambaError && error.details.reason === 'ENOENT') return null;
    throw error;
  }
}

function checkEos(check: Checker, eos: string, id: number | undefined, eosTokenIds: readonly number[]): void {
  if (eos === '' || eosTokenIds.length === 0) return;
  if (id === undefined || !eosTokenIds.includes(id))
    check.fail(
      'ERR_TOK_EOS',
      `tokenizer_config.json names eos_token ${show(eos)} (id ${id ?? 'unknown'}), config.json eos_token_id ${show(eosTokenIds)}; make them agree`,
    );
}
