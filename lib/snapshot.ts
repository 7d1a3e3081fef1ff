import type { ModelConfig } from './checkpoint/config.ts';
import { parseHeader, type SafetensorsHeader } from './checkpoint/safetensors.ts';
import { rangeError, show, typeError, VLMambaError } from './errors.ts';
import { inTurns } from './image/async.ts';
import type { Quantised } from './quantised.ts';
import type { Notes } from './sequence.ts';
import type { Message } from './text/prompt.ts';

const FORMAT = 'vl-mamba snapshot';
const VERSION = '1';
const LENGTH_BYTES = 8;
const NO_CHECKSUM = '0'.repeat(64);
const CHECKSUM_KEY = '"checksum":"';
/** Floats that are converted before others on the event loop get their turn. */
const PIECE = 2 ** 19;

/** How the state's numbers are kept in a snapshot. */
export type SnapshotDtype = 'f32' | 'bf16';

/** How a snapshot is taken. */
export interface SnapshotOptions {
  /** f32 (the default) keeps every bit; bf16 takes half the bytes, and answers may differ (docs/sessions.md says how often). */
  dtype?: SnapshotDtype;
  /** A text of yours that is kept with it, e.g. where the picture came from. */
  label?: string;
}

/** What a session has said so far: its messages, and the answer to them, or null when it was not asked. */
export interface Conversation {
  messages: readonly Message[];
  answer: string | null;
}

/** Everything that a session is. */
export interface SessionState {
  /** As `stateViews` lays it out. */
  floats: Float32Array;
  notes: Notes;
  conversation: Conversation | null;
  label: string;
}

export interface SnapshotModel {
  config: ModelConfig;
  fingerprint: string;
  /** What its weights are quantised to. */
  quantised: Quantised | null;
}

interface Entry {
  name: string;
  shape: number[];
  floats: number;
}

/** The tensors of a state, in the order in which they lie in memory. */
function layout({ text }: ModelConfig): Entry[] {
  const { numHiddenLayers, intermediateSize: e, stateSize: n, convKernel: w } = text;
  return Array.from({ length: numHiddenLayers }, (_, i) => [
    { name: `layers.${i}.conv_state`, shape: [e, w - 1], floats: e * (w - 1) },
    { name: `layers.${i}.ssm_state`, shape: [e, n], floats: e * n },
  ]).flat();
}

export function checkSnapshotOptions({ dtype = 'f32', label = '' }: SnapshotOptions): Required<SnapshotOptions> {
  if (dtype !== 'f32' && dtype !== 'bf16')
    throw rangeError('ERR_ARG_DTYPE', `dtype of a snapshot must be 'f32' or 'bf16', got ${show(dtype)}`);
  if (typeof label !== 'string' || label.length > 65_536)
    throw typeError('ERR_ARG_TYPE', `label must be a string of at most 65536 characters, got ${show(label)}`);
  return { dtype, label };
}

/**
 * A session as a safetensors file: a tensor for each layer's convolution and scan state, and as metadata the format and its
 * version, SHA-256 over everything, the model's fingerprint and, where its weights are quantised, to what, the number of tokens, and what else goes on from there.
 */
export async function encodeSnapshot(
  { floats, notes, conversation, label }: SessionState,
  dtype: SnapshotDtype,
  { config, fingerprint, quantised }: SnapshotModel,
): Promise<Uint8Array<ArrayBuffer>> {
  const width = dtype === 'f32' ? 4 : 2;
  const metadata = {
    format: FORMAT,
    version: VERSION,
    checksum: NO_CHECKSUM,
    model: fingerprint,
    ...(quantised && { weights: quantised }),
    dtype,
    tokens: String(notes.position + notes.unread.length),
    notes: JSON.stringify({ position: notes.position, unread: [...notes.unread], seen: [...notes.seen] }),
    conversation: JSON.stringify(
      conversation && { ...conversation, messages: conversation.messages.map(withoutPictures) },
    ),
    label,
  };
  let end = 0;
  const header: [string, unknown][] = [['__metadata__', metadata]];
  for (const { name, shape, floats } of layout(config)) {
    header.push([name, { dtype: dtype.toUpperCase(), shape, data_offsets: [end, end + floats * width] }]);
    end += floats * width;
  }
  const json = Buffer.from(JSON.stringify(Object.fromEntries(header)));
  const start = LENGTH_BYTES + Math.ceil(json.length / 8) * 8;
  const bytes = new Uint8Array(start + end);
  bytes.fill(0x20, LENGTH_BYTES, start);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(start - LENGTH_BYTES), true);
  bytes.set(json, LENGTH_BYTES);
  if (dtype === 'f32') bytes.set(new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength), start);
  else await narrow(floats, new Uint16Array(bytes.buffer, start));
  const at = checksumAt(bytes, start);
  bytes.set(Buffer.from(await digest(bytes)), at);
  return bytes;
}

