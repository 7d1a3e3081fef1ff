import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { access, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { extname, join, resolve } from 'node:path';
import { inWords } from '../checkpoint/regular_file.ts';
import { VLMambaError } from '../errors.ts';
import type { Model } from '../model.ts';

/** What a folder of snapshots says about itself. */
interface Manifest {
  format: 'vl-mamba library';
  /** The model's folder as an absolute path, `demo`, or the model's name on the hub. */
  model: string;
}

const MANIFEST = 'library.json';
const EXTENSION = '.safetensors';
const PICTURES = new Set(['.jpg', '.jpeg', '.png', '.webp', '.gif', '.avif', '.tif', '.tiff']);

/** Files as they are, folders as the pictures in them, by name. */
export async function listPictures(names: readonly string[]): Promise<string[]> {
  const lists = names.map(async (name) => {
    if (!(await stat(name).catch(() => null))?.isDirectory()) return [name];
    const files = (await readdir(name)).filter((file) => PICTURES.has(extname(file).toLowerCase()));
    return files.sort().map((file) => join(name, file));
  });
  return (await Promise.all(lists)).flat();
}

/** The file that a picture's snapshot goes to: the same for the same bytes and the same model, wherever they lie. */
export async function snapshotPath(dir: string, picture: string, model: Model, signal: AbortSignal): Promise<string> {
  const hash = createHash('sha256');
  try {
    for await (const chunk of createReadStream(picture, { signal })) hash.update(chunk as Buffer);
  } catch (cause) {
    signal.throwIfAborted();
    const reason = (cause as NodeJS.ErrnoException).code ?? 'unknown error';
    throw new VLMambaError('ERR_IMAGE_READ', `cannot read ${picture}: ${reason}${inWords(reason)}`, { cause });
  }
  return join(dir, `${hash.digest('hex').slice(0, 32)}-${model.fingerprint.slice(0, 8)}${EXTENSION}`);
}

export const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );

export async function makeLibrary(dir: string, model: string): Promise<void> {
  await mkdir(dir, { recursive: true });
  const isFolder = model !== 'demo' && (await exists(model));
  const manifest: Manifest = { format: 'vl-mamba library', model: isFolder ? resolve(model) : model };
  await writeFile(join(dir, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`);
}

/** The model that a library was made with, and its snapshots. */
export async function openLibrary(dir: string): Promise<{ model: string; snapshots: string[] }> {
  const text = await readFile(join(dir, MANIFEST), 'utf8').catch((cause) => {
    throw new VLMambaError('ERR_USAGE_LIBRARY', `${dir} has no ${MANIFEST}: make a library with vl-mamba index`, {
      cause,
    });
  });
  let manifest: Partial<Manifest> | undefined;
  try {
    manifest = JSON.parse(text) as Partial<Manifest>;
  } catch {}
  if (manifest?.format !== 'vl-mamba library' || typeof manifest.model !== 'string')
    throw new VLMambaError('ERR_USAGE_LIBRARY', `${join(dir, MANIFEST)} was not written by vl-mamba index`);
  const files = (await readdir(dir)).filter((file) => file.endsWith(EXTENSION)).sort();
  return { model: manifest.model, snapshots: files.map((file) => join(dir, file)) };
}
