/** Codes: the source, the table and ERRORS.md agree, and each is named by a test; and the codes that have no room elsewhere. */
import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { CancelToken, Device } from '../../lib/device.ts';
import { load } from '../../lib/index.ts';
import { activation } from '../../lib/ops/index.ts';
import { Graph } from '../../lib/program.ts';
import { reshape, slice } from '../../lib/tensor.ts';
import { failure, suite } from '../kit.ts';
import { tinyConfig, writeCheckpoint } from '../models/checkpoint.ts';
import { codes, codesInSource, markdown } from './error_codes.ts';

const test = suite('error codes');
const folder = mkdtempSync(join(tmpdir(), 'vl-mamba-codes-'));
test.after(() => rmSync(folder, { recursive: true, force: true }));

test('every code in the source has a cause and a fix, and no other has', () => {
  assert.equal([...codesInSource().keys()], Object.keys(codes).sort());
  for (const [code, [cause, fix]] of Object.entries(codes)) assert.ok(cause.length > 10 && fix.length > 5, code);
});

test('ERRORS.md is what `npm run errors` writes', () => {
  assert.is(readFileSync('ERRORS.md', 'utf8'), markdown());
});

/** Codes that no test can bring about on every machine, and why. */
const untested: Record<string, string> = {
  ERR_IMAGE_TIMEOUT: 'takes the ten seconds that a picture may take',
  ERR_INTERNAL: 'is a bug when it appears',
};

test('every code is named by a test', () => {
  const tests = (readdirSync('test', { recursive: true }) as string[])
    .filter((file) => file.endsWith('.test.ts') || file.endsWith('.cc'))
    .map((file) => readFileSync(join('test', file), 'utf8'))
    .join('\n');
  for (const code of codesInSource().keys())
    assert.ok(untested[code] || new RegExp(`['"]${code}['"]`).test(tests), `no test throws ${code}`);
});

const device = new Device({ threads: 1 });
test.after(() => device.dispose());

test('recording', async () => {
  const g = new Graph();
  const x = g.input('x', 'f32', [2, 3]);
  const { y } = activation(g, { x });
  const thrown: [code: string, call: () => unknown][] = [
    ['ERR_OP_NAME', () => g.push('relu', { x }, { y })],
    ['ERR_OP_ARG', () => g.push('activation', { x, z: x }, { y }, { activation: 'silu' })],
    ['ERR_OP_ARG', () => g.push('activation', {}, { y }, { activation: 'silu' })],
    ['ERR_SHAPE', () => reshape(x, [4])],
    ['ERR_SHAPE', () => slice(x, 0, 1, 3)],
    ['ERR_SHAPE', () => g.output('part', slice(y, 0, 1, 2))],
    ['ERR_SHAPE', () => g.place(y, { bytes: 4 })],
  ];
  for (const [code, call] of thrown) assert.is((await failure(call)).code, code);
  const early = new Graph();
  early.output('y', early.empty('f32', [2]));
  assert.is((await failure(() => device.compile(early))).code, 'ERR_PROGRAM');
});

test('a token that was cancelled, memory and threads that are not there', async () => {
  const g = new Graph();
  g.output('y', activation(g, { x: g.input('x', 'f32', [2]) }).y);
  const program = await device.compile(g);
  const token = new CancelToken();
  token.cancel();
  const x = new Float32Array(2);
  assert.is((await failure(() => program.run({ x }, { token }))).code, 'ERR_CANCELLED');
  assert.is((await failure(() => device.alloc(2 ** 50, 'too much'))).code, 'ERR_OUT_OF_MEMORY');
});

test('a system that starts no more threads', () => {
  if (process.platform !== 'linux') return;
  // Less address space than the stacks of so many threads.
  const script = `
    import { execFileSync } from 'node:child_process';
    import { readFileSync } from 'node:fs';
    const { Device } = await import('./lib/device.ts');
    await new Device({ threads: 1 }).dispose();
    const pages = Number(readFileSync('/proc/self/statm', 'utf8').split(' ')[0]);
    execFileSync('prlimit', ['--pid', String(process.pid), '--as=' + (pages * 4096 + 2 ** 31)]);
    try { new Device({ threads: 1024 }); } catch (error) { console.log(error.code); }
    process.exit();`;
  const { stdout, stderr } = spawnSync(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script], {
    encoding: 'utf8',
  });
  assert.is(stdout.trim(), 'ERR_THREAD', stderr);
});

test('a model that only reads text, and a device that is not there', async () => {
  const { vision_config: _, connector_config: __, ...config } = tinyConfig();
  const dir = join(folder, 'text');
  await writeCheckpoint(dir, { config });
  await using model = await load(dir);
  const picture = { data: new Uint8Array(3), width: 1, height: 1, channels: 3 as const };
  assert.is((await failure(() => model.pixels(picture))).code, 'ERR_NO_VISION');
  assert.is((await failure(() => load(dir, { device: 'cuda:7' }))).code, 'ERR_CUDA_UNAVAILABLE');
});

/** Runs the command line; returns its exit status and what it said. */
function cli(args: string[], input = ''): { status: number | null; stderr: string } {
  const { status, stderr } = spawnSync(process.execPath, ['--import', 'tsx', 'lib/cli.ts', ...args], {
    input,
    encoding: 'utf8',
  });
  return { status, stderr };
}

test('command lines that cannot be meant', () => {
  const dir = join(folder, 'text');
  const wrong: [code: string, args: string[], input?: string][] = [
    ['ERR_USAGE', ['run', dir, '-i', '-', '-i', '-', '-p', 'a']],
    ['ERR_ARG_TOKENS', ['bench', dir, '--tokens', '0']],
    ['ERR_ARG_STDIN', ['run', dir], 'a'.repeat(2 ** 25)],
  ];
  for (const [code, args, input] of wrong) {
    const { status, stderr } = cli(args, input);
    assert.ok(status === 1 || status === 2, `${code}: ${status} ${stderr}`);
    assert.match(stderr, code);
  }
});

test('a package without a binary', () => {
  const at = join(folder, 'bare');
  mkdirSync(join(at, 'lib'), { recursive: true });
  cpSync('lib/binding.ts', join(at, 'lib/binding.ts'));
  cpSync('lib/errors.ts', join(at, 'lib/errors.ts'));
  writeFileSync(join(at, 'package.json'), '{"name":"bare","type":"module"}');
  const script = `
    import(${JSON.stringify(join(at, 'lib/binding.ts'))}).then(({ native }) => {
      try { native(); } catch (error) { console.log(error.code); }
    });`;
  const printed = execFileSync(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script], {
    encoding: 'utf8',
  });
  assert.is(printed.trim(), 'ERR_NO_BINARY');
});

test('doctor says what is missing', () => {
  const env = { ...process.env, VL_MAMBA_PREBUILD: folder };
  const { status, stderr } = spawnSync(process.execPath, ['--import', 'tsx', 'lib/cli.ts', 'doctor'], {
    env,
    encoding: 'utf8',
  });
  assert.is(status, 1);
  assert.match(stderr, 'ERR_DOCTOR');
});

test.run();
