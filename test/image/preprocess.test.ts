import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type PreprocessConfig, parsePreprocessConfig, pixels, type ResizeFn } from '../../lib/image/preprocess.ts';
import { resample } from '../reference/resize_bicubic.ts';
import { pattern, picture, rejects } from './kit.ts';

const CLIP = {
  mean: [0.48145466, 0.4578275, 0.40821073],
  std: [0.26862954, 0.26130258, 0.27577711],
};
const resize: ResizeFn = async (image, how) => resample(image, how);
const parse = (json: unknown, imageSize = 224): PreprocessConfig =>
  parsePreprocessConfig(json, 'preprocessor_config.json', imageSize);

test('SigLIP: the defaults, and a checkpoint that overrides them', () => {
  const half = [0.5, 0.5, 0.5];
  assert.equal(parse({ image_processor_type: 'SiglipImageProcessor' }), {
    mode: 'squash',
    resize: 224,
    crop: 224,
    fill: [127, 127, 127],
    rescale: 1 / 255,
    mean: half,
    std: half,
  });
  const so400m = parse({ image_processor_type: 'SiglipImageProcessor', size: { height: 384, width: 384 } }, 384);
  assert.equal([so400m.mode, so400m.resize, so400m.crop], ['squash', 384, 384]);
});

test('CLIP: the defaults, Fast, and the oldest spelling', () => {
  const plain = parse({ image_processor_type: 'CLIPImageProcessor' });
  assert.equal(plain, {
    mode: 'crop',
    resize: 224,
    crop: 224,
    fill: [122, 116, 104],
    rescale: 1 / 255,
    mean: CLIP.mean,
    std: CLIP.std,
  });
  assert.equal(parse({ image_processor_type: 'CLIPImageProcessorFast', crop_size: null }), plain);
  const old = { feature_extractor_type: 'CLIPFeatureExtractor', size: 336, crop_size: 336, do_center_crop: true };
  assert.equal(parse(old, 336), { ...plain, resize: 336, crop: 336 });
});

test('image_aspect_ratio overrides the way of the processor', () => {
  const clip = { image_processor_type: 'CLIPImageProcessor', size: { shortest_edge: 336 }, crop_size: 336 };
  for (const mode of ['squash', 'crop', 'pad'] as const) {
    const { mode: got, resize, crop } = parse({ ...clip, image_aspect_ratio: mode }, 336);
    assert.equal([got, resize, crop], [mode, 336, 336]);
  }
  const siglip = { image_processor_type: 'SiglipImageProcessor', image_aspect_ratio: 'crop' };
  assert.equal(parse(siglip).crop, 224);
});

test('a resize larger than the crop, and flags that switch steps off', () => {
  const json = {
    size: { shortest_edge: 256 },
    crop_size: { height: 224, width: 224 },
    do_rescale: false,
    do_normalize: false,
    image_mean: CLIP.mean,
    image_std: CLIP.std,
  };
  const config = parse(json);
  assert.equal([config.resize, config.crop, config.rescale], [256, 224, 1]);
  assert.equal(
    [config.mean, config.std],
    [
      [0, 0, 0],
      [1, 1, 1],
    ],
  );
});

const siglip = { image_processor_type: 'SiglipImageProcessor' };
const bad: [name: string, json: unknown, message: RegExp][] = [
  ['no object', null, /expected an object, found null/],
  ['a list', [], /expected an object/],
  ['no size and no known processor', { image_mean: [0, 0, 0], image_std: [1, 1, 1] }, /size must be .*found undefined/],
  ['another size', { ...siglip, size: 384 }, /size must be 224, the image_size.*found 384/],
  [
    'another size by default',
    { image_processor_type: 'CLIPImageProcessor', size: 256, crop_size: 256 },
    /crop_size must be 224/,
  ],
  ['size of two sides', { ...siglip, size: { height: 224, width: 225 } }, /equal \{ height, width \}/],
  ['size 0', { ...siglip, size: 0 }, /from 1 to 4096/],
  ['size as text', { ...siglip, size: '224' }, /size must be/],
  ['size 1e9', { ...siglip, size: 1e9 }, /from 1 to 4096/],
  ['longest_edge', { ...siglip, size: { longest_edge: 224 } }, /size must be/],
  [
    'a crop larger than the resize',
    { ...siglip, do_center_crop: true, crop_size: 300 },
    /crop_size must be at most size \(224\)/,
  ],
  ['no resize', { ...siglip, do_resize: false }, /do_resize must be true/],
  ['a flag as text', { ...siglip, do_normalize: 'yes' }, /do_normalize must be true or false/],
  ['bilinear', { ...siglip, resample: 2 }, /resample must be 3 \(bicubic\), found 2/],
  ['an unknown aspect ratio', { ...siglip, image_aspect_ratio: 'anyres' }, /"squash", "crop" or "pad", found "anyres"/],
  [
    'crop without crop',
    { ...siglip, image_aspect_ratio: 'crop', do_center_crop: false },
    /do_center_crop must be true/,
  ],
  ['two means', { ...siglip, image_mean: [0.5, 0.5] }, /image_mean must be three numbers/],
  ['a mean as text', { ...siglip, image_mean: [0.5, '0.5', 0.5] }, /image_mean/],
  ['NaN', { ...siglip, image_mean: [0.5, Number.NaN, 0.5] }, /image_mean/],
  ['std 0', { ...siglip, image_std: [0.5, 0, 0.5] }, /image_std must be three numbers from 1e-6/],
  ['std 1e-45', { ...siglip, image_std: [1e-45, 1, 1] }, /image_std/],
  ['std infinite', { ...siglip, image_std: [Number.POSITIVE_INFINITY, 1, 1] }, /image_std/],
  ['a mean that is no colour', { ...siglip, image_mean: [123, 116, 103], image_aspect_ratio: 'pad' }, /from 0 to 1/],
  ['rescale 0', { ...siglip, rescale_factor: 0 }, /rescale_factor must be a number above 0/],
  ['rescale as text', { ...siglip, rescale_factor: '1/255' }, /rescale_factor/],
];
for (const [name, json, message] of bad) {
  test(`refused: ${name}`, () =>
    assert.throws(
      () => parse(json),
      (e: Error & { code: string }) =>
        e.code === 'ERR_CFG_IMAGE' && e.message.startsWith('preprocessor_config.json: ') && message.test(e.message),
    ));
}