/**
 * Reads a snapshot, which may come from anywhere: nothing in it is believed before it was checked.
 * @throws VLMambaError ERR_SNAPSHOT_CORRUPT, ERR_SNAPSHOT_FORMAT, ERR_SNAPSHOT_VERSION, ERR_SNAPSHOT_CHECKSUM,
 *   ERR_SNAPSHOT_MODEL, ERR_SNAPSHOT_SHAPE or ERR_SNAPSHOT_VALUES; a TypeError ERR_ARG_TYPE for what is no bytes
 */
export async function decodeSnapshot(
  given: Uint8Array | ArrayBuffer,
  { config, fingerprint, quantised }: SnapshotModel,
): Promise<SessionState> {
  if (!(given instanceof Uint8Array) && !(given instanceof ArrayBuffer))
    throw typeError('ERR_ARG_TYPE', `a snapshot must be a Uint8Array or an ArrayBuffer, got ${show(given)}`);
  // A copy: the caller may write to the bytes, or give them away, while they are being checked.
  const bytes = new Uint8Array(given as Uint8Array).slice();
  const { start, header } = open(bytes);
  const { tensors, metadata } = header;
  const found = metadata.get('version');
  if (found !== VERSION)
    throw fail('ERR_SNAPSHOT_VERSION', `is of format version ${show(found)}, this release reads ${show(VERSION)}`, {
      found,
    });
  const at = checksumAt(bytes, start);
  const checksum = metadata.get('checksum')!;
  bytes.set(Buffer.from(NO_CHECKSUM), at);
  if ((await digest(bytes)) !== checksum)
    throw fail('ERR_SNAPSHOT_CHECKSUM', 'was changed after it was written: its checksum is not that of its bytes');
  const model = metadata.get('model');
  if (model !== fingerprint) {
    const weights = metadata.get('weights') ?? null;
    const which =
      weights === quantised
        ? 'the checkpoint that it was taken of'
        : `the checkpoint that it was taken of ${weights === null ? 'without quantising it' : `with dtype ${show(weights)}`}`;
    throw fail(
      'ERR_SNAPSHOT_MODEL',
      `was taken of another model (${show(model?.slice(0, 12))}…) than this one ("${fingerprint.slice(0, 12)}…"): load ${which}`,
      { expected: fingerprint, found: model, weights },
    );
  }
  const entries = layout(config);
  const total = entries.reduce((sum, { floats }) => sum + floats, 0);
  const dtype = metadata.get('dtype');
  const width = dtype === 'f32' ? 4 : dtype === 'bf16' ? 2 : 0;
  const fits =
    width > 0 &&
    tensors.size === entries.length &&
    [...tensors.values()].every(({ name, shape, dtype: stored }, i) => {
      const entry = entries[i]!;
      return name === entry.name && shape.join() === entry.shape.join() && stored === dtype?.toUpperCase();
    }) &&
    bytes.length === start + total * width;
  if (!fits)
    throw fail(
      'ERR_SNAPSHOT_SHAPE',
      `does not hold the ${entries.length} tensors of this model's state, in their order`,
    );
  const data = bytes.slice(start).buffer;
  const floats = dtype === 'f32' ? new Float32Array(data) : new Float32Array(total);
  if (dtype === 'bf16') await widen(new Uint16Array(data), floats);
  await checkFinite(floats);
  return {
    floats,
    notes: readNotes(metadata.get('notes'), config.text.vocabSize),
    conversation: readConversation(metadata.get('conversation')),
    label: metadata.get('label') ?? '',
  };
}

const fail = (code: string, message: string, details: Record<string, unknown> = {}, cause?: unknown) =>
  new VLMambaError(code, `the snapshot ${message}`, { details, cause });

function open(bytes: Uint8Array): { start: number; header: SafetensorsHeader } {
  if (bytes.length < LENGTH_BYTES)
    throw fail('ERR_SNAPSHOT_CORRUPT', `has ${bytes.length} bytes, which is no snapshot`, { size: bytes.length });
  const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  if (length > bytes.length - LENGTH_BYTES)
    throw fail(
      'ERR_SNAPSHOT_CORRUPT',
      `says its header has ${length} bytes, it has ${bytes.length} in all: cut short, or none`,
      {
        size: bytes.length,
      },
    );
  const start = LENGTH_BYTES + length;
  let header: SafetensorsHeader;
  try {
    header = parseHeader(bytes.subarray(LENGTH_BYTES, start), { path: 'snapshot', size: bytes.length });
  } catch (cause) {
    const { message } = cause as Error;
    throw fail('ERR_SNAPSHOT_CORRUPT', `cannot be read: ${message.replace(/^snapshot: /, '')}`, {}, cause);
  }
  const format = header.metadata.get('format');
  if (format !== FORMAT)
    throw fail(
      'ERR_SNAPSHOT_FORMAT',
      `is some other safetensors file: its format is ${show(format)}, not ${show(FORMAT)}`,
      {
        found: format,
      },
    );
  return { start, header };
}

