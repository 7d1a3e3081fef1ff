import { closeSync, openSync, writeSync } from 'node:fs';
import { numel } from '../../lib/tensor.ts';
import { toHalf } from '../../test/half.ts';

/** How llama.cpp stores a matrix: bytes of so many elements, and the number the file gives it. */
const TYPES = {
  f32: { id: 0, elements: 1, bytes: 4 },
  bf16: { id: 30, elements: 1, bytes: 2 },
  q8_0: { id: 8, elements: 32, bytes: 34 },
  q4_0: { id: 2, elements: 32, bytes: 18 },
} as const;
export type GgufType = keyof typeof TYPES;

interface Shape {
  hiddenSize: number;
  numHiddenLayers: number;
  vocabSize: number;
}

const ALIGN = 32;
const REPEATED = 1 << 20;

const u32 = (n: number) => Buffer.from(Uint32Array.of(n).buffer);
const u64 = (n: number) => Buffer.from(BigUint64Array.of(BigInt(n)).buffer);
const string = (s: string) => Buffer.concat([u64(Buffer.byteLength(s)), Buffer.from(s)]);

const value = {
  u32: (n: number) => [u32(4), u32(n)],
  f32: (x: number) => [u32(6), Buffer.from(Float32Array.of(x).buffer)],
  string: (s: string) => [u32(8), string(s)],
  strings: (list: string[]) => [u32(9), u32(8), u64(list.length), ...list.map(string)],
  ints: (list: number[]) => [u32(9), u32(5), u64(list.length), Buffer.from(Int32Array.from(list).buffer)],
};

/** A megabyte or so of small random numbers in one of the types. */
function block(type: GgufType): Buffer {
  const { elements, bytes } = TYPES[type];
  const out = Buffer.alloc(Math.floor(REPEATED / bytes) * bytes);
  let state = 1;
  const random = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  if (elements > 1) for (let i = 0; i < out.length; i++) out[i] = random() * 256;
  for (let at = 0; at < out.length; at += bytes) {
    if (type === 'f32') out.writeFloatLE((random() - 0.5) / 16, at);
    else if (type === 'bf16') out.writeUInt16LE(toHalf((random() - 0.5) / 16, 'bf16'), at);
    else out.writeUInt16LE(toHalf(2 ** -12, 'f16'), at);
  }
  return out;
}

/**
 * Writes a Mamba of a public shape (state 16, convolution 4, expansion 2, tied head) with random weights, its matrices in
 * one type, as llama.cpp reads it: GGUF 3. Matrices whose rows are not whole blocks stay bf16.
 */
export function writeMambaGguf(path: string, { hiddenSize: d, numHiddenLayers, vocabSize }: Shape, type: GgufType) {
  const e = 2 * d;
  const rank = Math.ceil(d / 16);
  const matrix = (shape: number[]): [number[], GgufType] => [
    shape,
    shape[0]! % TYPES[type].elements === 0 ? type : 'bf16',
  ];
  const tensors = new Map<string, [number[], GgufType]>([
    ['token_embd.weight', matrix([d, vocabSize])],
    ['output_norm.weight', [[d], 'f32']],
  ]);
  for (let i = 0; i < numHiddenLayers; i++) {
    const layer: Record<string, [number[], GgufType]> = {
      'attn_norm.weight': [[d], 'f32'],
      'ssm_in.weight': matrix([d, 2 * e]),
      'ssm_conv1d.weight': [[4, e], 'f32'],
      'ssm_conv1d.bias': [[e], 'f32'],
      'ssm_x.weight': matrix([e, rank + 32]),
      'ssm_dt.weight': matrix([rank, e]),
      'ssm_dt.bias': [[e], 'f32'],
      ssm_a: [[16, e], 'f32'],
      ssm_d: [[e], 'f32'],
      'ssm_out.weight': matrix([e, d]),
    };
    for (const [name, tensor] of Object.entries(layer)) tensors.set(`blk.${i}.${name}`, tensor);
  }
  const words = Array.from({ length: vocabSize }, (_, i) => `t${i}`);
  const fields: Record<string, Buffer[]> = {
    'general.architecture': value.string('mamba'),
    'general.name': value.string('random'),
    'mamba.context_length': value.u32(1 << 20),
    'mamba.embedding_length': value.u32(d),
    'mamba.feed_forward_length': value.u32(0),
    'mamba.attention.head_count': value.u32(0),
    'mamba.attention.layer_norm_rms_epsilon': value.f32(1e-5),
    'mamba.block_count': value.u32(numHiddenLayers),
    'mamba.ssm.conv_kernel': value.u32(4),
    'mamba.ssm.inner_size': value.u32(e),
    'mamba.ssm.state_size': value.u32(16),
    'mamba.ssm.time_step_rank': value.u32(rank),
    'tokenizer.ggml.model': value.string('gpt2'),
    'tokenizer.ggml.pre': value.string('olmo'),
    'tokenizer.ggml.tokens': value.strings(words),
    'tokenizer.ggml.token_type': value.ints(words.map(() => 1)),
    'tokenizer.ggml.merges': value.strings(['t 0']),
    'tokenizer.ggml.bos_token_id': value.u32(0),
    'tokenizer.ggml.eos_token_id': value.u32(0),
  };
  const bytesOf = ([shape, kind]: [number[], GgufType]) => (numel(shape) / TYPES[kind].elements) * TYPES[kind].bytes;
  const padded = (bytes: number) => Math.ceil(bytes / ALIGN) * ALIGN;
  let at = 0;
  const infos = [...tensors].map(([name, tensor]) => {
    const [shape, kind] = tensor;
    const info = Buffer.concat([string(name), u32(shape.length), ...shape.map(u64), u32(TYPES[kind].id), u64(at)]);
    at += padded(bytesOf(tensor));
    return info;
  });
  const head = Buffer.concat([
    Buffer.from('GGUF'),
    u32(3),
    u64(tensors.size),
    u64(Object.keys(fields).length),
    ...Object.entries(fields).flatMap(([key, parts]) => [string(key), ...parts]),
    ...infos,
  ]);
  const file = openSync(path, 'w');
  try {
    writeSync(file, Buffer.concat([head, Buffer.alloc(padded(head.length) - head.length)]));
    const blocks = new Map<GgufType, Buffer>();
    for (const tensor of tensors.values()) {
      const kind = tensor[1];
      if (!blocks.has(kind)) blocks.set(kind, block(kind));
      const random = blocks.get(kind)!;
      const bytes = bytesOf(tensor);
      for (let left = bytes; left > 0; left -= random.length)
        writeSync(file, random.subarray(0, Math.min(left, random.length)));
      writeSync(file, Buffer.alloc(padded(bytes) - bytes));
    }
  } finally {
    closeSync(file);
  }
}
