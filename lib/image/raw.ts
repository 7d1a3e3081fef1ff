import { rangeError, show, typeError } from '../errors.ts';
import { inTurns } from './async.ts';
import type { Rgb } from './geometry.ts';
import { checkSize } from './limits.ts';

/** Pixels that are already decoded: 8 bits a channel, interleaved `[height, width, channels]`, rows from the top. */
export interface RawPixels {
  /** width · height · channels bytes. */
  data: Uint8Array | Uint8ClampedArray;
  /** Pixels across. */
  width: number;
  /** Pixels down. */
  height: number;
  /** 1: grey, 3: RGB, 4: RGB and alpha, which is flattened on white. */
  channels: 1 | 3 | 4;
}

// About a millisecond of conversion.
const PIXELS_PER_TURN = 2 ** 15;

/**
 * Raw pixels as RGB, in memory of our own.
 *
 * @throws TypeError or RangeError `ERR_ARG_IMAGE` for pixels that do not fit their description, `ERR_IMAGE_PIXELS`.
 */
export async function fromRaw(image: RawPixels, maxPixels: number, signal?: AbortSignal): Promise<Rgb> {
  const { data, width, height, channels } = image;
  if (!(data instanceof Uint8Array || data instanceof Uint8ClampedArray)) {
    throw typeError('ERR_ARG_IMAGE', `image.data must be a Uint8Array of 8-bit pixels, found ${show(data)}`);
  }
  for (const [key, value] of [['width', width] as const, ['height', height] as const]) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw rangeError('ERR_ARG_IMAGE', `image.${key} must be an integer of at least 1, found ${show(value)}`);
    }
  }
  if (channels !== 1 && channels !== 3 && channels !== 4) {
    throw rangeError('ERR_ARG_IMAGE', `image.channels must be 1 (grey), 3 (RGB) or 4 (RGBA), found ${show(channels)}`);
  }
  checkSize('image', width, height, maxPixels);
  const check = () => {
    const expected = width * height * channels;
    if (data.length === expected) return;
    throw rangeError(
      'ERR_ARG_IMAGE',
      `image.data must hold width × height × channels = ${width} × ${height} × ${channels} = ${expected} bytes, found ${data.length}`,
    );
  };
  check();
  const rgb = new Uint8Array(width * height * 3);
  await inTurns(width * height, PIXELS_PER_TURN, signal, (begin, end) => {
    check(); // a resizable or transferred buffer may have changed between turns
    if (channels === 3) rgb.set(data.subarray(begin * 3, end * 3), begin * 3);
    else if (channels === 1) grey(data, rgb, begin, end);
    else flatten(data, rgb, begin, end);
  });
  return { data: rgb, width, height };
}

function grey(from: ArrayLike<number>, to: Uint8Array, begin: number, end: number): void {
  for (let i = begin; i < end; i++) to[3 * i] = to[3 * i + 1] = to[3 * i + 2] = from[i]!;
}

/** On white, rounded down, as libvips flattens what sharp decodes. */
function flatten(from: ArrayLike<number>, to: Uint8Array, begin: number, end: number): void {
  for (let i = begin; i < end; i++) {
    const alpha = from[4 * i + 3]!;
    const white = 255 * (255 - alpha);
    for (let c = 0; c < 3; c++) {
      const sum = from[4 * i + c]! * alpha + white;
      to[3 * i + c] = (sum + 1 + (sum >> 8)) >> 8; // floor(sum / 255), exact up to 255²
    }
  }
}
