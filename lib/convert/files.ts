import { stat, statfs } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { readSmallFile } from '../checkpoint/regular_file.ts';
import type { JsonRecord } from '../checkpoint/strict_json.ts';
import { writeWhole } from '../checkpoint/whole_file.ts';
import { VLMambaError } from '../errors.ts';

/** Most bytes of a file of weights, unless somebody asks for another size. */
export const SHARD_BYTES = 5e9;

/** What a new checkpoint is, or is to be. */
export interface Written {
  path: string;
  /** In the order in which they were written. */
  files: string[];
  bytes: number;
  warnings: string[];
}

/** The files of a checkpoint's text side, of which only the first has to be there. */
export const TEXT_FILES = ['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'chat_template.jinja'];
const COPIED_BYTES = 2 ** 26;

/** Those of the files that a folder has, by name. */
export async function readFiles(
  dir: string,
  names: readonly string[],
  signal?: AbortSignal,
): Promise<Map<string, Uint8Array>> {
  const found = new Map<string, Uint8Array>();
  for (const name of names) {
    const path = join(dir, name);
    if (await exists(path))
      found.set(name, await readSmallFile(path, { code: 'ERR_CFG_FILE', maxBytes: COPIED_BYTES, signal }));
  }
  return found;
}

/** Writes config.json and then the small files; returns their names. */
export async function writeFiles(
  dir: string,
  config: JsonRecord,
  copies: ReadonlyMap<string, Uint8Array>,
): Promise<string[]> {
  const plain = (_: string, value: unknown) => (typeof value === 'bigint' ? Number(value) : value);
  const all = new Map<string, string | Uint8Array>([
    ['config.json', `${JSON.stringify(config, plain, 2)}\n`],
    ...copies,
  ]);
  for (const [name, content] of all) await writeWhole(join(dir, name), (file) => file.writeFile(content));
  return [...all.keys()];
}

/** @throws VLMambaError ERR_CONVERT_WRITE where the disk has no room for `bytes` */
export async function checkSpace(out: string, bytes: number): Promise<void> {
  let dir = dirname(resolve(out));
  while (!(await exists(dir)) && dir !== dirname(dir)) dir = dirname(dir);
  const { blocks, bavail, bsize } = await statfs(dir);
  if (blocks > 0 && bytes > bavail * bsize)
    throw new VLMambaError('ERR_CONVERT_WRITE', `${out}: needs ${bytes} bytes, ${bavail * bsize} are free in ${dir}`);
}

export const exists = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  );
