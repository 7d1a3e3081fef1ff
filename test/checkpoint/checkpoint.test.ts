import { existsSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  type Checkpoint,
  type ExpectedTensor,
  openCheckpoint,
  resolveTensors,
} from '../../lib/checkpoint/checkpoint.ts';
import { failure, openFiles, safetensors, scratch } from './hostile.ts';

const { dir, put } = scratch();
const INDEX = 'model.safetensors.index.json';
let folders = 0;

/** A folder of files; objects become JSON. */
function folder(files: Record<string, string | Uint8Array | object>): string {
  const name = `checkpoint-${folders++}`;
  for (const [file, content] of Object.entries(files)) {
    const isBytes = typeof content === 'string' || content instanceof Uint8Array;
    put(join(name, file), isBytes ? content : JSON.stringify(content));
  }
  return join(dir, name);
}

/** A safetensors file with the named tensors, of the given shapes, all F32 where nothing else is said. */
function weights(shapes: Record<string, number[]>, dtype = 'F32', size = 4): Buffer {
  let end = 0;
  const header: Record<string, object> = {};
  for (const [name, shape] of Object.entries(shapes)) {
    const bytes = shape.reduce((product, dim) => product * dim, size);
    header[name] = { dtype, shape, data_offsets: [end, (end += bytes)] };
  }
  return safetensors(header, end);
}

const shards = {
  'a.safetensors': weights({ x: [2], y: [3, 1] }),
  'b.safetensors': weights({ z: [1] }),
};
const map = { x: 'a.safetensors', y: 'a.safetensors', z: 'b.safetensors' };
const index = (weight_map: unknown, metadata?: unknown): object => ({ metadata, weight_map });

test('reads a single file', async () => {
  const path = folder({ 'model.safetensors': weights({ x: [2, 3] }) });
  const { tensors, warnings } = await openCheckpoint(path);
  assert.equal([...tensors.keys()], ['x']);
  assert.is(tensors.get('x')!.file.path, join(path, 'model.safetensors'));
  assert.equal(tensors.get('x')!.shape, [2, 3]);
  assert.equal(warnings, []);
});

test('reads an index and its shards, and leaves no file open', async () => {
  const path = folder({ ...shards, [INDEX]: index(map, { total_size: 24 }) });
  const { tensors, warnings } = await openCheckpoint(path);
  assert.equal([...tensors.keys()].sort(), ['x', 'y', 'z']);
  assert.is(tensors.get('y')!.file, tensors.get('x')!.file);
  assert.is(tensors.get('z')!.file.path, join(path, 'b.safetensors'));
  assert.equal(warnings, []);
  assert.equal(openFiles(path), []);
});

test('ST-98: the index wins over a single file, with a warning', async () => {
  const path = folder({ ...shards, 'model.safetensors': weights({ other: [1] }), [INDEX]: index(map) });
  const { tensors, warnings } = await openCheckpoint(path);
  assert.not(tensors.has('other'));
  assert.is(warnings.length, 1);
  assert.match(warnings[0]!, 'model.safetensors: not read');
  const alone = folder({ 'model.safetensors': weights({ x: [1] }), [INDEX]: index({ x: 'model.safetensors' }) });
  assert.equal((await openCheckpoint(alone)).warnings, []);
});

test('ST-97: a wrong total_size is a warning', async () => {
  for (const total of [25, -1, 1e30, '24', null]) {
    const { warnings } = await openCheckpoint(folder({ ...shards, [INDEX]: index(map, { total_size: total }) }));
    assert.is(warnings.length, 1, String(total));
    assert.match(warnings[0]!, 'total_size');
  }
});

if (process.platform !== 'win32') {
  test('shards may be links, as in the cache of Hugging Face', async () => {
    const target = put('blobs/0123', weights({ x: [2] }));
    const path = folder({ [INDEX]: index({ x: 'a.safetensors' }) });
    symlinkSync(target, join(path, 'a.safetensors'));
    assert.equal([...(await openCheckpoint(path)).tensors.keys()], ['x']);
  });
}

