import { execFileSync } from 'node:child_process';
import { deflateSync } from 'node:zlib';
import sharp from 'sharp';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type DecodeOptions, decode } from '../../lib/image/decode.ts';
import type { Rgb } from '../../lib/image/geometry.ts';
import { type ImageInput, openImage } from '../../lib/image/source.ts';
import { pattern, picture, png, rejects } from './kit.ts';

const open = async (input: ImageInput, options?: DecodeOptions): Promise<Rgb> =>
  decode(await openImage(input), options);
const pixel = ({ data, width }: Rgb, x: number, y: number) => [...data.subarray(3 * (y * width + x)).subarray(0, 3)];

function near(a: Rgb, b: Rgb, tolerance: number): void {
  assert.equal([a.width, a.height, a.data.length], [b.width, b.height, b.data.length]);
  const off = a.data.reduce((most, v, i) => Math.max(most, Math.abs(v - b.data[i]!)), 0);
  assert.ok(off <= tolerance, `differs by ${off}, allowed ${tolerance}`);
}

test('lossless formats give the pixels that went in', async () => {
  const image = pattern(37, 21);
  for (const bytes of [
    await picture(37, 21).png().toBuffer(),
    await picture(37, 21).png({ progressive: true }).toBuffer(),
    await picture(37, 21).webp({ lossless: true }).toBuffer(),
  ]) {
    const { data, width, height } = await open(bytes);
    assert.equal({ data: new Uint8Array(data), width, height }, image);
  }
});

test('JPEG, plain and progressive', async () => {
  for (const progressive of [false, true]) {
    near(await open(await picture(64, 48).jpeg({ quality: 95, progressive }).toBuffer()), pattern(64, 48), 12);
  }
});

test('shapes that a guess at the layout gets wrong', async () => {
  for (const [width, height] of [
    [1, 1],
    [1, 3],
    [3, 1],
    [3, 3],
    [4, 4],
    [3, 7],
  ] as const) {
    const { data } = await open(await picture(width, height).png().toBuffer());
    assert.equal(new Uint8Array(data), pattern(width, height).data);
  }
});

// For every EXIF orientation: where the stored pixel (x, y) of a w × h picture is shown.
const SHOWN: Record<number, (x: number, y: number, w: number, h: number) => [number, number]> = {
  1: (x, y) => [x, y],
  2: (x, y, w) => [w - 1 - x, y],
  3: (x, y, w, h) => [w - 1 - x, h - 1 - y],
  4: (x, y, _, h) => [x, h - 1 - y],
  5: (x, y) => [y, x],
  6: (x, y, _, h) => [h - 1 - y, x],
  7: (x, y, w, h) => [h - 1 - y, w - 1 - x],
  8: (x, y, w) => [y, w - 1 - x],
};

for (const [orientation, shown] of Object.entries(SHOWN)) {
  test(`EXIF orientation ${orientation}`, async () => {
    const [w, h] = [24, 16];
    const stored = pattern(w, h);
    const bytes = await picture(w, h)
      .withMetadata({ orientation: Number(orientation) })
      .webp({ lossless: true })
      .toBuffer();
    const got = await open(bytes);
    assert.equal([got.width, got.height], Number(orientation) < 5 ? [w, h] : [h, w]);
    for (let y = 0; y < h; y++)
      for (let x = 0; x < w; x++) {
        const [u, v] = shown(x, y, w, h);
        assert.equal(pixel(got, u, v), pixel(stored, x, y));
      }
  });
}

