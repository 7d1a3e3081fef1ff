/** Snapshots: what comes back, what a reader of safetensors sees, and what is refused. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { openSafetensors } from '../../lib/checkpoint/safetensors.ts';
import type { Model, Session } from '../../lib/index.ts';
import { failure, load, suite } from '../kit.ts';
import { tinyConfig, writeCheckpoint } from '../models/checkpoint.ts';
import { demo, picture, questions, withDemo } from './kit.ts';

const test = suite('snapshot');
const dir = mkdtempSync(join(tmpdir(), 'vl-mamba-snapshot-'));
test.after(() => rmSync(dir, { recursive: true, force: true }));
const drawn = { maxNewTokens: 20, temperature: 1, seed: 5, repetitionPenalty: 1.3 };
const [describe, count] = questions as [string, string];

/** A session in the middle of a conversation about a picture. */
async function begun(model: Model): Promise<Session> {
  const session = model.session();
  const messages = [{ role: 'user' as const, content: describe }];
  await session.generate({ messages, images: [picture('shapes')], maxNewTokens: 6 });
  return session;
}

const goOn = (session: Session) => session.generate({ messages: [{ role: 'user', content: count }], ...drawn });

test('what is restored goes on as the session does, in this process and in another', () =>
  withDemo({}, async (model) => {
    using session = await begun(model);
    const bytes = await session.snapshot({ label: 'müller' });
    assert.ok(bytes.length - model.stateBytes > 0 && bytes.length - model.stateBytes < 16_384);
    const { tokens, messages } = session;
    const want = await goOn(session);
    using back = await model.restore(bytes);
    assert.is(back.tokens, tokens);
    assert.is(back.label, 'müller');
    assert.is(back.messages.length, messages.length);
    assert.equal((await goOn(back)).tokens, want.tokens);
    using twin = await model.restore(bytes.buffer);
    assert.equal(await twin.snapshot(), bytes);

    const file = join(dir, 'one.safetensors');
    writeFileSync(file, bytes);
    const code = `
      import { readFileSync } from 'node:fs';
      import { load } from './lib/index.ts';
      const run = async () => {
        const model = await load(${JSON.stringify(demo)}, { threads: 1 });
        const session = await model.restore(readFileSync(${JSON.stringify(file)}));
        const messages = [{ role: 'user', content: ${JSON.stringify(count)} }];
        console.log(JSON.stringify((await session.generate({ messages, ...${JSON.stringify(drawn)} })).tokens));
        await model.dispose();
      };
      run();`;
    const out = execFileSync(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', code], {
      encoding: 'utf8',
    });
    assert.equal(JSON.parse(out), want.tokens);
  }));

test('a snapshot is a safetensors file that says what it holds', () =>
  withDemo({}, async (model) => {
    using session = await begun(model);
    for (const [dtype, width] of [
      ['f32', 4],
      ['bf16', 2],
    ] as const) {
      const path = join(dir, `${dtype}.safetensors`);
      writeFileSync(path, await session.snapshot({ dtype }));
      const { tensors, metadata, warnings } = await openSafetensors(path);
      assert.equal(warnings, []);
      assert.is(metadata.get('tokens'), String(session.tokens));
      assert.is(metadata.get('dtype'), dtype);
      assert.match(metadata.get('checksum')!, /^[0-9a-f]{64}$/);
      const bytes = [...tensors.values()].reduce((sum, tensor) => sum + tensor.bytes, 0);
      assert.is(bytes, (model.stateBytes / 4) * width);
      assert.is(tensors.get('layers.0.ssm_state')!.dtype, dtype.toUpperCase());
    }
  }));

test('bf16 is half as large, and its floats are the nearest', () =>
  withDemo({}, async (model) => {
    using session = await begun(model);
    const exact = await session.snapshot();
    const half = await session.snapshot({ dtype: 'bf16' });
    assert.ok(half.length < 0.52 * exact.length);
    using back = await model.restore(half);
    const again = await back.snapshot();
    const floats = (bytes: Uint8Array) => new Float32Array(bytes.slice(bytes.length - model.stateBytes).buffer);
    const [a, b] = [floats(exact), floats(again)];
    for (const [i, x] of a.entries())
      assert.ok(Math.abs(b[i]! - x) <= Math.abs(x) / 256, `[${i}] ${x} came back as ${b[i]}`);
    assert.equal(await back.snapshot({ dtype: 'bf16' }), half, 'nothing more is lost');
  }));

test('an empty session and one that was only read can be saved', () =>
  withDemo({}, async (model) => {
    using empty = model.session();
    using session = await model.restore(await empty.snapshot());
    assert.is(session.tokens, 0);
    const want = await model.generate({ prompt: 'hello there', maxNewTokens: 5 });
    assert.equal((await session.generate({ text: 'hello there', maxNewTokens: 5 })).tokens, want.tokens);
    using looking = await model.look(picture('ring'));
    using other = await model.restore(await looking.snapshot());
    assert.equal((await other.ask(describe)).tokens, (await looking.ask(describe)).tokens);
  }));