const badNames = [
  '../../etc/passwd',
  '../a.safetensors',
  'a/../../x.safetensors',
  'sub/a.safetensors',
  '/etc/a.safetensors',
  '\\\\server\\a.safetensors',
  'C:a.safetensors',
  '%2e%2e%2fa.safetensors',
  'a\0.safetensors',
  'a.safetensors\0',
  'a.safetensors\n',
  'NUL.safetensors',
  'com1.x.safetensors',
  '.hidden.safetensors',
  '..safetensors',
  '.safetensors',
  'ä.safetensors',
  'a.bin',
  'a.safetensors.bin',
  '',
  `${'a'.repeat(201)}.safetensors`,
];
for (const name of badNames) {
  test(`ST-91, 92: the shard ${JSON.stringify(name.slice(0, 30))} is refused`, async () => {
    const error = await failure(() => openCheckpoint(folder({ [INDEX]: index({ w: name }) })));
    assert.is(error.code, 'ERR_SHARD_PATH');
    assert.match(error.message, 'weight_map["w"]');
    assert.not.match(error.message, /\p{Cc}/u);
  });
}

test('ST-93: every shard that is missing is listed', async () => {
  const path = folder({ 'a.safetensors': shards['a.safetensors'], [INDEX]: index({ ...map, w: 'c.safetensors' }) });
  const error = await failure(() => openCheckpoint(path));
  assert.is(error.code, 'ERR_SHARD_MISSING');
  assert.match(error.message, '2 of 3 shards are missing: b.safetensors, c.safetensors');
  assert.equal(error.details.missing, ['b.safetensors', 'c.safetensors']);
});

const misfits: [name: string, files: Record<string, object>, message: string][] = [
  [
    'a tensor that is in no shard',
    { ...shards, [INDEX]: index({ ...map, w: 'b.safetensors' }) },
    '"w" is not in b.safetensors',
  ],
  [
    'a tensor in two shards',
    { ...shards, 'b.safetensors': weights({ z: [1], x: [2] }), [INDEX]: index(map) },
    '"x" is in b.safetensors, the index says a.safetensors',
  ],
  [
    'a tensor in another shard than mapped',
    { ...shards, [INDEX]: index({ ...map, z: 'a.safetensors', y: 'b.safetensors' }) },
    '"z" is in b.safetensors, the index says a.safetensors',
  ],
  [
    'a tensor that is not mapped',
    { ...shards, [INDEX]: index({ x: 'a.safetensors', z: 'b.safetensors' }) },
    '"y" is in a.safetensors and not in the index',
  ],
];
for (const [name, files, message] of misfits) {
  test(`ST-94: ${name}`, async () => {
    const error = await failure(() => openCheckpoint(folder(files)));
    assert.is(error.code, 'ERR_SHARD_MAP');
    assert.match(error.message, message);
  });
}

const badIndexes: [name: string, content: string | Uint8Array | object][] = [
  ['an empty file', ''],
  ['a list', '[]'],
  ['no weight_map', '{}'],
  ['an empty weight_map', index({})],
  ['a weight_map that is a list', index([])],
  ['a shard that is a number', index({ x: 1 })],
  ['a shard that is null', index({ x: null })],
  ['a duplicate name', '{"weight_map":{"x":"a.safetensors","\\u0078":"b.safetensors"}}'],
  ['two weight_maps', '{"weight_map":{"x":"a.safetensors"},"weight_map":{"x":"a.safetensors"}}'],
  ['bytes after the end', '{"weight_map":{"x":"a.safetensors"}} x'],
  ['invalid UTF-8', Buffer.from([0x7b, 0xff, 0x7d])],
  ['a byte order mark', `\ufeff${JSON.stringify(index(map))}`],
  ['100,000 open brackets', `{"weight_map":${'['.repeat(100_000)}`],
  ['100,000 open brackets in a field nobody reads', `{"x":${'['.repeat(100_000)}`],
  ['5,000 shards', index(Object.fromEntries(Array.from({ length: 5000 }, (_, i) => [`t${i}`, `s${i}.safetensors`])))],
  ['34 MB', `{"weight_map":{}${' '.repeat(34_000_000)}}`],
];
for (const [name, content] of badIndexes) {
  test(`ST-95, 96: an index with ${name} is refused`, async () => {
    const path = folder({ ...shards, [INDEX]: content });
    const error = await failure(() => openCheckpoint(path));
    assert.is(error.code, 'ERR_SHARD_INDEX', error.stack);
    assert.ok(error.message.startsWith(join(path, INDEX)), error.message);
  });
}

