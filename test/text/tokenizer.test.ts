import { existsSync, readFileSync } from 'node:fs';
import { cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { VLMambaError } from '../../lib/errors.ts';
import { nfcSteps } from '../../lib/text/nfc.ts';
import { loadTokenizer, type Tokenizer } from '../../lib/text/tokenizer.ts';
import { WORD_PATTERN, wordEnds } from '../../lib/text/words.ts';

const fixtures = join('test', 'fixtures', 'tokenizer');
const rust: Record<'tiny' | 'neox', { encode: [string, number[], number[]?][]; decode: [number[], string][] }> =
  JSON.parse(readFileSync(join(fixtures, 'rust.json'), 'utf8'));
const rows = { tiny: 512, neox: 50280 };
const load = (name: 'tiny' | 'neox'): Promise<Tokenizer> =>
  loadTokenizer(join(fixtures, name), { rows: rows[name], eosTokenIds: [0] });

let dir: string;
let tiny: Tokenizer;
let neox: Tokenizer;

test.before(async () => {
  dir = await mkdtemp(join(tmpdir(), 'vl-mamba-tokenizer-'));
  tiny = await load('tiny');
  neox = await load('neox');
});

test.after(() => rm(dir, { recursive: true, force: true }));

// neox/tokenizer.json is GPT-NeoX-20B's, cut down to the merges that these tests need; all ids are as in the whole file.
const golden: [string, number[]][] = [
  ['Hey how are you doing?', [8262, 849, 403, 368, 2509, 32]],
  [
    '<|user|>\nWhat is this?<|endoftext|>\n<|assistant|>\n',
    [29, 93, 4537, 49651, 187, 1276, 310, 436, 32, 0, 187, 29, 93, 515, 5567, 49651, 187],
  ],
  ['\nWhat is this? ASSISTANT:', [187, 1276, 310, 436, 32, 21893, 6905, 5656, 27]],
  [
    '\nAnswer the question using a single word or phrase.',
    [187, 32869, 253, 1953, 970, 247, 2014, 3159, 390, 12616, 15],
  ],
  ['True', [5088]],
  ['No', [2302]],
  ['café', [68, 2320, 860]],
  ['cafe\u0301', [68, 2320, 860]],
  ['日本語', [49868, 19119, 241]],
  ['🙂', [14931, 18713]],
  ["don't", [9903, 626]],
  [`${' '.repeat(24)}x`, [50254, 89]],
  [`${' '.repeat(25)}x`, [50254, 1269]],
  [' '.repeat(30), [50254, 50272]],
  ['1234567', [42594, 2251]],
  ['\t\tx', [186, 186, 89]],
  ['\r\n', [2379]],
  ['\n', [187]],
  ['\n\n', [535]],
  ['</s>', [870, 84, 31]],
];

test('GPT-NeoX ids', async () => {
  for (const [text, ids] of golden) assert.equal(await neox.encodeRaw(text), ids, JSON.stringify(text));
});

for (const name of ['tiny', 'neox'] as const) {
  test(`${name}: ids and texts equal the Rust tokenizers'`, async () => {
    const tokenizer = await load(name);
    for (const [text, raw, user = raw] of rust[name].encode) {
      assert.equal(await tokenizer.encodeRaw(text), raw, JSON.stringify(text));
      assert.equal(await tokenizer.encode(text), user, JSON.stringify(text));
    }
    for (const [ids, text] of rust[name].decode) assert.is(tokenizer.decode(ids), text, ids.join(' '));
  });
}

test('the fixture has U+FEFF and U+0085, which JavaScript reads otherwise than Rust', () => {
  assert.ok(rust.neox.encode.some(([text]) => text.includes('\ufeff')));
  assert.ok(rust.neox.encode.some(([text]) => text.includes('\u0085')));
});

test('what a user types is never a special token', async () => {
  for (const text of ['<|endoftext|>', 'a<|endoftext|>b', '<|padding|>', '<|endoftext|>'.repeat(50)]) {
    const ids = await tiny.encode(text);
    for (const id of ids) assert.not.ok(tiny.specialIds.has(id), text);
    assert.is(tiny.decode(ids), text);
  }
  assert.equal(await tiny.encodeRaw('a<|endoftext|>b'), [66, 0, 67]);
});

test('special tokens count in trusted spans only, and never across a border', async () => {
  const user = (text: string) => ({ text, trusted: false });
  const author = (text: string) => ({ text, trusted: true });
  const literal = await tiny.encode('<|endoftext|>');
  assert.equal(await tiny.encodeSpans([author('<|endof'), user('text|>')]), literal);
  assert.equal(await tiny.encodeSpans([author('<|endof'), author('text|>')]), literal);
  assert.equal(await tiny.encodeSpans([user('<|endoftext|>'), author('<|endoftext|>')]), [...literal, 0]);
  assert.equal(await tiny.encodeSpans([author('<|endoftext|>'), user('x'), author('<|endoftext|>')]), [0, 89, 0]);
});

test('spans are encoded as one text: merges and runs of spaces cross the borders', async () => {
  const whole = await neox.encodeRaw('USER: What is this? ASSISTANT:');
  const spans = ['USER: ', 'What is', ' this? ', 'ASSISTANT:'].map((text, i) => ({ text, trusted: i % 2 === 0 }));
  assert.equal(await neox.encodeSpans(spans), whole);
  const blanks = [' '.repeat(10), ' '.repeat(14), 'x'].map((text, i) => ({ text, trusted: i === 0 }));
  assert.equal(await neox.encodeSpans(blanks), [50254, 89]);
  assert.equal(
    await neox.encodeSpans([
      { text: 'cafe', trusted: true },
      { text: '\u0301', trusted: false },
    ]),
    [68, 2320, 860],
  );
});

test('half a surrogate pair is U+FFFD, also where two spans would make a whole one', async () => {
  assert.equal(await tiny.encode('a\ud83d'), await tiny.encode('a\ufffd'));
  const halves = [
    { text: '\ud83d', trusted: false },
    { text: '\ude42', trusted: false },
  ];
  assert.equal(await tiny.encodeSpans(halves), await tiny.encode('\ufffd\ufffd'));
});

test('text comes back as it was, normalised', async () => {
  const texts = [
    '',
    '\0',
    'a\0b',
    'e\u0301\u0323',
    '\u202etxet',
    '👩‍👩‍👧 family',
    'a'.repeat(5000),
    '\ufeffx',
    ' \n\t ',
    '日本'.repeat(3000),
  ];
  for (const text of texts) assert.is(tiny.decode(await tiny.encode(text)), text.normalize('NFC'));
});

test('decode leaves out special tokens and ids without a token, and takes an empty list', () => {
  assert.is(tiny.decode([]), '');
  assert.is(tiny.decode([34, 0, 35, 1]), 'AB');
  assert.is(neox.decode([34, 50279, 35]), 'AB');
  for (const [ids, at] of [
    [[34, -1], 1],
    [[Number.NaN], 0],
    [[1.5], 0],
    [[512], 0],
    [[2 ** 32], 0],
    [new Array(1), 0],
    [[34n], 0],
  ] as [number[], number][]) {
    try {
      tiny.decode(ids);
      assert.unreachable(String(ids));
    } catch (error) {
      assert.instance(error, RangeError);
      assert.is((error as { code: string }).code, 'ERR_TOK_ID');
      assert.match((error as Error).message, `ids[${at}] must be an integer from 0 to 511`);
    }
  }
});

test('a stream gives what decode gives, in whole characters', async () => {
  for (const [ids] of rust.tiny.decode) {
    const stream = tiny.stream();
    const pieces = ids.map((id) => stream.push(id));
    for (const piece of pieces) assert.not.match(piece, /\p{Cs}/u);
    assert.is(pieces.join('') + stream.flush(), tiny.decode(ids));
  }
});

test('special ids, the ends of an answer, and names', () => {
  assert.equal([...tiny.specialIds], [0, 1]);
  assert.equal([...tiny.eosIds], [0]);
  assert.is(tiny.idOf('<|endoftext|>'), 0);
  assert.is(tiny.idOf('A'), 34);
  assert.is(tiny.idOf('nope'), undefined);
  assert.is(tiny.named.eos, '<|endoftext|>');
  assert.equal(tiny.warnings, []);
});

test('what is no string, or too long, is refused', async () => {
  for (const [text, kind, code] of [
    [5, TypeError, 'ERR_PROMPT_TYPE'],
    [null, TypeError, 'ERR_PROMPT_TYPE'],
    [Buffer.from('x'), TypeError, 'ERR_PROMPT_TYPE'],
    [{ toString: () => 'x' }, TypeError, 'ERR_PROMPT_TYPE'],
    ['x'.repeat(2 ** 22 + 1), RangeError, 'ERR_PROMPT_TOO_LONG'],
  ] as [string, typeof TypeError, string][]) {
    const error = await tiny.encode(text).then(
      () => assert.unreachable(`accepted ${typeof text}`),
      (reason) => reason,
    );
    assert.instance(error, kind);
    assert.is(error.code, code);
  }
});

/** The whole text at once, as the library would take it. */
async function unsliced(tokenizer: Tokenizer, text: string): Promise<number[]> {
  const ids: number[] = [];
  for (const [word] of text.normalize('NFC').matchAll(new RegExp(WORD_PATTERN, 'gu')))
    ids.push(...(await tokenizer.encode(word)));
  return ids;
}

test('slices change nothing: words end where the pattern ends them', () => {
  const kinds = [
    'a'.repeat(9000),
    '1'.repeat(5000),
    '!'.repeat(4097),
    '\n'.repeat(9001),
    '🙂'.repeat(3000),
    '日'.repeat(4096),
    "'s",
    'x',
    ' ',
    '\u{10330}'.repeat(2100),
    '\u0085',
  ];
  let state = 1;
  for (let round = 0; round < 60; round++) {
    let text = '';
    while (text.length < 20_000) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      const kind = kinds[(state >>> 8) % kinds.length]!;
      text += kind.slice(0, 1 + ((state >>> 16) % kind.length)).replace(/\p{Cs}/gu, '');
    }
    const expected = [...text.matchAll(new RegExp(WORD_PATTERN, 'gu'))].map((match) => match.index + match[0].length);
    assert.equal(
      [...wordEnds(text)].filter((end) => end !== null),
      expected,
    );
  }
});

