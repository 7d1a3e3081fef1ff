import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { JsonError, JsonReader, parseJson, parseJsonData } from '../../lib/checkpoint/strict_json.ts';
import { seeded } from './hostile.ts';

const bytes = (...parts: (string | number[])[]): Buffer =>
  Buffer.concat(parts.map((part) => Buffer.from(part as string)));

function fault(action: () => unknown): JsonError {
  try {
    action();
  } catch (error) {
    assert.instance(error, JsonError);
    return error as JsonError;
  }
  throw new Error('accepted');
}

test('values equal those of JSON.parse', () => {
  for (const text of [
    'null',
    'true',
    ' false ',
    '0',
    '-0',
    '-12',
    '1.5e-7',
    '1E+3',
    '0.1',
    '9007199254740991',
    '""',
    '"\\u0041\\n\\r\\t\\b\\f\\/\\\\\\""',
    '"é 日本 🙂"',
    '"mixed é\\u00e9\\ud83d\\ude42é"',
    '[]',
    '{}',
    '[[],{},[{}],{"a":[]}]',
    '\t\r\n [ 1 , 2 ] \n',
    '{"a":{"b":[1,{"c":null}]},"d":"e"}',
    '[1,[2,[3,[4]],5],6]',
  ]) {
    assert.equal(
      JSON.parse(JSON.stringify(parseJsonData(bytes(text)))),
      JSON.parse(JSON.stringify(JSON.parse(text))),
      text,
    );
    assert.is(Object.is(parseJsonData(bytes('-0')), -0), true);
  }
});

const refused: [name: string, text: Buffer, fault: string, offset: number][] = [
  ['nothing', bytes(''), 'syntax', 0],
  ['white space only', bytes('  '), 'syntax', 2],
  ['a byte order mark', bytes([0xef, 0xbb, 0xbf], '{}'), 'syntax', 0],
  ['a byte after the value', bytes('{} x'), 'syntax', 3],
  ['a second value', bytes('{}{}'), 'syntax', 2],
  ['NUL after the value', bytes('{}', [0]), 'syntax', 2],
  ['an open object', bytes('{'), 'syntax', 1],
  ['an open array', bytes('[1'), 'syntax', 2],
  ['an open string', bytes('"ab'), 'syntax', 3],
  ['a bracket that closes nothing', bytes(']'), 'syntax', 0],
  ['the wrong bracket', bytes('[1}'), 'syntax', 2],
  ['a trailing comma in an array', bytes('[1,]'), 'syntax', 3],
  ['a trailing comma in an object', bytes('{"a":1,}'), 'syntax', 7],
  ['no comma', bytes('[1 2]'), 'syntax', 3],
  ['no colon', bytes('{"a" 1}'), 'syntax', 5],
  ['a key without quotes', bytes('{a:1}'), 'syntax', 1],
  ['single quotes', bytes("['a']"), 'syntax', 1],
  ['a comment', bytes('[1 /* */]'), 'syntax', 3],
  ['NaN', bytes('NaN'), 'syntax', 0],
  ['Infinity', bytes('-Infinity'), 'syntax', 1],
  ['a leading zero', bytes('[01]'), 'syntax', 1],
  ['a plus sign', bytes('[+1]'), 'syntax', 1],
  ['a point without digits', bytes('[1.]'), 'syntax', 3],
  ['a point first', bytes('[.5]'), 'syntax', 1],
  ['an exponent without digits', bytes('[1e]'), 'syntax', 3],
  ['a number beyond doubles', bytes('[1e400]'), 'syntax', 1],
  ['a wrong byte far in', bytes(`"${'é日🙂'.repeat(30_000)}`, [0xff], '"'), 'utf8', 270_001],
  ['a misspelt literal', bytes('[nul]'), 'syntax', 1],
  ['a longer literal', bytes('[truex]'), 'syntax', 1],
  ['a raw newline in a string', bytes('"a\nb"'), 'syntax', 2],
  ['a raw NUL after an escape', bytes('"\\n', [0], '"'), 'syntax', 3],
  ['an unknown escape', bytes('"\\x41"'), 'syntax', 1],
  ['a short \\u', bytes('"\\u12"'), 'syntax', 1],
  ['a \\u with a sign', bytes('"\\u+123"'), 'syntax', 1],
  ['a lone high surrogate', bytes('"a\\ud800"'), 'syntax', 2],
  ['a lone low surrogate', bytes('"\\udc00"'), 'syntax', 1],
  ['a high surrogate and a letter', bytes('"\\ud800\\u0041"'), 'syntax', 1],
  ['a lone continuation byte', bytes('"ab', [0x80], '"'), 'utf8', 3],
  ['overlong UTF-8', bytes('"', [0xc0, 0xaf], '"'), 'utf8', 1],
  ['an encoded surrogate', bytes('"é', [0xed, 0xa0, 0x80], '"'), 'utf8', 3],
  ['UTF-8 above U+10FFFF', bytes('"', [0xf4, 0x90, 0x80, 0x80], '"'), 'utf8', 1],
  ['UTF-8 cut at the end', bytes('"ab', [0xe6, 0x97]), 'utf8', 3],
  ['a duplicate key', bytes('{"a":1,"b":2,"a":1}'), 'duplicate', 13],
  ['a duplicate key through an escape', bytes('{"a":1,"\\u0061":1}'), 'duplicate', 7],
  ['a duplicate key inside', bytes('[{"x":{"a":1,"a":2}}]'), 'duplicate', 13],
  ['a duplicate __proto__', bytes('{"__proto__":1,"__proto__":2}'), 'duplicate', 15],
  ['a number of 300 digits', bytes(`[${'1'.repeat(300)}]`), 'limit', 1],
  ['100,000 open brackets', bytes('['.repeat(100_000)), 'limit', 64],
  ['100,000 open objects', bytes('{"a":'.repeat(100_000)), 'limit', 320],
];

