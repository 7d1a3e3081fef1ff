import { createHash } from 'node:crypto';
import type { Quantised } from '../quantised.ts';
import type { Checkpoint, StoredTensor } from './checkpoint.ts';
import type { ModelConfig } from './config.ts';
import { readFully, withRegularFile } from './regular_file.ts';

/** Bytes of each tensor that count: training, and merging an adapter, change the beginning of a tensor too. */
const SAMPLE = 256;

/**
 * 64 hexadecimal digits that tell checkpoints apart: SHA-256 of the config and of the names, dtypes, shapes and first bytes
 * of all tensors, and what they are quantised to while they are read. Not proof against forgery.
 * @throws VLMambaError ERR_ST_OPEN, ERR_ST_NOT_REGULAR
 */
export async function fingerprint(
  { tensors }: Checkpoint,
  { warnings, ...config }: ModelConfig,
  { quantised, signal }: { quantised?: Quantised | null; signal?: AbortSignal | undefined } = {},
): Promise<string> {
  const files = new Map<string, [string, StoredTensor][]>();
  for (const [name, tensor] of [...tensors].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const { path } = tensor.file;
    files.set(path, [...(files.get(path) ?? []), [name, tensor]]);
  }
  const hash = createHash('sha256').update(JSON.stringify(config));
  if (quantised) hash.update(quantised);
  const codes = { open: 'ERR_ST_OPEN', notRegular: 'ERR_ST_NOT_REGULAR' };
  for (const [path, list] of files)
    await withRegularFile(path, codes, async (file) => {
      for (const [name, { dtype, shape, offset, bytes }] of list) {
        hash.update(`${JSON.stringify([name, dtype, shape])}`);
        hash.update(await readFully(file, Math.min(SAMPLE, bytes), offset, signal));
      }
    });
  return hash.digest('hex');
}
