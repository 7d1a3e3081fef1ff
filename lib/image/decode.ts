import type { Metadata, Sharp } from 'sharp';
import { VLMambaError } from '../errors.ts';
import { abortable } from './async.ts';
import { type ImageFormat, sniff } from './format.ts';
import type { Rgb } from './geometry.ts';
import { checkSize, DECODE_SECONDS, MAX_PIXELS } from './limits.ts';
import { hasEnd, keepPixelChunks } from './png.ts';
import { fromRaw } from './raw.ts';
import type { Source } from './source.ts';

export interface DecodeOptions {
  /** Width × height of the largest picture that is decoded; 2²⁵ unless given. */
  maxPixels?: number;
  signal?: AbortSignal;
}

/**
 * Decodes to 8-bit RGB: the first frame, turned upright by its EXIF orientation, alpha flattened on white, 16 bits cut to 8,
 * CMYK through its profile. Profiles of RGB and grey pictures are ignored, as the reference processors ignore them. sharp is
 * loaded on the first call; raw pixels do without it.
 *
 * @throws `ERR_IMAGE_EMPTY`, `_FORMAT`, `_TRUNCATED`, `_PIXELS` (before any pixel is decoded), `_DECODE`, `_TIMEOUT`, `_SHARP`.
 */
export async function decode(source: Source, { maxPixels = MAX_PIXELS, signal }: DecodeOptions = {}): Promise<Rgb> {
  signal?.throwIfAborted();
  if (source.kind === 'raw') return fromRaw(source.raw, maxPixels, signal);
  if (source.kind === 'sharp') return fromSharp(source.sharp, maxPixels, signal);
  return fromBytes(source.bytes, source.name, maxPixels, signal);
}

async function fromBytes(bytes: Uint8Array, name: string, maxPixels: number, signal?: AbortSignal): Promise<Rgb> {
  const format = sniff(bytes, name);
  const sharp = await loadSharp();
  const input = format === 'jpeg' ? withEnd(bytes) : format === 'png' ? keepPixelChunks(bytes, name) : bytes;
  try {
    // The header alone first: what libvips thinks it is, and how large, without a pixel decoded.
    const header = await abortable(sharp(input, { limitInputPixels: false }).metadata(), signal);
    if (header.format !== format) throw damaged(name, format, `the decoder takes it for ${header.format}`);
    checkSize(name, header.width, header.height, maxPixels, bytesPerPixel(header));
    const image = sharp(input, {
      autoOrient: true,
      failOn: 'warning',
      ignoreIcc: header.space !== 'cmyk',
      limitInputPixels: maxPixels,
    });
    return await abortable(toRgb(image), signal);
  } catch (cause) {
    if (signal?.aborted) throw signal.reason;
    if (cause instanceof VLMambaError) throw cause;
    throw decodeError(cause, name, format, input);
  }
}

/**
 * Memory that decoding and resizing takes at most. Beside the RGB a decoder holds all of a WebP, all of an interlaced PNG as it is
 * stored, and all coefficients of a progressive JPEG, 16 bits each; CMYK is held once more as it is. Measured with libvips 8.18.
 */
function bytesPerPixel({ format, isProgressive, channels, depth, chromaSubsampling, space }: Metadata): number {
  if (format === 'webp') return 12;
  if (!isProgressive) return 6;
  if (format === 'png') return 6 + channels * (depth === 'ushort' ? 2 : 1);
  if (space === 'cmyk') return 15;
  return 3 + 2 * (chromaSubsampling === '4:2:0' ? 1.5 : channels);
}

async function fromSharp(instance: Sharp, maxPixels: number, signal?: AbortSignal): Promise<Rgb> {
  let rgb: Rgb;
  try {
    rgb = await abortable(toRgb(instance.clone()), signal);
  } catch (cause) {
    if (signal?.aborted) throw signal.reason;
    throw decodeError(cause, 'the sharp instance');
  }
  checkSize('the output of the sharp instance', rgb.width, rgb.height, maxPixels);
  return rgb;
}

async function toRgb(image: Sharp): Promise<Rgb> {
  const { data, info } = await image
    .flatten({ background: '#ffffff' })
    .toColourspace('srgb')
    .removeAlpha()
    .raw({ depth: 'uchar' })
    .timeout({ seconds: DECODE_SECONDS })
    .toBuffer({ resolveWithObject: true });
  if (info.channels !== 3) throw new Error(`decoded to ${info.channels} channels, expected 3`);
  return { data, width: info.width, height: info.height };
}

/** Many writers forget a JPEG's end marker. With it in place the decoder still notices missing scan data. */
function withEnd(bytes: Uint8Array): Uint8Array {
  if (bytes.at(-2) === 0xff && bytes.at(-1) === 0xd9) return bytes;
  return Buffer.concat([bytes, Buffer.of(0xff, 0xd9)]);
}

/** Whether the container says that bytes are missing at the end; of a JPEG the decoder says it. */
function endsEarly(bytes: Uint8Array, format?: ImageFormat): boolean {
  if (format === 'png') return !hasEnd(bytes);
  return (
    format === 'webp' && (bytes.length < 12 || Buffer.from(bytes.subarray(4, 8)).readUInt32LE() + 8 > bytes.length)
  );
}

function decodeError(cause: unknown, name: string, format?: ImageFormat, bytes?: Uint8Array): VLMambaError {
  const why = cause instanceof Error ? cause.message.split('\n')[0]! : String(cause);
  if (/^timeout/.test(why)) {
    return new VLMambaError('ERR_IMAGE_TIMEOUT', `${name} was not decoded within ${DECODE_SECONDS} seconds`, { cause });
  }
  if (/pixel limit/.test(why)) {
    return new VLMambaError('ERR_IMAGE_PIXELS', `${name} has more pixels than allowed. Shrink it, or raise maxPixels`, {
      cause,
    });
  }
  if (/premature end|no image/.test(why) || (bytes && endsEarly(bytes, format))) {
    return new VLMambaError(
      'ERR_IMAGE_TRUNCATED',
      `${name} ends too early (${bytes?.length ?? '?'} bytes): it was cut off`,
      {
        cause,
      },
    );
  }
  return damaged(name, format ?? 'picture', why, cause);
}

const damaged = (name: string, format: string, why: string, cause?: unknown): VLMambaError =>
  new VLMambaError('ERR_IMAGE_DECODE', `${name} is a damaged ${format}: ${why}`, { cause });

async function loadSharp() {
  try {
    return (await import('sharp')).default;
  } catch (cause) {
    throw new VLMambaError(
      'ERR_IMAGE_SHARP',
      'sharp, which decodes pictures, did not load. Run "npm install --include=optional sharp" on this platform, or pass raw pixels { data, width, height, channels }',
      { cause },
    );
  }
}
