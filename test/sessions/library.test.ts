/** vl-mamba index and ask. */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { load, suite } from '../kit.ts';
import { demo, picture } from './kit.ts';

const test = suite('library');
const dir = mkdtempSync(join(tmpdir(), 'vl-mamba-library-'));
test.after(() => rmSync(dir, { recursive: true, force: true }));
const pictures = join(dir, 'pictures');
const out = join(dir, 'library');
const question = 'Describe the picture.';

function cli(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--import', 'tsx', 'lib/cli.ts', ...args], {
    encoding: 'utf8',
  });
  return { status, stdout, stderr };
}

const snapshots = () => readdirSync(out).filter((file) => file.endsWith('.safetensors'));

test('index goes on where it was stopped, ask answers as a run with the picture does', async () => {
  mkdirSync(pictures);
  cpSync(picture('shapes'), join(pictures, 'a.png'));
  const index = ['index', pictures, '--model', demo, '--out', out, '--exact', '--json'];
  assert.equal(JSON.parse(cli(...index).stdout), { added: 1, kept: 0, failed: 0, out });
  const first = snapshots()[0]!;
  const written = statSync(join(out, first)).mtimeMs;
  cpSync(picture('ring'), join(pictures, 'b.png'));
  cpSync(picture('shapes'), join(pictures, 'same as a.png'));
  writeFileSync(join(pictures, 'c.png'), 'no picture');
  writeFileSync(join(pictures, 'notes.txt'), 'not looked at');
  const second = cli(...index);
  assert.is(second.status, 1);
  assert.match(second.stderr, /c\.png/);
  assert.ok(second.stderr.includes('ERR_INDEX_INCOMPLETE'), second.stderr);
  assert.equal(JSON.parse(second.stdout), { added: 1, kept: 2, failed: 1, out });
  assert.is(snapshots().length, 2);
  assert.is(statSync(join(out, first)).mtimeMs, written, 'what was there is left alone');
  assert.equal(
    readdirSync(out).filter((file) => file.endsWith('.tmp')),
    [],
  );

  rmSync(pictures, { recursive: true });
  const { status, stdout } = cli('ask', out, '-p', question, '-n', '30', '--json');
  assert.is(status, 0);
  const answers = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { picture: string; tokens: number[] })
    .sort((a, b) => (a.picture < b.picture ? -1 : 1));
  assert.is(answers.length, 2);
  await using model = await load(demo);
  for (const [i, name] of (['shapes', 'ring'] as const).entries()) {
    const messages = [{ role: 'user' as const, content: question }];
    const want = await model.generate({ messages, images: [picture(name)], maxNewTokens: 30 });
    assert.equal(answers[i]!.tokens, want.tokens);
  }
});

test('a damaged snapshot is named, the others answer', () => {
  const file = join(out, snapshots()[0]!);
  const bytes = readFileSync(file);
  writeFileSync(file, bytes.subarray(0, 5000));
  const { status, stdout, stderr } = cli('ask', out, '-p', question, '-n', '4', '-q');
  assert.is(status, 1);
  assert.is(stdout.trim().split('\n').length, 1);
  for (const part of [file, 'ERR_SNAPSHOT_CORRUPT', 'ERR_ASK_INCOMPLETE']) assert.ok(stderr.includes(part), stderr);
});

test('what is no library, and what is no picture', () => {
  const none = cli('ask', dir, '-p', 'x');
  assert.is(none.status, 2);
  assert.ok(none.stderr.includes('ERR_USAGE_LIBRARY'), none.stderr);
  assert.is(cli('ask', out).status, 2);
  assert.is(cli('index', dir, '--model', demo, '--out', out).status, 2);
});

test.run();