test('whatever byte is changed or missing, it is noticed', () =>
  withDemo({}, async (model) => {
    using session = await begun(model);
    const bytes = await session.snapshot({ dtype: 'bf16' });
    const header = 8 + Number(new DataView(bytes.buffer).getBigUint64(0, true));
    const places = [0, 3, 7, 8, 9, header - 1, header, bytes.length - 1];
    for (let i = 0; i < 60; i++) places.push((i * 7919) % header, header + ((i * 104_729) % (bytes.length - header)));
    for (const at of places) {
      const changed = bytes.slice();
      changed[at] = changed[at]! ^ 1;
      const { code } = await failure(() => model.restore(changed));
      assert.match(code, /^ERR_SNAPSHOT_(CORRUPT|FORMAT|VERSION|CHECKSUM)$/, `byte ${at}`);
      // Behind the header are the floats: nothing but the checksum can tell.
      if (at >= header) assert.is(code, 'ERR_SNAPSHOT_CHECKSUM', `byte ${at}`);
    }
    for (const length of [0, 7, 8, 100, header - 1, header, bytes.length - 1])
      assert.is(
        (await failure(() => model.restore(bytes.slice(0, length)))).code,
        'ERR_SNAPSHOT_CORRUPT',
        `${length} bytes`,
      );
    assert.is((await failure(() => model.restore(Buffer.concat([bytes, Buffer.of(0)])))).code, 'ERR_SNAPSHOT_CORRUPT');
    assert.is((await failure(() => model.restore('x' as never))).code, 'ERR_ARG_TYPE');
    assert.is((await failure(() => session.snapshot({ dtype: 'f16' as never }))).code, 'ERR_ARG_DTYPE');
    assert.is((await failure(() => session.snapshot({ label: 7 as never }))).code, 'ERR_ARG_TYPE');
  }));

type Header = { __metadata__: Record<string, string>; 'layers.0.conv_state': { shape: number[] } };

/** Changes the header of a snapshot and makes its checksum right again. */
async function forged(bytes: Uint8Array, edit: (header: Header) => void, data?: (floats: DataView) => void) {
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  const header = JSON.parse(Buffer.from(bytes.subarray(8, 8 + length)).toString());
  edit(header);
  header.__metadata__.checksum = '0'.repeat(64);
  const json = Buffer.from(JSON.stringify(header));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(json.length));
  const whole = Buffer.concat([size, json, bytes.subarray(8 + length)]);
  data?.(new DataView(whole.buffer, whole.byteOffset + 8 + json.length));
  const sum = Buffer.from(await crypto.subtle.digest('SHA-256', whole)).toString('hex');
  whole.write(sum, whole.indexOf('0'.repeat(64)));
  return whole;
}

test('a snapshot with the right checksum is still not believed', () =>
  withDemo({}, async (model) => {
    using session = await begun(model);
    const bytes = await session.snapshot();
    (await model.restore(await forged(bytes, () => {}))).dispose();
    const cases: [string, Parameters<typeof forged>[1], Parameters<typeof forged>[2]?][] = [
      ['ERR_SNAPSHOT_FORMAT', (h) => (h.__metadata__.format = 'pt')],
      ['ERR_SNAPSHOT_VERSION', (h) => (h.__metadata__.version = '2')],
      ['ERR_SNAPSHOT_MODEL', (h) => (h.__metadata__.model = 'f'.repeat(64))],
      ['ERR_SNAPSHOT_SHAPE', (h) => (h['layers.0.conv_state'].shape = [3, 384])],
      ['ERR_SNAPSHOT_SHAPE', (h) => (h.__metadata__.dtype = 'bf16')],
      ['ERR_SNAPSHOT_VALUES', () => {}, (floats) => floats.setFloat32(400, Number.NaN, true)],
      ['ERR_SNAPSHOT_VALUES', () => {}, (floats) => floats.setFloat32(800, Number.NEGATIVE_INFINITY, true)],
      ['ERR_SNAPSHOT_CORRUPT', (h) => (h.__metadata__.notes = '{}')],
      ['ERR_SNAPSHOT_CORRUPT', (h) => (h.__metadata__.notes = '[')],
      ['ERR_SNAPSHOT_CORRUPT', (h) => (h.__metadata__.notes = '{"position":1,"unread":[768],"seen":[]}')],
      ['ERR_SNAPSHOT_CORRUPT', (h) => (h.__metadata__.notes = '{"position":-1,"unread":[],"seen":[]}')],
      ['ERR_SNAPSHOT_CORRUPT', (h) => (h.__metadata__.conversation = '{"messages":7}')],
      [
        'ERR_SNAPSHOT_CORRUPT',
        (h) => (h.__metadata__.conversation = '{"messages":[{"role":"x","content":""}],"answer":null}'),
      ],
    ];
    for (const [code, edit, data] of cases)
      assert.is((await failure(async () => model.restore(await forged(bytes, edit, data)))).code, code);
  }));

test('a snapshot of another model is refused, even of one with the same shapes', async () => {
  const config = tinyConfig();
  const folders = [join(dir, 'a'), join(dir, 'b')] as const;
  await writeCheckpoint(folders[0], { config, preprocessor: {} });
  await writeCheckpoint(folders[1], {
    config,
    preprocessor: {},
    edit: (sources) =>
      sources.map((source, i) =>
        i === 40 ? { ...source, data: (source.data as Uint8Array).map((b, i) => (i ? b : b ^ 1)) } : source,
      ),
  });
  for (const folder of folders)
    writeFileSync(
      join(folder, 'preprocessor_config.json'),
      JSON.stringify({ size: { height: 62, width: 62 }, image_mean: [0.5, 0.5, 0.5], image_std: [0.5, 0.5, 0.5] }),
    );
  await using one = await load(folders[0]);
  await using two = await load(folders[1]);
  using session = one.session();
  await session.append({ text: 'hello' });
  const bytes = await session.snapshot();
  const error = await failure(() => two.restore(bytes));
  assert.is(error.code, 'ERR_SNAPSHOT_MODEL');
  (await one.restore(bytes)).dispose();
});

test.run();
