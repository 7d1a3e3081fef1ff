/** Weights made int8 and int4 while they are read, or before: what they are, that they are the same, what is refused. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { openCheckpoint } from '../../lib/checkpoint/checkpoint.ts';
import { readConfig } from '../../lib/checkpoint/config.ts';
import { openSafetensors, readTensor, type TensorSource, writeSafetensors } from '../../lib/checkpoint/safetensors.ts';
import { quantize } from '../../lib/convert/quantize.ts';
import { load as loadAnywhere } from '../../lib/index.ts';
import { unread, vlMambaParams } from '../../lib/models/vl_mamba.ts';
import { loadWeights, planWeights, type WeightDtype } from '../../lib/weights.ts';
import { close, device, failure, random, relL2, same, suite } from '../kit.ts';
import { BLOCK, blocksOf, unpackInt4 } from '../reference/quantised.ts';
import * as reference from '../reference/vl_mamba.ts';
import { type StoredDtype, tinyConfig, tinyPreprocessor, tinyText, writeCheckpoint } from './checkpoint.ts';

const test = suite('quantised');
const folder = mkdtempSync(join(tmpdir(), 'vl-mamba-quantised-'));
test.after(() => rmSync(folder, { recursive: true, force: true }));
let made = 0;
const place = () => join(folder, String(made++));
const load = (dir: string, options: Parameters<typeof loadAnywhere>[1] = {}) =>
  loadAnywhere(dir, { device: 'cpu', ...options });

const kinds = ['int8', 'int4'] as const;
type Kind = (typeof kinds)[number];

/** Rows of several blocks, of one that is not full, and of less than a group. */
const text = { ...tinyText, hidden_size: 168, time_step_rank: 11 };
const config = (more: object = {}) => tinyConfig({ text, connector: { hidden_size: 40 }, ...more });
const whole = async (dtype: StoredDtype = 'BF16', more: Parameters<typeof tinyConfig>[0] = {}) => {
  const dir = place();
  const stored = await writeCheckpoint(dir, {
    config: config(more),
    dtype,
    preprocessor: tinyPreprocessor(more.tower ?? 'siglip'),
  });
  return { dir, stored };
};

const next = random(5);
const image = {
  data: Uint8Array.from({ length: 70 * 90 * 3 }, () => next() * 256),
  width: 90,
  height: 70,
  channels: 3 as const,
};
const prompt = { prompt: 'A <image> what?', images: [image] };

interface Loaded {
  /** The bytes of every weight's memory, by name. */
  bytes: Map<string, Uint8Array>;
  total: number;
}

async function weightsOf(dir: string, dtype: WeightDtype): Promise<Loaded> {
  const plan = planWeights(await openCheckpoint(dir), vlMambaParams(await readConfig(dir)), unread);
  const { buffers, bytes: total } = await loadWeights(device(), plan, { dtype });
  const bytes = new Map<string, Uint8Array>();
  for (const buffer of buffers) {
    bytes.set(buffer.name, new Uint8Array(await device().read(buffer)));
    buffer.free();
  }
  return { bytes, total };
}

interface Written {
  dtype: string;
  shape: number[];
  data: Uint8Array<ArrayBuffer>;
}

async function tensorsOf(dir: string): Promise<Map<string, Written>> {
  const file = await openSafetensors(join(dir, 'model.safetensors'));
  const found = new Map<string, Written>();
  for (const tensor of file.tensors.values()) {
    const pieces: Uint8Array[] = [];
    for await (const piece of readTensor(file, tensor)) pieces.push(piece.slice());
    found.set(tensor.name, { ...tensor, data: new Uint8Array(Buffer.concat(pieces)) });
  }
  return found;
}