test('an EXIF orientation that does not exist is 1', async () => {
  const bytes = await picture(24, 16).withMetadata({ orientation: 6 }).jpeg().toBuffer();
  const upright = await open(await picture(24, 16).jpeg().toBuffer());
  // The entry of tag 0x0112, type SHORT, count 1, in either byte order.
  const at = Math.max(bytes.indexOf('011200030000000106', 'hex'), bytes.indexOf('01120003000000010006', 'hex'));
  const little = bytes.indexOf('12010300010000000600', 'hex');
  assert.ok(at > 0 || little > 0, 'the entry is there');
  for (const value of [0, 9, 65535]) {
    const changed = Buffer.from(bytes);
    if (little > 0) changed.writeUInt16LE(value, little + 8);
    else changed.writeUInt16BE(value, at + 8);
    near(await open(changed), upright, 0);
  }
});

test('grey, 16 bits, 1 bit, palette', async () => {
  const grey = png({ width: 3, height: 1, depth: 8, colour: 0 }, Buffer.of(0, 0, 100, 255));
  assert.equal([...(await open(grey)).data], [0, 0, 0, 100, 100, 100, 255, 255, 255]);
  const grey16 = png({ width: 2, height: 1, depth: 16, colour: 0 }, Buffer.of(0, 0x12, 0xff, 0xfe, 0x01));
  assert.equal([...(await open(grey16)).data], [0x12, 0x12, 0x12, 0xfe, 0xfe, 0xfe]);
  const rgb16 = png({ width: 1, height: 1, depth: 16, colour: 2 }, Buffer.of(0, 1, 255, 2, 0, 3, 128));
  assert.equal([...(await open(rgb16)).data], [1, 2, 3]);
  const bits = png({ width: 4, height: 1, depth: 1, colour: 0 }, Buffer.of(0, 0b1010_0000));
  assert.equal([...(await open(bits)).data], [255, 255, 255, 0, 0, 0, 255, 255, 255, 0, 0, 0]);
  const palette = png({ width: 2, height: 1, depth: 8, colour: 3 }, Buffer.of(0, 1, 0), [
    ['PLTE', Buffer.of(10, 20, 30, 40, 50, 60)],
  ]);
  assert.equal([...(await open(palette)).data], [40, 50, 60, 10, 20, 30]);
});

test('alpha is flattened on white, also where it hides in a tRNS chunk', async () => {
  const rgba = Buffer.of(0, 10, 20, 30, 255, 10, 20, 30, 0, 0, 0, 0, 128);
  const expected = [10, 20, 30, 255, 255, 255, 127, 127, 127];
  assert.equal([...(await open(png({ width: 3, height: 1, depth: 8, colour: 6 }, rgba))).data], expected);
  const hidden = png({ width: 2, height: 1, depth: 8, colour: 3 }, Buffer.of(0, 0, 1), [
    ['PLTE', Buffer.of(10, 20, 30, 40, 50, 60)],
    ['tRNS', Buffer.of(0, 255)],
  ]);
  assert.equal([...(await open(hidden)).data], [255, 255, 255, 40, 50, 60]);
  const key = png({ width: 2, height: 1, depth: 8, colour: 2 }, Buffer.of(0, 1, 2, 3, 4, 5, 6), [
    ['tRNS', Buffer.of(0, 1, 0, 2, 0, 3)],
  ]);
  assert.equal([...(await open(key)).data], [255, 255, 255, 4, 5, 6]);
  const greyAlpha = png({ width: 2, height: 1, depth: 8, colour: 4 }, Buffer.of(0, 100, 255, 100, 0));
  assert.equal([...(await open(greyAlpha)).data], [100, 100, 100, 255, 255, 255]);
});

test('CMYK becomes RGB', async () => {
  for (const [background, low, high] of [
    ['#ffffff', [250, 250, 250], [255, 255, 255]],
    ['#808080', [112, 112, 112], [144, 144, 144]],
    ['#c04020', [170, 40, 0], [210, 90, 60]],
  ] as const) {
    const rgb = sharp({ create: { width: 16, height: 16, channels: 3, background } });
    const bytes = await rgb.toColourspace('cmyk').jpeg({ quality: 100 }).toBuffer();
    assert.is((await sharp(bytes).metadata()).channels, 4);
    const got = await open(bytes);
    assert.is(got.data.length, 16 * 16 * 3);
    pixel(got, 8, 8).forEach((v, c) => {
      assert.ok(v >= low[c]! && v <= high[c]!, `${background} came back as ${pixel(got, 8, 8)}`);
    });
  }
});

