import { stderr, stdout } from 'node:process';
import { pull as pullModel } from '../hub/index.ts';
import { ProgressBar } from './progress.ts';
import { bytes } from './text.ts';

interface PullFlags {
  revision?: string;
  json?: boolean;
  quiet?: boolean;
}

/** A model of the hub on this machine; prints the folder. */
export async function pull(name: string, flags: PullFlags, signal: AbortSignal): Promise<void> {
  const bar = new ProgressBar(`fetching ${name}`, stderr.isTTY === true && !flags.quiet);
  const onProgress = ({ loaded, total }: { loaded: number; total: number }) => bar.draw(loaded, total);
  try {
    const pulled = await pullModel(name, { revision: flags.revision, signal, onProgress });
    bar.clear();
    if (!flags.quiet && !flags.json) {
      const news = pulled.fetched > 0 ? `fetched ${bytes(pulled.fetched)}` : 'was here already';
      stderr.write(`${pulled.repo} at ${pulled.commit.slice(0, 12)}: ${news}\n`);
    }
    stdout.write(flags.json ? `${JSON.stringify(pulled)}\n` : `${pulled.path}\n`);
  } finally {
    bar.clear();
  }
}