/** The numbers that a written matrix stands for; null for one of floats. */
function meaning(tensors: Map<string, Written>, name: string): Float32Array | null {
  const { dtype, shape, data } = tensors.get(name)!;
  if (dtype !== 'I8' && dtype !== 'U8') return null;
  const scale = tensors.get(`${name}_scale`)!;
  const scales = new Float32Array(scale.data.buffer);
  const [n, k] = dtype === 'I8' ? (shape as [number, number]) : [shape[0]!, width(name)];
  assert.equal(scale.shape, [n, blocksOf(k)]);
  const grid = tensors.get(`${name}_grid`);
  const whole = dtype === 'I8' ? new Int8Array(data.buffer) : unpackInt4(data, new Int8Array(grid!.data.buffer), n, k);
  return Float32Array.from(whole, (q, i) => q * scales[Math.floor(i / k) * blocksOf(k) + Math.floor((i % k) / BLOCK)]!);
}
let width = (_: string): number => 0;

/** What the folder of a quantised model stands for, by name. */
async function meanings(dir: string, stored: Map<string, { shape: number[]; data: Float32Array }>) {
  width = (name) => stored.get(name)!.shape.at(-1)!;
  const tensors = await tensorsOf(dir);
  return new Map(
    [...stored].map(([name, weight]) => [name, { ...weight, data: meaning(tensors, name) ?? weight.data }]),
  );
}

const expected: Record<Kind, [RegExp, string][]> = {
  int8: [
    [/patch_embedding\.weight$/, 'BF16'],
    [/(_proj|fc[12]|linear_[12]|embeddings|lm_head)\.weight$/, 'I8'],
  ],
  int4: [
    [/patch_embedding\.weight$/, 'BF16'],
    [/(language_model.*\.(in|out)_proj)\.weight$/, 'U8'],
    [/(_proj|fc[12]|linear_[12]|embeddings|lm_head)\.weight$/, 'I8'],
  ],
};

for (const kind of kinds)
  test(`${kind}: each matrix in its form, close to what it was, and everything else as it was`, async () => {
    const { dir, stored } = await whole();
    const out = place();
    const { files, bytes } = await quantize(dir, out, { dtype: kind });
    assert.equal(readdirSync(out).sort(), [...files].sort());
    const before = await tensorsOf(dir);
    const after = await tensorsOf(out);
    assert.is(
      [...after.values()].reduce((sum, { data }) => sum + data.length, 0),
      bytes,
    );
    const values = await meanings(out, stored);
    for (const [name, { data }] of stored) {
      const [, form] = expected[kind].find(([pattern]) => pattern.test(name)) ?? [];
      assert.is(after.get(name)!.dtype, form ?? 'BF16', name);
      if (form === undefined || form === 'BF16') {
        same(after.get(name)!.data, before.get(name)!.data, name);
        continue;
      }
      const error = relL2(values.get(name)!.data, data);
      // Uniform numbers: a step of 1/127 of the largest, and of about 2/15 of it.
      assert.ok(error < (form === 'I8' ? 0.0046 : 0.065), `${name}: ${error}`);
      assert.ok(error > 0.001, `${name}: ${error}`);
    }
    const { quantization_config } = JSON.parse(readFileSync(join(out, 'config.json'), 'utf8'));
    assert.equal(quantization_config, { quant_method: 'vl_mamba', bits: kind === 'int8' ? 8 : 4, group_size: 128 });
  });

test('int8 is the nearest whole number of 1/127 of the largest in a block, ties to even', async () => {
  const { dir, stored } = await whole('F32');
  const out = place();
  await quantize(dir, out);
  const tensors = await tensorsOf(out);
  const name = 'language_model.backbone.layers.0.mixer.out_proj.weight';
  const { data, shape } = stored.get(name)!;
  const [n, k] = shape as [number, number];
  const weight = new Int8Array(tensors.get(name)!.data.buffer);
  const scale = new Float32Array(tensors.get(`${name}_scale`)!.data.buffer);
  for (let i = 0; i < n; i++)
    for (let b = 0; b < blocksOf(k); b++) {
      const block = data.subarray(i * k + b * BLOCK, i * k + Math.min(k, (b + 1) * BLOCK));
      const top = block.reduce((top, v) => Math.max(top, Math.abs(v)), 0);
      assert.is(scale[i * blocksOf(k) + b], Math.fround(top / 127));
      block.forEach((v, j) => {
        const place = (v * 127) / top;
        const found = weight[i * k + b * BLOCK + j]!;
        assert.ok(Math.abs(found - place) < 0.5 + 1e-4, `${found} for ${place}`);
      });
    }
});