const nfc = (text: string): string => {
  const steps = nfcSteps(text);
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
  }
};

test('normalising in slices equals normalising at once', () => {
  const parts = [
    'e\u0301',
    '\u0323\u0301',
    'a'.repeat(100),
    '\u1112\u1161\u11ab',
    '\u0344\u0345',
    '\u0f73\u0f71',
    '🙂',
    '\u093c',
    '\u{1d165}\u{1d158}',
    '\u{11099}\u{110ba}',
    '\u20dd',
  ];
  let state = 7;
  for (let round = 0; round < 24; round++) {
    let text = '';
    while (text.length < 40_000) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      text += parts[(state >>> 8) % parts.length]!.repeat(1 + ((state >>> 20) % (round % 3 === 0 ? 400 : 5)));
    }
    assert.ok(nfc(text) === text.normalize('NFC'), `round ${round}`);
  }
});

test('no character at which a text is cut combines with what stands before', () => {
  // Every decomposition there is, and every mark after a letter, laid so that the first possible cut is inside it.
  const bad: string[] = [];
  const filler = 'a'.repeat(8191);
  for (let point = 0; point <= 0x10ffff; point++) {
    if (point >= 0xd800 && point < 0xe000) continue;
    const char = String.fromCodePoint(point);
    const [first, ...rest] = char.normalize('NFD');
    if (rest.length === 0 && (point < 0x300 || !/\p{M}/u.test(char))) continue;
    const text = `${filler}${rest.length > 0 ? first + rest.join('') : `e${char}\u0301`}a`;
    if (nfc(text) !== text.normalize('NFC')) bad.push(point.toString(16));
  }
  assert.equal(bad, []);
});

