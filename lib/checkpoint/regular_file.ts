import { Buffer } from 'node:buffer';
import { type BigIntStats, constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { VLMambaError } from '../errors.ts';

/** The part of a `FileHandle` that readers use. */
export type ReadableFile = Pick<FileHandle, 'read'> & { stat(options: { bigint: true }): Promise<BigIntStats> };

/** Error codes of a reader: for a path that does not open, and for one that is not a regular file. */
export interface FileCodes {
  open: string;
  notRegular: string;
}

/** Opens `path` for reading, hands it to `use` and closes it, as `openRegularFile` does. */
export async function withRegularFile<T>(
  path: string,
  codes: FileCodes,
  use: (file: FileHandle, stat: BigIntStats) => Promise<T>,
): Promise<T> {
  const { file, stat } = await openRegularFile(path, codes);
  try {
    return await use(file, stat);
  } finally {
    await file.close();
  }
}

/**
 * Opens `path` for reading. Symbolic links are followed; a directory, pipe, socket or device is refused without blocking.
 */
export async function openRegularFile(
  path: string,
  codes: FileCodes,
): Promise<{ file: FileHandle; stat: BigIntStats }> {
  let file: FileHandle;
  try {
    // Without O_NONBLOCK the open of a pipe nobody writes to never returns and holds up process.exit too.
    file = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
  } catch (cause) {
    const reason = (cause as NodeJS.ErrnoException).code ?? 'unknown error';
    // ENXIO is what a socket answers to open.
    if (reason === 'ENXIO') throw notRegular(path, codes, 'a socket or device without a reader', cause);
    throw new VLMambaError(codes.open, `${path}: cannot be opened: ${reason}${inWords(reason)}`, {
      details: { path, reason },
      cause,
    });
  }
  try {
    const stat = await file.stat({ bigint: true });
    if (!stat.isFile()) throw notRegular(path, codes, kindOf(stat));
    return { file, stat };
  } catch (error) {
    await file.close();
    throw error;
  }
}

/**
 * Reads `length` bytes from `position`, through short reads. Gives fewer bytes only where the file ends before.
 */
export async function readFully(
  file: ReadableFile,
  length: number,
  position: number,
  signal?: AbortSignal,
): Promise<Uint8Array> {
  const bytes = Buffer.allocUnsafeSlow(length);
  let done = 0;
  while (done < length) {
    signal?.throwIfAborted();
    const { bytesRead } = await file.read(bytes, done, length - done, position + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return bytes.subarray(0, done);
}

/** Reads a whole small file; every failure, a file over `maxBytes` included, is a `VLMambaError` with `code`. */
export async function readSmallFile(
  path: string,
  { code, maxBytes, signal }: { code: string; maxBytes: number; signal?: AbortSignal },
): Promise<Uint8Array> {
  return withRegularFile(path, { open: code, notRegular: code }, async (file, { size }) => {
    if (size > BigInt(maxBytes)) {
      throw new VLMambaError(code, `${path}: has ${size} bytes, more than the ${maxBytes} expected of such a file`, {
        details: { path, size: Number(size), maxBytes },
      });
    }
    try {
      return await readFully(file, Number(size), 0, signal);
    } catch (cause) {
      signal?.throwIfAborted();
      throw new VLMambaError(code, `${path}: cannot be read: ${(cause as NodeJS.ErrnoException).code}`, {
        details: { path },
        cause,
      });
    }
  });
}

function notRegular(path: string, codes: FileCodes, kind: string, cause?: unknown): VLMambaError {
  return new VLMambaError(codes.notRegular, `${path}: expected a regular file, found ${kind}`, {
    details: { path, kind },
    cause,
  });
}

function kindOf(stat: BigIntStats): string {
  if (stat.isDirectory()) return 'a directory';
  if (stat.isFIFO()) return 'a pipe';
  if (stat.isSocket()) return 'a socket';
  return 'a device';
}

/** What a system's code says, where it is one that users meet: " (no such file)". */
export function inWords(code: string): string {
  const words: Record<string, string> = { ENOENT: 'no such file', EACCES: 'no permission', EISDIR: 'it is a folder' };
  return words[code] ? ` (${words[code]})` : '';
}
