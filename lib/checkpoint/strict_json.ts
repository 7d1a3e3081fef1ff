import { Buffer, isUtf8 } from 'node:buffer';

/** What is wrong with a text: its grammar, its bytes, a key that occurs twice, or its size or depth. */
export type JsonFault = 'syntax' | 'utf8' | 'duplicate' | 'limit';

/** A text that is not strict JSON. `offset` counts bytes from the start of the file. */
export class JsonError extends Error {
  readonly fault: JsonFault;
  readonly offset: number;

  constructor(fault: JsonFault, message: string, offset: number) {
    super(`${message} at byte ${offset}`);
    this.name = 'JsonError';
    this.fault = fault;
    this.offset = offset;
  }
}

export interface JsonLimits {
  /** Longest text in bytes. Default 64 MiB. */
  maxBytes?: number;
  /** Most objects and arrays inside one another. Default 64. */
  maxDepth?: number;
  /** Most values in all, containers and keys' values alike. Default 2²³. */
  maxValues?: number;
  /** Offset of the first byte in its file, for messages. Default 0. */
  base?: number;
}

/** Integers outside ±(2⁵³ − 1) arrive as bigint, every other number as a double. */
export type JsonScalar = null | boolean | number | bigint | string;
export type JsonValue = JsonScalar | JsonValue[] | Map<string, JsonValue>;
/** An object without a prototype, so that a key such as `__proto__` is an ordinary key. */
export type JsonRecord = { [key: string]: JsonData };
export type JsonData = JsonScalar | JsonData[] | JsonRecord;

export type JsonKind = 'object' | 'array' | 'string' | 'number' | 'literal';

const QUOTE = 0x22;
const COMMA = 0x2c;
const MINUS = 0x2d;
const POINT = 0x2e;
const ZERO = 0x30;
const COLON = 0x3a;
const BACKSLASH = 0x5c;
const LETTER_U = 0x75;
// What follows a backslash, by its byte: " \\ / b f n r t.
const ESCAPES = new Map<number | undefined, string>([
  [0x22, '"'],
  [0x5c, '\\'],
  [0x2f, '/'],
  [0x62, '\b'],
  [0x66, '\f'],
  [0x6e, '\n'],
  [0x72, '\r'],
  [0x74, '\t'],
]);
const LONGEST_NUMBER = 256;

const isDigit = (byte: number | undefined): boolean => byte !== undefined && byte >= ZERO && byte <= 0x39;

function hexValue(byte: number | undefined): number {
  if (byte === undefined) return -1;
  if (isDigit(byte)) return byte - ZERO;
  const letter = byte | 0x20;
  return letter >= 0x61 && letter <= 0x66 ? letter - 0x61 + 10 : -1;
}

const isHighSurrogate = (unit: number): boolean => unit >= 0xd800 && unit <= 0xdbff;
const isLowSurrogate = (unit: number): boolean => unit >= 0xdc00 && unit <= 0xdfff;

/** How the two kinds of container are built: an array, or whatever holds an object's fields. */
interface Maker<T> {
  object(): T;
  has(object: T, key: string): boolean;
  set(object: T, key: string, value: unknown): void;
}

const maps: Maker<Map<string, unknown>> = {
  object: () => new Map(),
  has: (object, key) => object.has(key),
  set: (object, key, value) => object.set(key, value),
};

const records: Maker<Record<string, unknown>> = {
  object: () => Object.create(null),
  has: (object, key) => key in object,
  set: (object, key, value) => {
    object[key] = value;
  },
};

/** Remembers keys, to find those that occur twice, and nothing else. */
const keysOnly: Maker<Set<string>> = {
  object: () => new Set(),
  has: (object, key) => object.has(key),
  set: (object, key) => object.add(key),
};

/**
 * A cursor over the bytes of one JSON text (RFC 8259). It refuses what parsers disagree about: duplicate keys (compared
 * after unescaping), invalid UTF-8, lone surrogates, a byte order mark, bytes after the value. No method recurses on the
 * depth of the input. Every method throws `JsonError`.
 */
export class JsonReader {
  readonly #bytes: Buffer;
  // One character per byte, so that an index is a byte offset; slicing it is several times faster than decoding bytes.
  readonly #text: string;
  readonly #base: number;
  readonly #maxDepth: number;
  #values: number;
  #depth = 0;
  #at = 0;

