import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import sharp from 'sharp';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { MAX_BYTES } from '../../lib/image/limits.ts';
import { type ImageInput, openImage } from '../../lib/image/source.ts';
import { picture, rejects } from './kit.ts';

const test = suite<{ dir: string; png: Buffer; path: string }>('image sources');
test.before(async (context) => {
  context.dir = mkdtempSync(join(tmpdir(), 'vl-mamba-'));
  context.png = await picture(20, 10).png().toBuffer();
  context.path = join(context.dir, 'a picture é #1.png');
  writeFileSync(context.path, context.png);
});
test.after(({ dir }) => rmSync(dir, { recursive: true }));

async function bytesOf(input: ImageInput): Promise<Buffer> {
  const source = await openImage(input);
  if (source.kind !== 'bytes') throw new Error(`expected bytes, found ${source.kind}`);
  return Buffer.from(source.bytes);
}

test('files: path, file: text, file: URL, symbolic link', async ({ png, path, dir }) => {
  symlinkSync(path, join(dir, 'link'));
  const url = pathToFileURL(path);
  for (const input of [path, url.href, url, join(dir, 'link')]) assert.equal(await bytesOf(input), png);
});

test('memory: Buffer, view, ArrayBuffer, SharedArrayBuffer, Blob', async ({ png }) => {
  const shared = new SharedArrayBuffer(png.length);
  new Uint8Array(shared).set(png);
  const view = new Uint8Array(png.length + 9).subarray(5, -4);
  view.set(png);
  const copy = new Uint8Array(png);
  for (const input of [png, copy, view, copy.buffer, shared, new Blob([copy]), new File([copy], 'x.gif')]) {
    assert.equal(await bytesOf(input), png);
  }
});

test('what the caller does to its bytes afterwards does not matter', async ({ png }) => {
  const mine = new Uint8Array(png);
  const opened = bytesOf(mine);
  mine.fill(0);
  assert.equal(await opened, png);
});

test('data: URLs', async ({ png }) => {
  const base64 = png.toString('base64');
  const lines = base64.replace(/.{60}/g, '$&\r\n');
  for (const input of [
    `data:image/png;base64,${base64}`,
    `DATA:image/jpeg;charset=x;BASE64,${base64}`,
    `data:;base64,${lines}`,
    `data:;base64,${base64.replace(/=+$/, '')}`,
    new URL(`data:image/png;base64,${base64}`),
  ]) {
    assert.equal(await bytesOf(input), png);
  }
  const long = Buffer.alloc(3_000_001, 0x5a);
  const text = long.toString('base64');
  assert.equal(await bytesOf(`data:;base64,${text}`), long);
  assert.equal(await bytesOf(`data:;base64,${text.replace(/.{76}/g, '$&\n')}`), long);
});

for (const [name, url] of [
  ['no comma', 'data:image/png;base64'],
  ['percent-encoded', 'data:image/svg+xml,%3Csvg/%3E'],
  ['a letter that is not base64', 'data:;base64,iVBO*w0K'],
  ['one digit too many', 'data:;base64,AAAAA'],
  ['wrong padding', 'data:;base64,AAA=='],
  ['padding in the middle', 'data:;base64,AA==AAAA'],
] as const) {
  test(`data: URL refused: ${name}`, async () => {
    await rejects(openImage(url), 'ERR_IMAGE_URL');
  });
}

test('raw pixels and sharp instances pass through', async () => {
  const raw = { data: new Uint8Array(3), width: 1, height: 1, channels: 3 as const };
  assert.equal(await openImage(raw), { kind: 'raw', raw });
  assert.is(
    (await openImage(sharp({ create: { width: 1, height: 1, channels: 3, background: 'red' } }))).kind,
    'sharp',
  );
});

test('files that cannot be read', async ({ dir }) => {
  mkdirSync(join(dir, 'folder'));
  const missing = await rejects(openImage(join(dir, 'missing.png')), 'ERR_IMAGE_READ');
  assert.match(missing.message, /missing\.png.*ENOENT/);
  assert.is((missing.cause as NodeJS.ErrnoException).code, 'ENOENT');
  assert.match((await rejects(openImage(join(dir, 'folder')), 'ERR_IMAGE_READ')).message, /regular file|EISDIR/);
  await rejects(openImage('nul\0byte.png'), 'ERR_IMAGE_READ');
  await rejects(openImage('x'.repeat(100_000)), 'ERR_IMAGE_READ');
  await rejects(
    openImage(new URL('file://elsewhere/x.png')),
    process.platform === 'win32' ? 'ERR_IMAGE_READ' : 'ERR_IMAGE_URL',
  );
});

test('a pipe that nobody writes to does not hang', async ({ dir }) => {
  if (process.platform === 'win32') return;
  execFileSync('mkfifo', [join(dir, 'pipe')]);
  assert.match((await rejects(openImage(join(dir, 'pipe')), 'ERR_IMAGE_READ')).message, /a pipe/);
  assert.match((await rejects(openImage('/dev/zero'), 'ERR_IMAGE_READ')).message, /a device/);
});

test('more than 20 MiB is refused before it is read', async ({ dir }) => {
  const path = join(dir, 'large.png');
  writeFileSync(path, '');
  truncateSync(path, MAX_BYTES + 1);
  const bytes = new Uint8Array(MAX_BYTES + 1);
  const url = `data:;base64,${'A'.repeat(Math.ceil(MAX_BYTES / 3) * 4 + 8)}`;
  for (const input of [path, bytes, bytes.buffer, new Blob([bytes]), url]) {
    assert.match((await rejects(openImage(input), 'ERR_IMAGE_BYTES')).message, /20971520/);
  }
  assert.is((await bytesOf(bytes.subarray(1))).length, MAX_BYTES);
});

for (const input of [undefined, null, 7, true, [], {}, () => 1, new Float32Array(3), new Date(), Symbol('x')]) {
  test(`no image: ${String(input) || '[]'}`, async () => {
    const error = await rejects(openImage(input as ImageInput), 'ERR_ARG_IMAGE');
    assert.instance(error, TypeError);
  });
}

test('strings that are no image', async () => {
  assert.instance(await rejects(openImage(''), 'ERR_ARG_IMAGE'), RangeError);
  assert.match((await rejects(openImage('ftp://host/x.png'), 'ERR_IMAGE_URL')).message, /scheme ftp:.*data:/);
  await rejects(openImage(new URL('blob:nodedata:1')), 'ERR_IMAGE_URL');
  await rejects(openImage('http://'), 'ERR_IMAGE_URL');
  assert.match((await rejects(openImage('C:missing.png'), 'ERR_IMAGE_READ')).message, /C:missing/);
});

test('an aborted signal rejects with its reason', async ({ path, png }) => {
  const reason = new Error('enough');
  for (const input of [path, png]) {
    const error = await openImage(input, AbortSignal.abort(reason)).catch((e) => e);
    assert.is(error, reason);
  }
});

test.run();
