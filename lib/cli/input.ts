import { stdin } from 'node:process';
import { addAbortSignal } from 'node:stream';
import { rangeError } from '../errors.ts';

/** Everything that stdin gives; more than `limit` bytes is an error. */
export async function readStdin(what: string, limit: number, signal: AbortSignal): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of addAbortSignal(signal, stdin) as AsyncIterable<Buffer>) {
    chunks.push(chunk);
    size += chunk.length;
    if (size > limit) throw rangeError('ERR_ARG_STDIN', `${what} on stdin is larger than ${limit} bytes`);
  }
  return Buffer.concat(chunks);
}
