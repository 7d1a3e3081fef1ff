import { VLMambaError } from '../errors.ts';

export type ImageFormat = 'jpeg' | 'png' | 'webp';

// A signature: text that must stand at a byte offset, Latin-1.
type Magic = Record<number, string>;

const ACCEPTED: [format: ImageFormat, magic: Magic][] = [
  ['jpeg', { 0: '\xff\xd8\xff' }],
  ['png', { 0: '\x89PNG\r\n\x1a\n' }],
  ['webp', { 0: 'RIFF', 8: 'WEBP' }],
];

// What people pass by mistake, so that the message can name it.
const OTHERS: [name: string, magic: Magic][] = [
  ['a GIF', { 0: 'GIF8' }],
  ['an AVIF picture', { 4: 'ftypavi' }],
  ['a HEIC picture', { 4: 'ftyphei' }],
  ['a HEIF picture', { 4: 'ftypmif1' }],
  ['a video', { 4: 'ftyp' }],
  ['a TIFF', { 0: 'II*\0' }],
  ['a TIFF', { 0: 'MM\0*' }],
  ['a BMP', { 0: 'BM' }],
  ['a JPEG XL picture', { 4: 'JXL ' }],
  ['a JPEG XL picture', { 0: '\xff\x0a' }],
  ['a JPEG 2000 picture', { 4: 'jP  ' }],
  ['a PDF', { 0: '%PDF' }],
  ['SVG, HTML or XML text', { 0: '<' }],
];

const startsLike = (head: string, magic: Magic): boolean =>
  Object.entries(magic).every(([at, text]) => head.startsWith(text, Number(at)));

/**
 * The format that the first bytes say; names and media types are never asked.
 *
 * @throws `ERR_IMAGE_EMPTY` for no bytes, `ERR_IMAGE_TRUNCATED` for less than a signature, `ERR_IMAGE_FORMAT` for anything
 * but JPEG, PNG and WebP.
 */
export function sniff(bytes: Uint8Array, name: string): ImageFormat {
  if (bytes.length === 0) {
    throw new VLMambaError('ERR_IMAGE_EMPTY', `${name} is empty: expected the bytes of a JPEG, PNG or WebP picture`);
  }
  const head = Buffer.from(bytes.subarray(0, 64)).toString('latin1');
  for (const [format, magic] of ACCEPTED) if (startsLike(head, magic)) return format;
  if (ACCEPTED.some(([, magic]) => magic[0]!.startsWith(head))) {
    throw new VLMambaError('ERR_IMAGE_TRUNCATED', `${name} ends after ${bytes.length} bytes, inside its signature`);
  }
  const found = OTHERS.find(([, magic]) => startsLike(head, magic))?.[0] ?? `bytes ${hex(bytes)}`;
  throw new VLMambaError(
    'ERR_IMAGE_FORMAT',
    `${name} is not a JPEG, PNG or WebP picture: it starts like ${found}. Convert it to one of these, or pass raw pixels`,
    { details: { accepted: ['jpeg', 'png', 'webp'], head: hex(bytes) } },
  );
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes.subarray(0, 8)).toString('hex');
