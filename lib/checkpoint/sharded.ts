import { join } from 'node:path';
import { INDEX, SINGLE } from './checkpoint.ts';
import { type TensorSource, writeSafetensors } from './safetensors.ts';
import { writeWhole } from './whole_file.ts';

export type SizedTensor = TensorSource & { bytes: number };

/** What Hugging Face's tools want to find in every file. */
const METADATA = { format: 'pt' };

/**
 * Writes tensors in their order as `model.safetensors`, or where they are more than `shardBytes` as shards of at most that size
 * and an index. A tensor is never divided.
 */
export async function writeSharded(
  dir: string,
  tensors: readonly SizedTensor[],
  { shardBytes, signal }: { shardBytes: number; signal?: AbortSignal },
): Promise<string[]> {
  const shards = divide(tensors, shardBytes);
  if (shards.length === 1) {
    await writeSafetensors(join(dir, SINGLE), tensors, { metadata: METADATA, signal });
    return [SINGLE];
  }
  const number = (n: number) => String(n).padStart(5, '0');
  const names = shards.map((_, i) => `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`);
  const map: Record<string, string> = {};
  for (const [i, shard] of shards.entries()) {
    await writeSafetensors(join(dir, names[i]!), shard, { metadata: METADATA, signal });
    for (const { name } of shard) map[name] = names[i]!;
  }
  const total = tensors.reduce((sum, { bytes }) => sum + bytes, 0);
  const index = { metadata: { total_size: total }, weight_map: map };
  await writeWhole(join(dir, INDEX), (file) => file.writeFile(`${JSON.stringify(index, null, 2)}\n`));
  return [...names, INDEX];
}

function divide(tensors: readonly SizedTensor[], shardBytes: number): SizedTensor[][] {
  const shards: SizedTensor[][] = [[]];
  let filled = 0;
  for (const tensor of tensors) {
    if (filled > 0 && filled + tensor.bytes > shardBytes) {
      shards.push([]);
      filled = 0;
    }
    shards.at(-1)!.push(tensor);
    filled += tensor.bytes;
  }
  return shards;
}