for (const [name, text, expected, offset] of refused) {
  test(`refuses ${name}, naming the byte`, () => {
    for (const parse of [parseJson, parseJsonData]) {
      const error = fault(() => parse(text));
      assert.is(error.fault, expected, error.message);
      assert.is(error.offset, offset, error.message);
      assert.match(error.message, `at byte ${offset}`);
    }
    const skipped = fault(() => {
      const reader = new JsonReader(text);
      reader.skip();
      reader.end();
    });
    assert.is(skipped.message, fault(() => parseJson(text)).message);
  });
}

test('limits bytes and values, and counts offsets from a base', () => {
  assert.is(fault(() => parseJson(bytes('[1,2,3]'), { maxBytes: 6 })).fault, 'limit');
  assert.is(fault(() => parseJson(bytes('[1,2,3]'), { maxValues: 3 })).fault, 'limit');
  assert.equal(parseJson(bytes('[1,2,3]'), { maxValues: 4, maxBytes: 7 }), [1, 2, 3]);
  assert.equal(parseJson(bytes('[[1]]'), { maxDepth: 2 }), [[1]]);
  assert.is(fault(() => parseJson(bytes('[[1]]'), { maxDepth: 1 })).offset, 1);
  assert.is(fault(() => parseJson(bytes('{'), { base: 8 })).offset, 9);
});

test('integers stay exact', () => {
  const [small, wide, negative] = parseJson(
    bytes('[9007199254740991, 9007199254740993, -9007199254740993]'),
  ) as unknown[];
  assert.is(small, Number.MAX_SAFE_INTEGER);
  assert.is(wide, 9007199254740993n);
  assert.is(negative, -9007199254740993n);
});

test('__proto__ and constructor are ordinary keys', () => {
  const text = bytes('{"__proto__":{"polluted":1},"constructor":2}');
  const map = parseJson(text) as Map<string, unknown>;
  assert.equal([...map.keys()], ['__proto__', 'constructor']);
  const record = parseJsonData(text) as Record<string, unknown>;
  assert.equal(Object.keys(record), ['__proto__', 'constructor']);
  assert.is(Object.getPrototypeOf(record), null);
  assert.is(({} as Record<string, unknown>).polluted, undefined);
});

test('a view into a larger buffer is read alone', () => {
  assert.equal(parseJson(new Uint8Array(bytes('xx[1]xx')).subarray(2, 5)), [1]);
});

test('the reader walks a text field by field', () => {
  const reader = new JsonReader(bytes(' {"a":[10,2.0],"b":"x","c":{"d":[1,{"e":2}]}}'));
  const seen: unknown[] = [];
  reader.object((key) => {
    seen.push(key, reader.offset, reader.peek());
    if (key === 'a') reader.array((index) => seen.push(index, reader.numberText()));
    else if (key === 'b') seen.push(reader.string());
    else reader.skip();
  });
  reader.end();
  assert.equal(seen, ['a', 6, 'array', 0, '10', 1, '2.0', 'b', 19, 'string', 'x', 'c', 27, 'object']);
  assert.is(
    fault(() => new JsonReader(bytes('[1]')).object(() => {})).message,
    'expected an object, found "[" at byte 0',
  );
  assert.is(fault(() => new JsonReader(bytes('1')).string()).message, 'expected a string, found "1" at byte 0');
});

test('20,000 mutated texts are judged as JSON.parse judges them', () => {
  const seedText = '{"a\\u00e9":[1,-2.5e3,true,null,"x\\ny"],"é":{"b":[],"c":{}},"d":"\\ud83d\\ude42"}';
  const alphabet = '{}[]",:\\u0123456789abcdefE+-. \ntrnls\u00e9';
  const random = seeded(7);
  let accepted = 0;
  for (let round = 0; round < 20_000; round++) {
    let text = seedText;
    for (let edit = 0; edit <= random() * 3; edit++) {
      const at = Math.floor(random() * text.length);
      const cut = Math.floor(random() * 3);
      const insert = random() < 0.6 ? alphabet[Math.floor(random() * alphabet.length)]! : '';
      text = text.slice(0, at) + insert + text.slice(at + cut);
    }
    let expected: unknown;
    let isJson = true;
    try {
      expected = JSON.parse(text);
    } catch {
      isJson = false;
    }
    try {
      const value = parseJsonData(bytes(text));
      accepted++;
      assert.ok(isJson, `accepted ${text}`);
      assert.is(JSON.stringify(value), JSON.stringify(expected), text);
    } catch (error) {
      if (!(error instanceof JsonError)) throw error;
      const stricter = error.fault !== 'syntax' || /lone surrogate|range of a double/.test(error.message);
      assert.ok(!isJson || stricter, `refused ${text}: ${error.message}`);
    }
  }
  assert.ok(accepted > 1000, `${accepted} accepted`);
});

test('a tokenizer-sized object takes time linear in its length', () => {
  const vocabulary = (count: number): Buffer =>
    bytes(`{${Array.from({ length: count }, (_, id) => `"\\u0120token${id}":${id}`).join()}}`);
  const time = (text: Buffer): number => {
    let best = Number.POSITIVE_INFINITY;
    for (let round = 0; round < 5; round++) {
      const start = performance.now();
      parseJson(text);
      best = Math.min(best, performance.now() - start);
    }
    return best;
  };
  const [short, long] = [vocabulary(12_500), vocabulary(100_000)].map(time) as [number, number];
  assert.ok(long < 8 * 4 * short + 5, `8 times the text took ${(long / short).toFixed(1)} times as long`);
});

test.run();
