import type { BigIntStats } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { rangeError, show, VLMambaError } from '../errors.ts';
import { openRegularFile, type ReadableFile, readFully, withRegularFile } from './regular_file.ts';
import { JsonError, JsonReader } from './strict_json.ts';
import { writeWhole } from './whole_file.ts';

/** Where one tensor lies in its file. */
export interface TensorInfo {
  name: string;
  /** As the file spells it: F32, BF16, … */
  dtype: string;
  shape: number[];
  /** Offset of the first byte, from the start of the file. */
  offset: number;
  /** Length of the data in bytes. */
  bytes: number;
}

/** What must stay the same while a file's data are read. */
export interface FileIdentity {
  dev: bigint;
  ino: bigint;
  size: bigint;
  mtimeNs: bigint;
}

export interface SafetensorsFile {
  path: string;
  /** Bytes of the whole file. */
  size: number;
  identity: FileIdentity;
  /** By name, in the order of the header. */
  tensors: Map<string, TensorInfo>;
  metadata: Map<string, string>;
  warnings: string[];
}

export type SafetensorsHeader = Pick<SafetensorsFile, 'tensors' | 'metadata' | 'warnings'>;

/** A tensor to write. `data` yields its little-endian bytes in chunks of any size. */
export interface TensorSource {
  name: string;
  dtype: string;
  shape: readonly number[];
  data: Uint8Array | (() => Iterable<Uint8Array> | AsyncIterable<Uint8Array>);
}

/** Bits of one element. F4 and F6 are packed, so that a tensor of theirs must fill whole bytes. */
const DTYPE_BITS = new Map<string, number>([
  ['F4', 4],
  ['F6_E2M3', 6],
  ['F6_E3M2', 6],
  ['BOOL', 8],
  ['U8', 8],
  ['I8', 8],
  ['F8_E4M3', 8],
  ['F8_E4M3FNUZ', 8],
  ['F8_E5M2', 8],
  ['F8_E5M2FNUZ', 8],
  ['F8_E8M0', 8],
  ['U16', 16],
  ['I16', 16],
  ['F16', 16],
  ['BF16', 16],
  ['U32', 32],
  ['I32', 32],
  ['F32', 32],
  ['U64', 64],
  ['I64', 64],
  ['F64', 64],
  ['C64', 64],
]);

const MAX_TENSORS = 65_536;
const MAX_RANK = 8;
const MAX_DIM = 2 ** 40;
const MAX_NAME_BYTES = 4096;
const MAX_DEPTH = 4;
/** Of JSON in a header: more than the largest set of tensors with every shape of rank 8 has. */
const MAX_VALUES = 2 ** 20;
/** The format's own limit of a header, in bytes. */
const FORMAT_HEADER_BYTES = 100_000_000;
const DEFAULT_HEADER_BYTES = 25_000_000;
const LENGTH_BYTES = 8;
/** Of a tensor's data that is in memory at a time. */
const PIECE_BYTES = 2 ** 22;
const OPENING_BRACE = 0x7b;
const CLOSING_BRACE = 0x7d;

type Fail = (code: string, message: string, details?: Record<string, unknown>, cause?: unknown) => never;

/**
 * Reads and checks the header of a safetensors file; the data stay on disk. Stricter than the reference reader: duplicate
 * names, more than 65,536 tensors, ranks over 8, and names that are empty, hold NUL or exceed 4 KiB are refused.
 * @throws VLMambaError ERR_ST_…; the signal's reason when aborted
 */
export async function openSafetensors(
  path: string,
  { maxHeaderBytes = DEFAULT_HEADER_BYTES, signal }: { maxHeaderBytes?: number; signal?: AbortSignal } = {},
): Promise<SafetensorsFile> {
  if (!Number.isInteger(maxHeaderBytes) || maxHeaderBytes < 2 || maxHeaderBytes > FORMAT_HEADER_BYTES) {
    throw rangeError(
      'ERR_ARG_RANGE',
      `maxHeaderBytes must be an integer from 2 to ${FORMAT_HEADER_BYTES}, found ${show(maxHeaderBytes)}`,
    );
  }
  signal?.throwIfAborted();
  const codes = { open: 'ERR_ST_OPEN', notRegular: 'ERR_ST_NOT_REGULAR' };
  return withRegularFile(path, codes, (file, stat) => readSafetensors(file, stat, path, { maxHeaderBytes, signal }));
}

