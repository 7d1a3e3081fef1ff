/** 8-bit RGB pixels, interleaved `[height, width, 3]`, rows from the top. */
export interface Rgb {
  data: Uint8Array;
  width: number;
  height: number;
}

export interface Size {
  width: number;
  height: number;
}

/**
 * How a picture becomes the square that the encoder reads: it lies in the middle of a canvas of colour `fill`, the
 * canvas is resized, and the window in the middle of the result is kept. Middles round down: an inner length `n` starts
 * at `floor((outer - n) / 2)`. The canvas is never smaller than the picture, nor the window larger than `resized`.
 */
export interface Resampling {
  canvas: Size;
  fill: readonly [number, number, number];
  resized: Size;
  window: Size;
}

export type ImageMode = 'squash' | 'crop' | 'pad';

/**
 * The resampling of a `width` × `height` picture.
 *
 * - `squash` resizes to `resize` × `resize`, whatever the aspect ratio (SigLIP's processor).
 * - `crop` resizes the shorter side to `resize` and the longer in proportion, rounded down (CLIP's processor).
 * - `pad` centres the picture on a square of colour `fill` first (LLaVA-1.5, `expand2square`).
 *
 * The window of `crop` × `crop` in the middle is kept in every mode.
 */
export function resampling(
  { width, height }: Size,
  { mode, resize, crop, fill }: { mode: ImageMode; resize: number; crop: number; fill: Resampling['fill'] },
): Resampling {
  const window = { width: crop, height: crop };
  if (mode === 'crop') {
    const along = (side: number, other: number) => (side <= other ? resize : Math.trunc((resize * side) / other));
    const resized = { width: along(width, height), height: along(height, width) };
    return { canvas: { width, height }, fill, resized, window };
  }
  const side = Math.max(width, height);
  const canvas = mode === 'pad' ? { width: side, height: side } : { width, height };
  return { canvas, fill, resized: { width: resize, height: resize }, window };
}