test('a profile of an RGB picture changes nothing, as in the reference', async () => {
  const wide = await picture(16, 16).withIccProfile('p3', { attach: true }).png().toBuffer();
  const stored = await sharp(wide, { ignoreIcc: true }).raw().toBuffer();
  assert.equal(Buffer.from((await open(wide)).data), stored);
  assert.not.equal(stored, Buffer.from(pattern(16, 16).data));
});

test('the first frame of an animation', async () => {
  const frames = [await picture(12, 8).png().toBuffer(), await picture(12, 8).negate().png().toBuffer()];
  const bytes = await sharp(frames, { join: { animated: true } })
    .webp({ lossless: true })
    .toBuffer();
  assert.is((await sharp(bytes).metadata()).pages, 2);
  near(await open(bytes), pattern(12, 8), 0);
});

test('cut JPEGs are refused, a missing end marker is not', async () => {
  for (const progressive of [false, true]) {
    const bytes = await picture(200, 150).jpeg({ progressive }).toBuffer();
    for (const cut of [3, 20, bytes.length >> 1, bytes.length - 20]) {
      await rejects(open(bytes.subarray(0, cut)), 'ERR_IMAGE_TRUNCATED');
    }
    near(await open(bytes.subarray(0, -2)), await open(bytes), 0);
  }
});

test('cut PNGs and WebPs are refused', async () => {
  const [first, second] = [await picture(200, 150).png().toBuffer(), await picture(200, 150).webp().toBuffer()];
  for (const bytes of [first, second]) {
    for (const cut of [12, 20, 40, bytes.length >> 1, bytes.length - 20]) {
      await rejects(open(bytes.subarray(0, cut)), 'ERR_IMAGE_TRUNCATED');
    }
  }
});

test('damage is refused where the format can tell', async () => {
  const bytes = await picture(64, 64).png().toBuffer();
  const flip = Buffer.from(bytes);
  flip[flip.length - 30]! ^= 0xff;
  const error = await rejects(open(flip), 'ERR_IMAGE_DECODE');
  assert.instance(error.cause, Error);
  await rejects(open(png({ width: 0, height: 0, depth: 8, colour: 2 }, Buffer.of(0))), 'ERR_IMAGE_DECODE');
  await rejects(open(png({ width: 64, height: 64, depth: 8, colour: 2 }, Buffer.alloc(100))), 'ERR_IMAGE_DECODE');
});

test('a flipped bit in a JPEG scan is another picture', async () => {
  const bytes = await picture(200, 150).jpeg().toBuffer();
  for (let i = 0; i < 40; i++) bytes[(bytes.length >> 1) + 3 * i]! ^= 4;
  const got = await open(bytes).catch((e) => e.code);
  assert.ok(got === 'ERR_IMAGE_DECODE' || got === 'ERR_IMAGE_TRUNCATED' || got.data.length === 200 * 150 * 3);
});

test('what follows the end of a picture is not read', async () => {
  const bytes = await picture(40, 30).jpeg().toBuffer();
  near(await open(Buffer.concat([bytes, Buffer.from('PK\x03\x04 an archive')])), await open(bytes), 0);
});

