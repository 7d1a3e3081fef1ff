import { stderr } from 'node:process';
import { modelFolder } from '../bundled.ts';
import type { Model } from '../model.ts';
import { load } from '../model.ts';
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
  const shown = stderr.isTTY === true && !flags.quiet;
  const bars = {
    download: new ProgressBar(`fetching ${path}`, shown),
    read: new ProgressBar(`loading ${path}`, shown),
  };
  try {
    const model = await load(modelFolder(path), {
      device: flags.device,
      dtype: flags.dtype as 'auto',
      threads: number(flags.threads),
      signal,
      onProgress: ({ phase, loaded, total }) => bars[phase].draw(loaded, total),
    });
    if (!flags.quiet) for (const warning of model.warnings) stderr.write(`vl-mamba: note: ${warning}\n`);
    return model;
  } finally {
    for (const bar of Object.values(bars)) bar.clear();
  }
}
