/** A checkpoint put together out of its parts is the model that the parts were taken from. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { openSafetensors, type TensorSource, writeSafetensors } from '../../lib/checkpoint/safetensors.ts';
import { convert } from '../../lib/convert/convert.ts';
import { load } from '../../lib/index.ts';
import { failure, random, same, suite } from '../kit.ts';
import { type Parts, type PartsOptions, writeParts } from './kit.ts';

const test = suite('convert');
const folder = mkdtempSync(join(tmpdir(), 'vl-mamba-convert-'));
test.after(() => rmSync(folder, { recursive: true, force: true }));
let made = 0;
const place = () => mkdtempSync(join(folder, `${made++}-`));

const next = random(3);
const picture = {
  data: Uint8Array.from({ length: 70 * 90 * 3 }, () => next() * 256),
  width: 90,
  height: 70,
  channels: 3 as const,
};

/** Logits and embeddings equal in every bit. */
async function equal(one: string, other: string): Promise<void> {
  await using a = await load(one);
  await using b = await load(other);
  const prompt = { prompt: 'A <image> what?', images: [picture] };
  same(await b.logits(prompt), await a.logits(prompt), 'logits');
  same((await b.imageEmbeds(picture)).data, (await a.imageEmbeds(picture)).data, 'image embeddings');
  assert.equal(b.warnings, []);
  assert.is(b.parameters, a.parameters);
}

const cases: [string, PartsOptions][] = [
  ['SigLIP whole, Mamba of Hugging Face', {}],
  ['SigLIP tower, Mamba of state-spaces', { visionKind: 'tower', lmKind: 'state-spaces' }],
  ['CLIP whole, a connector without prefix, bf16', { tower: 'clip', dtype: 'BF16' }],
  ['CLIP tower, MLP, f16', { tower: 'clip', visionKind: 'tower', connector: { type: 'mlp' }, dtype: 'F16' }],
  ['SigLIP tower of transformers 5', { visionKind: 'bare' }],
  ['four directions, a head of its own', { connector: { scan: 'csm', weights: 'per-direction' }, untied: true }],
];

for (const [name, options] of cases)
  test(`${name}: the same bits come out`, async () => {
    const dir = place();
    const { whole, ...parts } = await writeParts(dir, options);
    const out = join(dir, 'new', 'out');
    const seen: [number, number][] = [];
    const { path, files, bytes, warnings } = await convert(out, { ...parts, onBytes: (...at) => seen.push(at) });
    assert.is(path, out);
    assert.equal(warnings, []);
    assert.equal(readdirSync(out).sort(), [...files].sort());
    assert.equal(files, [
      ...['config.json', 'tokenizer.json', 'tokenizer_config.json', 'preprocessor_config.json'],
      ...['generation_config.json', 'model.safetensors'],
    ]);
    assert.equal(seen.at(-1), [bytes, bytes]);
    const file = await openSafetensors(join(out, 'model.safetensors'));
    assert.is(file.metadata.get('format'), 'pt');
    for (const tensor of file.tensors.keys())
      assert.match(tensor, /^(vision_tower\.vision_model|multi_modal_projector|language_model)\./);
    assert.is(file.tensors.has('language_model.lm_head.weight'), options.untied === true);
    assert.ok(file.tensors.has('language_model.backbone.embeddings.weight'));
    assert.ok(file.tensors.has('vision_tower.vision_model.head.probe'), 'what another feature layer may want is kept');
    assert.not.ok(file.tensors.has('vision_tower.vision_model.embeddings.position_ids'));
    await equal(whole, out);
    assert.equal(readdirSync(join(dir, 'new')), ['out']);
  });

test('shards', async () => {
  const dir = place();
  const { whole, ...parts } = await writeParts(dir);
  const out = join(dir, 'out');
  const { files, bytes } = await convert(out, { ...parts, shardBytes: 100_000 });
  const shards = files.filter((name) => name.endsWith('.safetensors'));
  assert.ok(shards.length > 3);
  assert.is(shards[0], `model-00001-of-${String(shards.length).padStart(5, '0')}.safetensors`);
  const index = JSON.parse(readFileSync(join(out, 'model.safetensors.index.json'), 'utf8'));
  assert.is(index.metadata.total_size, bytes);
  for (const shard of shards) {
    const { tensors } = await openSafetensors(join(out, shard));
    const size = [...tensors.values()].reduce((sum, tensor) => sum + tensor.bytes, 0);
    assert.ok(size <= 100_000 || tensors.size === 1, `${shard} has ${size} bytes in ${tensors.size} tensors`);
  }
  await equal(whole, out);
  // And what was made of shards can be made again, its own folder being tower and language model.
  await convert(join(dir, 'again'), { ...parts, vision: out, lm: out });
  await equal(whole, join(dir, 'again'));
});

