import { join } from 'node:path';
import { readSmallFile } from '../checkpoint/regular_file.ts';
import { parseJsonData } from '../checkpoint/strict_json.ts';
import { show, VLMambaError } from '../errors.ts';
import type { ImageMode } from './geometry.ts';

type Triple = readonly [number, number, number];

/** What a picture goes through: `(resampled · rescale − mean) / std` a channel, on `crop` × `crop` pixels. */
export interface PreprocessConfig {
  mode: ImageMode;
  /** Pixels of the square (`squash`, `pad`) or of the shorter side (`crop`) after resizing. */
  resize: number;
  /** Side of the square that is cut out of the middle: what the encoder reads. */
  crop: number;
  /** Colour of the canvas of `pad`, 0…255: the mean colour. */
  fill: Triple;
  rescale: number;
  mean: Triple;
  std: Triple;
}

const FILE_BYTES = 2 ** 20;

type Fields = Record<string, unknown>;

// The class defaults of the Hugging Face processors (model-facts §5.1, §5.2).
const FAMILIES: Record<string, Fields> = {
  SiglipImageProcessor: {
    size: { height: 224, width: 224 },
    image_mean: [0.5, 0.5, 0.5],
    image_std: [0.5, 0.5, 0.5],
    do_center_crop: false,
  },
  CLIPImageProcessor: {
    size: { shortest_edge: 224 },
    crop_size: { height: 224, width: 224 },
    image_mean: [0.48145466, 0.4578275, 0.40821073],
    image_std: [0.26862954, 0.26130258, 0.27577711],
    do_center_crop: true,
  },
};
const COMMON: Fields = { do_resize: true, resample: 3, do_rescale: true, rescale_factor: 1 / 255, do_normalize: true };
const MODES: ImageMode[] = ['squash', 'crop', 'pad'];

/** `parsePreprocessConfig` of a checkpoint's folder. */
export async function readPreprocessConfig(dir: string, imageSize: number): Promise<PreprocessConfig> {
  const file = join(dir, 'preprocessor_config.json');
  const bytes = await readSmallFile(file, { code: 'ERR_CFG_FILE', maxBytes: FILE_BYTES });
  return parsePreprocessConfig(parseJsonData(bytes), file, imageSize);
}

/**
 * Reads a parsed preprocessor_config.json. Absent fields have the defaults of the named `image_processor_type` (SigLIP's or
 * CLIP's, `…Fast` and the older `feature_extractor_type` included); with another type, sizes, mean and std must be written.
 * Without `image_aspect_ratio` the processor's own way holds: `crop` for a shortest edge, otherwise `squash`.
 *
 * @param imageSize the side that the vision tower reads; the processor must arrive at it
 * @throws `ERR_CFG_IMAGE` with every problem found; `details.problems` lists them
 */
export function parsePreprocessConfig(json: unknown, file: string, imageSize: number): PreprocessConfig {
  const problems: string[] = [];
  if (typeof json !== 'object' || json === null || Array.isArray(json))
    fail(file, [`expected an object, found ${show(json)}`]);
  const given = json as Fields;
  const written = (key: string): unknown => (Object.hasOwn(given, key) && given[key] !== null ? given[key] : undefined);
  const type = written('image_processor_type') ?? written('feature_extractor_type');
  const family =
    FAMILIES[
      String(type)
        .replace(/Fast$/, '')
        .replace(/FeatureExtractor$/, 'ImageProcessor')
    ];
  const from = family ? ` (the default of ${String(type)})` : '';
  const defaults: Fields = { ...COMMON, ...family };
  const field = (key: string): unknown => written(key) ?? defaults[key];
  const origin = (key: string): string => (written(key) === undefined ? from : '');
  const expect = (key: string, expected: string): void => {
    problems.push(`${key} must be ${expected}, found ${show(field(key))}${origin(key)}`);
  };

  const flag = (key: string): boolean => {
    const value = field(key) ?? false;
    if (typeof value !== 'boolean') expect(key, 'true or false');
    return value === true;
  };
  const triple = (key: string, low: number, high: number, expected: string): Triple => {
    const value = field(key);
    const fits = (v: unknown) => typeof v === 'number' && v >= low && v <= high;
    if (Array.isArray(value) && value.length === 3 && value.every(fits)) return [value[0], value[1], value[2]];
    expect(key, `three numbers ${expected}`);
    return [1, 1, 1];
  };
  const side = (key: string): { value: number; shortest: boolean } => {
    const value = field(key);
    const sides = (typeof value === 'number' ? { side: value } : (value ?? {})) as Record<string, unknown>;
    const shortest = Object.hasOwn(sides, 'shortest_edge');
    const found = shortest ? sides.shortest_edge : Object.hasOwn(sides, 'side') ? sides.side : sides.height;
    const square = shortest || Object.hasOwn(sides, 'side') || sides.height === sides.width;
    if (square && Number.isInteger(found) && Number(found) >= 1 && Number(found) <= MAX_SIZE) {
      return { value: Number(found), shortest };
    }
    expect(key, `a number, { shortest_edge } or equal { height, width }, from 1 to ${MAX_SIZE}`);
    return { value: imageSize, shortest };
  };

  if (!flag('do_resize')) expect('do_resize', `true: pictures of every size must become ${imageSize} × ${imageSize}`);
  if (field('resample') !== 3) expect('resample', '3 (bicubic)');

  const size = side('size');
  const centred = flag('do_center_crop');
  const asked = written('image_aspect_ratio') ?? (size.shortest || centred ? 'crop' : 'squash');
  const mode = MODES.find((known) => known === asked) ?? 'squash';
  if (mode !== asked) expect('image_aspect_ratio', '"squash", "crop" or "pad"');
  const crops = centred || (mode === 'crop' && written('do_center_crop') === undefined);
  if (mode === 'crop' && !crops) expect('do_center_crop', 'true with image_aspect_ratio "crop"');
  const cropKey = crops && field('crop_size') !== undefined ? 'crop_size' : 'size';
  const crop = cropKey === 'size' ? size : side('crop_size');
  if (crop.value > size.value) expect('crop_size', `at most size (${size.value})`);
  else if (crop.value !== imageSize) expect(cropKey, `${imageSize}, the image_size of the vision tower`);

  const rescale = flag('do_rescale') ? Number(field('rescale_factor')) : 1;
  if (!(typeof field('rescale_factor') === 'number' && rescale > 0 && rescale <= 1))
    expect('rescale_factor', 'a number above 0, at most 1');
  const normalize = flag('do_normalize');
  const mean =
    mode === 'pad' ? triple('image_mean', 0, 1, 'from 0 to 1') : triple('image_mean', -1e6, 1e6, 'from -1e6 to 1e6');
  const std = triple('image_std', 1e-6, 1e6, 'from 1e-6 to 1e6');
  if (problems.length > 0) fail(file, problems);
  return {
    mode,
    resize: size.value,
    crop: crop.value,
    fill: [Math.trunc(mean[0] * 255), Math.trunc(mean[1] * 255), Math.trunc(mean[2] * 255)],
    rescale,
    mean: normalize ? mean : [0, 0, 0],
    std: normalize ? std : [1, 1, 1],
  };
}

const MAX_SIZE = 4096;

function fail(file: string, problems: string[]): never {
  throw new VLMambaError('ERR_CFG_IMAGE', `${file}: ${problems.join('; ')}`, { details: { file, problems } });
}
