import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { StopMatcher, TextStream } from '../../lib/text/text_stream.ts';

/** A small seeded generator of numbers in [0, n). */
function random(seed: number): (n: number) => number {
  let state = seed;
  return (n) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
}

const whole = (bytes: readonly number[]): string =>
  new TextDecoder('utf-8', { ignoreBOM: true }).decode(Uint8Array.from(bytes));

/** Streams the bytes cut at the given places. */
function stream(pieces: readonly (readonly number[])[]): string[] {
  const decoder = new TextStream((id) => Uint8Array.from(pieces[id]!));
  return [...pieces.map((_, i) => decoder.push(i)), decoder.flush()];
}

test('a character is emitted when its last byte arrives', () => {
  const bytes = [...Buffer.from('é日🙂a')].map((byte) => [byte]);
  assert.equal(stream(bytes), ['', 'é', '', '', '日', '', '', '', '🙂', 'a', '']);
});

test('a byte order mark is text', () => {
  assert.equal(stream([[0xef], [0xbb], [0xbf], [0x61]]), ['', '', '\ufeff', 'a', '']);
});

test('invalid bytes become U+FFFD as in a decoding of the whole', () => {
  const cases: number[][] = [
    [0xff],
    [0xc0, 0x80],
    [0xe6, 0x97],
    [0xe6, 0x97, 0x61],
    [0xed, 0xa0, 0x80],
    [0xf4, 0x90, 0x80, 0x80],
    [0xf0, 0x9f, 0x99, 0xf0, 0x9f, 0x99, 0x82],
    [0x80, 0x80, 0xc3],
    [0xf5, 0x80, 0x80],
    [0xe0, 0x80, 0x80],
  ];
  for (const bytes of cases) assert.is(stream(bytes.map((byte) => [byte])).join(''), whole(bytes), bytes.join(' '));
});

test('the pieces joined are the decoding of the whole, none ends in half a pair', () => {
  const next = random(1);
  const characters = ['a', 'é', '日', '🙂', '\u0000', '\ufeff'].map((text) => [...Buffer.from(text)]);
  for (let round = 0; round < 5000; round++) {
    const bytes: number[] = [];
    while (bytes.length < 1 + next(24))
      bytes.push(...(next(3) ? characters[next(characters.length)]! : [128 + next(128)]));
    const pieces: number[][] = [];
    for (let at = 0; at < bytes.length; ) pieces.push(bytes.slice(at, (at += next(5))));
    const texts = stream(pieces);
    assert.is(texts.join(''), whole(bytes), bytes.join(' '));
    for (const text of texts) assert.not.match(text, /\p{Cs}/u);
  }
});

test('after a flush the stream starts anew', () => {
  const decoder = new TextStream((id) => Uint8Array.of(id));
  decoder.push(0xe6);
  assert.is(decoder.flush(), '\ufffd');
  assert.is(decoder.push(0x61), 'a');
  assert.is(decoder.flush(), '');
});

/** What a matcher lets through, and after how many pieces it stopped. */
function feed(stops: string[], pieces: readonly string[]): { shown: string[]; stoppedAt: number } {
  const matcher = new StopMatcher(stops);
  const shown: string[] = [];
  let stoppedAt = -1;
  for (let i = 0; i <= pieces.length; i++) {
    const { text, stopped } = i < pieces.length ? matcher.push(pieces[i]!) : matcher.flush();
    shown.push(text);
    if (stopped && stoppedAt < 0) stoppedAt = i;
  }
  return { shown, stoppedAt };
}

test('a stop string across pieces: nothing of it is shown', () => {
  assert.equal(feed(['</s>'], ['Yes.<', '/', 's> more', ' and more']), {
    shown: ['Yes.', '', '', '', ''],
    stoppedAt: 2,
  });
  assert.equal(feed(['USER:'], ['It is USE', 'D. US', 'ER', ': hi']), {
    shown: ['It is ', 'USED. ', '', '', ''],
    stoppedAt: 3,
  });
});

test('what is held back comes out when it becomes no stop', () => {
  assert.equal(feed(['</s>'], ['a<', '/', 'b']), { shown: ['a', '', '</b', ''], stoppedAt: -1 });
  assert.equal(feed(['</s>'], ['a</s']), { shown: ['a', '</s'], stoppedAt: -1 });
});