/** `openSafetensors` for a file that is open already: `stat` is what its `stat()` said before. */
export async function readSafetensors(
  file: ReadableFile,
  stat: BigIntStats,
  path: string,
  { maxHeaderBytes = DEFAULT_HEADER_BYTES, signal }: { maxHeaderBytes?: number; signal?: AbortSignal } = {},
): Promise<SafetensorsFile> {
  const fail = failer(path);
  const size = Number(stat.size);
  const read = async (length: number, position: number): Promise<Uint8Array> => {
    let bytes: Uint8Array;
    try {
      bytes = await readFully(file, length, position, signal);
    } catch (cause) {
      signal?.throwIfAborted();
      return fail('ERR_ST_READ', `cannot be read: ${(cause as NodeJS.ErrnoException).code}`, {}, cause);
    }
    if (bytes.length < length) changed(fail, `it ended at byte ${position + bytes.length} of ${size}`);
    return bytes;
  };

  if (size < LENGTH_BYTES) {
    fail('ERR_ST_TOO_SMALL', `has ${size} bytes, a safetensors file has at least ${LENGTH_BYTES}`, { size });
  }
  const start = Buffer.from(await read(Math.min(size, 64), 0));
  const length = start.readBigUInt64LE();
  const rest = size - LENGTH_BYTES;
  if (length > maxHeaderBytes) {
    refuseOtherFormats(start, fail);
    const hint =
      start.readBigUInt64BE() <= rest
        ? ' (byte-swapped?)'
        : length <= FORMAT_HEADER_BYTES
          ? ' (a larger maxHeaderBytes allows it)'
          : '';
    fail('ERR_ST_HEADER_TOO_LARGE', `the header says it has ${length} bytes, more than ${maxHeaderBytes}${hint}`, {
      found: String(length),
      maxHeaderBytes,
    });
  }
  if (length > rest) {
    refuseOtherFormats(start, fail);
    fail('ERR_ST_HEADER_LEN', `the header says it has ${length} bytes, the file holds ${rest} (truncated download?)`, {
      found: Number(length),
      size,
    });
  }
  if (length === 0n) fail('ERR_ST_HEADER_EMPTY', 'the header says it has 0 bytes, a header is at least "{}"');
  const head = await read(Number(length), LENGTH_BYTES);
  if (head[0] !== OPENING_BRACE) refuseOtherFormats(start, fail);
  const after = await file.stat({ bigint: true });
  for (const field of ['dev', 'ino', 'size', 'mtimeNs'] as const) {
    if (after[field] !== stat[field]) changed(fail, `${field} was ${stat[field]}, is ${after[field]}`);
  }
  const { dev, ino, mtimeNs } = stat;
  return { path, size, identity: { dev, ino, size: stat.size, mtimeNs }, ...parseHeader(head, { path, size }) };
}

/**
 * Checks a header: `head` is the JSON text (from byte 8 of the file), `size` the bytes of the whole file. The tensors must
 * cover the data exactly: no hole, no overlap, nothing after the last.
 * @throws VLMambaError ERR_ST_…
 */
export function parseHeader(head: Uint8Array, { path, size }: { path: string; size: number }): SafetensorsHeader {
  const fail = failer(path);
  const tensors = new Map<string, TensorInfo>();
  const warnings: string[] = [];
  let metadata = new Map<string, string>();
  const dataStart = LENGTH_BYTES + head.length;
  try {
    const json = new JsonReader(head, {
      base: LENGTH_BYTES,
      maxBytes: head.length,
      maxDepth: MAX_DEPTH,
      maxValues: MAX_VALUES,
    });
    if (head[0] !== OPENING_BRACE) {
      if (json.peek() !== 'object') {
        fail('ERR_ST_JSON', `expected "{" at byte ${json.offset}, where the header starts`, { offset: json.offset });
      }
      warnings.push(`${path}: white space before the header's "{", which the format forbids`);
    }
    json.object((name) => {
      if (name === '__metadata__') {
        metadata = readMetadata(json, fail);
        return;
      }
      if (tensors.size === MAX_TENSORS) {
        fail('ERR_ST_TOO_MANY_TENSORS', `more than ${MAX_TENSORS} tensors`, { limit: MAX_TENSORS });
      }
      const problem = nameProblem(name);
      if (problem) fail('ERR_ST_NAME', `a tensor's name ${problem}`, { tensor: name, offset: json.offset });
      tensors.set(name, readEntry(json, name, dataStart, fail));
    });
    json.end();
  } catch (error) {
    if (!(error instanceof JsonError)) throw error;
    const code =
      error.fault === 'utf8' ? 'ERR_ST_UTF8' : error.fault === 'duplicate' ? 'ERR_ST_DUPLICATE_KEY' : 'ERR_ST_JSON';
    fail(code, `header: ${error.message}`, { offset: error.offset }, error);
  }
  if (/[\t\n\r]/.test(Buffer.from(head.subarray(head.lastIndexOf(CLOSING_BRACE))).toString('latin1'))) {
    warnings.push(`${path}: the header is padded with other white space than spaces`);
  }
  checkCoverage(tensors, size - dataStart, dataStart, fail);
  return { tensors, metadata, warnings };
}

