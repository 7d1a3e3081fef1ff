/** What info says of a folder is what loading it comes to. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { load } from '../../lib/index.ts';
import { suite } from '../kit.ts';
import { tinyConfig, tinyPreprocessor, writeCheckpoint } from '../models/checkpoint.ts';

const test = suite('info');
const folder = mkdtempSync(join(tmpdir(), 'vl-mamba-info-'));
test.after(() => rmSync(folder, { recursive: true, force: true }));

const info = (path: string, ...flags: string[]) =>
  execFileSync(process.execPath, ['--import', 'tsx', join('lib', 'cli.ts'), 'info', path, ...flags], {
    encoding: 'utf8',
  });

test('parts, parameters, memory for each dtype, state', async () => {
  const { vision_config: _, connector_config: __, ...text } = tinyConfig();
  const cases = [
    { name: 'clip', config: tinyConfig({ tower: 'clip' }), dtype: 'F32', preprocessor: tinyPreprocessor('clip') },
    { name: 'siglip', config: tinyConfig(), dtype: 'F16', preprocessor: tinyPreprocessor('siglip') },
    { name: 'text', config: text, dtype: 'BF16' },
  ] as const;
  for (const { name, ...options } of cases) {
    const dir = join(folder, name);
    const spare = {
      name: 'vision_tower.vision_model.head.probe',
      dtype: 'F32',
      shape: [25],
      data: new Uint8Array(100),
    };
    await writeCheckpoint(dir, { ...options, edit: (sources) => [...sources, spare] });
    const facts = JSON.parse(info(dir, '--json'));
    for (const [dtype, bytes] of [
      ['auto', facts.memory.stored],
      ['f32', facts.memory.f32],
      ['bf16', facts.memory.bf16],
      ['f16', facts.memory.f16],
      ['int8', facts.memory.int8],
      ['int4', facts.memory.int4],
    ]) {
      // A GPU keeps few bits without the lines that the CPU fills up.
      await using model = await load(dir, { device: 'cpu', dtype });
      assert.is(bytes, model.weightBytes, `${name} in ${dtype}`);
      assert.is(facts.parameters, model.parameters);
      assert.is(facts.stateBytes, model.stateBytes);
    }
    const parts = [facts.vision, facts.connector, facts.text].filter(Boolean);
    assert.is(parts.length, name === 'text' ? 1 : 3);
    for (const dtype of ['stored', 'f32', 'bf16', 'f16', 'int8', 'int4'])
      assert.is(
        parts.reduce((sum, part) => sum + part.memory[dtype], 0),
        facts.memory[dtype],
      );
    assert.is(
      parts.reduce((sum, part) => sum + part.parameters, 0),
      facts.parameters,
    );
    assert.is(facts.unreadBytes, 100);
  }
});

test('the table', () => {
  const table = info(join(folder, 'siglip'));
  assert.match(table, /^vision {6}siglip, 3 layers of 40, 62 px in patches of 14; [\d,]+ parameters, \d+ kB$/m);
  assert.match(table, /^connector {3}vss-l2, bsm, shared, sum; /m);
  assert.match(table, /^files {7}F16 in 1 file, \d+ kB, of which 100 B are not read$/m);
  assert.match(
    table,
    /^memory {6}\d+ kB as stored, \d+ kB in f32, \d+ kB in bf16 or f16, \d+ kB in int8, \d+ kB in int4$/m,
  );
  assert.match(info(join(folder, 'text')), /^vision {6}none: reads text only$/m);
});

test.run();