for (const kind of kinds)
  for (const [name, more] of Object.entries({
    SigLIP: {},
    'CLIP and a head of its own': { tower: 'clip', text: { ...text, tie_word_embeddings: false } },
    'weights per direction': { connector: { hidden_size: 40, scan: 'csm', weights: 'per-direction' } },
  } as const))
    test(`${kind}, ${name}: loading makes the bytes that quantize writes`, async () => {
      const { dir } = await whole('BF16', more);
      const out = place();
      await quantize(dir, out, { dtype: kind, shardBytes: 100_000 });
      assert.ok(existsSync(join(out, 'model.safetensors.index.json')), 'in shards');
      const made = await weightsOf(dir, kind);
      for (const dtype of [null, kind]) {
        const read = await weightsOf(out, dtype);
        assert.is(read.total, made.total);
        assert.equal([...read.bytes.keys()], [...made.bytes.keys()]);
        for (const [weight, bytes] of made.bytes) same(read.bytes.get(weight)!, bytes, weight);
      }
      await using one = await load(dir, { dtype: kind });
      await using other = await load(out);
      same(await other.logits(prompt), await one.logits(prompt), 'logits');
      same((await other.imageEmbeds(image)).data, (await one.imageEmbeds(image)).data, 'image embeddings');
      assert.equal(other.warnings, []);
      assert.is(other.weightBytes, made.total);
    });

test('f32, f16 and bf16 of the same numbers give the same bytes', async () => {
  const { dir } = await whole('BF16');
  const tensors = await tensorsOf(dir);
  const wide = place();
  cpSync(dir, wide, { recursive: true });
  const sources: TensorSource[] = [...tensors].map(([name, { shape, data }]) => {
    const halves = new Uint16Array(data.buffer);
    const floats = Uint32Array.from(halves, (bits) => bits << 16);
    return { name, dtype: 'F32', shape, data: new Uint8Array(floats.buffer) };
  });
  await writeSafetensors(join(wide, 'model.safetensors'), sources);
  for (const kind of kinds) {
    const [one, other] = [await weightsOf(dir, kind), await weightsOf(wide, kind)];
    for (const [name, bytes] of one.bytes)
      if (!name.includes('patch_embedding')) same(other.bytes.get(name)!, bytes, name);
  }
});

test('every instruction set and any number of threads write the same bytes', async () => {
  const { dir } = await whole('F16');
  const hash = (isa: string, kind: Kind, threads: string) => {
    const out = place();
    const args = ['quantize', dir, out, '--dtype', kind, '--threads', threads, '--quiet'];
    execFileSync(process.execPath, ['--import', 'tsx', join('lib', 'cli.ts'), ...args], {
      env: { ...process.env, ...(isa && { VL_MAMBA_ISA: isa }) },
    });
    return createHash('sha256')
      .update(readFileSync(join(out, 'model.safetensors')))
      .digest('hex');
  };
  for (const kind of kinds) {
    const want = hash('', kind, '2');
    for (const [isa, threads] of [
      ['portable', '1'],
      ['avx2', '3'],
      ['avx512', '1'],
    ] as const)
      assert.is(hash(isa, kind, threads), want, `${kind} ${isa}`);
  }
});

