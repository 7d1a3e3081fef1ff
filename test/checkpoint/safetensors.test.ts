import { execFileSync } from 'node:child_process';
import type { BigIntStats } from 'node:fs';
import {
  appendFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  symlinkSync,
  truncateSync,
} from 'node:fs';
import { open } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { ReadableFile } from '../../lib/checkpoint/regular_file.ts';
import {
  openSafetensors,
  parseHeader,
  readSafetensors,
  type TensorSource,
  writeSafetensors,
} from '../../lib/checkpoint/safetensors.ts';
import { failure, openFiles, safetensors, scratch, seeded } from './hostile.ts';

const { dir, put } = scratch();
let files = 0;
const asFile = (content: Uint8Array): string => put(`${files++}.safetensors`, content);

const entry = (dtype: unknown, shape: unknown, ...offsets: unknown[]): object => ({
  dtype,
  shape,
  data_offsets: offsets,
});
/** An entry as text, for what `JSON.stringify` would not write. */
const raw = (shape: string, offsets: string): string => `{"dtype":"F32","shape":${shape},"data_offsets":${offsets}}`;
const one = (shape: string, offsets = '[0,8]'): Buffer => safetensors(`{"a":${raw(shape, offsets)}}`, 8);
const good = { a: entry('F32', [2], 0, 8) };
const goodText = JSON.stringify(good);
const length = BigInt(goodText.length);
const bytes = (...parts: (string | number[])[]): Buffer =>
  Buffer.concat(parts.map((part) => Buffer.from(part as string)));
const bigEndian = (): Buffer => {
  const file = safetensors(good, 8);
  file.subarray(0, 8).reverse();
  return file;
};
/** Foreign files, long enough that their first eight bytes are no believable length. */
const foreign = (start: string | number[]): Buffer => bytes(start, ' and so on '.repeat(40));