test('a long word is merged as a short one: in steps, with the same ids', async () => {
  const words = [
    'a'.repeat(1000),
    'the'.repeat(400),
    'question'.repeat(100),
    'ABCabcétion'.repeat(60),
    '日本語'.repeat(300),
    '=-'.repeat(600),
  ];
  const library = await import('@huggingface/tokenizers');
  const json = JSON.parse(readFileSync(join(fixtures, 'neox', 'tokenizer.json'), 'utf8'));
  const reference = new library.Tokenizer(json, {});
  for (const word of words)
    assert.equal(await neox.encode(word), reference.encode(word, { add_special_tokens: false }).ids, word.slice(0, 12));
});

test('long texts: ids of the whole, the process stays awake, time grows linearly', async () => {
  const make: Record<string, (n: number) => string> = {
    prose: (n) => 'The quick brown fox jumps over the lazy dog, 42 of them. '.repeat(n / 57),
    'one word': (n) => 'a'.repeat(n),
    blanks: (n) => ' '.repeat(n),
    marks: (n) => `a${'\u0301\u0323'.repeat(n / 2)}`,
  };
  for (const [name, text] of Object.entries(make)) {
    await tiny.encode(text(20_000));
    const cost = async (n: number): Promise<number> => {
      const long = text(n);
      let turns = 0;
      let running = true;
      const turn = (): void => {
        turns++;
        if (running) setImmediate(turn);
      };
      setImmediate(turn);
      const before = process.cpuUsage().user;
      await tiny.encode(long);
      const spent = process.cpuUsage().user - before;
      running = false;
      // One turn a 2 ms slice, and leave for slow machines: the work is cut in many pieces, not done in one.
      assert.ok(turns >= spent / 40_000, `${name}: ${turns} turns in ${spent} µs`);
      return spent;
    };
    const ratios: number[] = [];
    for (let i = 0; i < 3; i++) {
      const once = await cost(125_000);
      ratios.push((await cost(250_000)) / once);
    }
    assert.ok(Math.min(...ratios) < 2.5, `${name}: t(2n)/t(n) = ${ratios.map((ratio) => ratio.toFixed(2)).join(', ')}`);
  }
  const mixed = `${make.prose!(6000)}${'b'.repeat(3000)} ${make.prose!(600)}`;
  assert.equal(await tiny.encode(mixed), await unsliced(tiny, mixed));
});