for (const kind of kinds)
  test(`${kind}: a text model is what its numbers and the rounding of inputs give`, async () => {
    const dir = place();
    const stored = await writeCheckpoint(dir, { config: { ...text, num_hidden_layers: 2 }, dtype: 'F32' });
    const out = place();
    await quantize(dir, out, { dtype: kind });
    const values = await meanings(out, stored);
    for (const [name, { data }] of values) if (data !== stored.get(name)!.data) reference.rounding.add(data);
    await using model = await load(out);
    const ids = await model.tokenize('How many dogs are there? ');
    const of =
      (from: typeof stored): reference.Weights =>
      (name) =>
        from.get(name)!;
    const logits = (w: reference.Weights) =>
      reference.languageModel(
        w,
        'language_model.',
        ids.map((id) => reference.embed(w, 'language_model.', id)),
        { ...text, num_hidden_layers: 2 } as reference.TextSettings,
      );
    const got = await model.logits({ prompt: 'How many dogs are there? ' });
    // A number between two whole ones may go either way, as the last bit of a float has it.
    close(got, logits(of(values)), 5e-3, 'beside the same numbers');
    close(got, logits(of(stored)), kind === 'int8' ? 5e-2 : 0.3, 'beside those it was made from');
  });

for (const kind of kinds)
  test(`${kind}: alone and in a batch, whole and in pieces, on one thread and two: the same bytes`, async () => {
    const demo = join('models', 'demo');
    const prompts = Array.from({ length: 8 }, (_, i) => ({
      prompt: `${'How many objects are there? '.repeat(1 + i)}`,
    }));
    const long = 'What colour is the ring? '.repeat(60);
    await using one = await load(demo, { dtype: kind, threads: 1, maxBatch: 1 });
    await using two = await load(demo, { dtype: kind, threads: 2, maxBatch: 8 });
    const alone: Float32Array[] = [];
    for (const each of prompts) alone.push(await one.logits(each));
    assert.equal(await Promise.all(prompts.map((each) => two.logits(each))), alone);
    const answers = (await Promise.all(prompts.map((each) => two.generate({ ...each, maxNewTokens: 12 })))).map(
      ({ tokens }) => tokens,
    );
    for (const [i, each] of prompts.entries())
      assert.equal((await one.generate({ ...each, maxNewTokens: 12 })).tokens, answers[i]);
    const session = two.session();
    const half = long.length / 2;
    await session.append({ text: long.slice(0, half) });
    await session.append({ text: long.slice(half) });
    const { tokens } = await session.generate({ maxNewTokens: 8 });
    session.dispose();
    assert.equal((await one.generate({ prompt: long, maxNewTokens: 8 })).tokens, tokens);
  });

test('the bundled model in int8 answers as it does in bf16', async () => {
  const demo = join('models', 'demo');
  const messages = [{ role: 'user' as const, content: 'Describe the picture.' }];
  const images = [join(demo, 'pictures', 'shapes.png')];
  for (const kind of kinds) {
    await using model = await load(demo, { dtype: kind });
    const { text } = await model.generate({ messages, images, maxNewTokens: 40 });
    assert.is(text, 'A large red circle, a small yellow star and a large blue triangle.');
  }
});

test('snapshots go with the weights that they were taken with', async () => {
  const { dir } = await whole();
  const out = place();
  await quantize(dir, out);
  await using plain = await load(dir);
  await using eight = await load(dir, { dtype: 'int8' });
  await using again = await load(dir, { dtype: 'int8' });
  await using stored = await load(out);
  using session = await eight.look(image);
  const bytes = await session.snapshot();
  (await again.restore(bytes)).dispose();
  const error = await failure(() => plain.restore(bytes));
  assert.is(error.code, 'ERR_SNAPSHOT_MODEL');
  assert.match(error.message, /load the checkpoint that it was taken of with dtype "int8"$/);
  using other = await plain.look(image);
  const floats = await other.snapshot();
  assert.match((await failure(() => eight.restore(floats))).message, /without quantising it$/);
  assert.is((await failure(() => stored.restore(bytes))).code, 'ERR_SNAPSHOT_MODEL');
  assert.is(new Set([plain, eight, stored].map(({ fingerprint }) => fingerprint)).size, 3);
});

