import { randomBytes } from 'node:crypto';
import { lstat, mkdir, open, rename, rm } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { VLMambaError } from '../errors.ts';

/**
 * Makes a folder that appears under `path` only when it is whole: it grows beside it, under a hidden name that ends in
 * `.partial`, which a failure takes away again.
 * @throws VLMambaError ERR_CONVERT_EXISTS where there is something already; ERR_CONVERT_WRITE
 */
export async function writeWholeFolder(path: string, write: (dir: string) => Promise<void>): Promise<void> {
  const target = resolve(path);
  await refuseExisting(path);
  const temporary = join(dirname(target), `.${basename(target)}.${randomBytes(4).toString('hex')}.partial`);
  try {
    await mkdir(temporary, { recursive: true });
    await write(temporary);
    await sync(temporary);
    // A folder that is empty would be replaced without a word.
    await refuseExisting(path);
    await rename(temporary, target);
    await sync(dirname(target));
  } catch (error) {
    await rm(temporary, { recursive: true, force: true }).catch(() => {});
    const { code, syscall } = error as NodeJS.ErrnoException;
    if (error instanceof VLMambaError || syscall === undefined) throw error;
    if (syscall === 'rename' && code !== 'EACCES' && code !== 'EPERM') await refuseExisting(path);
    throw new VLMambaError('ERR_CONVERT_WRITE', `${path}: cannot be written: ${code} (${syscall})`, { cause: error });
  }
}

/** @throws VLMambaError ERR_CONVERT_EXISTS */
export async function refuseExisting(path: string): Promise<void> {
  const found = await lstat(path).catch(() => undefined);
  if (found)
    throw new VLMambaError('ERR_CONVERT_EXISTS', `${path}: is there already and is not overwritten; give another name`);
}

/** A folder's own entries reach the disk; some systems do not open folders. */
async function sync(dir: string): Promise<void> {
  const folder = await open(dir, 'r').catch(() => undefined);
  await folder?.sync().catch(() => {});
  await folder?.close();
}