/**
 * The bytes of a tensor, piece by piece; a piece is good until the next is asked for.
 * @throws VLMambaError ERR_ST_OPEN, ERR_ST_NOT_REGULAR, ERR_ST_READ, ERR_ST_CHANGED; the signal's reason
 */
export async function* readTensor(
  { path, identity }: SafetensorsFile,
  { offset, bytes }: TensorInfo,
  signal?: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const fail = failer(path);
  const { file, stat } = await openRegularFile(path, { open: 'ERR_ST_OPEN', notRegular: 'ERR_ST_NOT_REGULAR' });
  try {
    if (!sameFile(stat, identity)) changed(fail, 'it is another one than its header was read from');
    const buffer = Buffer.allocUnsafeSlow(Math.min(bytes, PIECE_BYTES));
    for (let done = 0; done < bytes; ) {
      signal?.throwIfAborted();
      const { bytesRead } = await file
        .read(buffer, 0, Math.min(buffer.length, bytes - done), offset + done)
        .catch((cause) => fail('ERR_ST_READ', `cannot be read: ${(cause as NodeJS.ErrnoException).code}`, {}, cause));
      if (bytesRead === 0) changed(fail, `it ended at byte ${offset + done}`);
      done += bytesRead;
      yield buffer.subarray(0, bytesRead);
    }
    if (!sameFile(await file.stat({ bigint: true }), identity)) changed(fail, 'somebody wrote to it');
  } finally {
    await file.close();
  }
}

const sameFile = (stat: FileIdentity, { dev, ino, size, mtimeNs }: FileIdentity): boolean =>
  stat.dev === dev && stat.ino === ino && stat.size === size && stat.mtimeNs === mtimeNs;

/**
 * Writes a safetensors file: the header, padded so that the data start at a multiple of 8, then the tensors in the given
 * order. Data are streamed, so a file may be larger than the memory. It appears under `path` only when it is whole.
 * @throws VLMambaError ERR_ST_… for a tensor that is not well formed or whose data have another length than its shape says
 */