test('all problems at once, and the default that is at fault', () => {
  const json = { image_processor_type: 'CLIPImageProcessor', resample: 0, image_std: [1] };
  try {
    parse(json, 336);
    assert.unreachable();
  } catch (error) {
    const { message, details } = error as Error & { details: { problems: string[] } };
    assert.is(details.problems.length, 3, message);
    assert.match(
      message,
      /crop_size must be 336.*found \{"height":224,"width":224\} \(the default of CLIPImageProcessor\)/,
    );
  }
});

test('keys of Object.prototype are no fields', () => {
  assert.throws(() => parse(Object.create({ ...siglip })), /size must be/);
  assert.equal(parse(JSON.parse('{"__proto__":{"size":7},"image_processor_type":"SiglipImageProcessor"}')).resize, 224);
  assert.throws(() => parse({ image_processor_type: 'constructor' }), /size must be/);
});

test('pixels: planes of (v / 255 - mean) / std in float32', async () => {
  const [width, height] = [30, 20];
  const size = 16;
  for (const mode of ['squash', 'crop', 'pad'] as const) {
    const json = { image_processor_type: 'CLIPImageProcessor', size, crop_size: size, image_aspect_ratio: mode };
    const config = parse(json, size);
    const { data, shape } = await pixels(await picture(width, height).png().toBuffer(), config, { resize });
    assert.equal(shape, [3, size, size]);
    const resized = {
      squash: [width, height, size, size],
      crop: [width, height, 24, 16],
      pad: [30, 30, size, size],
    }[mode] as [number, number, number, number];
    const expected = resample(pattern(width, height), {
      canvas: { width: resized[0], height: resized[1] },
      fill: [122, 116, 104],
      resized: { width: resized[2], height: resized[3] },
      window: { width: size, height: size },
    });
    for (let c = 0; c < 3; c++)
      for (let i = 0; i < size * size; i++) {
        const value = (expected[3 * i + c]! / 255 - CLIP.mean[c]!) / CLIP.std[c]!;
        assert.ok(Math.abs(data[c * size * size + i]! - value) < 1e-6, `${mode} channel ${c} pixel ${i}`);
      }
  }
});

test('pixels: without rescaling and normalising, the bytes', async () => {
  const json = { ...siglip, size: 4, do_rescale: false, do_normalize: false };
  const image = { ...pattern(4, 4), channels: 3 as const };
  const { data } = await pixels(image, parse(json, 4), { resize });
  assert.equal(
    [...data.subarray(16, 32)],
    [...image.data].filter((_, i) => i % 3 === 1),
  );
});

test('pixels: options are checked, errors of the resize and the reason of a signal come through', async () => {
  const config = parse({ ...siglip, size: 4 }, 4);
  const image = { ...pattern(9, 9), channels: 3 as const };
  for (const maxPixels of [0, -1, 1.5, Number.NaN, 2 ** 28 + 1, '9' as unknown as number]) {
    await rejects(pixels(image, config, { resize, maxPixels }), 'ERR_ARG_MAX_PIXELS');
  }
  await rejects(pixels(image, config, { resize, maxPixels: 80 }), 'ERR_IMAGE_PIXELS');
  const failure = new Error('no device');
  assert.is(await pixels(image, config, { resize: () => Promise.reject(failure) }).catch((e) => e), failure);
  const stop = new AbortController();
  const reason = new Error('enough');
  const late: ResizeFn = async (rgb, how) => {
    stop.abort(reason);
    return resample(rgb, how);
  };
  assert.is(await pixels(image, config, { resize: late, signal: stop.signal }).catch((e) => e), reason);
});

// Pixels that Hugging Face's processors with Pillow computed, where the reference cases lie beside the checkout.
const golden = join(process.cwd(), '..', 'shared', 'golden');
for (const [name, size] of [
  ['clip-mlp', 70],
  ['siglip-vssl2-bsm', 62],
] as const) {
  const dir = join(golden, name);
  (existsSync(dir) ? test : test.skip)(`reference pixels: ${name}`, async () => {
    const config = parse(JSON.parse(readFileSync(join(dir, 'preprocessor_config.json'), 'utf8')), size);
    const file = readFileSync(join(dir, 'expected.safetensors'));
    const length = Number(file.readBigUInt64LE());
    const header = JSON.parse(file.toString('utf8', 8, 8 + length));
    const cases: { image?: string }[] = JSON.parse(readFileSync(join(dir, 'expected.json'), 'utf8'));
    let compared = 0;
    for (const [i, { image }] of cases.entries()) {
      if (!image) continue;
      const { data } = await pixels(join(dir, image), config, { resize });
      const [begin] = header[`${i}.pixel_values`].data_offsets;
      data.forEach((v, k) => {
        const off = Math.abs(v - file.readFloatLE(8 + length + begin + 4 * k));
        assert.ok(off <= 2e-6, `case ${i}, value ${k} is off by ${off}`);
      });
      compared++;
    }
    assert.ok(compared > 0);
  });
}

test.run();