/** Where the checksum's digits are: no JSON text can hold the key's quotes. */
function checksumAt(bytes: Uint8Array, start: number): number {
  const header = Buffer.from(bytes.buffer, bytes.byteOffset, start);
  const at = header.indexOf(CHECKSUM_KEY);
  if (
    at < 0 ||
    !/^[0-9a-f]{64}"$/.test(header.toString('latin1', at + CHECKSUM_KEY.length, at + CHECKSUM_KEY.length + 65))
  )
    throw fail('ERR_SNAPSHOT_CHECKSUM', 'has no checksum of 64 hexadecimal digits');
  return at + CHECKSUM_KEY.length;
}

/** SHA-256, away from the event loop. */
const digest = async (bytes: Uint8Array<ArrayBuffer>): Promise<string> =>
  Buffer.from(await crypto.subtle.digest('SHA-256', bytes)).toString('hex');

/** To the nearest bf16, ties to even. */
async function narrow(from: Float32Array, to: Uint16Array): Promise<void> {
  const bits = new Uint32Array(from.buffer, from.byteOffset, from.length);
  await inTurns(to.length, PIECE, undefined, (begin, end) => {
    for (let i = begin; i < end; i++) to[i] = (bits[i]! + 0x7fff + ((bits[i]! >>> 16) & 1)) >>> 16;
  });
}

async function widen(from: Uint16Array, to: Float32Array): Promise<void> {
  const bits = new Uint32Array(to.buffer);
  await inTurns(from.length, PIECE, undefined, (begin, end) => {
    for (let i = begin; i < end; i++) bits[i] = from[i]! << 16;
  });
}

async function checkFinite(floats: Float32Array): Promise<void> {
  await inTurns(floats.length, PIECE, undefined, (begin, end) => {
    for (let i = begin; i < end; i++)
      if (!Number.isFinite(floats[i]))
        throw fail('ERR_SNAPSHOT_VALUES', `holds ${floats[i]} at place ${i} of the state, which no text leads to`);
  });
}

function readJson<T>(text: string | undefined, field: string): T {
  try {
    return JSON.parse(text ?? '') as T;
  } catch (cause) {
    throw fail('ERR_SNAPSHOT_CORRUPT', `has no JSON as ${field}`, {}, cause);
  }
}

function readNotes(text: string | undefined, vocabSize: number): Notes {
  const { position, unread, seen } = Object(readJson(text, 'notes')) as {
    position: number;
    unread: number[];
    seen: number[];
  };
  const id = (value: number) => Number.isInteger(value) && value >= 0 && value < vocabSize;
  if (
    !Number.isSafeInteger(position) ||
    position < 0 ||
    !Array.isArray(unread) ||
    unread.length > 1 ||
    !Array.isArray(seen) ||
    ![...unread, ...seen].every(id)
  )
    throw fail('ERR_SNAPSHOT_CORRUPT', 'has notes that fit no text of this model');
  return { position, unread: Int32Array.from(unread), seen: new Set(seen) };
}

function readConversation(text: string | undefined): Conversation | null {
  const found = readJson<Conversation | null>(text, 'conversation');
  const part = (value: unknown) => {
    const { type, text } = Object(value) as { type?: unknown; text?: unknown };
    return type === 'image' || (type === 'text' && typeof text === 'string');
  };
  const message = (value: unknown) => {
    const { role, content } = Object(value) as { role?: string; content?: unknown };
    return (
      ['system', 'user', 'assistant'].includes(role ?? '') &&
      (typeof content === 'string' || (Array.isArray(content) && content.every(part)))
    );
  };
  if (found === null) return null;
  const { messages, answer } = Object(found) as Partial<Conversation>;
  if (!Array.isArray(messages) || !messages.every(message) || (answer !== null && typeof answer !== 'string'))
    throw fail('ERR_SNAPSHOT_CORRUPT', 'has a conversation that is none');
  return { messages, answer };
}

/** A message with the places of its pictures, which the state has seen. */
const withoutPictures = ({ role, content }: Message): Message => ({
  role,
  content:
    typeof content === 'string'
      ? content
      : content.map((part) => (part.type === 'text' ? part : { type: 'image' as const })),
});