test('bombs are refused by their header', async () => {
  const rows = deflateSync(Buffer.alloc(1000));
  const jpeg = await picture(16, 16).jpeg({ progressive: true }).toBuffer();
  const size = jpeg.indexOf(Buffer.of(0xff, 0xc2)) + 5;
  jpeg.writeUInt16BE(65500, size);
  jpeg.writeUInt16BE(65500, size + 2);
  // A lossless WebP of 16383 × 16383: 14 bits of width - 1, 14 of height - 1, no pixels to speak of.
  const webp = await picture(1, 1).webp({ lossless: true }).toBuffer();
  webp.writeUInt32LE((16382 | (16382 << 14)) >>> 0, 21);
  await open(await picture(8, 8).png().toBuffer());
  for (const [name, bytes] of [
    ['PNG 16384²', png({ width: 16384, height: 16384, depth: 8, colour: 2, interlace: 1 }, rows)],
    ['PNG (2³¹-1)²', png({ width: 2 ** 31 - 1, height: 2 ** 31 - 1, depth: 1, colour: 0 }, rows)],
    ['JPEG 65500²', jpeg],
    ['WebP 16383²', webp],
  ] as const) {
    const begin = performance.now();
    const error = await open(bytes).catch((e) => e);
    const took = performance.now() - begin;
    assert.ok(['ERR_IMAGE_PIXELS', 'ERR_IMAGE_DECODE'].includes(error.code), `${name}: ${error.stack ?? 'decoded'}`);
    assert.ok(took < 500, `${name} took ${took} ms`);
  }
});

test('limits are exact, and named', async () => {
  const bytes = await picture(40, 30).png().toBuffer();
  await open(bytes, { maxPixels: 1200 });
  const error = await rejects(open(bytes, { maxPixels: 1199 }), 'ERR_IMAGE_PIXELS');
  assert.match(error.message, /Buffer of \d+ bytes is 40 × 30 = 1200 pixels, the limit is 1199.*maxPixels/);
  assert.equal(error.details, { width: 40, height: 30, maxPixels: 1199, maxSide: 131072 });
});

test('long strips, up to the limit of a side', async () => {
  const strip = (width: number) => png({ width, height: 1, depth: 8, colour: 0 }, Buffer.alloc(width + 1));
  const got = await open(strip(100_000));
  assert.equal([got.width, got.height], [100_000, 1]);
  assert.match((await rejects(open(strip(131_073)), 'ERR_IMAGE_PIXELS')).message, /limit of a side is 131072/);
});

test('text that unpacks to gigabytes stays packed', async () => {
  const text = Buffer.concat([Buffer.from('Comment\0\0', 'latin1'), deflateSync(Buffer.alloc(30_000_000, 0x20))]);
  const bytes = png(
    { width: 2, height: 1, depth: 8, colour: 0 },
    Buffer.of(0, 5, 6),
    Array.from({ length: 100 }, () => ['zTXt', text] as [string, Uint8Array]),
  );
  const before = process.memoryUsage.rss();
  assert.equal([...(await open(bytes)).data], [5, 5, 5, 6, 6, 6]);
  assert.ok(process.memoryUsage.rss() - before < 50e6, `grew by ${process.memoryUsage.rss() - before} bytes`);
});

test('a PNG of too many chunks', async () => {
  const many = Array.from({ length: 70_000 }, () => ['teXt', new Uint8Array(0)] as [string, Uint8Array]);
  const bytes = png({ width: 1, height: 1, depth: 8, colour: 0 }, Buffer.of(0, 5), many);
  assert.match((await rejects(open(bytes), 'ERR_IMAGE_DECODE')).message, /more than 65536 chunks/);
});

test('raw pixels: grey, RGB, RGBA as a PNG of them', async () => {
  const [width, height] = [301, 300]; // more than one turn
  const at = (channels: number) =>
    Uint8Array.from({ length: width * height * channels }, (_, i) => (i * 131 + (i >> 7)) & 255);
  for (const [channels, colour] of [
    [1, 0],
    [3, 2],
    [4, 6],
  ] as const) {
    const data = at(channels);
    const rows = Buffer.alloc(height * (width * channels + 1));
    for (let y = 0; y < height; y++) {
      rows.set(data.subarray(y * width * channels, (y + 1) * width * channels), y * (width * channels + 1) + 1);
    }
    const stored = await open(png({ width, height, depth: 8, colour }, rows));
    near(await open({ data, width, height, channels }), stored, 0);
    near(await open({ data: new Uint8ClampedArray(data), width, height, channels }), stored, 0);
  }
});

