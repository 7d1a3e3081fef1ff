import { createHash, type Hash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { show, VLMambaError } from '../errors.ts';
import type { FileFacts } from './api.ts';
import type { CachedModel } from './cache.ts';
import { ask, broken, header, persist, Transient } from './http.ts';
import { Claim, claim } from './partial.ts';
import type { HubSettings } from './settings.ts';

/** How often to look how far another process is with the same blob. */
const POLL_MS = 250;
/** Bytes that make a connection that breaks again worth counting from the start. */
const PROGRESS_BYTES = 2 ** 20;

export interface FetchOptions {
  signal?: AbortSignal;
  /** Bytes of the blob that are there, and how many of them have just been fetched. */
  onBytes?: (there: number, fetched: number) => void;
}

/**
 * Brings a blob into the cache, from where an earlier try ended. It gets its name when its bytes have been checked. Where another
 * process is fetching the same, waits for that one.
 * @throws VLMambaError ERR_HUB_…; the signal's reason, or a failure of the file system
 */
export async function fetchBlob(
  hub: HubSettings,
  model: CachedModel,
  url: URL,
  facts: FileFacts,
  { signal, onBytes = () => {} }: FetchOptions,
): Promise<void> {
  const { etag, size } = facts;
  for (let tries = 0; ; ) {
    signal?.throwIfAborted();
    if (await model.hasBlob(etag, size)) return onBytes(size, 0);
    const part = await claim(model.blobs, etag);
    if (!(part instanceof Claim)) {
      onBytes(Math.min(part.othersBytes, size), 0);
      await sleep(POLL_MS, undefined, { signal }).catch(() => signal?.throwIfAborted());
      continue;
    }
    let found: string;
    let resumed: boolean;
    try {
      ({ found, resumed } = await fill(hub, part.path, url, facts, { signal, onBytes }));
      if (found === etag && (await part.finish())) return;
    } catch (error) {
      await part.release();
      throw error;
    }
    if (found === etag) continue;
    await part.discard();
    // What an earlier try left may have been the wrong part; what came in one piece is what the server has.
    if (!resumed || ++tries > 1)
      throw new VLMambaError(
        'ERR_HUB_HASH',
        `${url.host}${url.pathname}: its bytes have the hash ${found}, not ${etag}`,
        {
          details: { name: facts.name, expected: etag, found },
        },
      );
  }
}

/** Writes what is missing of a part, and hashes all of it. */
async function fill(
  hub: HubSettings,
  path: string,
  url: URL,
  { name, etag, size }: FileFacts,
  { signal, onBytes }: Required<Pick<FetchOptions, 'onBytes'>> & FetchOptions,
): Promise<{ found: string; resumed: boolean }> {
  const file = await open(path, 'r+');
  try {
    let done = (await file.stat()).size;
    if (done > size) await file.truncate((done = 0));
    let resumed = done > 0;
    const hash = new Digest(etag, size);
    if (done > 0) await hash.read(path, done, signal);
    onBytes(done, 0);
    let fresh = 0;
    await persist(hub, name, signal, async (progress) => {
      if (done === size) return;
      const headers: Record<string, string> = done > 0 ? { range: `bytes=${done}-` } : {};
      const response = await ask(hub, url, { headers, signal });
      try {
        if (done > 0 && response.statusCode !== 206) {
          // The server does not know ranges, or not this one: it gives all of it again.
          hash.reset();
          resumed = false;
          await file.truncate((done = 0));
          if (response.statusCode === 416)
            throw new Transient(`${url.host}${url.pathname}: has no bytes from there on`);
        }
        resumed ||= done > 0;
        checkLength(response, url, done, size);
        for await (const chunk of bodyOf(response, url)) {
          if (done + chunk.length > size) throw wrongLength(url, `sends more than the ${size} bytes it should have`);
          await write(file, chunk, done);
          hash.update(chunk);
          done += chunk.length;
          onBytes(done, chunk.length);
          if ((fresh += chunk.length) >= PROGRESS_BYTES) {
            fresh = 0;
            progress();
          }
        }
      } finally {
        response.destroy();
      }
      if (done < size) throw new Transient(`${url.host}${url.pathname}: ended after ${done} of ${size} bytes`);
    });
    await file.sync();
    return { found: hash.digest(), resumed };
  } finally {
    await file.close();
  }
}

/** SHA-256, or Git's SHA-1 of a blob, whichever a hash of this length is. */
class Digest {
  #hash!: Hash;
  readonly #make: () => Hash;

  constructor(etag: string, size: number) {
    this.#make = () => (etag.length === 64 ? createHash('sha256') : createHash('sha1').update(`blob ${size}\0`));
    this.reset();
  }

  reset(): void {
    this.#hash = this.#make();
  }

  update(bytes: Uint8Array): void {
    this.#hash.update(bytes);
  }

  async read(path: string, length: number, signal: AbortSignal | undefined): Promise<void> {
    for await (const chunk of createReadStream(path, { end: length - 1, highWaterMark: 2 ** 20 })) {
      signal?.throwIfAborted();
      this.#hash.update(chunk as Buffer);
    }
  }

  digest(): string {
    return this.#hash.digest('hex');
  }
}

/** Refuses an answer that says it is of another length than the file, before its bytes are taken. */
function checkLength(response: IncomingMessage, url: URL, from: number, size: number): void {
  if (response.statusCode === 206) {
    const range = header(response, 'content-range') ?? 'no content-range';
    if (range !== `bytes ${from}-${size - 1}/${size}`)
      throw wrongLength(url, `answers with ${show(range)} when asked for bytes ${from} to ${size - 1} of ${size}`);
    return;
  }
  const length = header(response, 'content-length');
  if (length !== undefined && Number(length) !== size) throw wrongLength(url, `has ${length} bytes, not ${size}`);
}

const wrongLength = (url: URL, what: string): VLMambaError =>
  new VLMambaError('ERR_HUB_SIZE', `${url.host}${url.pathname}: ${what}`);

async function* bodyOf(response: IncomingMessage, url: URL): AsyncGenerator<Buffer> {
  try {
    yield* response as AsyncIterable<Buffer>;
  } catch (error) {
    throw broken(url, error);
  }
}

async function write(file: FileHandle, bytes: Uint8Array, at: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, at + done);
    done += bytesWritten;
  }
}
