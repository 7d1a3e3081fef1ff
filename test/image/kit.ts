import { deflateSync } from 'node:zlib';
import sharp, { type Sharp } from 'sharp';
import * as assert from 'uvu/assert';

/** Smooth but asymmetric RGB content, so that every flip, rotation and channel swap shows. */
export function pattern(width: number, height: number): { data: Uint8Array; width: number; height: number } {
  const data = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      data.set(
        [(255 * x) / width, (255 * y) / height, (200 * (x + 2 * y)) / (width + 2 * height)],
        3 * (y * width + x),
      );
  return { data, width, height };
}

export function picture(width: number, height: number): Sharp {
  return sharp(pattern(width, height).data, { raw: { width, height, channels: 3 } });
}

function crc32(bytes: Uint8Array): number {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let k = 0; k < 8; k++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

function chunk(type: string, data: Uint8Array): Buffer {
  const out = Buffer.alloc(12 + data.length);
  out.writeUInt32BE(data.length);
  out.write(type, 4, 'latin1');
  out.set(data, 8);
  out.writeUInt32BE(crc32(out.subarray(4, 8 + data.length)), 8 + data.length);
  return out;
}

/** A PNG written by hand: any header, any chunks before the pixels, `rows` as they go into the zlib stream. */
export function png(
  header: { width: number; height: number; depth: number; colour: number; interlace?: number },
  rows: Uint8Array,
  before: [type: string, data: Uint8Array][] = [],
): Buffer {
  const ihdr = Buffer.alloc(13);
  ihdr.writeUInt32BE(header.width);
  ihdr.writeUInt32BE(header.height, 4);
  ihdr.set([header.depth, header.colour, 0, 0, header.interlace ?? 0], 8);
  return Buffer.concat([
    Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'),
    chunk('IHDR', ihdr),
    ...before.map(([type, data]) => chunk(type, data)),
    chunk('IDAT', deflateSync(rows)),
    chunk('IEND', new Uint8Array(0)),
  ]);
}

/** Runs `work`, which must reject with `code`; gives the error. */
export async function rejects(work: Promise<unknown>, code: string): Promise<Error & Record<string, unknown>> {
  const error = await work.then(
    () => assert.unreachable(`expected ${code}, found no error`),
    (reason) => reason,
  );
  assert.is(error.code, code, `expected ${code}, found ${error.stack}`);
  return error;
}