export async function writeSafetensors(
  path: string,
  tensors: Iterable<TensorSource>,
  { metadata, signal }: { metadata?: Record<string, string>; signal?: AbortSignal } = {},
): Promise<void> {
  signal?.throwIfAborted();
  const fail = failer(path);
  const sources = [...tensors];
  const sizes: number[] = [];
  const header: [string, unknown][] = metadata ? [['__metadata__', metadata]] : [];
  const names = new Set<string>(['__metadata__']);
  let end = 0;
  for (const { name, dtype, shape } of sources) {
    const problem = nameProblem(name);
    if (problem) fail('ERR_ST_NAME', `a tensor's name ${problem}`, { tensor: name });
    if (names.has(name)) fail('ERR_ST_DUPLICATE_KEY', `tensor ${show(name, 200)} occurs twice`, { tensor: name });
    names.add(name);
    const bytes = tensorBytes(dtype, shape, failerOf(fail, name));
    sizes.push(bytes);
    header.push([name, { dtype, shape, data_offsets: [end, end + bytes] }]);
    end += bytes;
  }
  const text = Buffer.from(
    `{${header.map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`).join()}}`,
  );
  const head = Buffer.alloc(LENGTH_BYTES + Math.ceil(text.length / 8) * 8, ' ');
  head.writeBigUInt64LE(BigInt(head.length - LENGTH_BYTES));
  text.copy(head, LENGTH_BYTES);

  await writeWhole(path, async (file) => {
    await writeFully(file, head);
    for (const [index, { name, data }] of sources.entries()) {
      const wanted = sizes[index]!;
      let written = 0;
      for await (const chunk of typeof data === 'function' ? data() : [data]) {
        signal?.throwIfAborted();
        written += chunk.length;
        if (written > wanted) break;
        await writeFully(file, chunk);
      }
      if (written !== wanted) {
        const found = written > wanted ? `at least ${written}` : String(written);
        fail('ERR_ST_SIZE', `tensor ${show(name, 200)} needs ${wanted} bytes, its data have ${found}`, {
          tensor: name,
        });
      }
    }
  });
}

async function writeFully(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) done += (await file.write(bytes, done, bytes.length - done)).bytesWritten;
}

function failer(path: string): Fail {
  return (code, message, details = {}, cause) => {
    throw new VLMambaError(code, `${path}: ${message}`, { details: { path, ...details }, cause });
  };
}

/** `fail` for one tensor, which it names. */
const failerOf =
  (fail: Fail, tensor: string): Fail =>
  (code, message, details) =>
    fail(code, `tensor ${show(tensor, 200)}: ${message}`, { tensor, ...details });

function changed(fail: Fail, what: string): never {
  return fail('ERR_ST_CHANGED', `file changed while reading: ${what}`);
}

/** Names the format of a file that is not safetensors, where its first bytes tell. */
function refuseOtherFormats(start: Uint8Array, fail: Fail): void {
  const text = Buffer.from(start.subarray(0, 64)).toString('latin1');
  const looksLike = (what: string): never => fail('ERR_ST_NOT_SAFETENSORS', what, { start: text.slice(0, 8) });
  if (text.startsWith('PK\x03\x04')) looksLike('looks like a ZIP or PyTorch file; convert it to safetensors');
  if (start[0] === 0x80 && start[1]! >= 2 && start[1]! <= 5)
    looksLike('looks like a pickle; refusing, convert it to safetensors');
  if (text.startsWith('GGUF')) looksLike('looks like GGUF; this loader reads safetensors');
  if (text.startsWith('version https://git-lfs')) looksLike('this is a Git LFS pointer: run git lfs pull');
  if (/^\s*<(!doctype|html|\?xml)/i.test(text))
    looksLike('looks like HTML, an error page saved as a model; download it again');
}

function nameProblem(name: string): string | undefined {
  if (name === '') return 'is empty';
  if (name.includes('\0')) return `holds a NUL: ${show(name, 200)}`;
  const bytes = Buffer.byteLength(name);
  if (bytes > MAX_NAME_BYTES) return `has ${bytes} bytes, more than ${MAX_NAME_BYTES}: ${show(name, 200)}`;
  return undefined;
}

function readMetadata(json: JsonReader, fail: Fail): Map<string, string> {
  const metadata = new Map<string, string>();
  const kind = json.peek();
  if (kind === 'literal' && json.value() === null) return metadata;
  if (kind !== 'object') fail('ERR_ST_METADATA', `__metadata__ must be an object of strings, found ${an(kind)}`);
  json.object((key) => {
    const found = json.peek();
    if (found !== 'string') {
      fail('ERR_ST_METADATA', `__metadata__[${show(key, 200)}] must be a string, found ${an(found)}`, { key });
    }
    metadata.set(key, json.string());
  });
  return metadata;
}

function readEntry(json: JsonReader, name: string, dataStart: number, failFile: Fail): TensorInfo {
  const fail = failerOf(failFile, name);
  if (json.peek() !== 'object') fail('ERR_ST_FIELD', `expected an object, found ${an(json.peek())}`);
  let dtype: string | undefined;
  let shape: number[] | undefined;
  let offsets: number[] | undefined;
  json.object((field) => {
    if (field === 'dtype') {
      if (json.peek() !== 'string') fail('ERR_ST_DTYPE', `dtype must be a string, found ${an(json.peek())}`);
      dtype = json.string();
    } else if (field === 'shape') shape = readIntegers(json, field, MAX_RANK, 'ERR_ST_RANK', fail);
    else if (field === 'data_offsets') offsets = readIntegers(json, field, 2, 'ERR_ST_OFFSETS', fail);
    else json.skip();
  });
  if (dtype === undefined || shape === undefined || offsets === undefined) {
    const field = dtype === undefined ? 'dtype' : shape === undefined ? 'shape' : 'data_offsets';
    return fail('ERR_ST_FIELD', `${field} is missing`, { field });
  }
  const [begin, end] = offsets as number[];
  if (begin === undefined || end === undefined || begin > end) {
    return fail('ERR_ST_OFFSETS', `data_offsets must be [begin, end] with begin ≤ end, found [${offsets}]`);
  }
  const bytes = tensorBytes(dtype, shape, fail);
  if (bytes !== end - begin) {
    fail('ERR_ST_SIZE', `${dtype} [${shape}] needs ${bytes} bytes, data_offsets span ${end - begin}`, {
      expected: bytes,
      found: end - begin,
    });
  }
  return { name, dtype, shape, offset: dataStart + begin, bytes };
}

/** Reads an array of at most `most` integers from 0 to 2⁵³ − 1, each spelled as one: not 2.0, 2e0 or -0. */
function readIntegers(json: JsonReader, field: string, most: number, tooMany: string, fail: Fail): number[] {
  const integers: number[] = [];
  if (json.peek() !== 'array') fail('ERR_ST_FIELD', `${field} must be an array, found ${an(json.peek())}`);
  json.array((index) => {
    if (index === most) fail(tooMany, `${field} has more than ${most} items`);
    const kind = json.peek();
    const text = kind === 'number' ? json.numberText() : kind === 'string' ? show(json.string()) : an(kind);
    const integer = kind === 'number' && /^\d+$/.test(text) ? Number(text) : Number.NaN;
    if (!Number.isSafeInteger(integer)) {
      fail('ERR_ST_INT', `${field}[${index}] must be an integer from 0 to 2^53 − 1, found ${text.slice(0, 80)}`);
    }
    integers.push(integer);
  });
  return integers;
}

/** The bytes that a tensor of this dtype and shape takes. */
function tensorBytes(dtype: string, shape: readonly number[], fail: Fail): number {
  const bits = DTYPE_BITS.get(dtype);
  if (bits === undefined) {
    return fail('ERR_ST_DTYPE', `unknown dtype ${show(dtype)}, known are ${[...DTYPE_BITS.keys()].join(', ')}`);
  }
  if (shape.length > MAX_RANK) fail('ERR_ST_RANK', `shape has more than ${MAX_RANK} items`);
  // Zeros are left out of the product, so that a shape overflows or not whatever the order of its dimensions.
  let total = bits;
  for (const dim of shape) {
    if (!Number.isSafeInteger(dim) || dim < 0) fail('ERR_ST_INT', `shape [${shape}] must hold integers ≥ 0`);
    total *= dim === 0 ? 1 : dim;
    if (dim > MAX_DIM || total > Number.MAX_SAFE_INTEGER) {
      fail('ERR_ST_OVERFLOW', `${dtype} [${shape}] is larger than any file`, { shape: [...shape] });
    }
  }
  if (shape.includes(0)) return 0;
  if (total % 8 !== 0) fail('ERR_ST_SUBBYTE', `${dtype} [${shape}] has ${total} bits, which do not fill whole bytes`);
  return total / 8;
}

/** Every byte of the data belongs to exactly one tensor. */
function checkCoverage(tensors: Map<string, TensorInfo>, dataBytes: number, dataStart: number, fail: Fail): void {
  const ordered = [...tensors.values()].sort((a, b) => a.offset - b.offset || a.bytes - b.bytes);
  const fileEnd = dataStart + dataBytes;
  const endOf = ({ offset, bytes }: TensorInfo): number => offset + bytes;
  const cut = ordered.find((tensor) => endOf(tensor) > fileEnd);
  if (cut) {
    const missing = ordered.reduce((most, tensor) => Math.max(most, endOf(tensor)), 0) - fileEnd;
    fail(
      'ERR_ST_TRUNCATED',
      `truncated: the last ${missing} bytes are missing, from tensor ${show(cut.name, 200)} on`,
      {
        tensor: cut.name,
        missing,
      },
    );
  }
  let end = dataStart;
  let previous: TensorInfo | undefined;
  for (const tensor of ordered) {
    if (tensor.offset > end) {
      fail('ERR_ST_HOLE', `${tensor.offset - end} bytes before tensor ${show(tensor.name, 200)} belong to no tensor`, {
        tensor: tensor.name,
      });
    }
    if (tensor.offset < end) {
      fail('ERR_ST_OVERLAP', `tensors ${show(previous!.name, 200)} and ${show(tensor.name, 200)} share bytes`, {
        tensors: [previous!.name, tensor.name],
      });
    }
    end = endOf(tensor);
    previous = tensor;
  }
  const trailing = fileEnd - end;
  if (trailing > 0)
    fail('ERR_ST_TRAILING', `${trailing} bytes after the last tensor belong to no tensor`, { trailing });
}

const an = (kind: string): string =>
  kind === 'literal' ? 'null, true or false' : /^[aeiou]/.test(kind) ? `an ${kind}` : `a ${kind}`;
