import { VLMambaError } from '../errors.ts';

const ascii = (text: string): number => Buffer.from(text, 'latin1').readUInt32BE();
const [IEND, TRNS, EXIF] = [ascii('IEND'), ascii('tRNS'), ascii('eXIf')];
/** Set in the first letter of a chunk that a decoder may skip. */
const ANCILLARY = 0x20000000;
// A 20 MiB picture in the usual pieces of 8 KiB has 2560.
const MAX_CHUNKS = 2 ** 16;

/**
 * Takes out, in place, every chunk that pixels do not depend on. Text and profiles are compressed: a thousand of them in a
 * small file make a decoder unpack gigabytes. Kept are the critical chunks, transparency and the orientation.
 *
 * @returns the bytes that are left, up to the end chunk; without one, the file was cut off (see {@link hasEnd})
 */
export function keepPixelChunks(bytes: Uint8Array, name: string): Uint8Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let kept = 8;
  let at = 8;
  for (let chunks = 0; at + 12 <= bytes.length; chunks++) {
    if (chunks === MAX_CHUNKS) {
      throw new VLMambaError('ERR_IMAGE_DECODE', `${name} is a damaged png: it has more than ${MAX_CHUNKS} chunks`);
    }
    const type = view.getUint32(at + 4);
    const end = Math.min(bytes.length, at + 12 + view.getUint32(at));
    if (!(type & ANCILLARY) || type === TRNS || type === EXIF) {
      if (kept < at) bytes.copyWithin(kept, at, end);
      kept += end - at;
    }
    if (type === IEND) break;
    at = end;
  }
  return bytes.subarray(0, kept);
}

/** Whether what {@link keepPixelChunks} left ends with the end chunk. */
export function hasEnd(bytes: Uint8Array): boolean {
  return bytes.length >= 20 && Buffer.from(bytes.subarray(-8, -4)).readUInt32BE() === IEND;
}
