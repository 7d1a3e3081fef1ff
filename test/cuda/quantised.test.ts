/** Models with weights of 8 and 4 bits on a GPU: the bytes that a CPU has, and what it makes of them. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { openCheckpoint } from '../../lib/checkpoint/checkpoint.ts';
import { readConfig } from '../../lib/checkpoint/config.ts';
import { quantize } from '../../lib/convert/quantize.ts';
import { Device } from '../../lib/device.ts';
import { devices } from '../../lib/devices.ts';
import { load } from '../../lib/model.ts';
import { unread, vlMambaParams } from '../../lib/models/vl_mamba.ts';
import { loadWeights, planWeights } from '../../lib/weights.ts';
import { close, same, suite } from '../kit.ts';

const each = suite('quantised on a GPU');
const available = devices()[1]!.available;
const test = (name: string, body: () => Promise<void>) => (available ? each(name, body) : each.skip(name));
const folder = mkdtempSync(join(tmpdir(), 'vl-mamba-cuda-quantised-'));
each.after(() => rmSync(folder, { recursive: true, force: true }));

const demo = join('models', 'demo');
const picture = join(demo, 'pictures', 'shapes.png');
const prompt = { prompt: '<image>\nHow many objects are there? Describe the picture.', images: [picture] };

async function weightsOn(device: Device, dtype: 'int8' | 'int4'): Promise<Map<string, Uint8Array>> {
  const plan = planWeights(await openCheckpoint(demo), vlMambaParams(await readConfig(demo)), unread);
  const { buffers } = await loadWeights(device, plan, { dtype });
  const bytes = new Map<string, Uint8Array>();
  for (const buffer of buffers) {
    bytes.set(buffer.name, new Uint8Array(await device.read(buffer)));
    buffer.free();
  }
  return bytes;
}

for (const dtype of ['int8', 'int4'] as const) {
  test(`${dtype}: the same numbers on both devices, which the CPU may keep in lines`, async () => {
    const [want, got] = [await weightsOn(new Device(), dtype), await weightsOn(new Device({ name: 'cuda:0' }), dtype)];
    assert.equal([...got.keys()], [...want.keys()]);
    const sorted = (bytes: Uint8Array) => bytes.filter((byte) => byte !== 0).sort();
    for (const [name, bytes] of want) same(sorted(got.get(name)!), sorted(bytes), name);
  });

  test(`${dtype}: what a CPU computes, up to its rounding of inputs to int8`, async () => {
    await using cpu = await load(demo, { device: 'cpu', dtype });
    await using gpu = await load(demo, { device: 'cuda', dtype });
    assert.ok(gpu.weightBytes <= cpu.weightBytes, `${gpu.weightBytes} bytes, ${cpu.weightBytes} in lines`);
    close((await gpu.imageEmbeds(picture)).data, (await cpu.imageEmbeds(picture)).data, 5e-2, 'image embeddings');
    close(await gpu.logits(prompt), await cpu.logits(prompt), 5e-2, 'logits');
    const messages = [{ role: 'user' as const, content: 'Describe the picture.' }];
    const { text } = await gpu.generate({ messages, images: [picture], maxNewTokens: 40 });
    assert.is(text, 'A large red circle, a small yellow star and a large blue triangle.');
  });

  test(`${dtype}: from a quantised folder, alone and in a batch: the same bytes`, async () => {
    const out = join(folder, dtype);
    await quantize(demo, out, { dtype });
    await using one = await load(demo, { device: 'cuda', dtype, maxBatch: 1 });
    await using stored = await load(out, { device: 'cuda', maxBatch: 8 });
    const prompts = Array.from({ length: 8 }, (_, i) => ({ prompt: 'How many objects are there? '.repeat(1 + i) }));
    const together = await Promise.all(prompts.map((each) => stored.generate({ ...each, maxNewTokens: 12 })));
    for (const [i, each] of prompts.entries()) {
      same(await stored.logits(each), await one.logits(each), `logits ${i}`);
      assert.equal((await one.generate({ ...each, maxNewTokens: 12 })).tokens, together[i]!.tokens);
    }
  });
}

each.run();