test('a config of the whole, and parts that have none', async () => {
  const dir = place();
  const { whole, ...parts } = await writeParts(dir);
  const config = join(whole, 'config.json');
  await convert(join(dir, 'one'), { ...parts, config });
  rmSync(join(parts.vision, 'config.json'));
  rmSync(join(parts.lm, 'config.json'));
  await convert(join(dir, 'two'), { ...parts, config });
  await equal(join(dir, 'one'), join(dir, 'two'));
  const { code } = await failure(() => convert(join(dir, 'three'), parts));
  assert.is(code, 'ERR_CFG_FILE');
});

const edit = (path: string, change: (record: Record<string, unknown>) => void) => {
  const record = JSON.parse(readFileSync(path, 'utf8'));
  change(record);
  writeFileSync(path, JSON.stringify(record));
};

/** Rewrites a file of weights. */
async function rewrite(
  path: string,
  change: (name: string) => string | undefined,
  more: TensorSource[] = [],
): Promise<void> {
  const { tensors } = await openSafetensors(path);
  const bytes = readFileSync(path);
  const kept = [...tensors.values()].flatMap(({ name, dtype, shape, offset, bytes: length }) => {
    const to = change(name);
    return to === undefined ? [] : [{ name: to, dtype, shape, data: bytes.subarray(offset, offset + length) }];
  });
  await writeSafetensors(path, [...kept, ...more]);
}

const mistakes: [string, string, RegExp, (parts: Parts, dir: string) => unknown][] = [
  [
    'a tensor that is missing',
    'ERR_CKPT_MISSING',
    /1 missing: "multi_modal_projector\.linear_2\.bias"/,
    ({ connector }) => rewrite(connector, (name) => (name.endsWith('linear_2.bias') ? undefined : name)),
  ],
  [
    'a tensor too many',
    'ERR_CKPT_EXTRA',
    /not part of the model: "multi_modal_projector\.linear_9\.bias"/,
    ({ connector }) =>
      rewrite(connector, (name) => name, [
        { name: 'linear_9.bias', dtype: 'F32', shape: [1], data: new Uint8Array(4) },
      ]),
  ],
  [
    'another width',
    'ERR_CKPT_SHAPE',
    /multi_modal_projector\.linear_1\.weight" expected \[48,40\], found \[36,40\]/,
    ({ config }) => edit(config, (record) => Object.assign(record.connector_config as object, { hidden_size: 48 })),
  ],
  [
    'another kind of connector',
    'ERR_CKPT_EXTRA',
    /multi_modal_projector\.vss\.|multi_modal_projector\.norm\./,
    ({ config }) => edit(config, (record) => Object.assign(record.connector_config as object, { type: 'mlp' })),
  ],
  [
    'a language model of another width',
    'ERR_CKPT_SHAPE',
    /linear_2/,
    ({ lm }) => edit(join(lm, 'config.json'), (record) => Object.assign(record, { hidden_size: 64 })),
  ],
  [
    'configs that disagree',
    'ERR_CFG_VALUE',
    /vision_config\.hidden_act is "gelu", .*vision.*says "gelu_pytorch_tanh"/,
    ({ config, whole }) =>
      edit(config, (record) => {
        const { vision_config } = JSON.parse(readFileSync(join(whole, 'config.json'), 'utf8'));
        record.vision_config = { ...vision_config, hidden_act: 'gelu' };
      }),
  ],
  [
    'no connector_config',
    'ERR_CFG_MISSING',
    /connector_config is missing/,
    ({ config }) => edit(config, (record) => delete record.connector_config),
  ],
  [
    'another kind of tower',
    'ERR_CFG_MODEL',
    /model_type "dinov2" is not SigLIP or CLIP/,
    ({ vision }) => writeFileSync(join(vision, 'config.json'), '{"model_type":"dinov2"}'),
  ],
  [
    'another kind of language model',
    'ERR_CFG_MODEL',
    /model_type is "llama"/,
    ({ lm }) => writeFileSync(join(lm, 'config.json'), '{"model_type":"llama"}'),
  ],
  [
    'a folder without a tower',
    'ERR_CKPT_MISSING',
    /holds no tensor vision_model\.embeddings\.patch_embedding\.weight, so it is not a SigLIP/,
    ({ vision }) => rewrite(join(vision, 'model.safetensors'), (name) => name.replace('vision_model', 'visual')),
  ],
  [
    'a folder without Mamba',
    'ERR_CKPT_MISSING',
    /backbone\.norm_f\.weight, so it is not a Mamba model/,
    ({ lm }) => rewrite(join(lm, 'model.safetensors'), (name) => name.replace('backbone', 'model')),
  ],
  [
    'weights of PyTorch',
    'ERR_CKPT_NOT_FOUND',
    /found "pytorch_model\.bin"/,
    ({ lm }) => renameSync(join(lm, 'model.safetensors'), join(lm, 'pytorch_model.bin')),
  ],
  [
    'no tokenizer',
    'ERR_TOK_FILE',
    /has no tokenizer\.json; --tokenizer/,
    ({ lm }) => rmSync(join(lm, 'tokenizer.json')),
  ],
  [
    'a tokenizer of another model',
    'ERR_TOK_ID',
    /./,
    ({ lm }) =>
      edit(join(lm, 'tokenizer.json'), ({ model }) => {
        const { vocab } = model as { vocab: Record<string, number> };
        vocab[Object.keys(vocab)[9]!] = 5000;
      }),
  ],
  [
    'no processor',
    'ERR_CFG_FILE',
    /preprocessor_config\.json: cannot be opened: ENOENT/,
    ({ vision }) => rmSync(join(vision, 'preprocessor_config.json')),
  ],
  [
    'a processor of another size',
    'ERR_CFG_IMAGE',
    /./,
    ({ vision }) =>
      edit(join(vision, 'preprocessor_config.json'), (record) =>
        Object.assign(record, { size: { height: 63, width: 63 } }),
      ),
  ],
  ['a folder that is there', 'ERR_CONVERT_EXISTS', /out: is there already/, (_, dir) => mkdirSync(join(dir, 'out'))],
  [
    'a link to nowhere',
    'ERR_CONVERT_EXISTS',
    /out: is there already/,
    (_, dir) => symlinkSync('nowhere', join(dir, 'out')),
  ],
];

