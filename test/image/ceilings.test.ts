/** What a picture may cost, whatever it claims to be: each in a process of its own, which says what it took. */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import sharp from 'sharp';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { decode } from '../../lib/image/decode.ts';
import { openImage } from '../../lib/image/source.ts';
import { png } from './kit.ts';

/** Of the whole process, a small model and the loader of TypeScript included. */
const MOST_BYTES = 400e6;
/** Of one core, so that what else the machine does is not counted; half of it on the machine of test/README.md. */
const MOST_MS = 3500;

const dir = mkdtempSync(join(tmpdir(), 'vl-mamba-ceilings-'));
test.after(() => rmSync(dir, { recursive: true, force: true }));

const CHILD = `
  import { load } from './lib/index.ts';
  const model = await load('models/demo');
  const before = process.cpuUsage();
  const result = await model.pixels(process.argv[1]).then(() => 'decoded', (error) => error.code);
  const { user, system } = process.cpuUsage(before);
  console.log(JSON.stringify({ result, ms: (user + system) / 1000, bytes: process.resourceUsage().maxRSS * 1024 }));`;

interface Cost {
  result: string;
  ms: number;
  bytes: number;
}

async function cost(picture: Uint8Array): Promise<Cost> {
  const path = join(dir, 'picture');
  writeFileSync(path, picture);
  const args = ['--import', 'tsx', '--input-type=module', '-e', CHILD, path];
  const { stdout } = await promisify(execFile)(process.execPath, args);
  return JSON.parse(stdout);
}

const flat = (side: number) =>
  sharp({ create: { width: side, height: side, channels: 3, background: '#808080' }, limitInputPixels: false });
/** A PNG of nothing, written by hand: rows of zeros, seven passes of them where it is interlaced. */
const zeros = (side: number, depth: number, colour: number, interlace = 0) => {
  const channels = { 0: 1, 2: 3, 6: 4 }[colour]!;
  const passes = interlace
    ? [
        [8, 8],
        [8, 8],
        [4, 8],
        [4, 4],
        [2, 4],
        [2, 2],
        [1, 2],
      ].map(([x, y]) => [Math.ceil(side / x!), Math.ceil(side / y!)])
    : [[side, side]];
  const size = passes.reduce((sum, [w, h]) => sum + h! * (1 + Math.ceil((w! * channels * depth) / 8)), 0);
  return png({ width: side, height: side, depth, colour, interlace }, Buffer.alloc(size));
};
/** The kinds of pictures that take the most, and what lib/image/decode.ts counts for each of their pixels. */
const largest: Record<string, [bytesPerPixel: number, make: (side: number) => Promise<Uint8Array> | Uint8Array]> = {
  'PNG, 16 bits, alpha': [6, (side) => zeros(side, 16, 6)],
  'interlaced PNG': [9, (side) => zeros(side, 8, 2, 1)],
  'interlaced PNG, 16 bits, alpha': [14, (side) => zeros(side, 16, 6, 1)],
  'lossless WebP': [12, (side) => flat(side).webp({ lossless: true, effort: 0 }).toBuffer()],
  'WebP with alpha': [12, (side) => flat(side).ensureAlpha(0.5).webp({ effort: 0 }).toBuffer()],
  'JPEG, turned': [6, (side) => flat(side).withMetadata({ orientation: 6 }).jpeg().toBuffer()],
  'progressive JPEG': [6, (side) => flat(side).jpeg({ progressive: true }).toBuffer()],
  'progressive JPEG 4:4:4': [
    9,
    (side) => flat(side).jpeg({ progressive: true, chromaSubsampling: '4:4:4' }).toBuffer(),
  ],
  'CMYK JPEG': [6, (side) => flat(side).toColourspace('cmyk').jpeg().toBuffer()],
  'progressive CMYK JPEG': [15, (side) => flat(side).toColourspace('cmyk').jpeg({ progressive: true }).toBuffer()],
};
for (const [name, [bytesPerPixel, make]] of Object.entries(largest))
  test(`the largest ${name} that is decoded`, async () => {
    const side = Math.floor(Math.sqrt((2 ** 25 * 7) / Math.max(bytesPerPixel, 7)));
    const { result, ms, bytes } = await cost(await make(side));
    console.log(`${name} ${side}²: ${(bytes / 1e6).toFixed(0)} MB, ${ms.toFixed(0)} ms`);
    assert.is(result, 'decoded');
    assert.ok(bytes < MOST_BYTES, `${bytes} bytes`);
    assert.ok(ms < MOST_MS, `${ms} ms`);
    const larger = await openImage(await make(side + 1))
      .then(decode)
      .catch((error) => error);
    assert.is(larger.code, 'ERR_IMAGE_PIXELS');
  });

test.run();
