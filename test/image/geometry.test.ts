import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { resampling } from '../../lib/image/geometry.ts';
import { resample, resizeBicubic } from '../reference/resize_bicubic.ts';
import { pattern } from './kit.ts';

// Golden values of Pillow (model-facts §5.4), on v(x, y) = (37x + 91y + 7xy) mod 256.
const golden = { data: new Uint8Array(7 * 5 * 3), width: 7, height: 5 };
for (let i = 0; i < 35; i++) {
  const [x, y] = [i % 7, Math.trunc(i / 7)];
  golden.data.fill((37 * x + 91 * y + 7 * x * y) % 256, 3 * i, 3 * i + 3);
}
const channel = (image: { data: Uint8Array }, c: number) => [...image.data].filter((_, i) => i % 3 === c);

test('the reference is Pillow', () => {
  const small = resizeBicubic(golden, 4, 4);
  const large = resizeBicubic(golden, 9, 6);
  for (const c of [0, 1, 2]) {
    assert.equal(channel(small, c), [28, 105, 130, 174, 159, 147, 87, 129, 106, 110, 175, 137, 116, 171, 120, 184]);
    assert.equal(channel(large, c).slice(0, 9), [0, 18, 49, 78, 107, 143, 174, 205, 229]);
    assert.equal(channel(large, c).slice(45), [108, 151, 220, 210, 42, 87, 148, 208, 250]);
  }
  assert.equal(resizeBicubic(golden, 7, 5), golden);
});

const fill = [122, 116, 104] as const;

test('squash ignores the aspect ratio', () => {
  const how = resampling({ width: 640, height: 480 }, { mode: 'squash', resize: 384, crop: 384, fill });
  assert.equal(how.canvas, { width: 640, height: 480 });
  assert.equal(how.resized, { width: 384, height: 384 });
  assert.equal(how.window, { width: 384, height: 384 });
});

test('crop resizes the shorter side and rounds the longer down', () => {
  const of = (width: number, height: number) =>
    resampling({ width, height }, { mode: 'crop', resize: 336, crop: 224, fill });
  assert.equal(of(640, 480).resized, { width: 448, height: 336 });
  assert.equal(of(480, 640).resized, { width: 336, height: 448 });
  assert.equal(of(500, 333).resized, { width: 504, height: 336 }); // 504.5
  assert.equal(of(7, 7).resized, { width: 336, height: 336 });
  assert.equal(of(7, 9).window, { width: 224, height: 224 });
});

test('pad makes a square of the longer side', () => {
  const of = (width: number, height: number) =>
    resampling({ width, height }, { mode: 'pad', resize: 336, crop: 336, fill });
  assert.equal(of(640, 481).canvas, { width: 640, height: 640 });
  assert.equal(of(481, 640).canvas, { width: 640, height: 640 });
  assert.equal(of(640, 481).resized, { width: 336, height: 336 });
});

test('pad and crop start at floor((outer - inner) / 2)', () => {
  const image = pattern(3, 6);
  const canvas = { width: 6, height: 6 };
  const padded = resample(image, { canvas, fill, resized: canvas, window: canvas });
  const row = (y: number) => [...padded.subarray(18 * y, 18 * y + 18)];
  assert.equal(row(2), [...fill, ...image.data.subarray(18, 27), ...fill, ...fill]);
  const cut = resample(image, { canvas: image, fill, resized: image, window: { width: 2, height: 3 } });
  assert.equal([...cut.subarray(0, 6)], [...image.data.subarray(9, 15)]);
});

test.run();
