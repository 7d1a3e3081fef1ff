import { stat } from 'node:fs/promises';
import { DEMO, demoFolder } from '../bundled.ts';
import { VLMambaError } from '../errors.ts';
import { isModelName } from './name.ts';
import type { DownloadProgress, Pulled, PullOptions } from './pull.ts';

// What talks to the hub is imported when it is first needed: most programs load a folder.
const client = () => import('./pull.ts');

/**
 * Brings a model of the hub to this machine: the files that `load` reads, each checked against its hash, into the cache that
 * Hugging Face's tools share. What is there is not fetched again, and a file that was cut off goes on from there.
 *
 * @param name `org/name` or `org/name@revision`
 * @throws VLMambaError ERR_HUB_…; RangeError ERR_ARG_MODEL; the signal's reason
 */
export async function pull(name: string, options: PullOptions = {}): Promise<Pulled> {
  return (await client()).pull(name, options);
}

/**
 * The folder of a model that is given as a path, as `demo` or as `org/name[@revision]`: a path that exists wins, and a model of
 * the hub is brought here first. Where the hub can't be asked, what is here of it will do.
 * @throws VLMambaError ERR_HUB_…; the signal's reason
 */
export async function locate(
  name: string,
  { signal, onProgress }: { signal?: AbortSignal; onProgress?: (progress: DownloadProgress) => void } = {},
): Promise<{ path: string; warnings: string[] }> {
  const exists = await stat(name).catch(() => undefined);
  if (!exists && name === DEMO) return { path: demoFolder(), warnings: [] };
  if (exists || !isModelName(name)) return { path: name, warnings: [] };
  try {
    return await (await client()).pull(name, { signal, onProgress, orCached: true });
  } catch (error) {
    if (!(error instanceof VLMambaError) || !error.code.startsWith('ERR_HUB_')) throw error;
    const { code, message, details } = error;
    throw new VLMambaError(code, `${message}; and there is no folder ${name} here`, { details, cause: error });
  }
}
