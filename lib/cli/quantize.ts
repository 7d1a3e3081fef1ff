import { stderr } from 'node:process';
import { modelFolder } from '../bundled.ts';
import { quantize as quantizeFolder } from '../convert/quantize.ts';
import { locate } from '../hub/index.ts';
import type { DownloadProgress } from '../hub/pull.ts';
import { checkFolder } from '../model.ts';
import { type WriteFlags, writing } from './convert.ts';
import { number } from './options.ts';
import { ProgressBar } from './progress.ts';

interface QuantizeFlags extends WriteFlags {
  dtype: string;
  threads?: string;
}

/** A checkpoint with matrices of 8 or 4 bits; prints the folder. */
export async function quantize(name: string, out: string, flags: QuantizeFlags, signal: AbortSignal): Promise<void> {
  const bar = new ProgressBar(`fetching ${name}`, stderr.isTTY === true && !flags.quiet);
  const onProgress = ({ loaded, total }: DownloadProgress) => bar.draw(loaded, total);
  const { path } = await locate(modelFolder(name), { signal, onProgress }).finally(() => bar.clear());
  await checkFolder(path);
  const dtype = flags.dtype as 'int8';
  const threads = number(flags.threads);
  await writing(out, flags, (options) => quantizeFolder(path, out, { dtype, threads, ...options, signal }));
}
