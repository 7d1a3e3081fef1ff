import { join, resolve } from 'node:path';
import { openCheckpoint } from '../checkpoint/checkpoint.ts';
import { parseConfig, readConfigRecord } from '../checkpoint/config.ts';
import { readTensor } from '../checkpoint/safetensors.ts';
import { type SizedTensor, writeSharded } from '../checkpoint/sharded.ts';
import { refuseExisting, writeWholeFolder } from '../checkpoint/whole_folder.ts';
import { CancelToken, Device, type DeviceBuffer } from '../device.ts';
import { rangeError, show, VLMambaError } from '../errors.ts';
import { unread, vlMambaParams } from '../models/vl_mamba.ts';
import { QUANT_BLOCK } from '../ops/quantised.ts';
import { type Quantised, SUFFIXES } from '../quantised.ts';
import { Param, partsOf, place, planWeights, type WeightPlan } from '../weights.ts';
import { checkSpace, readFiles, SHARD_BYTES, TEXT_FILES, type Written, writeFiles } from './files.ts';

export interface QuantizeOptions {
  /** What large matrices become; the embedding, the head, the tower and the connector are int8 in both. */
  dtype?: Quantised;
  threads?: number;
  /** Most bytes of a file of weights. */
  shardBytes?: number;
  signal?: AbortSignal;
  onBytes?: (done: number, total: number) => void;
}

const COPIED_FILES = [...TEXT_FILES, 'preprocessor_config.json', 'generation_config.json'];
/** Of a matrix that passes through JavaScript at a time. */
const PIECE_BYTES = 2 ** 22;

/**
 * Writes a checkpoint folder anew with its matrices in int8 or int4: the bytes that loading with that dtype makes of them. What
 * the model does not read is left out. One matrix at a time is in memory; the folder appears when it is whole.
 * @throws VLMambaError ERR_QUANT_…, ERR_CONVERT_…, ERR_CFG_…, ERR_CKPT_…, ERR_ST_…; the signal's reason
 */
export async function quantize(
  dir: string,
  out: string,
  { dtype = 'int8', threads, shardBytes = SHARD_BYTES, signal, onBytes }: QuantizeOptions = {},
): Promise<Written> {
  if (dtype !== 'int8' && dtype !== 'int4')
    throw rangeError('ERR_ARG_DTYPE', `quantize makes 'int8' or 'int4', got ${show(dtype)}`);
  await refuseExisting(out);
  const path = join(dir, 'config.json');
  const record = await readConfigRecord(path, signal);
  const config = parseConfig(record, path);
  const checkpoint = await openCheckpoint(dir, { signal });
  const plan = planWeights(checkpoint, vlMambaParams(config), unread);
  if (plan.quantised)
    throw new VLMambaError(
      'ERR_QUANT_DTYPE',
      `${dir}: is quantised to ${plan.quantised} already; quantise the checkpoint that it was made from`,
      { details: { dir, stored: plan.quantised, asked: dtype } },
    );
  const copies = await readFiles(dir, COPIED_FILES, signal);

  await using device = new Device({ threads });
  const token = new CancelToken(signal);
  try {
    const tensors = plan.params.flatMap((param) =>
      param.sources.flatMap((source) => {
        const own = new Param(source.name, source.shape, param.kind, [source], param.fewestBits);
        return written(device, plan, own, dtype, token);
      }),
    );
    const total = tensors.reduce((sum, { bytes }) => sum + bytes, 0);
    await checkSpace(out, total);
    let done = 0;
    const counted = tensors.map(({ data, ...tensor }) => ({
      ...tensor,
      data: async function* () {
        for await (const piece of data(signal)) {
          yield piece;
          onBytes?.((done += piece.length), total);
        }
      },
    }));
    const files: string[] = [];
    const quantization_config = { quant_method: 'vl_mamba', bits: dtype === 'int8' ? 8 : 4, group_size: QUANT_BLOCK };
    await writeWholeFolder(out, async (folder) => {
      files.push(...(await writeFiles(folder, { ...record, quantization_config }, copies)));
      files.push(...(await writeSharded(folder, counted, { shardBytes, signal })));
      signal?.throwIfAborted();
    });
    return { path: resolve(out), files, bytes: total, warnings: [...config.warnings, ...checkpoint.warnings] };
  } catch (error) {
    signal?.throwIfAborted();
    throw error;
  } finally {
    token.release();
  }
}

type Streamed = Omit<SizedTensor, 'data'> & { data: (signal?: AbortSignal) => AsyncIterable<Uint8Array> };

/** What is written of a part of a weight: itself, or the matrix in fewer bits, its scales and its grids, in this order. */
function written(
  device: Device,
  { stored }: WeightPlan<object>,
  param: Param,
  dtype: Quantised,
  token: CancelToken,
): Streamed[] {
  const tensor = stored.get(param.name)!;
  const parts = partsOf(param, param.shape, stored, dtype, false);
  if (parts.length === 1) return [{ ...tensor, data: (signal) => readTensor(tensor.file, tensor, signal) }];
  let made: Promise<DeviceBuffer> | undefined;
  const make = async () => {
    const { buffer, segments } = await place(device, param, stored, dtype, false);
    const { path, identity } = tensor.file;
    await device.load(path, identity, segments.get(tensor.file)!, token);
    return buffer;
  };
  return parts.map(({ name, dtype, shape, at, bytes }, i) => ({
    name: tensor.name + SUFFIXES[name],
    dtype: dtype.toUpperCase(),
    shape,
    bytes,
    data: async function* () {
      made ??= make();
      const buffer = await made;
      for (let done = 0; done < bytes; done += PIECE_BYTES)
        yield new Uint8Array(await device.read(buffer, at + done, Math.min(PIECE_BYTES, bytes - done)));
      if (i === parts.length - 1) buffer.free();
    },
  }));
}
