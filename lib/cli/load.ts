import { stderr } from 'node:process';
import type { Model } from '../model.ts';
import { load } from '../model.ts';
import { modelFolder } from './bundled.ts';
import { number } from './options.ts';
import { ProgressBar } from './progress.ts';

export interface LoadFlags {
  device: string;
  dtype: string;
  threads?: string;
  quiet?: boolean;
}

/** Loads a model with a progress bar on stderr, if that is a terminal. */
export async function loadModel(path: string, flags: LoadFlags, signal: AbortSignal): Promise<Model> {
  const bar = new ProgressBar(`loading ${path}`, stderr.isTTY === true && !flags.quiet);
  try {
    const model = await load(modelFolder(path), {
      device: flags.device,
      dtype: flags.dtype as 'auto',
      threads: number(flags.threads),
      signal,
      onProgress: ({ loaded, total }) => bar.draw(loaded, total),
    });
    if (!flags.quiet) for (const warning of model.warnings) stderr.write(`vl-mamba: note: ${warning}\n`);
    return model;
  } finally {
    bar.clear();
  }
}
