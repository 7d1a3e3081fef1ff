import { randomBytes } from 'node:crypto';
import { copyFile, link, mkdir, readFile, rename, rm, stat, symlink } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { writeWhole } from '../checkpoint/whole_file.ts';
import { isCommit, type ModelName } from './name.ts';
import type { HubSettings } from './settings.ts';

/**
 * One model in the cache that all Hugging Face tools share: `blobs/<etag>` holds contents, `snapshots/<commit>/<name>` is a link
 * to one, `refs/<revision>` is a commit.
 */
export class CachedModel {
  readonly root: string;
  readonly blobs: string;
  readonly #symlinks: boolean;

  constructor({ cache, symlinks }: HubSettings, repo: string) {
    this.root = join(cache, `models--${repo.replace('/', '--')}`);
    this.blobs = join(this.root, 'blobs');
    this.#symlinks = symlinks;
  }

  snapshot(commit: string): string {
    return join(this.root, 'snapshots', commit);
  }

  /** The commit that a revision stood for when it was last asked for. */
  async commitOf({ revision }: ModelName): Promise<string | undefined> {
    if (isCommit(revision)) return revision;
    const text = await readFile(join(this.root, 'refs', revision), 'utf8').catch(() => '');
    return isCommit(text.trim()) ? text.trim() : undefined;
  }

  async remember({ revision }: ModelName, commit: string): Promise<void> {
    if (revision === commit || (await this.commitOf({ repo: '', revision })) === commit) return;
    const path = join(this.root, 'refs', revision);
    await mkdir(dirname(path), { recursive: true });
    await writeWhole(path, (file) => file.writeFile(commit));
  }

  /** Whether a snapshot has this file. */
  has(commit: string, name: string): Promise<boolean> {
    return isFile(join(this.snapshot(commit), name));
  }

  hasBlob(etag: string, size: number): Promise<boolean> {
    return isFile(join(this.blobs, etag), size);
  }

  /** Puts a blob into a snapshot: as a relative link, so that the cache can be moved, or else the file itself, or a copy. */
  async place(commit: string, name: string, etag: string): Promise<void> {
    const path = join(this.snapshot(commit), name);
    const blob = join(this.blobs, etag);
    await mkdir(dirname(path), { recursive: true });
    const temporary = `${path}.${randomBytes(4).toString('hex')}.tmp`;
    try {
      const soft = this.#symlinks ? symlink(relative(dirname(path), blob), temporary) : Promise.reject();
      await soft.catch(() => link(blob, temporary)).catch(() => copyFile(blob, temporary));
      await rename(temporary, path);
    } catch (error) {
      await rm(temporary, { force: true });
      throw error;
    }
  }
}

const isFile = async (path: string, size?: number): Promise<boolean> => {
  const found = await stat(path).catch(() => undefined);
  return found?.isFile() === true && (size === undefined || found.size === size);
};