test('other dtypes of a quantised checkpoint, and quantising it again, are refused', async () => {
  const { dir } = await whole();
  for (const kind of kinds) {
    const out = place();
    await quantize(dir, out, { dtype: kind });
    for (const dtype of ['f32', 'bf16', 'f16', kind === 'int8' ? 'int4' : 'int8'] as const) {
      const error = await failure(() => load(out, { dtype }));
      assert.is(error.code, 'ERR_QUANT_DTYPE');
      assert.ok(
        error.message.startsWith(`${out}: is quantised to ${kind} and can't be read as ${dtype}; use dtype 'auto'`),
      );
    }
    const again = await failure(() => quantize(out, place(), { dtype: 'int8' }));
    assert.is(again.code, 'ERR_QUANT_DTYPE');
  }
  assert.is((await failure(() => quantize(dir, place(), { dtype: 'bf16' as 'int8' }))).code, 'ERR_ARG_DTYPE');
  assert.is((await failure(() => load(dir, { dtype: 'int2' as 'int8' }))).code, 'ERR_ARG_DTYPE');
  assert.is((await failure(() => quantize(dir, dir))).code, 'ERR_CONVERT_EXISTS');
});

test('numbers that are not finite are refused by name, and nothing is left behind', async () => {
  const { dir } = await whole();
  const name = 'language_model.backbone.layers.1.mixer.in_proj.weight';
  for (const bits of [0x7f80, 0xff80, 0x7fc0]) {
    const bad = place();
    cpSync(dir, bad, { recursive: true });
    await edit(bad, (tensors) => new DataView(tensors.get(name)!.data.buffer).setUint16(2 * 777, bits, true));
    (await load(bad)).dispose();
    for (const kind of kinds) {
      const error = await failure(() => load(bad, { dtype: kind }));
      assert.is(error.code, 'ERR_QUANT_VALUES');
      assert.ok(error.message.startsWith(`${join(bad, 'model.safetensors')}: tensor "${name}" holds a number`));
      const out = place();
      assert.is((await failure(() => quantize(bad, out, { dtype: kind }))).code, 'ERR_QUANT_VALUES');
      assert.not.ok(existsSync(out));
    }
  }
  assert.equal(
    readdirSync(folder).filter((entry) => entry.endsWith('.partial')),
    [],
  );
});

/** Rewrites a folder's weights. */
async function edit(dir: string, change: (tensors: Map<string, Written>) => void): Promise<void> {
  const tensors = await tensorsOf(dir);
  change(tensors);
  await writeSafetensors(
    join(dir, 'model.safetensors'),
    [...tensors].map(([name, { dtype, shape, data }]) => ({ name, dtype, shape, data })),
  );
}

const IN = 'language_model.backbone.layers.0.mixer.in_proj.weight';
const QUERY = 'vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight';
const KEY = QUERY.replace('q_proj', 'k_proj');
const floats = (tensor: Written) => new Float32Array(tensor.data.buffer);
const setFloat = (name: string, value: number) => (tensors: Map<string, Written>) => {
  floats(tensors.get(name)!)[3] = value;
};
const setGrid = (at: number, value: number) => (tensors: Map<string, Written>) => {
  new Int8Array(tensors.get(`${IN}_grid`)!.data.buffer)[at] = value;
};
const empty = (dtype: string, shape: number[], bytes: number): Written => ({
  dtype,
  shape,
  data: new Uint8Array(bytes),
});

