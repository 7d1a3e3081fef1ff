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

/** Memory for each pixel that is allowed: the RGB twice, as decoded and as it is resized, and a byte of what a decoder holds. */
const BYTES_PER_PIXEL = 7;

/**
 * @param bytesPerPixel what decoding and resizing takes: pictures that take more than others may have fewer pixels
 * @throws `ERR_IMAGE_PIXELS` when a picture is over a limit; the message says which.
 */
export function checkSize(name: string, width: number, height: number, maxPixels: number, bytesPerPixel = 6): void {
  const pixels = width * height;
  const limit = Math.min(maxPixels, Math.floor((maxPixels * BYTES_PER_PIXEL) / bytesPerPixel));
  if (pixels <= limit && Math.max(width, height) <= MAX_SIDE) return;
  const kind = limit < maxPixels ? ' for a picture that has to be decoded as a whole' : '';
  const problem =
    pixels > limit
      ? `${width} × ${height} = ${pixels} pixels, the limit is ${limit}${kind}. Shrink it, or raise maxPixels`
      : `${width} × ${height} pixels, the limit of a side is ${MAX_SIDE}. Shrink or cut it`;
  throw new VLMambaError('ERR_IMAGE_PIXELS', `${name} is ${problem}`, {
    details: { width, height, maxPixels: limit, maxSide: MAX_SIDE },
  });
}
