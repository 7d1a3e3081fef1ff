/**
 * What each parser of untrusted bytes promises, as a function that throws where the promise is broken. `npm run fuzz` feeds them
 * mutants of their seeds.
 */
import * as assert from 'node:assert/strict';
import { parseHeader } from '../../lib/checkpoint/safetensors.ts';
import { JsonError, parseJson, parseJsonData } from '../../lib/checkpoint/strict_json.ts';
import { decodeDataUrl } from '../../lib/image/data_url.ts';
import { sniff } from '../../lib/image/format.ts';
import { StopMatcher, TextStream } from '../../lib/text/text_stream.ts';

export interface Target {
  name: string;
  seeds: (string | Uint8Array)[];
  /** Pieces of grammar that mutations insert. */
  words: string[];
  /** Throws when the promise is broken; refusing the bytes with a code is no breach. */
  check(bytes: Uint8Array): void | Promise<void>;
}

const coded = (error: unknown, pattern: RegExp): void => {
  if (!pattern.test(String((error as { code?: string }).code))) throw error;
};

const jsonWords = [
  '{',
  '}',
  '[',
  ']',
  ',',
  ':',
  '"',
  '\\u0000',
  '\\ud800',
  'null',
  '1e308',
  '-0',
  '18446744073709551616',
];

/** The same value for JSON.parse: strict_json accepts a part of what JSON.parse accepts, and reads it alike. */
function plain(value: unknown): unknown {
  if (value instanceof Map) return Object.fromEntries([...value].map(([key, item]) => [`_${key}`, plain(item)]));
  if (Array.isArray(value)) return value.map(plain);
  return typeof value === 'bigint' ? Number(value) : value;
}
const underscored = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.map(underscored);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [`_${key}`, underscored(item)]));
};

const header = JSON.stringify({
  __metadata__: { format: 'pt' },
  a: { dtype: 'F32', shape: [2, 3], data_offsets: [0, 24] },
  b: { dtype: 'BF16', shape: [], data_offsets: [24, 26] },
  c: { dtype: 'I64', shape: [0], data_offsets: [26, 26] },
});

/** Cuts a string at places that the bytes choose. */
function cut(text: string, places: Uint8Array): string[] {
  const pieces: string[] = [];
  let at = 0;
  for (let i = 0; at < text.length; i++) {
    const n = 1 + (places[i % places.length]! % 5);
    pieces.push(text.slice(at, at + n));
    at += n;
  }
  return pieces;
}

/** The first match that begins earliest, of those the longest: what StopMatcher finds without holding all of the text. */
function firstStop(text: string, stops: string[]): { start: number; end: number } | undefined {
  for (let start = 0; start < text.length; start++) {
    const longest = stops.filter((stop) => text.startsWith(stop, start)).sort((a, b) => b.length - a.length)[0];
    if (longest) return { start, end: start + longest.length };
  }
}

