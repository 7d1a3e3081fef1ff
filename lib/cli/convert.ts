import { stderr, stdout } from 'node:process';
import { convert as convertParts } from '../convert/convert.ts';
import { SHARD_BYTES, type Written } from '../convert/files.ts';
import { rangeError, show } from '../errors.ts';
import { ProgressBar } from './progress.ts';
import { bytes } from './text.ts';

/** What commands that write a checkpoint have in common. */
export interface WriteFlags {
  shardSize?: string;
  json?: boolean;
  quiet?: boolean;
}

interface ConvertFlags extends WriteFlags {
  vision: string;
  lm: string;
  connector: string;
  config: string;
  tokenizer?: string;
}

/** A checkpoint out of its parts; prints the folder. */
export const convert = (out: string, flags: ConvertFlags, signal: AbortSignal): Promise<void> =>
  writing(out, flags, (options) => convertParts(out, { ...flags, ...options, signal }));

/** Draws how far the writing of a folder is, and prints its path when it is there. */
export async function writing(
  out: string,
  flags: WriteFlags,
  write: (options: { shardBytes: number; onBytes: (done: number, total: number) => void }) => Promise<Written>,
): Promise<void> {
  const bar = new ProgressBar(`writing ${out}`, stderr.isTTY === true && !flags.quiet);
  try {
    const shardBytes = shardBytesOf(flags.shardSize);
    const written = await write({ shardBytes, onBytes: (done, total) => bar.draw(done, total) });
    bar.clear();
    const { path, files, bytes: size, warnings } = written;
    if (!flags.quiet) for (const warning of warnings) stderr.write(`vl-mamba: note: ${warning}\n`);
    const count = files.filter((name) => name.endsWith('.safetensors')).length;
    if (!flags.quiet && !flags.json)
      stderr.write(`${bytes(size)} of weights in ${count} file${count === 1 ? '' : 's'}\n`);
    stdout.write(flags.json ? `${JSON.stringify(written)}\n` : `${path}\n`);
  } finally {
    bar.clear();
  }
}

const UNITS: Record<string, number> = {
  '': 1,
  B: 1,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  KIB: 2 ** 10,
  MIB: 2 ** 20,
  GIB: 2 ** 30,
};

function shardBytesOf(text: string | undefined): number {
  if (text === undefined) return SHARD_BYTES;
  const [, number, unit] = /^(\d+(?:\.\d+)?) ?([KMG]?i?B)?$/i.exec(text) ?? [];
  const size = Math.floor(Number(number) * (UNITS[(unit ?? '').toUpperCase()] ?? Number.NaN));
  if (size >= 1 && size <= Number.MAX_SAFE_INTEGER) return size;
  throw rangeError('ERR_ARG_SHARD_SIZE', `--shard-size must be a size such as 5GB, 500MB or 2GiB, got ${show(text)}`);
}