  constructor(
    bytes: Uint8Array,
    { maxBytes = 2 ** 26, maxDepth = 64, maxValues = 2 ** 23, base = 0 }: JsonLimits = {},
  ) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#base = base;
    this.#maxDepth = maxDepth;
    this.#values = maxValues;
    if (bytes.length > maxBytes) this.fail(`the text has ${bytes.length} bytes, more than ${maxBytes}`, 0, 'limit');
    if (bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf)
      this.fail('a byte order mark instead of a value', 0);
    if (!isUtf8(bytes)) this.fail('invalid UTF-8', validPrefix(bytes), 'utf8');
    this.#text = this.#bytes.toString('latin1');
  }

  /** Offset in the file of the next value. */
  get offset(): number {
    this.#space();
    return this.#base + this.#at;
  }

  /** The kind of the next value, judged by its first byte. */
  peek(): JsonKind {
    this.#space();
    const byte = this.#bytes[this.#at];
    if (byte === QUOTE) return 'string';
    if (byte === 0x7b) return 'object';
    if (byte === 0x5b) return 'array';
    if (byte === MINUS || isDigit(byte)) return 'number';
    return 'literal';
  }

  /** Reads an object. `field` is called after each key and its colon, and has to read the value. */
  object(field: (key: string) => void): void {
    // Most objects have a few keys: a list is then faster than a set, and a header has thousands of such objects.
    const few: string[] = [];
    let many: Set<string> | undefined;
    this.#open(0x7b, 'an object');
    if (!this.#take(0x7d)) {
      do {
        const key = this.#key();
        if (many ? many.has(key.text) : few.includes(key.text)) this.#duplicate(key);
        if (many) many.add(key.text);
        else if (few.push(key.text) === 8) many = new Set(few);
        field(key.text);
      } while (this.#more(0x7d, '}'));
    }
    this.#depth--;
  }

  /** Reads an array. `item` is called before each element and has to read it. */
  array(item: (index: number) => void): void {
    let index = 0;
    this.#open(0x5b, 'an array');
    if (!this.#take(0x5d))
      do item(index++);
      while (this.#more(0x5d, ']'));
    this.#depth--;
  }

  string(): string {
    this.#space();
    this.#count();
    if (this.#bytes[this.#at] !== QUOTE) this.#unexpected('a string');
    return this.#string();
  }

  /** Reads a number and gives its source text: what a double would round or normalise can still be told apart. */
  numberText(): string {
    this.#space();
    this.#count();
    return this.#number();
  }

  /** Reads a value of any kind; objects become Maps. */
  value(): JsonValue {
    return this.#any(maps) as JsonValue;
  }

  /** Reads a value of any kind; objects become records without a prototype. */
  data(): JsonData {
    return this.#any(records) as JsonData;
  }

  /** Reads a value of any kind with all checks and keeps nothing. */
  skip(): void {
    this.#any(keysOnly, false);
  }

  /** Checks that nothing but white space follows. */
  end(): void {
    this.#space();
    if (this.#at === this.#bytes.length) return;
    const hint = this.#bytes[this.#at] === 0 ? ' (padded with NUL? it should be spaces)' : '';
    this.fail(`unexpected ${this.#here()} after the end of the value${hint}`);
  }

  fail(message: string, at = this.#at, fault: JsonFault = 'syntax'): never {
    throw new JsonError(fault, message, this.#base + at);
  }

  #any<T>(maker: Maker<T>, keep = true): unknown {
    const outer: { array: unknown[] | null; object: T | null; key: string }[] = [];
    const depth = this.#depth;
    let array: unknown[] | null = null;
    let object: T | null = null;
    let key = '';
    for (;;) {
      let value: unknown;
      const kind = this.peek();
      if (kind === 'object' || kind === 'array') {
        outer.push({ array, object, key });
        if (kind === 'object') {
          this.#open(0x7b, 'an object');
          [array, object] = [null, maker.object()];
          if (!this.#take(0x7d)) {
            key = this.#key().text;
            continue;
          }
        } else {
          this.#open(0x5b, 'an array');
          [array, object] = [[], null];
          if (!this.#take(0x5d)) continue;
        }
        value = object ?? array;
        ({ array, object, key } = outer.pop()!);
        this.#depth--;
      } else {
        this.#count();
        value = kind === 'string' ? this.#string() : kind === 'number' ? this.#exact(this.#number()) : this.#literal();
      }
      // The value is whole. Hang it in its container; where that ends here too, go on outwards.
      for (;;) {
        if (this.#depth === depth) return value;
        let closed: boolean;
        if (object !== null) {
          maker.set(object, key, value);
          closed = !this.#more(0x7d, '}');
          if (!closed) {
            const next = this.#key();
            if (maker.has(object, next.text)) this.#duplicate(next);
            key = next.text;
          }
        } else {
          if (keep) array!.push(value);
          closed = !this.#more(0x5d, ']');
        }
        if (!closed) break;
        value = object ?? array;
        ({ array, object, key } = outer.pop()!);
        this.#depth--;
      }
    }
  }

  #space(): void {
    const bytes = this.#bytes;
    let at = this.#at;
    for (; at < bytes.length; at++) {
      const byte = bytes[at]!;
      if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) break;
    }
    this.#at = at;
  }

  #count(): void {
    if (--this.#values < 0) this.fail('more values than a text may hold', this.#at, 'limit');
  }

  #open(byte: number, name: string): void {
    this.#space();
    this.#count();
    if (this.#bytes[this.#at] !== byte) this.#unexpected(name);
    if (++this.#depth > this.#maxDepth) this.fail(`nested deeper than ${this.#maxDepth}`, this.#at, 'limit');
    this.#at++;
  }

  #take(byte: number): boolean {
    this.#space();
    if (this.#bytes[this.#at] !== byte) return false;
    this.#at++;
    return true;
  }

  #more(close: number, name: string): boolean {
    if (this.#take(COMMA)) return true;
    if (!this.#take(close)) this.#unexpected(`"," or "${name}"`);
    return false;
  }

  #key(): { text: string; at: number } {
    this.#space();
    const at = this.#at;
    if (this.#bytes[at] !== QUOTE) this.#unexpected('a key in quotes');
    const text = this.#string();
    if (!this.#take(COLON)) this.#unexpected('":"');
    return { text, at };
  }

  #duplicate({ text, at }: { text: string; at: number }): never {
    this.fail(`the key ${JSON.stringify(text.slice(0, 200))} occurs twice`, at, 'duplicate');
  }

  #string(): string {
    const bytes = this.#bytes;
    const start = this.#at + 1;
    let high = 0;
    for (let at = start; at < bytes.length; at++) {
      const byte = bytes[at]!;
      if (byte === QUOTE) {
        this.#at = at + 1;
        return this.#run(start, at, high);
      }
      if (byte === BACKSLASH) return this.#escaped(start, at);
      if (byte < 0x20) this.fail(`a raw control character (${hex(byte)}) in a string`, at);
      high |= byte;
    }
    return this.fail('unexpected end inside a string', bytes.length);
  }

  #escaped(start: number, firstEscape: number): string {
    const bytes = this.#bytes;
    let text = '';
    let from = start;
    let high = 0x80;
    for (let at = firstEscape; at < bytes.length; ) {
      const byte = bytes[at]!;
      if (byte === QUOTE) {
        this.#at = at + 1;
        return text + this.#run(from, at, high);
      }
      if (byte < 0x20) this.fail(`a raw control character (${hex(byte)}) in a string`, at);
      if (byte !== BACKSLASH) {
        high |= byte;
        at++;
        continue;
      }
      text += this.#run(from, at, high);
      if (bytes[at + 1] === LETTER_U) {
        const unit = this.#unit(at);
        if (isLowSurrogate(unit)) this.fail('a lone surrogate', at);
        text += String.fromCharCode(unit);
        at += 6;
        if (isHighSurrogate(unit)) {
          const low = bytes[at] === BACKSLASH && bytes[at + 1] === LETTER_U ? this.#unit(at) : 0;
          if (!isLowSurrogate(low)) this.fail('a lone surrogate', at - 6);
          text += String.fromCharCode(low);
          at += 6;
        }
      } else {
        const meant = ESCAPES.get(bytes[at + 1]);
        if (meant === undefined) this.fail('an unknown escape in a string', at);
        text += meant;
        at += 2;
      }
      from = at;
      high = 0;
    }
    return this.fail('unexpected end inside a string', bytes.length);
  }

  /** The characters of the bytes from `from` to `to`, whose bits are all in `high`. */
  #run(from: number, to: number, high: number): string {
    return high < 0x80 ? this.#text.slice(from, to) : this.#bytes.toString('utf8', from, to);
  }

  #unit(at: number): number {
    let unit = 0;
    for (let digit = at + 2; digit < at + 6; digit++) {
      const value = hexValue(this.#bytes[digit]);
      if (value < 0) this.fail('\\u without four hexadecimal digits', at);
      unit = unit * 16 + value;
    }
    return unit;
  }

  #number(): string {
    const bytes = this.#bytes;
    const start = this.#at;
    let at = start;
    if (bytes[at] === MINUS) at++;
    if (bytes[at] === ZERO && isDigit(bytes[at + 1])) this.fail('a number with a leading zero', start);
    at = this.#digits(at);
    if (bytes[at] === POINT) at = this.#digits(at + 1);
    if (bytes[at] === 0x65 || bytes[at] === 0x45) {
      at++;
      if (bytes[at] === 0x2b || bytes[at] === MINUS) at++;
      at = this.#digits(at);
    }
    if (at - start > LONGEST_NUMBER) this.fail(`a number of more than ${LONGEST_NUMBER} characters`, start, 'limit');
    this.#at = at;
    return this.#text.slice(start, at);
  }

  #digits(from: number): number {
    let at = from;
    while (isDigit(this.#bytes[at])) at++;
    if (at === from) this.#unexpected('a digit', at);
    return at;
  }

  #exact(text: string): number | bigint {
    const number = Number(text);
    if (!Number.isFinite(number)) this.fail('a number beyond the range of a double', this.#at - text.length);
    return Number.isSafeInteger(number) || /[.eE]/.test(text) ? number : BigInt(text);
  }

  #literal(): null | boolean {
    const word = /^[a-z]{1,5}/.exec(this.#text.slice(this.#at, this.#at + 5))?.[0];
    if (word !== 'null' && word !== 'true' && word !== 'false') this.#unexpected('a value');
    this.#at += word.length;
    return word === 'null' ? null : word === 'true';
  }

  #unexpected(wanted: string, at = this.#at): never {
    this.#at = at;
    if (at === this.#bytes.length) this.fail('unexpected end');
    this.fail(`expected ${wanted}, found ${this.#here()}`);
  }

  #here(): string {
    const byte = this.#bytes[this.#at]!;
    return byte > 0x20 && byte < 0x7f ? JSON.stringify(String.fromCharCode(byte)) : `byte ${hex(byte)}`;
  }
}

/**
 * Parses one JSON text into Maps, arrays and scalars.
 * @throws JsonError with the byte's offset
 */
export function parseJson(bytes: Uint8Array, limits?: JsonLimits): JsonValue {
  const reader = new JsonReader(bytes, limits);
  const value = reader.value();
  reader.end();
  return value;
}

/**
 * Like `parseJson`, with objects as records without a prototype: for configurations, where fields are named in code.
 * @throws JsonError with the byte's offset
 */
export function parseJsonData(bytes: Uint8Array, limits?: JsonLimits): JsonData {
  const reader = new JsonReader(bytes, limits);
  const value = reader.data();
  reader.end();
  return value;
}

const hex = (byte: number): string => `0x${byte.toString(16).padStart(2, '0')}`;

/** The offset of the first byte that does not belong to a whole UTF-8 character. */
function validPrefix(bytes: Uint8Array): number {
  const isWhole = (from: number, to: number): boolean => to <= bytes.length && isUtf8(bytes.subarray(from, to));
  let good = 0;
  for (let block = 2 ** 16; block >= 1; block /= 2) {
    // A block may end inside a character, so up to three bytes more are tried.
    for (let to = good + block; to < good + block + 4; to++) {
      if (!isWhole(good, to)) continue;
      good = to;
      to = good + block - 1;
    }
  }
  return good;
}
