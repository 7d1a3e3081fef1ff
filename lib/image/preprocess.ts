import { rangeError, show } from '../errors.ts';
import type { PreprocessConfig } from './config.ts';
import { decode } from './decode.ts';
import { type Resampling, type Rgb, resampling } from './geometry.ts';
import { MAX_MAX_PIXELS } from './limits.ts';
import { type ImageInput, openImage } from './source.ts';

export { type PreprocessConfig, parsePreprocessConfig } from './config.ts';
export type { Resampling, Rgb } from './geometry.ts';
export type { RawPixels } from './raw.ts';
export type { ImageInput } from './source.ts';

/** The op `resize_bicubic`: the window of `how` as interleaved RGB, `[window.height, window.width, 3]`. */
export type ResizeFn = (image: Rgb, how: Resampling, signal?: AbortSignal) => Promise<Uint8Array>;

export interface PixelsOptions {
  resize: ResizeFn;
  signal?: AbortSignal;
  /** Width × height of the largest picture that is decoded; 2²⁵ (33 megapixels) unless given, 2²⁸ at most. */
  maxPixels?: number;
}

/**
 * What the vision encoder reads of a picture: channels first, `(v · rescale − mean) / std`, with the rounding of the reference
 * processors (the product in double, then float32 throughout).
 *
 * @returns `data` of `shape` [3, crop, crop]
 * @throws `ERR_IMAGE_*`, `ERR_ARG_IMAGE`, `ERR_ARG_MAX_PIXELS`, or the signal's reason
 */
export async function pixels(
  image: ImageInput,
  config: PreprocessConfig,
  { resize, signal, maxPixels }: PixelsOptions,
): Promise<{ data: Float32Array; shape: [3, number, number] }> {
  if (maxPixels !== undefined && !(Number.isInteger(maxPixels) && maxPixels >= 1 && maxPixels <= MAX_MAX_PIXELS)) {
    throw rangeError(
      'ERR_ARG_MAX_PIXELS',
      `maxPixels must be an integer from 1 to ${MAX_MAX_PIXELS}, found ${show(maxPixels)}`,
    );
  }
  const rgb = await decode(await openImage(image, signal), { maxPixels, signal });
  const window = await resize(rgb, resampling(rgb, config), signal);
  signal?.throwIfAborted();
  return { data: normalize(window, config), shape: [3, config.crop, config.crop] };
}

/** Interleaved bytes to planes of float32, through a table of the 256 values a channel can have. */
function normalize(rgb: Uint8Array, { crop, rescale, mean, std }: PreprocessConfig): Float32Array {
  const plane = crop * crop;
  const out = new Float32Array(3 * plane);
  for (let c = 0; c < 3; c++) {
    const table = Float32Array.from({ length: 256 }, (_, v) => {
      const centred = Math.fround(Math.fround(v * rescale) - Math.fround(mean[c]!));
      return centred / Math.fround(std[c]!);
    });
    for (let i = 0; i < plane; i++) out[c * plane + i] = table[rgb[3 * i + c]!]!;
  }
  return out;
}
