import { VLMambaError } from '../errors.ts';

/** Encoded bytes of one picture. */
export const MAX_BYTES = 20 * 2 ** 20;
/** Pixels of one decoded picture unless the caller says otherwise: 33 megapixels, 100 MB as RGB. */
export const MAX_PIXELS = 2 ** 25;
/** The largest `maxPixels` a caller may ask for. */
export const MAX_MAX_PIXELS = 2 ** 28;
/** Width or height: the weights of the resampling grow with the longer side, not with the number of pixels. */
export const MAX_SIDE = 2 ** 17;
export const DECODE_SECONDS = 10;
export const DOWNLOAD_SECONDS = 30;
export const MAX_REDIRECTS = 5;

export const tooManyBytes = (name: string, bytes: number | string): VLMambaError =>
  new VLMambaError('ERR_IMAGE_BYTES', `${name} has ${bytes} bytes, the limit is ${MAX_BYTES}. Save it smaller`, {
    details: { bytes, limit: MAX_BYTES },
  });

/** @throws `ERR_IMAGE_PIXELS` when a picture is over a limit; the message says which. */
export function checkSize(name: string, width: number, height: number, maxPixels: number): void {
  const pixels = width * height;
  const many = pixels > maxPixels;
  if (!many && Math.max(width, height) <= MAX_SIDE) return;
  const problem = many
    ? `${width} × ${height} = ${pixels} pixels, the limit is ${maxPixels}. Shrink it, or raise maxPixels`
    : `${width} × ${height} pixels, the limit of a side is ${MAX_SIDE}. Shrink or cut it`;
  throw new VLMambaError('ERR_IMAGE_PIXELS', `${name} is ${problem}`, {
    details: { width, height, maxPixels, maxSide: MAX_SIDE },
  });
}