for (const [name, code, message, spoil] of mistakes)
  test(`${name}: nothing is written`, async () => {
    const dir = place();
    const { whole, ...parts } = await writeParts(dir);
    await spoil({ whole, ...parts }, dir);
    const before = readdirSync(dir).sort();
    const error = await failure(() => convert(join(dir, 'out'), parts));
    assert.is(error.code, code, error.message);
    assert.match(error.message, message);
    assert.equal(readdirSync(dir).sort(), before);
  });

test('a place that cannot be written to', async () => {
  const dir = place();
  const { whole: _, ...parts } = await writeParts(dir);
  writeFileSync(join(dir, 'file'), '');
  const { code, message } = await failure(() => convert(join(dir, 'file', 'out'), parts));
  assert.is(code, 'ERR_CONVERT_WRITE');
  assert.match(message, /ENOTDIR/);
});

test('abort in the middle, a source that changes in the middle, a rival: no folder, no leavings', async () => {
  const dir = place();
  const { whole: _, ...parts } = await writeParts(dir);
  const before = readdirSync(dir).sort();
  const reason = new Error('enough');
  const stop = new AbortController();
  const onBytes = (done: number, total: number) => done > total / 2 && stop.abort(reason);
  assert.is(await convert(join(dir, 'out'), { ...parts, signal: stop.signal, onBytes }).catch((e) => e), reason);
  assert.equal(readdirSync(dir).sort(), before);

  const cut = (done: number, total: number) => {
    if (done > total / 2) truncateSync(join(parts.lm, 'model.safetensors'), 100_000);
  };
  const spare = readFileSync(join(parts.lm, 'model.safetensors'));
  assert.is((await failure(() => convert(join(dir, 'out'), { ...parts, onBytes: cut }))).code, 'ERR_ST_CHANGED');
  assert.equal(readdirSync(dir).sort(), before);

  writeFileSync(join(parts.lm, 'model.safetensors'), spare);
  const rival = () => mkdirSync(join(dir, 'out'), { recursive: true });
  assert.is((await failure(() => convert(join(dir, 'out'), { ...parts, onBytes: rival }))).code, 'ERR_CONVERT_EXISTS');
  assert.equal(readdirSync(dir).sort(), [...before, 'out'].sort());
  assert.equal(readdirSync(join(dir, 'out')), []);
});

const CLI = ['--import', 'tsx', join('lib', 'cli.ts')];

function listen<C extends ChildProcess>(child: C): C & { said: { stdout: string; stderr: string } } {
  const said = { stdout: '', stderr: '' };
  child.stdout!.on('data', (data) => (said.stdout += data));
  child.stderr!.on('data', (data) => (said.stderr += data));
  return Object.assign(child, { said });
}

const vlMamba = (args: string[]) => listen(spawn(process.execPath, [...CLI, ...args]));

