import { type Checkpoint, openCheckpoint, type StoredTensor } from '../checkpoint/checkpoint.ts';
import { openSafetensors } from '../checkpoint/safetensors.ts';
import { VLMambaError } from '../errors.ts';

/** Tensors of a part of a checkpoint under the names that they have in the whole. */
export type Renamed = Map<string, StoredTensor>;

const TOWER = 'vision_tower.vision_model.';
const LANGUAGE = 'language_model.';
const CONNECTOR = 'multi_modal_projector.';

/** What a tower consists of. The ids of positions are counted, not stored. */
const TOWER_TENSOR = /^(embeddings\.(?!position_ids)|encoder\.|pre_layrnorm\.|post_layernorm\.|head\.)/;

/** The vision tower of a SigLIP or CLIP folder: a whole model, a tower alone (without a prefix since transformers 5), or a checkpoint of this package. */
export async function visionPart(dir: string, signal?: AbortSignal): Promise<Renamed> {
  const checkpoint = await openCheckpoint(dir, { signal });
  const prefix = prefixOf(
    checkpoint,
    [TOWER, 'vision_model.', ''],
    'embeddings.patch_embedding.weight',
    'a SigLIP or CLIP tower',
  );
  return rename(checkpoint, prefix, (path) => (TOWER_TENSOR.test(path) ? `${TOWER}${path}` : undefined));
}

/** A Mamba model under Hugging Face's names or state-spaces', whose embedding is one letter shorter. A tied head goes. */
export async function languagePart(dir: string, tied: boolean, signal?: AbortSignal): Promise<Renamed> {
  const checkpoint = await openCheckpoint(dir, { signal });
  const prefix = prefixOf(checkpoint, [LANGUAGE, ''], 'backbone.norm_f.weight', 'a Mamba model');
  return rename(checkpoint, prefix, (path) => {
    if (path === 'lm_head.weight') return tied ? undefined : `${LANGUAGE}${path}`;
    if (!path.startsWith('backbone.')) return undefined;
    return LANGUAGE + path.replace(/^backbone\.embedding\./, 'backbone.embeddings.');
  });
}

/** A connector's file, with or without the prefix that its tensors have in the whole. */
export async function connectorPart(path: string, signal?: AbortSignal): Promise<Renamed> {
  const file = await openSafetensors(path, { signal });
  const part: Renamed = new Map();
  for (const [path, tensor] of file.tensors) {
    const name = path.startsWith(CONNECTOR) ? path : `${CONNECTOR}${path}`;
    part.set(name, { ...tensor, name, file });
  }
  return part;
}

/** What comes before `name` in a checkpoint. */
function prefixOf({ dir, tensors }: Checkpoint, prefixes: readonly string[], name: string, what: string): string {
  const prefix = prefixes.find((prefix) => tensors.has(`${prefix}${name}`));
  if (prefix !== undefined) return prefix;
  throw new VLMambaError(
    'ERR_CKPT_MISSING',
    `${dir}: holds no tensor ${prefixes.at(-2)}${name}, so it is not ${what}`,
    {
      details: { dir, missing: [name] },
    },
  );
}

function rename(checkpoint: Checkpoint, prefix: string, to: (path: string) => string | undefined): Renamed {
  const part: Renamed = new Map();
  for (const [name, tensor] of checkpoint.tensors) {
    const renamed = name.startsWith(prefix) ? to(name.slice(prefix.length)) : undefined;
    if (renamed !== undefined) part.set(renamed, { ...tensor, name: renamed });
  }
  return part;
}