// Numbers are those of the case table in the project's notes on reliability.
const refused: [id: string, file: Buffer, code: string, message?: string][] = [
  ['01 an empty file', bytes(), 'ERR_ST_TOO_SMALL', 'has 0 bytes'],
  ['02 7 bytes', bytes('1234567'), 'ERR_ST_TOO_SMALL', 'has 7 bytes'],
  ['03 length 0', safetensors(''), 'ERR_ST_HEADER_EMPTY'],
  ['04 length 1', safetensors('{'), 'ERR_ST_JSON', 'unexpected end at byte 9'],
  [
    '05 length beyond the file',
    safetensors(good, 8, { length: 1000n }),
    'ERR_ST_HEADER_LEN',
    `1000 bytes, the file holds ${goodText.length + 8}`,
  ],
  ['06 length 100,000,001', safetensors(good, 8, { length: 100_000_001n }), 'ERR_ST_HEADER_TOO_LARGE', '100000001'],
  ['07 length 2^64 - 1', safetensors(good, 8, { length: 2n ** 64n - 1n }), 'ERR_ST_HEADER_TOO_LARGE'],
  ['08 length 2^64 - 8', safetensors(good, 8, { length: 2n ** 64n - 8n }), 'ERR_ST_HEADER_TOO_LARGE'],
  ['09 length 2^63', safetensors(good, 8, { length: 2n ** 63n }), 'ERR_ST_HEADER_TOO_LARGE'],
  ['10 length 2^32 + the true one', safetensors(good, 8, { length: 2n ** 32n + length }), 'ERR_ST_HEADER_TOO_LARGE'],
  ['11 length with its bytes swapped', bigEndian(), 'ERR_ST_HEADER_TOO_LARGE', 'byte-swapped'],
  ['12 length one short', safetensors(good, 8, { length: length - 1n }), 'ERR_ST_JSON', `at byte ${7n + length}`],
  [
    '13 length one long',
    safetensors(good, bytes('x1234567'), { length: length + 1n }),
    'ERR_ST_JSON',
    `at byte ${8n + length}`,
  ],
  ['14 a ZIP', foreign('PK\x03\x04'), 'ERR_ST_NOT_SAFETENSORS', 'ZIP or PyTorch'],
  ['15 a pickle', foreign([0x80, 2]), 'ERR_ST_NOT_SAFETENSORS', 'pickle; refusing'],
  [
    '15 a pickle whose first bytes are a length',
    bytes([0x80, 2, 0, 0, 0, 0, 0, 0], ' '.repeat(900)),
    'ERR_ST_NOT_SAFETENSORS',
    'pickle',
  ],
  ['16 GGUF', foreign('GGUF\x03\0\0\0'), 'ERR_ST_NOT_SAFETENSORS', 'GGUF'],
  [
    '17 a Git LFS pointer',
    foreign('version https://git-lfs.github.com/spec/v1\n'),
    'ERR_ST_NOT_SAFETENSORS',
    'git lfs pull',
  ],
  ['18 an HTML page', foreign('<!DOCTYPE html><html>'), 'ERR_ST_NOT_SAFETENSORS', 'HTML'],
  ['18 an XML error', foreign('\n<?xml version="1.0"?>'), 'ERR_ST_NOT_SAFETENSORS', 'HTML'],
  ['19 a byte order mark', safetensors(bytes([0xef, 0xbb, 0xbf], goodText), 8), 'ERR_ST_JSON', 'byte order mark'],
  [
    '20 a header over the default limit',
    safetensors(bytes(goodText, ' '.repeat(25_000_000)), 8),
    'ERR_ST_HEADER_TOO_LARGE',
    'maxHeaderBytes',
  ],
  [
    '21 invalid UTF-8 in a name',
    safetensors(bytes('{"a', [0xff], `":${raw('[2]', '[0,8]')}}`), 8),
    'ERR_ST_UTF8',
    'at byte 11',
  ],
  ['22 overlong UTF-8', safetensors(bytes('{"', [0xc1, 0xa1], `":${raw('[2]', '[0,8]')}}`), 8), 'ERR_ST_UTF8'],
  [
    '22 an encoded surrogate',
    safetensors(bytes('{"', [0xed, 0xa0, 0x80], `":${raw('[2]', '[0,8]')}}`), 8),
    'ERR_ST_UTF8',
  ],
  ['23 an array', safetensors('[]'), 'ERR_ST_JSON'],
  ['23 a string', safetensors('"{}"'), 'ERR_ST_JSON'],
  ['23 null', safetensors('null'), 'ERR_ST_JSON'],
  ['24 a vertical tab first', safetensors(`\v${goodText}`, 8), 'ERR_ST_JSON', 'at byte 8'],
  ['27 padding with NUL', safetensors(`${goodText}\0\0`, 8), 'ERR_ST_JSON', 'padded with NUL'],
  ['28 a letter after the header', safetensors(`${goodText} x`, 8), 'ERR_ST_JSON'],
  ['28 a second object', safetensors(`${goodText}{}`, 8), 'ERR_ST_JSON'],
  [
    '29 a name twice, the same',
    safetensors(`{"a":${raw('[2]', '[0,8]')},"a":${raw('[2]', '[0,8]')}}`, 8),
    'ERR_ST_DUPLICATE_KEY',
    '"a"',
  ],
  [
    '30 a name twice, other shapes',
    safetensors(`{"a":${raw('[2]', '[0,8]')},"a":${raw('[1]', '[0,4]')}}`, 8),
    'ERR_ST_DUPLICATE_KEY',
  ],
  [
    '31 a name twice, once escaped',
    safetensors(`{"t":${raw('[2]', '[0,8]')},"\\u0074":${raw('[2]', '[0,8]')}}`, 8),
    'ERR_ST_DUPLICATE_KEY',
  ],
  [
    '32 dtype twice',
    safetensors('{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8),
    'ERR_ST_DUPLICATE_KEY',
  ],
  [
    '32 a key twice in an unknown field',
    safetensors('{"a":{"x":{"y":1,"y":1},"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8),
    'ERR_ST_DUPLICATE_KEY',
  ],
  ['33 __metadata__ twice', safetensors('{"__metadata__":{},"__metadata__":{}}'), 'ERR_ST_DUPLICATE_KEY'],
  ['34 a key twice in __metadata__', safetensors('{"__metadata__":{"k":"1","k":"2"}}'), 'ERR_ST_DUPLICATE_KEY'],
  ['35 a number in __metadata__', safetensors('{"__metadata__":{"k":1}}'), 'ERR_ST_METADATA', '"k"'],
  ['35 an object in __metadata__', safetensors('{"__metadata__":{"k":{}}}'), 'ERR_ST_METADATA'],
  ['35 __metadata__ as a list', safetensors('{"__metadata__":["k"]}'), 'ERR_ST_METADATA'],
  ['36 __metadata__ false', safetensors('{"__metadata__":false}'), 'ERR_ST_METADATA'],
  ['37 a tensor named __metadata__', safetensors({ __metadata__: entry('F32', [2], 0, 8) }, 8), 'ERR_ST_METADATA'],
  ['38 100,000 open brackets', safetensors(`{"a":${'['.repeat(100_000)}`), 'ERR_ST_FIELD'],
  [
    '38 100,000 open brackets in an unknown field',
    safetensors(`{"a":{"x":${'['.repeat(100_000)}`),
    'ERR_ST_JSON',
    'nested deeper than 4',
  ],
  ['39 a lone surrogate', safetensors(`{"\\ud800":${raw('[2]', '[0,8]')}}`, 8), 'ERR_ST_JSON', 'lone surrogate'],
  ['40 NUL in a name', safetensors(`{"a\\u0000b":${raw('[2]', '[0,8]')}}`, 8), 'ERR_ST_NAME', 'a\\u0000b'],
  ['41 an empty name', safetensors({ '': entry('F32', [2], 0, 8) }, 8), 'ERR_ST_NAME', 'is empty'],
  [
    '41 a name of 4,097 bytes',
    safetensors({ [`${'é'.repeat(2048)}x`]: entry('F32', [2], 0, 8) }, 8),
    'ERR_ST_NAME',
    'has 4097 bytes',
  ],
  ['43 a comment', safetensors(`{/**/"a":${raw('[2]', '[0,8]')}}`, 8), 'ERR_ST_JSON'],
  ['43 a trailing comma', safetensors(`{"a":${raw('[2]', '[0,8]')},}`, 8), 'ERR_ST_JSON'],
  ['43 NaN', safetensors('{"a":{"x":NaN}}'), 'ERR_ST_JSON'],
  ['43 a raw control character', safetensors(`{"a\nb":${raw('[2]', '[0,8]')}}`, 8), 'ERR_ST_JSON', '0x0a'],
  ['43 a leading zero', one('[02]'), 'ERR_ST_JSON', 'leading zero'],
  ['43 a plus sign', one('[+2]'), 'ERR_ST_INT'],
  ['46 no dtype', safetensors({ a: { shape: [2], data_offsets: [0, 8] } }, 8), 'ERR_ST_FIELD', 'dtype is missing'],
  ['46 no shape', safetensors({ a: { dtype: 'F32', data_offsets: [0, 8] } }, 8), 'ERR_ST_FIELD', 'shape is missing'],
  [
    '46 no data_offsets',
    safetensors({ a: { dtype: 'F32', shape: [2] } }, 8),
    'ERR_ST_FIELD',
    'data_offsets is missing',
  ],
  ['46 an entry that is a number', safetensors({ a: 1 }), 'ERR_ST_FIELD', 'found a number'],
  ['46 an entry that is null', safetensors({ a: null }), 'ERR_ST_FIELD'],
  ['46 a shape that is a number', one('2'), 'ERR_ST_FIELD', 'shape must be an array'],
  ['46 data_offsets that are an object', one('[2]', '{"0":0,"1":8}'), 'ERR_ST_FIELD', 'data_offsets must be an array'],
  ['47 an unknown dtype', safetensors({ a: entry('F128', [2], 0, 32) }, 32), 'ERR_ST_DTYPE', '"F128", known are'],
  ['47 a lower-case dtype', safetensors({ a: entry('f32', [2], 0, 8) }, 8), 'ERR_ST_DTYPE', '"f32"'],
  ['47 dtype null', safetensors({ a: entry(null, [2], 0, 8) }, 8), 'ERR_ST_DTYPE'],
  [
    '48 a product that wraps 64 bits to 4',
    safetensors({ a: entry('U8', [4194305, 4194305, 211106198978564], 0, 4) }, 4),
    'ERR_ST_OVERFLOW',
  ],
  [
    '49 elements that fit and bytes that do not',
    safetensors({ a: entry('F64', [2 ** 30, 2 ** 22], 0, 8) }, 8),
    'ERR_ST_OVERFLOW',
  ],
  ['50 dimensions of 2^63 and a zero', one('[9223372036854775808,9223372036854775808,0]', '[0,0]'), 'ERR_ST_INT'],
  ['50 a zero and dimensions of 2^63', one('[0,9223372036854775808,9223372036854775808]', '[0,0]'), 'ERR_ST_INT'],
  ['50 large dimensions and a zero', one('[1099511627776,1099511627776,0]', '[0,0]'), 'ERR_ST_OVERFLOW'],
  ['50 a zero and large dimensions', one('[0,1099511627776,1099511627776]', '[0,0]'), 'ERR_ST_OVERFLOW'],
  ['50 a dimension of 2^40 + 1 and a zero', one('[0,1099511627777]', '[0,0]'), 'ERR_ST_OVERFLOW'],
  ['51 a negative dimension', one('[-2]'), 'ERR_ST_INT', 'found -2'],
  ['51 -0', one('[-0]', '[0,0]'), 'ERR_ST_INT', 'found -0'],
  ['51 a dimension of 2.0', one('[2.0]'), 'ERR_ST_INT', 'found 2.0'],
  ['51 a dimension of 2e0', one('[2e0]'), 'ERR_ST_INT', 'found 2e0'],
  ['51 a string', one('["2"]'), 'ERR_ST_INT', 'found "2"'],
  ['51 true', one('[true]'), 'ERR_ST_INT'],
  ['51 2^64', one('[18446744073709551616]'), 'ERR_ST_INT'],
  ['51 2^53 + 1', one('[9007199254740993]'), 'ERR_ST_INT', '9007199254740993'],
  ['52 rank 9', one('[1,1,1,1,1,1,1,1,2]'), 'ERR_ST_RANK', 'more than 8'],
  ['52 rank 1,000,000', one(`[${'1,'.repeat(999_999)}2]`), 'ERR_ST_RANK'],
  ['54 a scalar without bytes', one('[]', '[0,0]'), 'ERR_ST_SIZE'],
  ['56 a zero dimension with bytes', one('[0]'), 'ERR_ST_SIZE', 'needs 0 bytes, data_offsets span 8'],
  [
    '57 fewer bytes than the shape',
    safetensors({ a: entry('BF16', [2, 2], 0, 16) }, 16),
    'ERR_ST_SIZE',
    'BF16 [2,2] needs 8 bytes, data_offsets span 16',
  ],
  ['57 more bytes than the shape', one('[3]'), 'ERR_ST_SIZE', 'needs 12 bytes'],
  ['58 an odd number of F4', safetensors({ a: entry('F4', [3], 0, 2) }, 2), 'ERR_ST_SUBBYTE', '12 bits'],
  ['58 two F6', safetensors({ a: entry('F6_E2M3', [2], 0, 2) }, 2), 'ERR_ST_SUBBYTE'],
  ['59 one offset', one('[2]', '[0]'), 'ERR_ST_OFFSETS'],
  ['59 three offsets', one('[2]', '[0,8,8]'), 'ERR_ST_OFFSETS'],
  ['59 a negative offset', one('[2]', '[-8,0]'), 'ERR_ST_INT'],
  ['59 a fractional offset', one('[2]', '[0.0,8]'), 'ERR_ST_INT'],
  ['60 begin after end', one('[2]', '[8,0]'), 'ERR_ST_OFFSETS', '[8,0]'],
  [
    '61 an end past the file',
    one('[4]', '[0,16]'),
    'ERR_ST_TRUNCATED',
    'the last 8 bytes are missing, from tensor "a" on',
  ],
  ['62 an offset of 2^64 - 1', one('[2]', '[0,18446744073709551615]'), 'ERR_ST_INT'],
  ['62 an offset of 2^53 - 1', one('[2]', '[9007199254740983,9007199254740991]'), 'ERR_ST_TRUNCATED'],
  [
    '63 a first offset that is not 0',
    safetensors({ a: entry('F32', [2], 4, 12) }, 12),
    'ERR_ST_HOLE',
    '4 bytes before tensor "a"',
  ],
  [
    '64 two names for the same bytes',
    safetensors({ a: entry('F32', [2], 0, 8), b: entry('F32', [2], 0, 8) }, 8),
    'ERR_ST_OVERLAP',
    '"a" and "b"',
  ],
  [
    '65 a partial overlap',
    safetensors({ a: entry('F32', [2], 0, 8), b: entry('F32', [2], 4, 12) }, 12),
    'ERR_ST_OVERLAP',
    '"a" and "b"',
  ],
  [
    '65 an empty tensor inside another',
    safetensors({ a: entry('F32', [2], 0, 8), z: entry('F32', [0], 4, 4) }, 8),
    'ERR_ST_OVERLAP',
  ],
  ['66 a hole', safetensors({ a: entry('F32', [1], 0, 4), b: entry('F32', [1], 8, 12) }, 12), 'ERR_ST_HOLE', '"b"'],
  ['67 bytes after the last tensor', safetensors(good, 20), 'ERR_ST_TRAILING', '12 bytes'],
  ['68 one byte missing', safetensors(good, 7), 'ERR_ST_TRUNCATED', 'the last 1 bytes'],
  ['69 data and no tensor', safetensors('{}', 8), 'ERR_ST_TRAILING'],
];

for (const [id, content, code, message] of refused) {
  test(`ST-${id}: ${code}`, async () => {
    const path = asFile(content);
    const error = await failure(() => openSafetensors(path));
    assert.is(error.code, code, error.stack);
    assert.ok(error.message.startsWith(path), error.message);
    if (message) assert.match(error.message, message);
    assert.is(error.details.path, path);
    assert.not.match(error.message, /\p{Cc}/u);
    assert.equal(openFiles(path), []);
  });
}

const escapes = 'a\u001b[31m\nb';
const accepted: [id: string, file: Buffer, names: string[], warnings?: number][] = [
  ['24 a space first', safetensors(` ${goodText}`, 8), ['a'], 1],
  ['24 a tab and a newline first', safetensors(`\t\n${goodText}`, 8), ['a'], 1],
  ['25 padding with spaces', safetensors(`${goodText}     `, 8), ['a']],
  ['26 padding with a tab and a newline', safetensors(`${goodText} \t\n`, 8), ['a'], 1],
  ['36 __metadata__ null', safetensors('{"__metadata__":null}'), []],
  [
    '42 names of Object.prototype',
    safetensors(`{"__proto__":${raw('[1]', '[0,4]')},"constructor":${raw('[1]', '[4,8]')}}`, 8),
    ['__proto__', 'constructor'],
  ],
  [
    '44 unknown fields',
    safetensors('{"a":{"dtype":"F32","x":[1.5,{"y":null}],"shape":[2],"data_offsets":[0,8]}}', 8),
    ['a'],
  ],
  [
    '45 escapes, NFC and NFD, homoglyphs',
    safetensors(
      Object.fromEntries([escapes, 'é', 'e\u0301', 'a', 'а'].map((name, i) => [name, entry('U8', [1], i, i + 1)])),
      5,
    ),
    [escapes, 'é', 'e\u0301', 'a', 'а'],
  ],
  ['41 a name of 4,096 bytes', safetensors({ ['é'.repeat(2048)]: entry('F32', [2], 0, 8) }, 8), ['é'.repeat(2048)]],
  ['52 rank 8', one('[1,1,1,1,1,1,1,2]'), ['a']],
  ['53 a scalar', safetensors({ a: entry('F64', [], 0, 8) }, 8), ['a']],
  ['55 a zero dimension', one('[1,0,3]', '[0,0]').subarray(0, -8), ['a']],
  [
    '58 an even number of F4, four F6',
    safetensors({ a: entry('F4', [4], 0, 2), b: entry('F6_E3M2', [4], 2, 5) }, 5),
    ['a', 'b'],
  ],
  ['70 no tensor', safetensors('{}'), []],
  ['70 only metadata', safetensors('{"__metadata__":{"format":"pt"}}'), []],
  [
    '72 keys out of order, an empty tensor between',
    safetensors({ b: entry('F32', [1], 4, 8), z: entry('F32', [0], 4, 4), a: entry('F32', [1], 0, 4) }, 8),
    ['b', 'z', 'a'],
  ],
  ['73 a header of odd length', safetensors(`${goodText}${' '.repeat(2 - (goodText.length % 2) + 1)}`, 8), ['a']],
  ['74 F32 at an odd offset', safetensors({ a: entry('U8', [1], 0, 1), b: entry('F32', [1], 1, 5) }, 5), ['a', 'b']],
];

for (const [id, content, names, warnings = 0] of accepted) {
  test(`ST-${id}: accepted`, async () => {
    const file = await openSafetensors(asFile(content));
    assert.equal([...file.tensors.keys()], names);
    assert.is(file.warnings.length, warnings, file.warnings.join());
    assert.is(({} as Record<string, unknown>).dtype, undefined);
  });
}

test('gives offsets from the start of the file, shapes, metadata and the identity', async () => {
  const content = safetensors(
    { __metadata__: { format: 'pt' }, b: entry('BF16', [3, 1], 4, 10), a: entry('F32', [], 0, 4) },
    10,
  );
  const file = await openSafetensors(asFile(content));
  const start = content.length - 10;
  assert.equal(
    [...file.tensors.values()],
    [
      { name: 'b', dtype: 'BF16', shape: [3, 1], offset: start + 4, bytes: 6 },
      { name: 'a', dtype: 'F32', shape: [], offset: start, bytes: 4 },
    ],
  );
  assert.equal([...file.metadata], [['format', 'pt']]);
  assert.is(file.size, content.length);
  const { dev, ino, size, mtimeNs } = statSync(file.path, { bigint: true });
  assert.equal(file.identity, { dev, ino, size, mtimeNs });
});

test('ST-64: 65,536 names for the same bytes are found out in time', async () => {
  const names = Array.from({ length: 65_536 }, (_, i) => `"t${i}":${raw('[2]', '[0,8]')}`);
  const path = asFile(safetensors(`{${names.join()}}`, 8));
  const start = process.cpuUsage();
  assert.is((await failure(() => openSafetensors(path))).code, 'ERR_ST_OVERLAP');
  assert.ok(process.cpuUsage(start).user < 3e6);
});

test('ST-71: a million empty tensors are refused by count or by bytes', async () => {
  const names = Array.from({ length: 1_000_000 }, (_, i) => `"t${i}":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}`);
  const path = asFile(safetensors(`{${names.join()}}`));
  assert.is((await failure(() => openSafetensors(path))).code, 'ERR_ST_HEADER_TOO_LARGE');
  const start = process.cpuUsage();
  const error = await failure(() => openSafetensors(path, { maxHeaderBytes: 100_000_000 }));
  assert.is(error.code, 'ERR_ST_TOO_MANY_TENSORS');
  assert.ok(process.cpuUsage(start).user < 3e6);
});

test('maxHeaderBytes sets the limit and is checked itself', async () => {
  const path = asFile(safetensors(good, 8));
  assert.is(
    (await failure(() => openSafetensors(path, { maxHeaderBytes: goodText.length - 1 }))).code,
    'ERR_ST_HEADER_TOO_LARGE',
  );
  assert.is((await openSafetensors(path, { maxHeaderBytes: goodText.length })).tensors.size, 1);
  for (const wrong of [0, -1, 1.5, Number.NaN, 100_000_001, '8' as unknown as number]) {
    const error = await failure(() => openSafetensors(path, { maxHeaderBytes: wrong }));
    assert.instance(error, RangeError);
    assert.is(error.code, 'ERR_ARG_RANGE');
  }
});

test('every truncation of a file is refused', async () => {
  const whole = safetensors({ a: entry('F32', [2], 0, 8), b: entry('U8', [3], 8, 11) }, 11);
  for (let size = 0; size < whole.length; size++) {
    const error = await failure(() => openSafetensors(asFile(whole.subarray(0, size))));
    assert.match(error.code, /^ERR_ST_(TOO_SMALL|HEADER_LEN|TRUNCATED)$/, `${size}: ${error.code}`);
  }
});

test('20,000 mutated headers are refused with a code or cover their data exactly', () => {
  const text =
    '{"__metadata__":{"f":"pt"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[],"data_offsets":[8,9]}}';
  const random = seeded(11);
  const pieces = [
    '0',
    '1',
    '8',
    '9',
    '"',
    ',',
    '[',
    ']',
    '{',
    '}',
    ':',
    '-',
    '.',
    'e',
    '\\',
    'F32',
    'U8',
    '"a"',
    ' ',
    '\0',
    '\u00ff',
  ];
  let acceptedCount = 0;
  for (let round = 0; round < 20_000; round++) {
    const at = Math.floor(random() * text.length);
    const cut = Math.floor(random() * 4);
    const head = text.slice(0, at) + pieces[Math.floor(random() * pieces.length)] + text.slice(at + cut);
    const bytes = Buffer.from(head, random() < 0.5 ? 'utf8' : 'latin1');
    try {
      const { tensors } = parseHeader(bytes, { path: 'x', size: 8 + bytes.length + 9 });
      acceptedCount++;
      const total = [...tensors.values()].reduce((sum, tensor) => sum + tensor.bytes, 0);
      assert.is(total, 9, head);
    } catch (error) {
      assert.match((error as { code: string }).code ?? String(error), /^ERR_ST_/, head);
    }
  }
  assert.ok(acceptedCount > 100, String(acceptedCount));
});

/** A file handle that reads from memory and does what `tamper` says. */
function fake(
  content: Buffer,
  tamper: { most?: number; failAt?: number; shrinkTo?: number; after?: Partial<BigIntStats> },
) {
  const stat = { size: BigInt(content.length), dev: 1n, ino: 2n, mtimeNs: 3n } as BigIntStats;
  let reads = 0;
  const file = {
    stat: async () => ({ ...stat, ...tamper.after }),
    read: async (target: Buffer, offset: number, length: number, position: number) => {
      if (++reads === tamper.failAt) throw Object.assign(new Error('i/o'), { code: 'EIO' });
      const end = Math.min(tamper.shrinkTo ?? content.length, position + Math.min(length, tamper.most ?? length));
      return { bytesRead: content.copy(target, offset, position, Math.max(position, end)), buffer: target };
    },
  } as unknown as ReadableFile;
  return { open: () => readSafetensors(file, stat, 'fake.safetensors'), reads: () => reads };
}

test('ST-99: reads of one byte at a time give the same', async () => {
  const content = safetensors(good, 8);
  const { open, reads } = fake(content, { most: 1 });
  assert.equal([...(await open()).tensors.keys()], ['a']);
  assert.ok(reads() > goodText.length);
});

test('ST-99: a read that fails is reported, whichever it is', async () => {
  for (let failAt = 1; ; failAt++) {
    const { open, reads } = fake(safetensors(good, 8), { failAt });
    const error = await open().then(
      () => null,
      (error) => error,
    );
    if (error === null) {
      assert.is(failAt, reads() + 1);
      assert.ok(failAt > 2);
      return;
    }
    assert.is(error.code, 'ERR_ST_READ');
    assert.match(error.message, 'EIO');
    assert.is(error.cause.code, 'EIO');
  }
});

test('ST-83, 84, 85: a file that shrinks, grows or is rewritten meanwhile is reported', async () => {
  const content = safetensors(good, 8);
  for (const shrinkTo of [0, 20]) {
    assert.is((await failure(fake(content, { shrinkTo }).open)).code, 'ERR_ST_CHANGED');
  }
  for (const after of [{ size: 9n }, { mtimeNs: 4n }, { ino: 5n }, { dev: 5n }]) {
    const error = await failure(fake(content, { after }).open);
    assert.is(error.code, 'ERR_ST_CHANGED');
    assert.match(error.message, Object.keys(after)[0]!);
  }
});

test('ST-84: the identity tells a file that changed after it was opened', async () => {
  const path = asFile(safetensors(good, 8));
  const { identity } = await openSafetensors(path);
  const now = () => statSync(path, { bigint: true });
  assert.is(now().mtimeNs, identity.mtimeNs);
  appendFileSync(path, 'x');
  assert.is.not(now().size, identity.size);
  truncateSync(path, Number(identity.size));
  assert.is.not(now().mtimeNs, identity.mtimeNs);
});

test('ST-86: an open file is read to its end when another takes its name', async () => {
  const path = asFile(safetensors(good, 8));
  const file = await open(path);
  const stat = await file.stat({ bigint: true });
  renameSync(asFile(safetensors({ other: entry('U8', [1], 0, 1) }, 1)), path);
  assert.equal([...(await readSafetensors(file, stat, path)).tensors.keys()], ['a']);
  await file.close();
});

if (process.platform !== 'win32') {
  test('ST-87, 88: pipes, devices, sockets and folders are refused at once', async () => {
    const pipe = join(dir, 'pipe.safetensors');
    execFileSync('mkfifo', [pipe]);
    const folder = join(dir, 'folder.safetensors');
    mkdirSync(folder);
    const socket = join(dir, 's.safetensors');
    const server = createServer().listen(socket);
    await new Promise((ready) => server.once('listening', ready));
    for (const [path, kind] of [
      [pipe, 'a pipe'],
      ['/dev/zero', 'a device'],
      ['/dev/null', 'a device'],
      [folder, 'a directory'],
      [socket, 'a socket'],
    ] as const) {
      const error = await failure(() => openSafetensors(path));
      assert.is(error.code, 'ERR_ST_NOT_REGULAR');
      assert.match(error.message, kind);
    }
    server.close();
  });

  test('ST-89: what does not open is reported with the cause', async () => {
    const loop = join(dir, 'loop.safetensors');
    symlinkSync(loop, loop);
    const dangling = join(dir, 'dangling.safetensors');
    symlinkSync(join(dir, 'nowhere'), dangling);
    for (const [path, reason] of [
      [loop, 'ELOOP'],
      [dangling, 'ENOENT'],
      [join(dir, 'absent.safetensors'), 'ENOENT'],
      [join(asFile(Buffer.alloc(0)), 'below'), 'ENOTDIR'],
    ] as const) {
      const error = await failure(() => openSafetensors(path));
      assert.is(error.code, 'ERR_ST_OPEN');
      assert.ok(error.message.startsWith(`${path}: cannot be opened: ${reason}`), error.message);
      assert.is((error.cause as NodeJS.ErrnoException).code, reason);
    }
  });

  test('ST-90: a link to a regular file is followed', async () => {
    const link = join(dir, 'link.safetensors');
    symlinkSync(asFile(safetensors(good, 8)), link);
    assert.is((await openSafetensors(link)).tensors.size, 1);
  });
}

test('ST-100: offsets beyond 4 GB', async () => {
  const path = asFile(
    safetensors({
      a: entry('U8', [5_000_000_000], 0, 5_000_000_000),
      b: entry('F32', [1], 5_000_000_000, 5_000_000_004),
    }),
  );
  const start = statSync(path).size;
  truncateSync(path, start + 5_000_000_004);
  assert.is((await openSafetensors(path)).tensors.get('b')!.offset, start + 5_000_000_000);
});

test('an aborted signal rejects with its reason', async () => {
  const reason = new Error('enough');
  const path = asFile(safetensors(good, 8));
  assert.is(await failure(() => openSafetensors(path, { signal: AbortSignal.abort(reason) })), reason);
  assert.is(await failure(() => writeSafetensors(join(dir, 'no'), [], { signal: AbortSignal.abort(reason) })), reason);
});

test('what is written is read back', async () => {
  const path = join(dir, 'written.safetensors');
  await writeSafetensors(
    path,
    [
      { name: 'x', dtype: 'F32', shape: [2, 2], data: new Uint8Array(new Float32Array([1, 2, 3, 4]).buffer) },
      {
        name: 'né"w',
        dtype: 'BF16',
        shape: [3],
        async *data() {
          yield Uint8Array.of(1, 2);
          yield Uint8Array.of();
          yield Uint8Array.of(3, 4, 5, 6);
        },
      },
      { name: 'none', dtype: 'I64', shape: [0, 4], data: () => [] },
      { name: '__proto__', dtype: 'U8', shape: [], data: () => [Uint8Array.of(7)] },
    ],
    { metadata: { format: 'pt' } },
  );
  const file = await openSafetensors(path);
  const content = readFileSync(path);
  const data = (name: string): number[] => {
    const { offset, bytes } = file.tensors.get(name)!;
    return [...content.subarray(offset, offset + bytes)];
  };
  assert.equal([...file.tensors.keys()], ['x', 'né"w', 'none', '__proto__']);
  assert.equal(file.tensors.get('x')!.shape, [2, 2]);
  assert.is(file.tensors.get('x')!.offset % 8, 0);
  assert.equal(new Float32Array(Uint8Array.from(data('x')).buffer), new Float32Array([1, 2, 3, 4]));
  assert.equal(data('né"w'), [1, 2, 3, 4, 5, 6]);
  assert.equal(data('__proto__'), [7]);
  assert.equal([...file.metadata], [['format', 'pt']]);
  assert.equal(file.warnings, []);
});

test('a failed write leaves neither the file nor a temporary one, and keeps what was there', async () => {
  const folder = join(dir, 'writes');
  mkdirSync(folder);
  const path = join(folder, 'model.safetensors');
  const tensor = (change: Partial<TensorSource>): TensorSource => ({
    name: 'a',
    dtype: 'U8',
    shape: [4],
    data: new Uint8Array(4),
    ...change,
  });
  await writeSafetensors(path, [tensor({})]);
  const before = readFileSync(path);
  const reason = new Error('producer failed');
  for (const [tensors, code] of [
    [[tensor({ data: new Uint8Array(3) })], 'ERR_ST_SIZE'],
    [[tensor({ data: () => [new Uint8Array(4), new Uint8Array(1)] })], 'ERR_ST_SIZE'],
    [[tensor({}), tensor({})], 'ERR_ST_DUPLICATE_KEY'],
    [[tensor({ name: '' })], 'ERR_ST_NAME'],
    [[tensor({ name: '__metadata__' })], 'ERR_ST_DUPLICATE_KEY'],
    [[tensor({ dtype: 'U9' })], 'ERR_ST_DTYPE'],
    [[tensor({ shape: [-4] })], 'ERR_ST_INT'],
    [[tensor({ shape: Array(9).fill(1) })], 'ERR_ST_RANK'],
    [[tensor({ shape: [2 ** 41] })], 'ERR_ST_OVERFLOW'],
  ] as const) {
    assert.is((await failure(() => writeSafetensors(path, tensors))).code, code);
  }
  const failing = tensor({
    data: () => {
      throw reason;
    },
  });
  assert.is(await failure(() => writeSafetensors(path, [failing])), reason);
  assert.equal(readdirSync(folder), ['model.safetensors']);
  assert.equal(readFileSync(path), before);
});

test.run();
