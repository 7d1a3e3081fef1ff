import { fileURLToPath } from 'node:url';
import { types } from 'node:util';
import type { Sharp } from 'sharp';
import { readFully, withRegularFile } from '../checkpoint/regular_file.ts';
import { rangeError, show, typeError, VLMambaError } from '../errors.ts';
import { inTurns } from './async.ts';
import { decodeDataUrl } from './data_url.ts';
import { download, nameOf } from './http.ts';
import { MAX_BYTES, tooManyBytes } from './limits.ts';
import type { RawPixels } from './raw.ts';

/**
 * Whatever can be looked at: a path; a `file:`, `http(s):` or `data:` URL as text or as a URL; the bytes of a JPEG, PNG or WebP
 * picture; raw pixels; or a sharp instance, whose own pipeline decides (its orientation too: add `.autoOrient()`).
 */
export type ImageInput = string | URL | Uint8Array | ArrayBufferLike | Blob | Sharp | RawPixels;

/** An input after its bytes are here. `name` is for error messages. */
export type Source =
  | { kind: 'bytes'; bytes: Uint8Array; name: string }
  | { kind: 'raw'; raw: RawPixels }
  | { kind: 'sharp'; sharp: Sharp };

const BYTES_PER_TURN = 2 ** 22;

/**
 * Fetches the bytes of an image input, at most 20 MiB. Bytes that the caller holds are copied: a decoder on another thread must
 * not see them move.
 *
 * @throws TypeError `ERR_ARG_IMAGE` for anything that is no image input; `ERR_IMAGE_READ`, `_URL`, `_HTTP`, `_BYTES`, `_TIMEOUT`.
 */
export async function openImage(input: ImageInput, signal?: AbortSignal): Promise<Source> {
  signal?.throwIfAborted();
  if (typeof input === 'string' || input instanceof URL) return fromText(input, signal);
  if (types.isUint8Array(input)) return fromMemory(input, input.constructor.name, signal);
  if (types.isAnyArrayBuffer(input)) return fromMemory(new Uint8Array(input), 'ArrayBuffer', signal);
  if (input instanceof Blob) {
    const name = `Blob of ${input.size} bytes`;
    if (input.size > MAX_BYTES) throw tooManyBytes(name, input.size);
    return { kind: 'bytes', bytes: new Uint8Array(await input.arrayBuffer()), name };
  }
  if (isSharp(input)) return { kind: 'sharp', sharp: input };
  if (typeof input === 'object' && input !== null && 'data' in input) return { kind: 'raw', raw: input };
  throw typeError(
    'ERR_ARG_IMAGE',
    `an image must be a path, a URL, a Buffer, Uint8Array, ArrayBuffer or Blob, a sharp instance or { data, width, height, channels }, found ${show(input)}`,
  );
}

function isSharp(input: unknown): input is Sharp {
  const maybe = input as Partial<Record<'clone' | 'metadata' | 'toBuffer', unknown>> | null;
  return [maybe?.clone, maybe?.metadata, maybe?.toBuffer].every((method) => typeof method === 'function');
}

async function fromMemory(bytes: Uint8Array, type: string, signal?: AbortSignal): Promise<Source> {
  const name = `${type} of ${bytes.length} bytes`;
  if (bytes.length > MAX_BYTES) throw tooManyBytes(name, bytes.length);
  const copy = new Uint8Array(bytes.length);
  await inTurns(copy.length, BYTES_PER_TURN, signal, (begin, end) => copy.set(bytes.subarray(begin, end), begin));
  return { kind: 'bytes', bytes: copy, name };
}

async function fromText(input: string | URL, signal?: AbortSignal): Promise<Source> {
  if (input === '') throw rangeError('ERR_ARG_IMAGE', 'an image must be a path or a URL, found an empty string');
  const text = String(input);
  // One letter in front of a colon is a Windows drive.
  const scheme = /^([a-z][a-z0-9+.-]+):/i.exec(text)?.[1]?.toLowerCase();
  switch (scheme) {
    case 'data':
      return { kind: 'bytes', bytes: await decodeDataUrl(text, signal), name: 'data: URL' };
    case 'http':
    case 'https': {
      const url = parseUrl(text);
      return { kind: 'bytes', bytes: await download(url, { signal }), name: nameOf(url) };
    }
    case 'file':
      return fromFile(filePath(parseUrl(text)), signal);
  }
  if (input instanceof URL || (scheme && text.startsWith('//', scheme.length + 1))) {
    throw badUrl(`${show(text)} has the scheme ${scheme}:, expected file:, http:, https: or data:`);
  }
  return fromFile(text, signal);
}

async function fromFile(path: string, signal?: AbortSignal): Promise<Source> {
  const name = `image ${show(path)}`;
  const codes = { open: 'ERR_IMAGE_READ', notRegular: 'ERR_IMAGE_READ' };
  return withRegularFile(path, codes, async (file, { size }) => {
    if (size > BigInt(MAX_BYTES)) throw tooManyBytes(name, String(size));
    try {
      return { kind: 'bytes', bytes: await readFully(file, Number(size), 0, signal), name };
    } catch (cause) {
      signal?.throwIfAborted();
      throw new VLMambaError('ERR_IMAGE_READ', `cannot read ${name}: ${(cause as NodeJS.ErrnoException).code}`, {
        cause,
      });
    }
  });
}

const badUrl = (why: string, cause?: unknown): VLMambaError =>
  new VLMambaError('ERR_IMAGE_URL', `cannot read an image URL: ${why}`, { cause });

function parseUrl(text: string): URL {
  try {
    return new URL(text);
  } catch (cause) {
    throw badUrl(`${show(text)} is not a valid URL`, cause);
  }
}

function filePath(url: URL): string {
  try {
    return fileURLToPath(url);
  } catch (cause) {
    throw badUrl(`${show(url.href)} names no local file`, cause);
  }
}