for (const [name, change, kind] of [
  ['too few bytes', { data: new Uint8Array(23) }, RangeError],
  ['too many bytes', { data: new Uint8Array(25) }, RangeError],
  ['no width', { width: 0 }, RangeError],
  ['negative height', { height: -2 }, RangeError],
  ['half a pixel', { width: 1.5 }, RangeError],
  ['width as text', { width: '4' }, RangeError],
  ['two channels', { channels: 2 }, RangeError],
  ['channels left out', { channels: undefined }, RangeError],
  ['floats', { data: new Float32Array(24) }, TypeError],
  ['an array', { data: Array(24).fill(0) }, TypeError],
  ['16 bits', { data: new Uint16Array(24) }, TypeError],
] as const) {
  test(`raw pixels refused: ${name}`, async () => {
    const raw = { data: new Uint8Array(24), width: 4, height: 2, channels: 3, ...change };
    assert.instance(await rejects(open(raw as ImageInput), 'ERR_ARG_IMAGE'), kind);
  });
}

test('raw pixels that are taken away meanwhile', async () => {
  const data = new Uint8Array(400 * 400 * 3);
  const opened = rejects(open({ data, width: 400, height: 400, channels: 3 }), 'ERR_ARG_IMAGE');
  await Promise.resolve();
  structuredClone(data, { transfer: [data.buffer] });
  assert.match((await opened).message, /480000 bytes, found 0/);
});

test('raw pixels over the limit', async () => {
  const raw = { data: new Uint8Array(300), width: 10, height: 10, channels: 3 as const };
  await rejects(open(raw, { maxPixels: 99 }), 'ERR_IMAGE_PIXELS');
});

test('a sharp instance is taken as its pipeline makes it, and can be used again', async () => {
  const instance = sharp(await picture(20, 10).png().toBuffer()).rotate(90);
  const got = await open(instance);
  assert.equal([got.width, got.height], [10, 20]);
  assert.equal(pixel(got, 9, 0), pixel(pattern(20, 10), 0, 0));
  assert.is((await instance.toBuffer({ resolveWithObject: true })).info.format, 'png');
  await rejects(open(instance, { maxPixels: 199 }), 'ERR_IMAGE_PIXELS');
  await rejects(open(sharp(Buffer.from('no picture'))), 'ERR_IMAGE_DECODE');
});

test('abort while decoding rejects with the reason', async () => {
  const bytes = await picture(2000, 2000).png().toBuffer();
  const stop = new AbortController();
  const reason = new Error('enough');
  const work = open(bytes, { signal: stop.signal }).catch((e) => e);
  setTimeout(() => stop.abort(reason), 3);
  assert.is(await work, reason);
});

test('without sharp, raw pixels work and the rest says what to install', () => {
  const hook = `export const resolve = (name, context, next) =>
    name === 'sharp' ? Promise.reject(new Error('no sharp here')) : next(name, context);`;
  const script = `
    import { register } from 'node:module';
    register('data:text/javascript,' + encodeURIComponent(${JSON.stringify(hook)}));
    const { decode } = await import('./lib/image/decode.ts');
    const raw = await decode({ kind: 'raw', raw: { data: new Uint8Array(3), width: 1, height: 1, channels: 3 } });
    const error = await decode({ kind: 'bytes', bytes: Buffer.from('ffd8ffe0', 'hex'), name: 'x' }).catch((e) => e);
    console.log(JSON.stringify([raw.data.length, error.code, error.message, error.cause.message]));`;
  const out = execFileSync(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script]).toString();
  const [length, code, message, cause] = JSON.parse(out);
  assert.equal([length, code, cause], [3, 'ERR_IMAGE_SHARP', 'no sharp here']);
  assert.match(message, /npm install .*sharp.*raw pixels/);
});

test.run();
