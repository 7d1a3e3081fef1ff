import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { INDEX, readShardNames, SINGLE } from '../checkpoint/checkpoint.ts';
import { show, VLMambaError } from '../errors.ts';

const REQUIRED = ['config.json', 'tokenizer.json'];
const OPTIONAL = ['tokenizer_config.json', 'chat_template.jinja', 'preprocessor_config.json', 'generation_config.json'];
const LISTED = 5;

/** The files of a model that are wanted whatever is in them, without the shards that an index names. */
export interface Wanted {
  files: string[];
  sharded: boolean;
}

/**
 * What `load` reads, out of all that a repository holds.
 * @throws VLMambaError ERR_HUB_FILES where that makes no checkpoint
 */
export function wanted(names: ReadonlySet<string>, what: string): Wanted {
  const sharded = names.has(INDEX);
  const missing = REQUIRED.filter((name) => !names.has(name));
  if (!sharded && !names.has(SINGLE)) missing.push(`${SINGLE} or ${INDEX}`);
  if (missing.length > 0) {
    const weights = [...names].filter((name) => /\.(safetensors|bin|pt|pth|gguf)$/.test(name));
    const found =
      weights.length > 0
        ? `; its weights are ${weights
            .slice(0, LISTED)
            .map((name) => show(name))
            .join(', ')}`
        : '';
    throw new VLMambaError(
      'ERR_HUB_FILES',
      `${what} is no checkpoint of this package: it has no ${missing.join(', no ')}${found}`,
      {
        details: { missing },
      },
    );
  }
  return { files: [...REQUIRED, ...OPTIONAL.filter((name) => names.has(name)), sharded ? INDEX : SINGLE], sharded };
}

/**
 * How much of a model is in a snapshot's folder, as far as the folder itself tells: all that `load` cannot do without, or also what
 * nearly every model has. Other tools fetch file by file, so that some may be missing.
 */
export async function completeness(dir: string): Promise<'none' | 'enough' | 'all'> {
  const has = async (name: string) => (await stat(join(dir, name)).catch(() => undefined))?.isFile() === true;
  const every = async (names: readonly string[]) => (await Promise.all(names.map(has))).every(Boolean);
  if (!(await every(REQUIRED))) return 'none';
  const seesPictures = (await readFile(join(dir, 'config.json'), 'utf8').catch(() => '')).includes('"vision_config"');
  if (seesPictures && !(await has('preprocessor_config.json'))) return 'none';
  const shards = (await has(INDEX)) ? await readShardNames(join(dir, INDEX)).catch(() => undefined) : [SINGLE];
  if (!shards || !(await every(shards))) return 'none';
  return (await has('tokenizer_config.json')) ? 'all' : 'enough';
}