export const targets: Target[] = [
  {
    name: 'safetensors header',
    seeds: [header, '{}', `{"x":{"dtype":"U8","shape":[26],"data_offsets":[0,26]}}   `],
    words: [
      ...jsonWords,
      '"dtype":"F64"',
      '"shape":[0]',
      '"data_offsets":[0,26]',
      '"__metadata__":{}',
      '9007199254740993',
    ],
    check(bytes) {
      const size = 8 + bytes.length + 26;
      try {
        const { tensors } = parseHeader(bytes, { path: 'fuzz', size });
        let end = 8 + bytes.length;
        for (const { offset, bytes: length } of [...tensors.values()].sort(
          (a, b) => a.offset - b.offset || a.bytes - b.bytes,
        )) {
          assert.equal(offset, end, 'tensors follow one another');
          end += length;
        }
        assert.equal(end, size, 'and cover the file');
      } catch (error) {
        coded(error, /^ERR_ST_/);
      }
    },
  },
  {
    name: 'strict json',
    seeds: ['{"a":[1,2.5,-3e7,"x\\n\\u20ac",null,true],"b":{"c":{}}}', '[]', '"\\ud83d\\ude00"', ' [ 0 , -0.0 ] '],
    words: [...jsonWords, 'true', 'false', '1.5', '\ufeff', '\u2028', '\\/', '"a":'],
    check(bytes) {
      let value: unknown;
      try {
        value = parseJson(bytes);
        parseJsonData(bytes);
      } catch (error) {
        if (!(error instanceof JsonError)) throw error;
        return;
      }
      assert.deepEqual(plain(value), underscored(JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))));
    },
  },
  {
    name: 'stop matcher',
    seeds: ['\u0001\u0002abcab\u0000abcabcabd ab', 'aaa\u0000aaaaaaa', '</s>\u0000text</s', 'é€\u0000aé€é'],
    words: ['\u0000', 'ab', 'aba', '</s>', 'é'],
    check(bytes) {
      const [first, ...rest] = Buffer.from(bytes).toString('utf8').split('\0');
      const stops = [first!.slice(0, 8), first!.slice(2, 5)].filter((stop) => stop.length > 0);
      if (stops.length === 0) return;
      const text = rest.join('');
      let matcher: StopMatcher;
      try {
        matcher = new StopMatcher(stops);
      } catch (error) {
        return coded(error, /^ERR_GEN_STOP$/);
      }
      let shown = '';
      let stopped = false;
      for (const piece of cut(text, bytes)) {
        const read = matcher.push(piece);
        shown += read.text;
        stopped = read.stopped;
        if (stopped) break;
      }
      if (!stopped) {
        const last = matcher.flush();
        shown += last.text;
        stopped = last.stopped;
      }
      const match = firstStop(text, stops);
      assert.equal(stopped, match !== undefined, JSON.stringify({ stops, text }));
      assert.equal(shown, match ? text.slice(0, match.start) : text, JSON.stringify({ stops, text }));
    },
  },
  {
    name: 'streaming decoder',
    seeds: [
      'é€😀 ascii',
      Uint8Array.of(0xf0, 0x9f, 0x98, 0x80, 0xe2, 0x82),
      Uint8Array.of(0xc0, 0x80, 0xed, 0xa0, 0x80, 0xff),
    ],
    words: ['😀', '\ufffd', '\u0000', 'é'],
    check(bytes) {
      const stream = new TextStream((id) => bytes.subarray(id, id + 1 + (bytes[id]! % 3)));
      let text = '';
      for (let at = 0; at < bytes.length; at += 1 + (bytes[at]! % 3)) {
        const piece = stream.push(at);
        assert.ok(!/[\ud800-\udbff]$/.test(piece), 'half of a character');
        text += piece;
      }
      assert.equal(text + stream.flush(), new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes));
    },
  },
  {
    name: 'data URL',
    seeds: ['data:image/png;base64,iVBORw0KGgo=', 'data:,a%20b', 'data:image/jpeg;charset=x;base64,/9j/'],
    words: ['data:', ';base64,', '%', '=', ',', 'image/svg+xml'],
    async check(bytes) {
      try {
        await decodeDataUrl(`data:${Buffer.from(bytes).toString('latin1')}`);
      } catch (error) {
        coded(error, /^ERR_(IMAGE|ARG)_/);
      }
    },
  },
  {
    name: 'picture format',
    seeds: [
      Uint8Array.of(0xff, 0xd8, 0xff, 0xe0),
      Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a),
      'RIFF    WEBPVP8 ',
    ],
    words: ['RIFF', 'WEBP', '<svg', 'GIF89a', '%PDF'],
    check(bytes) {
      try {
        assert.match(sniff(bytes, 'fuzz'), /^(jpeg|png|webp)$/);
      } catch (error) {
        coded(error, /^ERR_IMAGE_/);
      }
    },
  },
];