test('an index that is a folder is refused', async () => {
  assert.is((await failure(() => openCheckpoint(folder({ [join(INDEX, 'x')]: '' })))).code, 'ERR_SHARD_INDEX');
});

test('a broken shard is reported by its own name', async () => {
  const path = folder({ ...shards, 'b.safetensors': Buffer.from('short'), [INDEX]: index(map) });
  const error = await failure(() => openCheckpoint(path));
  assert.is(error.code, 'ERR_ST_TOO_SMALL');
  assert.match(error.message, 'b.safetensors');
});

test('a folder without weights names what it found', async () => {
  const error = await failure(() => openCheckpoint(folder({ 'pytorch_model.bin': 'x', 'config.json': '{}' })));
  assert.is(error.code, 'ERR_CKPT_NOT_FOUND');
  assert.match(error.message, 'found "pytorch_model.bin": convert');
  assert.is((await failure(() => openCheckpoint(folder({ x: '' })))).code, 'ERR_CKPT_NOT_FOUND');
});

test('what is no folder is reported with the cause', async () => {
  const file = put('model.safetensors', weights({ x: [1] }));
  const error = await failure(() => openCheckpoint(file));
  assert.is(error.code, 'ERR_CKPT_OPEN');
  assert.match(error.message, 'a checkpoint is a folder, not a file');
  assert.is((await failure(() => openCheckpoint(join(dir, 'absent')))).details.reason, 'ENOENT');
});

test('an aborted signal rejects with its reason', async () => {
  const reason = new Error('enough');
  const path = folder({ ...shards, [INDEX]: index(map) });
  assert.is(await failure(() => openCheckpoint(path, { signal: AbortSignal.abort(reason) })), reason);
  const controller = new AbortController();
  const opening = openCheckpoint(path, { signal: controller.signal });
  controller.abort(reason);
  assert.is(await failure(() => opening), reason);
});

const layer = { 'l.0.in.weight': [4, 2], 'l.0.out.weight': [2, 4], 'l.0.conv.weight': [4, 1, 3] };
const wanted: ExpectedTensor[] = Object.entries(layer).map(([name, shape]) => ({ name, shape }));
const load = (shapes: Record<string, number[]>, dtype?: string, size?: number): Promise<Checkpoint> =>
  openCheckpoint(folder({ 'model.safetensors': weights(shapes, dtype, size) }));

test('gives the tensors under the names that were asked for', async () => {
  const checkpoint = await load({ ...layer, embedding: [5, 2] });
  const found = resolveTensors(checkpoint, [
    ...wanted,
    { name: 'embeddings', aliases: ['embed', 'embedding'], shape: [5, 2] },
    { name: 'head', shape: [5, 2], optional: true },
  ]);
  assert.equal([...found.keys()], [...Object.keys(layer), 'embeddings']);
  assert.is(found.get('embeddings')!.name, 'embedding');
  assert.equal(checkpoint.warnings, []);
});

test('ST-79: missing tensors are listed with their number and the nearest name', async () => {
  const checkpoint = await load({ 'l.0.in.weights': [4, 2] });
  const many = Array.from({ length: 30 }, (_, i) => ({ name: `other${i}`, shape: [1] }));
  const error = await failure(() => resolveTensors(checkpoint, [wanted[0]!, ...many]));
  assert.is(error.code, 'ERR_CKPT_MISSING');
  assert.match(error.message, '31 missing: "l.0.in.weight" [4,2] (nearest: "l.0.in.weights")');
  assert.match(error.message, '"other8" [1] and 21 more');
  assert.not.match(error.message, 'other9');
  assert.is((error.details.missing as string[]).length, 31);
});