const hostile: [string, Kind, (tensors: Map<string, Written>) => void, string, RegExp][] = [
  ['no scales', 'int8', (t) => t.delete(`${IN}_scale`), 'ERR_CKPT_MISSING', /in_proj\.weight_scale" \[672,2\]/],
  ['no grids', 'int4', (t) => t.delete(`${IN}_grid`), 'ERR_CKPT_MISSING', /in_proj\.weight_grid" \[672,8,2\]/],
  [
    'scales of another block',
    'int8',
    (t) => t.set(`${IN}_scale`, empty('F32', [672, 3], 672 * 12)),
    'ERR_CKPT_SHAPE',
    /weight_scale" expected \[672,2\], found \[672,3\]/,
  ],
  [
    'scales in f16',
    'int8',
    (t) => t.set(`${IN}_scale`, empty('F16', [672, 2], 672 * 4)),
    'ERR_CKPT_DTYPE',
    /weight_scale" is F16 in .*, expected F32/,
  ],
  [
    'grids in u8',
    'int4',
    (t) => t.set(`${IN}_grid`, { ...t.get(`${IN}_grid`)!, dtype: 'U8' }),
    'ERR_CKPT_DTYPE',
    /weight_grid" is U8 in .*, expected I8/,
  ],
  [
    'grids for the groups that there are, and not for whole blocks',
    'int4',
    (t) => t.set(`${IN}_grid`, empty('I8', [672, 6, 2], 672 * 12)),
    'ERR_CKPT_SHAPE',
    /weight_grid" expected \[672,8,2\], found \[672,6,2\]/,
  ],
  [
    'int4 that is not padded',
    'int4',
    (t) => t.set(IN, empty('U8', [672, 84], 672 * 84)),
    'ERR_CKPT_SHAPE',
    /in_proj\.weight" expected \[672,128\], found \[672,84\]/,
  ],
  ['i16', 'int8', (t) => t.set(IN, empty('I16', [672, 168], 672 * 336)), 'ERR_CKPT_DTYPE', /in_proj\.weight" is I16/],
  [
    'a norm in int8',
    'int8',
    (t) => t.set('language_model.backbone.norm_f.weight', empty('I8', [168], 168)),
    'ERR_CKPT_DTYPE',
    /norm_f\.weight" is I8 in .*, convert it to BF16/,
  ],
  [
    'one of q, k and v in floats',
    'int8',
    (t) => {
      t.set(KEY, empty('F32', [40, 40], 6400));
      t.delete(`${KEY}_scale`);
    },
    'ERR_CKPT_DTYPE',
    /k_proj\.weight is F32 in .* and .*q_proj\.weight I8: both must be quantised alike, or neither/,
  ],
  [
    'a scale that is NaN',
    'int8',
    setFloat(`${IN}_scale`, Number.NaN),
    'ERR_QUANT_VALUES',
    /"[^"]*in_proj\.weight_scale" holds a scale/,
  ],
  [
    'a scale that is infinite',
    'int8',
    setFloat(`${QUERY}_scale`, Number.POSITIVE_INFINITY),
    'ERR_QUANT_VALUES',
    /q_proj/,
  ],
  ['a scale below 0', 'int4', setFloat(`${IN}_scale`, -1e-9), 'ERR_QUANT_VALUES', /holds a scale that is negative/],
  [
    'a weight of −128',
    'int8',
    (t) => new Int8Array(t.get(IN)!.data.buffer).fill(-128, 5000, 5001),
    'ERR_QUANT_VALUES',
    /holds -128/,
  ],
  ['a step of 0', 'int4', setGrid(8, 0), 'ERR_QUANT_VALUES', /holds a grid/],
  ['a step of 17', 'int4', setGrid(8, 17), 'ERR_QUANT_VALUES', /holds a grid/],
  ['a step below 0', 'int4', setGrid(8, -1), 'ERR_QUANT_VALUES', /holds a grid/],
  ['an offset of −128', 'int4', setGrid(9, -128), 'ERR_QUANT_VALUES', /holds a grid/],
  ['a grid that goes beyond 127', 'int4', setGrid(9, 120), 'ERR_QUANT_VALUES', /holds a grid/],
];

for (const [name, kind, change, code, message] of hostile)
  test(`refused: ${name}`, async () => {
    const { dir } = await whole();
    const out = place();
    await quantize(dir, out, { dtype: kind });
    await edit(out, change);
    const error = await failure(() => load(out));
    assert.is(error.code, code);
    assert.match(error.message, message);
  });

test('some matrices in floats are left in floats', async () => {
  const { dir, stored } = await whole();
  const out = place();
  await quantize(dir, out);
  await edit(out, (tensors) => {
    tensors.delete(`${IN}_scale`);
    const { shape, data } = stored.get(IN)!;
    tensors.set(IN, { dtype: 'F32', shape, data: new Uint8Array(data.slice().buffer) });
  });
  await using model = await load(out);
  await using all = await load(dir, { dtype: 'int8' });
  assert.equal(model.warnings, []);
  assert.ok(model.weightBytes > all.weightBytes);
  close(await model.logits(prompt), await all.logits(prompt), 6e-2, 'logits');
});

test('a configuration that names another method is refused', async () => {
  const { dir } = await whole();
  const out = place();
  await quantize(dir, out);
  const path = join(out, 'config.json');
  const written = JSON.parse(readFileSync(path, 'utf8'));
  for (const quantization_config of [
    { quant_method: 'gptq', bits: 8 },
    { quant_method: 'vl_mamba', bits: 3 },
    { quant_method: 'vl_mamba', bits: 8, group_size: 64 },
    { quant_method: 'vl_mamba' },
    'int8',
  ]) {
    writeFileSync(path, JSON.stringify({ ...written, quantization_config }));
    const error = await failure(() => load(out));
    assert.match(error.code, /^ERR_CFG_(VALUE|MISSING)$/);
    assert.match(error.message, /quantization_config/);
  }
});

test('memory is what the bits come to', async () => {
  const dir = join('models', 'demo');
  const [stored, int8, int4] = [await weightsOf(dir, null), await weightsOf(dir, 'int8'), await weightsOf(dir, 'int4')];
  assert.ok(int8.total < 0.56 * stored.total, `${int8.total} of ${stored.total}`);
  assert.ok(int4.total < 0.51 * stored.total, `${int4.total} of ${stored.total}`);
  const name = 'language_model.backbone.layers.0.mixer.in_proj.weight';
  const padded = (bytes: number) => Math.ceil(bytes / 64) * 64;
  assert.is(int8.bytes.get(name)!.length, padded(768 * 192) + 768 * 2 * 4);
  assert.is(int4.bytes.get(name)!.length, padded(768 * 2 * 64) + padded(768 * 2 * 4) + 768 * 2 * 4 * 2);
});

test('quantize stops with its signal and leaves nothing', async () => {
  const { dir } = await whole();
  const out = place();
  const stop = new AbortController();
  const reason = new Error('enough');
  const error = await failure(() =>
    quantize(dir, out, { signal: stop.signal, onBytes: (done) => done > 5000 && stop.abort(reason) }),
  );
  assert.is(error, reason);
  assert.not.ok(existsSync(out));
});

test('vl-mamba quantize', () => {
  const out = place();
  const run = (...args: string[]) =>
    execFileSync(process.execPath, ['--import', 'tsx', join('lib', 'cli.ts'), ...args], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    });
  const { path, files, bytes } = JSON.parse(
    run('quantize', 'demo', out, '--dtype', 'int4', '--json', '--shard-size', '2MB'),
  );
  assert.is(path, out);
  assert.ok(files.filter((name: string) => name.endsWith('.safetensors')).length >= 2);
  assert.ok(bytes > 4e6 && bytes < 5e6, String(bytes));
  const facts = JSON.parse(run('info', out, '--json'));
  assert.is(facts.quantised, 'int4');
  assert.equal(Object.keys(facts.memory), ['stored']);
  assert.match(run('info', out), /^memory {6}4\.\d MB as stored$/m);
  const answer = run(
    'run',
    out,
    '-i',
    join('models', 'demo', 'pictures', 'shapes.png'),
    '-p',
    'How many objects are there?',
  );
  assert.is(answer.trim(), 'Three');
});

test.run();