// biome-ignore lint/suspicious/noExplicitAny: files are damaged here in every way
type Json = Record<string, any>;

/** Loads the tiny tokenizer after `change`. */
async function loadChanged(
  change: (file: Json, config: Json) => unknown,
  { eosTokenIds = [0], vocabRows = 512 } = {},
): Promise<Tokenizer> {
  const at = join(dir, 'changed');
  await cp(join(fixtures, 'tiny'), at, { recursive: true });
  const file = JSON.parse(readFileSync(join(at, 'tokenizer.json'), 'utf8'));
  const config = JSON.parse(readFileSync(join(at, 'tokenizer_config.json'), 'utf8'));
  const replaced = change(file, config);
  const text = typeof replaced === 'string' || replaced instanceof Uint8Array ? replaced : JSON.stringify(file);
  await writeFile(join(at, 'tokenizer.json'), text);
  await writeFile(join(at, 'tokenizer_config.json'), JSON.stringify(config));
  return loadTokenizer(at, { rows: vocabRows, eosTokenIds });
}

const source = readFileSync(join(fixtures, 'tiny', 'tokenizer.json'), 'utf8');
const split = (pattern: string, behavior = 'Isolated'): Json => ({
  type: 'Sequence',
  pretokenizers: [
    { type: 'Split', pattern: { Regex: pattern }, behavior, invert: false },
    { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
  ],
});
const gpt2 = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;
const nested = (depth: number): string =>
  `${'{"type":"Sequence","normalizers":['.repeat(depth)}{"type":"NFC"}${']}'.repeat(depth)}`;
const withNormalizer = (json: string): string => source.replace('"normalizer":{"type":"NFC"}', `"normalizer":${json}`);

const refused: [id: string, change: (file: Json, config: Json) => unknown, code: string, message: RegExp][] = [
  ['TK-01 empty', () => '', 'ERR_TOK_JSON', /not a tokenizer\.json: .*byte 0/],
  ['TK-01 null', () => 'null', 'ERR_TOK_JSON', /not a tokenizer\.json/],
  ['TK-01 array', () => '[]', 'ERR_TOK_JSON', /not a tokenizer\.json/],
  ['TK-01 trailing bytes', () => `${source}x`, 'ERR_TOK_JSON', /byte \d+/],
  ['TK-01 byte order mark', () => `\ufeff${source}`, 'ERR_TOK_JSON', /byte 0/],
  [
    'TK-03',
    (file) => {
      file.version = '9.9';
    },
    'ERR_TOK_VERSION',
    /version "9\.9" is not supported; supported: "1\.0"/,
  ],
  [
    'TK-04 no model',
    (file) => {
      delete file.model;
    },
    'ERR_TOK_JSON',
    /model must be an object, found undefined/,
  ],
  [
    'TK-04 type',
    (file) => {
      file.model.type = 'Unigram';
    },
    'ERR_TOK_MODEL',
    /model\.type "Unigram" is not supported; supported: "BPE"/,
  ],
  ['TK-05', () => source.replace('"model":', '"model":{},"model":'), 'ERR_TOK_JSON', /"model"/],
  ['TK-05 token', () => source.replace('"A":34', '"A":34,"A":34'), 'ERR_TOK_JSON', /"A"/],
  [
    'TK-06 negative',
    (file) => {
      file.model.vocab.A = -1;
    },
    'ERR_TOK_ID',
    /vocab\["A"\].*found -1/,
  ],
  [
    'TK-06 fraction',
    (file) => {
      file.model.vocab.A = 1.5;
    },
    'ERR_TOK_ID',
    /found 1\.5/,
  ],
  [
    'TK-06 string',
    (file) => {
      file.model.vocab.A = '1';
    },
    'ERR_TOK_ID',
    /found "1"/,
  ],
  [
    'TK-06 2^32',
    (file) => {
      file.model.vocab.A = 2 ** 32;
    },
    'ERR_TOK_ID',
    /4294967296 is not below the embedding's 512 rows/,
  ],
  [
    'TK-07',
    (file) => {
      file.model.vocab.A = 4294967295;
    },
    'ERR_TOK_ID',
    /512 rows/,
  ],
  [
    'TK-11',
    (file) => {
      file.model.vocab.zzzz = 512;
    },
    'ERR_TOK_ID',
    /"zzzz".*id 512 is not below/,
  ],
  [
    'TK-08',
    (file) => {
      file.model.vocab.A = 35;
    },
    'ERR_TOK_DUPLICATE',
    /"A" and "B" have the same id 35/,
  ],
  [
    'TK-10',
    (file) => {
      file.model.vocab = {};
    },
    'ERR_TOK_VOCAB',
    /empty/,
  ],
  [
    'TK-12 one part',
    (file) => {
      file.model.merges[3] = ['ab'];
    },
    'ERR_TOK_MERGES',
    /merges\[3\] must have two parts/,
  ],
  [
    'TK-12 three parts',
    (file) => {
      file.model.merges[3] = ['a', 'b', 'c'];
    },
    'ERR_TOK_MERGES',
    /merges\[3\] must have two parts/,
  ],
  [
    'TK-12 empty part',
    (file) => {
      file.model.merges[3] = ['', 'a'];
    },
    'ERR_TOK_MERGES',
    /merges\[3\]/,
  ],
  [
    'TK-12 missing part',
    (file) => {
      file.model.merges[3] = ['nope', 'a'];
    },
    'ERR_TOK_MERGES',
    /merges\[3\].*"nope" is not in/,
  ],
  [
    'TK-12 missing result',
    (file) => {
      file.model.merges[3] = ['~', '~'];
    },
    'ERR_TOK_MERGES',
    /merges\[3\].*"~~" is not in/,
  ],
  [
    'TK-12 number',
    (file) => {
      file.model.merges[3] = 7;
    },
    'ERR_TOK_MERGES',
    /merges\[3\]/,
  ],
  [
    'TK-13 mixed',
    (file) => {
      file.model.merges[3] = file.model.merges[3].join(' ');
    },
    'ERR_TOK_MERGES',
    /one form/,
  ],
  [
    'TK-15',
    (file) => {
      file.model.merges = Array(2 ** 20 + 1).fill(0);
    },
    'ERR_TOK_MERGES',
    /1048577 merges, at most 1048576/,
  ],
  [
    'TK-16',
    (file) => {
      file.added_tokens[1].id = 34;
    },
    'ERR_TOK_DUPLICATE',
    /<\|padding\|>/,
  ],
  [
    'TK-16 new token',
    (file) => {
      file.added_tokens.push({ id: 34, content: '<x>', special: true });
    },
    'ERR_TOK_DUPLICATE',
    /"<x>" and "A" have the same id 34/,
  ],
  [
    'TK-17',
    (file) => {
      file.added_tokens[1].content = '';
    },
    'ERR_TOK_ADDED',
    /added_tokens\[1\]\.content/,
  ],
  [
    'TK-17 no string',
    (file) => {
      file.added_tokens[1].content = 5;
    },
    'ERR_TOK_ADDED',
    /found 5/,
  ],
  [
    'TK-18',
    (file) => {
      file.added_tokens.push({ ...file.added_tokens[1] });
    },
    'ERR_TOK_DUPLICATE',
    /added twice/,
  ],
  [
    'added id',
    (file) => {
      file.added_tokens[1].id = 600;
    },
    'ERR_TOK_ID',
    /added_tokens\[1\]/,
  ],
  [
    'lstrip',
    (file) => {
      file.added_tokens[1].lstrip = true;
    },
    'ERR_TOK_UNSUPPORTED',
    /added_tokens\[1\]\.lstrip/,
  ],
  [
    'TK-20',
    (file) => {
      file.normalizer = { type: 'Replace', pattern: { Regex: '(a+)+$' }, content: '' };
    },
    'ERR_TOK_UNSUPPORTED',
    /normalizer "Replace"/,
  ],
  [
    'TK-20 split',
    (file) => {
      file.pre_tokenizer = split('(a+)+$');
    },
    'ERR_TOK_UNSUPPORTED',
    /Split "\(a\+\)\+\$" is not supported/,
  ],
  [
    'TK-21',
    (file) => {
      file.pre_tokenizer = split('(');
    },
    'ERR_TOK_UNSUPPORTED',
    /Split/,
  ],
  [
    'split removed',
    (file) => {
      file.pre_tokenizer = split(gpt2, 'Removed');
    },
    'ERR_TOK_UNSUPPORTED',
    /Isolated/,
  ],
  [
    'TK-22 normalizer',
    (file) => {
      file.normalizer = { type: 'Nope' };
    },
    'ERR_TOK_UNSUPPORTED',
    /normalizer "Nope" is not supported/,
  ],
  [
    'TK-22 pre_tokenizer',
    (file) => {
      file.pre_tokenizer = { type: 'Nope' };
    },
    'ERR_TOK_UNSUPPORTED',
    /pre_tokenizer "Nope" is not supported/,
  ],
  [
    'no pre_tokenizer',
    (file) => {
      file.pre_tokenizer = null;
    },
    'ERR_TOK_UNSUPPORTED',
    /pre_tokenizer must be.*found null/,
  ],
  [
    'no pattern',
    (file) => {
      file.pre_tokenizer.use_regex = false;
    },
    'ERR_TOK_UNSUPPORTED',
    /with its own pattern/,
  ],
  [
    'prefix space',
    (file) => {
      file.pre_tokenizer.add_prefix_space = true;
    },
    'ERR_TOK_UNSUPPORTED',
    /add_prefix_space/,
  ],
  [
    'decoder',
    (file) => {
      file.decoder = { type: 'WordPiece' };
    },
    'ERR_TOK_UNSUPPORTED',
    /decoder \["WordPiece"\]/,
  ],
  [
    'no decoder',
    (file) => {
      file.decoder = null;
    },
    'ERR_TOK_UNSUPPORTED',
    /decoder/,
  ],
  [
    'post_processor',
    (file) => {
      file.post_processor = { type: 'Nope' };
    },
    'ERR_TOK_UNSUPPORTED',
    /post_processor "Nope"/,
  ],
  ['TK-23 9 deep', () => withNormalizer(nested(9)), 'ERR_TOK_UNSUPPORTED', /nested more than 8 deep/],
  ['TK-23 5000 deep', () => withNormalizer(nested(5000)), 'ERR_TOK_JSON', /not a tokenizer\.json/],
  [
    'TK-24',
    (file) => {
      file.normalizer = { type: 'Precompiled', precompiled_charsmap: 'AAAA' };
    },
    'ERR_TOK_UNSUPPORTED',
    /"Precompiled"/,
  ],
  [
    'TK-25',
    (file) => {
      file.post_processor = {
        type: 'TemplateProcessing',
        single: [{ SpecialToken: { id: '[CLS]', type_id: 0 } }],
        pair: [],
        special_tokens: {},
      };
    },
    'ERR_TOK_SPECIAL',
    /unknown special token "\[CLS\]"/,
  ],
  [
    'TK-28',
    (file) => {
      file.model.dropout = 0.5;
    },
    'ERR_TOK_DROPOUT',
    /dropout 0\.5/,
  ],
  [
    'TK-29',
    (file) => {
      file.model.unk_token = '[UNK]';
    },
    'ERR_TOK_UNK',
    /unk_token "\[UNK\]" is not in model\.vocab/,
  ],
  [
    'byte_fallback',
    (file) => {
      file.model.byte_fallback = true;
    },
    'ERR_TOK_UNSUPPORTED',
    /byte_fallback/,
  ],
  [
    'suffix',
    (file) => {
      file.model.end_of_word_suffix = '</w>';
    },
    'ERR_TOK_UNSUPPORTED',
    /end_of_word_suffix/,
  ],
  [
    'TK-30',
    (_, config) => {
      config.eos_token = '<|padding|>';
    },
    'ERR_TOK_EOS',
    /eos_token "<\|padding\|>" \(id 1\), config\.json eos_token_id \[0\]/,
  ],
  [
    'eos unknown',
    (_, config) => {
      config.eos_token = '</s>';
    },
    'ERR_TOK_EOS',
    /id unknown/,
  ],
  [
    'eos no string',
    (_, config) => {
      config.eos_token = 7;
    },
    'ERR_TOK_CONFIG',
    /eos_token must be a string, found 7/,
  ],
  [
    'special by merge',
    (file) => {
      file.added_tokens.push({ id: file.model.vocab.af, content: 'af', special: true });
    },
    'ERR_TOK_SPECIAL',
    /the special token "af"/,
  ],
  [
    'special byte',
    (file) => {
      file.model.merges = [];
      file.added_tokens.push({ id: 34, content: 'A', special: true });
    },
    'ERR_TOK_SPECIAL',
    /"A" is the symbol of a byte/,
  ],
];

for (const [id, change, code, message] of refused) {
  test(`refused: ${id}`, async () => {
    const error = await loadChanged(change).then(
      () => assert.unreachable('accepted'),
      (reason) => reason,
    );
    assert.instance(error, VLMambaError);
    assert.is(error.code, code, error.message);
    assert.match(error.message, message);
    assert.match(error.message, /tokenizer(_config)?\.json: /);
  });
}

const accepted: [id: string, change: (file: Json, config: Json) => unknown, warning: RegExp | null][] = [
  ['as it is', () => {}, null],
  [
    'TK-03 no version',
    (file) => {
      delete file.version;
    },
    null,
  ],
  [
    'TK-13 strings',
    (file) => {
      file.model.merges = file.model.merges.map((merge: string[]) => merge.join(' '));
    },
    null,
  ],
  [
    'TK-14',
    (file) => {
      file.model.merges.push(...file.model.merges.slice(0, 2));
    },
    /repeats 2 merges/,
  ],
  [
    'TK-26',
    (file) => {
      file.padding = { strategy: { Fixed: 1e8 } };
    },
    /padding is ignored/,
  ],
  [
    'TK-27',
    (file) => {
      file.truncation = { max_length: 0, stride: 5 };
    },
    /truncation is ignored/,
  ],
  [
    'split',
    (file) => {
      file.pre_tokenizer = split(gpt2);
    },
    null,
  ],
  ['TK-23 8 deep', () => withNormalizer(nested(8)), null],
  [
    'ignore_merges',
    (file) => {
      file.model.ignore_merges = true;
    },
    null,
  ],
  [
    'template',
    (file) => {
      file.post_processor = {
        type: 'TemplateProcessing',
        single: [{ SpecialToken: { id: '<|endoftext|>', type_id: 0 } }],
        pair: [],
        special_tokens: { '<|endoftext|>': { id: '<|endoftext|>', ids: [0], tokens: ['<|endoftext|>'] } },
      };
    },
    /TemplateProcessing is ignored/,
  ],
];

for (const [id, change, warning] of accepted) {
  test(`accepted: ${id}`, async () => {
    const tokenizer = await loadChanged(change);
    if (warning) assert.match(tokenizer.warnings.join('\n'), warning);
    else assert.equal(tokenizer.warnings, []);
    const text = "The question isn't what they said, café.";
    assert.equal(await tokenizer.encode(text), await tiny.encode(text));
  });
}

test('TK-09: a gap in the ids', async () => {
  const tokenizer = await loadChanged(() => {}, { vocabRows: 600 });
  assert.is(tokenizer.decode([34, 599, 35]), 'AB');
});

test('without normalizer the text stays as it is', async () => {
  const tokenizer = await loadChanged((file) => {
    file.normalizer = null;
  });
  assert.is(tokenizer.decode(await tokenizer.encode('e\u0301')), 'e\u0301');
});

test('bytes without a symbol are left out, with a warning', async () => {
  const tokenizer = await loadChanged((file) => {
    delete file.model.vocab['~'];
  });
  assert.match(tokenizer.warnings.join('\n'), /lacks the symbols of 1 bytes/);
  assert.is(tokenizer.decode(await tokenizer.encode('A~B')), 'AB');
  assert.is(tokenizer.decode(await tokenizer.encode(`~${'x'.repeat(600)}~~y`)), `${'x'.repeat(600)}y`);
  assert.is(tokenizer.decode(await tokenizer.encode(`${'!~'.repeat(600)}`)), '!'.repeat(600));
});

test('an added <image>, and the end of an answer, are special whatever their flag says', async () => {
  const tokenizer = await loadChanged(
    (file) => {
      file.added_tokens.push({ id: 512, content: '<image>', special: false, normalized: true });
      file.added_tokens.push({ id: 513, content: '<end>', special: false, normalized: true });
    },
    { vocabRows: 520, eosTokenIds: [0, 513] },
  );
  for (const text of ['<image>', '<end>']) {
    assert.equal(await tokenizer.encode(text), await tiny.encode(text));
    assert.is((await tokenizer.encodeRaw(text)).length, 1);
  }
});

test('eos comes from tokenizer_config.json where the config names none, and that file may be absent', async () => {
  assert.equal([...(await loadChanged(() => {}, { eosTokenIds: [] })).eosIds], [0]);
  const at = join(dir, 'bare');
  await mkdir(at);
  await cp(join(fixtures, 'tiny', 'tokenizer.json'), join(at, 'tokenizer.json'));
  const tokenizer = await loadTokenizer(at, { rows: 512, eosTokenIds: [] });
  assert.equal([...tokenizer.eosIds], []);
  assert.is(tokenizer.named.eos, '');
});

test('a missing file is named', async () => {
  const error = await loadTokenizer(join(dir, 'nowhere'), { rows: 512, eosTokenIds: [0] }).then(
    () => assert.unreachable('loaded'),
    (reason) => reason,
  );
  assert.is(error.code, 'ERR_TOK_FILE');
  assert.match(error.message, /nowhere.tokenizer\.json: cannot be opened: ENOENT/);
});

const shared = join('..', 'shared', 'golden');
(existsSync(shared) ? test : test.skip)('the golden checkpoints and the whole GPT-NeoX file', async () => {
  for (const name of ['clip-mlp', 'siglip-vssl2-bsm']) {
    const tokenizer = await loadTokenizer(join(shared, name), { rows: 512, eosTokenIds: [0] });
    for (const { prompt, prompt_tokens, greedy, text } of JSON.parse(
      readFileSync(join(shared, name, 'expected.json'), 'utf8'),
    )) {
      const pieces = await Promise.all(prompt.split('<image>').map((piece: string) => tokenizer.encodeRaw(piece)));
      assert.equal(pieces, prompt_tokens);
      assert.is(tokenizer.decode(greedy), text);
    }
  }
  const at = join(dir, 'neox');
  await mkdir(at);
  await cp(join(shared, 'gpt-neox-20b.tokenizer.json'), join(at, 'tokenizer.json'));
  const tokenizer = await loadTokenizer(at, { rows: 50280, eosTokenIds: [0] });
  for (const [text, ids] of golden) assert.equal(await tokenizer.encodeRaw(text), ids);
});

test.run();