/** Through a shell in which no file grows beyond so many blocks of 512 bytes: to a program that writes, a disk that is full. */
function onFullDisk(blocks: number, args: string[]): ReturnType<typeof vlMamba> {
  const child = spawn('sh', ['-c', `ulimit -f ${blocks}; exec "$0" "$@"`, process.execPath, ...CLI, ...args]);
  return listen(child);
}

const flags = ({ vision, lm, connector, config }: Omit<Parts, 'whole'>) =>
  Object.entries({ vision, lm, connector, config }).flatMap(([name, value]) => [`--${name}`, value]);

test('the command', async () => {
  const dir = place();
  const { whole, ...parts } = await writeParts(dir);
  const out = join(dir, 'out');
  const child = vlMamba(['convert', ...flags(parts), '--shard-size', '100KB', out]);
  assert.equal(await once(child, 'close'), [0, null], child.said.stderr);
  assert.is(child.said.stdout, `${out}\n`);
  assert.match(child.said.stderr, /^\d+ kB of weights in \d files\n$/);
  await equal(whole, out);
  for (const [args, status, message] of [
    [[...flags(parts), out], 1, 'ERR_CONVERT_EXISTS'],
    [[...flags(parts), '--shard-size', 'large', `${out}2`], 2, 'ERR_ARG_SHARD_SIZE'],
    [[...flags(parts).slice(2), `${out}2`], 2, "required option '--vision <folder>'"],
  ] as const) {
    const wrong = vlMamba(['convert', ...args]);
    assert.equal(await once(wrong, 'close'), [status, null]);
    assert.ok(wrong.said.stderr.includes(message), wrong.said.stderr);
    assert.is(wrong.said.stdout, '');
  }
});

/** Parts whose embedding is a hole of 256 MB: more than may be in memory, and long enough to be interrupted. */
async function large(dir: string): Promise<Omit<Parts, 'whole'>> {
  const { whole: _, ...parts } = await writeParts(dir);
  const path = join(parts.lm, 'model.safetensors');
  const rows = 2 ** 28 / (48 * 4);
  const words = Math.floor(rows / 8) * 8;
  edit(join(parts.lm, 'config.json'), (record) => Object.assign(record, { vocab_size: words }));
  const { tensors } = await openSafetensors(path);
  const bytes = readFileSync(path);
  const zero = Buffer.alloc(2 ** 20);
  const sources = [...tensors.values()].map((tensor) => {
    const data = bytes.subarray(tensor.offset, tensor.offset + tensor.bytes);
    if (tensor.name !== 'backbone.embeddings.weight') return { ...tensor, data };
    const size = words * 48 * 4;
    return {
      ...tensor,
      shape: [words, 48],
      *data() {
        for (let done = 0; done < size; done += zero.length) yield zero.subarray(0, Math.min(zero.length, size - done));
      },
    };
  });
  await writeSafetensors(path, sources);
  return parts;
}

test('a disk that is full in the middle: an error with its code, no folder, no leavings', async () => {
  const dir = place();
  const { whole, ...parts } = await writeParts(dir);
  const before = readdirSync(dir).sort();
  for (const args of [
    ['convert', ...flags(parts)],
    ['quantize', whole, '--dtype', 'int8'],
  ]) {
    const child = onFullDisk(64, [...args, join(dir, 'out')]);
    assert.equal(await once(child, 'close'), [1, null], child.said.stderr);
    assert.match(child.said.stderr, /ERR_CONVERT_WRITE.*EFBIG/);
    assert.equal(readdirSync(dir).sort(), before);
  }
});

test('weights pass through memory in pieces; processes that are ended leave no folder', async () => {
  const dir = place();
  const parts = await large(dir);
  globalThis.gc?.();
  const before = process.memoryUsage.rss();
  let most = 0;
  await convert(join(dir, 'out'), {
    ...parts,
    onBytes: () => (most = Math.max(most, process.memoryUsage.rss() - before)),
  });
  assert.ok(most < 64 * 2 ** 20, `${most} bytes were taken for 256 MB of weights`);
  for (const [signal, status] of [
    ['SIGINT', [130, null]],
    ['SIGTERM', [143, null]],
    ['SIGHUP', [129, null]],
    ['SIGKILL', [null, 'SIGKILL']],
  ] as const) {
    const out = join(dir, 'interrupted');
    const child = vlMamba(['convert', ...flags(parts), out]);
    const closed = once(child, 'close');
    const hidden = () => readdirSync(dir).filter((name) => name.startsWith('.interrupted.'));
    while (hidden().length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    child.kill(signal);
    assert.equal(await closed, [...status]);
    assert.not(existsSync(out));
    if (signal !== 'SIGKILL') assert.equal(hidden(), []);
    else assert.match(hidden().join(), /^\.interrupted\.[0-9a-f]{8}\.partial$/);
  }
});

test.run();