test('the earliest match wins, at one place the longest', () => {
  assert.equal(feed(['abcd', 'bc'], ['xabce']), { shown: ['xa', ''], stoppedAt: 0 });
  assert.equal(feed(['abcd', 'bc'], ['xabcd']), { shown: ['x', ''], stoppedAt: 0 });
  assert.equal(feed(['ab', 'abcd'], ['xab', 'c', 'd']), { shown: ['x', '', '', ''], stoppedAt: 2 });
  assert.equal(feed(['ab', 'abcd'], ['xab', 'c', 'e']), { shown: ['x', '', '', ''], stoppedAt: 2 });
  assert.equal(feed(['ab', 'abcd'], ['xabc']), { shown: ['x', ''], stoppedAt: 1 });
  assert.equal(feed(['b', 'aab'], ['aaab']), { shown: ['a', ''], stoppedAt: 0 });
});

test('a stop that is the first text leaves nothing', () => {
  assert.equal(feed(['\n'], ['\n', 'x']), { shown: ['', '', ''], stoppedAt: 0 });
});

test('no stops: everything passes at once', () => {
  assert.equal(feed([], ['a', 'b']), { shown: ['a', 'b', ''], stoppedAt: -1 });
});

test('any cutting gives the text before the first match, and holds no more than may become a stop', () => {
  const next = random(2);
  const word = (letters: number, length: number): string =>
    Array.from({ length }, () => 'ab🙂'.at(next(letters))!).join('');
  for (let round = 0; round < 5000; round++) {
    const stops = Array.from({ length: 1 + next(4) }, () => word(2, 1 + next(5)));
    const text = word(2, next(30));
    const pieces: string[] = [];
    for (let at = 0; at < text.length; ) pieces.push(text.slice(at, (at += 1 + next(4))));
    const matcher = new StopMatcher(stops);
    const cut = Math.min(...stops.map((stop) => text.indexOf(stop)).filter((at) => at >= 0), text.length);
    let shown = '';
    let read = 0;
    for (const piece of pieces) {
      const { text: safe, stopped } = matcher.push(piece);
      shown += safe;
      read += piece.length;
      if (stopped) break;
      const held = text.slice(shown.length, read);
      const open = stops.some((stop) => stop.startsWith(held) || held.startsWith(stop));
      assert.ok(held === '' || open, `${JSON.stringify(stops)} holds ${held} of ${text}`);
    }
    shown += matcher.flush().text;
    assert.is(shown, text.slice(0, cut), JSON.stringify({ stops, pieces }));
  }
});

test('time is linear in the text, also for stops that nearly match everywhere', () => {
  const stops = Array.from({ length: 16 }, (_, i) => `${'a'.repeat(240)}${String.fromCharCode(98 + i)}`);
  const cpu = (n: number): number => {
    const matcher = new StopMatcher(stops);
    const before = process.cpuUsage().user;
    for (let at = 0; at < n; at += 100) matcher.push('a'.repeat(100));
    return process.cpuUsage().user - before;
  };
  cpu(200_000);
  const [once, twice] = [0, 1, 2].reduce(
    (best, _) => [Math.min(best[0]!, cpu(400_000)), Math.min(best[1]!, cpu(800_000))],
    [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY],
  );
  assert.ok(twice! / once! < 3, `${once} µs, then ${twice} µs`);
});

test('what is no list of stops is refused', () => {
  const cases: [unknown, typeof TypeError | typeof RangeError, RegExp][] = [
    ['stop', TypeError, /array of strings, found "stop"/],
    [[1], TypeError, /stop\[0\] must be a string, found 1/],
    [[null], TypeError, /stop\[0\]/],
    [['ok', ''], RangeError, /stop\[1\] is empty/],
    [Array(17).fill('x'), RangeError, /17 strings, at most 16/],
    [['é'.repeat(129)], RangeError, /258 bytes, at most 256/],
    [['\ud83d'], RangeError, /stop\[0\] holds half a surrogate pair/],
  ];
  for (const [stops, kind, message] of cases) {
    try {
      new StopMatcher(stops as string[]);
      assert.unreachable(`accepted ${JSON.stringify(stops)}`);
    } catch (error) {
      assert.instance(error, kind);
      assert.is((error as { code: string }).code, 'ERR_GEN_STOP');
      assert.match((error as Error).message, message);
    }
  }
  new StopMatcher(['é'.repeat(128), ...Array(15).fill('x')]);
});

test.run();