const shapes: [name: string, shape: number[], message: string][] = [
  ['a transposed one', [2, 4], 'expected [4,2], found [2,4] (transposed)'],
  ['one of as many elements', [8], 'expected [4,2], found [8]'],
  ['one without the middle dimension', [4, 3], 'expected [4,1,3], found [4,3]'],
  ['an empty one', [0, 2], 'expected [4,2], found [0,2]'],
  ['one of another size', [4, 3], 'expected [4,2], found [4,3]'],
];
for (const [name, shape, message] of shapes) {
  test(`ST-55, 80, 81: a shape that differs is refused: ${name}`, async () => {
    const target = message.includes('[4,1,3]') ? 'l.0.conv.weight' : 'l.0.in.weight';
    const error = await failure(async () => resolveTensors(await load({ ...layer, [target]: shape }), wanted));
    assert.is(error.code, 'ERR_CKPT_SHAPE');
    assert.match(error.message, `"${target}" ${message}`);
    assert.match(error.message, 'model.safetensors');
  });
}

test('ST-75: dtypes that are not supported are refused by name', async () => {
  for (const [dtype, size] of [
    ['F8_E4M3', 1],
    ['I8', 1],
    ['BOOL', 1],
    ['F64', 8],
    ['C64', 8],
  ] as const) {
    const error = await failure(async () => resolveTensors(await load(layer, dtype, size), wanted));
    assert.is(error.code, 'ERR_CKPT_DTYPE');
    assert.match(error.message, `"l.0.in.weight" is ${dtype} in`);
    assert.match(error.message, 'convert it to BF16');
  }
  for (const [dtype, size] of [
    ['F32', 4],
    ['F16', 2],
    ['BF16', 2],
  ] as const) {
    assert.is(resolveTensors(await load(layer, dtype, size), wanted).get('l.0.in.weight')!.dtype, dtype);
  }
});

test('all that is wrong is in one error, under the code of the first kind', async () => {
  const checkpoint = await load({ 'l.0.in.weight': [2, 4], 'l.0.out.weight': [2, 4] }, 'I8', 1);
  const error = await failure(() => resolveTensors(checkpoint, wanted));
  assert.is(error.code, 'ERR_CKPT_MISSING');
  assert.match(error.message, '1 missing');
  assert.match(error.message, '1 of another shape');
  assert.match(error.message, '2 of a dtype that is not supported');
  const { missing, mismatched, unsupported } = error.details as Record<string, unknown[]>;
  assert.equal([missing!.length, mismatched!.length, unsupported!.length], [1, 1, 2]);
});

test('ST-78: tensors nobody asked for are a warning, an error when strict, or ignored by pattern', async () => {
  const more = { ...layer, 'l.1.extra': [1], position_ids: [1] };
  const checkpoint = await load(more);
  resolveTensors(checkpoint, wanted);
  assert.is(checkpoint.warnings.length, 1);
  assert.match(
    checkpoint.warnings[0]!,
    '2 tensors are not part of the model and not read: "l.1.extra", "position_ids"',
  );
  const error = await failure(() => resolveTensors(checkpoint, wanted, { strict: true, ignore: [/position_ids$/] }));
  assert.is(error.code, 'ERR_CKPT_EXTRA');
  assert.equal(error.details.extra, ['l.1.extra']);
  const quiet = await load(more);
  resolveTensors(quiet, wanted, { strict: true, ignore: [/position_ids$/, /^l\.1\./] });
  assert.equal(quiet.warnings, []);
});

test('names are escaped in messages', async () => {
  const error = await failure(async () =>
    resolveTensors(await load({ 'a\u001b[31m': [1] }), [{ name: 'a\u001b[31mx', shape: [1] }]),
  );
  assert.not.match(error.message, /\p{Cc}/u);
});

const golden = join('..', 'shared', 'golden', 'siglip-vssl2-bsm');
if (existsSync(golden)) {
  test('the reference checkpoint opens', async () => {
    const checkpoint = await openCheckpoint(golden);
    const name = 'multi_modal_projector.vss.conv1d.weight';
    assert.equal(resolveTensors(checkpoint, [{ name, shape: [80, 1, 4] }], { ignore: [/./] }).get(name)!.bytes, 1280);
    assert.equal(checkpoint.warnings, []);
  });
}

test.run();
