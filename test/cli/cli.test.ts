/** The command as a user runs it: what it prints, where, and its exit status. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import * as assert from 'uvu/assert';
import { autoDevice, suite } from '../kit.ts';
import { tinyConfig, tinyPreprocessor, writeCheckpoint } from '../models/checkpoint.ts';

const test = suite('cli');
const folder = mkdtempSync(join(tmpdir(), 'vl-mamba-cli-'));
const picture = join('models', 'demo', 'pictures', 'shapes.png');
test.after(() => rmSync(folder, { recursive: true, force: true }));

interface Run {
  status: number | null;
  stdout: string;
  stderr: string;
}

const { FORCE_COLOR: _, NO_COLOR: __, ...plain } = process.env;

function start(args: string[], env: NodeJS.ProcessEnv = { NO_COLOR: '1' }): ChildProcess {
  return spawn(process.execPath, ['--import', 'tsx', join('lib', 'cli.ts'), ...args], { env: { ...plain, ...env } });
}

async function vlMamba(args: string[], input: string | Buffer = '', env?: NodeJS.ProcessEnv): Promise<Run> {
  const child = start(args, env);
  const run: Run = { status: null, stdout: '', stderr: '' };
  child.stdout!.on('data', (data) => (run.stdout += data));
  child.stderr!.on('data', (data) => (run.stderr += data));
  child.stdin!.on('error', () => {});
  child.stdin!.end(input);
  [run.status] = (await once(child, 'close')) as [number];
  return run;
}

const question = ['-p', 'How many objects are there?'];

test('run answers on stdout and says nothing else', async () => {
  const { status, stdout, stderr } = await vlMamba(['run', 'demo', '-i', picture, ...question]);
  assert.equal({ status, stdout, stderr }, { status: 0, stdout: 'Three\n', stderr: '' });
});

test('a picture from stdin, a question from stdin, an author’s prompt', async () => {
  const piped = await vlMamba(['run', 'demo', '-i', '-', ...question], readFileSync(picture));
  assert.equal([piped.status, piped.stdout], [0, 'Three\n']);
  const asked = await vlMamba(['run', 'demo', '-i', picture], 'How many objects are there?\n');
  assert.equal([asked.status, asked.stdout], [0, 'Three\n']);
  const raw = await vlMamba(['run', 'demo', '-i', picture, '-p', '<image>\nHow many objects are there?\nAnswer:']);
  assert.equal([raw.status, raw.stdout], [0, 'Three\n']);
});

test('--json is one object', async () => {
  const { status, stdout } = await vlMamba(['run', 'demo', '-i', picture, ...question, '--json']);
  const result = JSON.parse(stdout);
  assert.is(status, 0);
  assert.equal(Object.keys(result).sort(), ['device', 'finishReason', 'text', 'timings', 'tokens', 'usage']);
  assert.equal([result.text, result.finishReason, result.device], ['Three', 'stop', autoDevice]);
  assert.is(result.usage.completionTokens, result.tokens.length);
  for (const name of ['image', 'vision', 'prefill', 'firstToken', 'decode', 'total', 'tokensPerSecond'])
    assert.type(result.timings[name], 'number', name);
});

test('demo, also with a picture of one’s own', async () => {
  const all = await vlMamba(['demo']);
  assert.is(all.status, 0);
  assert.is(all.stderr, '');
  assert.is(all.stdout.match(/→ \w/g)?.length, 6);
  assert.not.match(all.stdout, '\x1b');
  const own = await vlMamba(['demo', picture, ...question]);
  assert.match(own.stdout, /→ Three/);
});

test('info and doctor', async () => {
  const info = JSON.parse((await vlMamba(['info', 'demo', '--json'])).stdout);
  assert.is(info.vision.rows, 100);
  assert.ok(info.parameters > 1e6);
  assert.match((await vlMamba(['info', 'demo'])).stdout, /language {2,}mamba, 8 layers of 192/);
  const doctor = await vlMamba(['doctor', '--json']);
  const { ok, checks } = JSON.parse(doctor.stdout);
  assert.equal([doctor.status, ok], [0, true]);
  const names = checks.map((check: { name: string }) => check.name);
  for (const name of ['vl-mamba', 'node', 'system', 'memory', 'cpu', 'sharp', 'cache', 'hub'])
    assert.ok(names.includes(name), name);
});

test('colours: none in a pipe, FORCE_COLOR asks for them, NO_COLOR has the last word', async () => {
  const demo = ['demo', picture, ...question];
  const wrong = ['run', 'demo', '-i', 'nowhere.png', ...question];
  assert.not.match((await vlMamba(demo, '', {})).stdout, '\x1b');
  const shown = await vlMamba(demo, '', { FORCE_COLOR: '3' });
  assert.match(shown.stdout, '▀');
  assert.match(shown.stdout, '\x1b[1mThree\x1b[22m');
  assert.match((await vlMamba(wrong, '', { FORCE_COLOR: '1' })).stderr, '\x1b[31mERR_IMAGE_READ\x1b[39m: ');
  const refused = await vlMamba(demo, '', { FORCE_COLOR: '3', NO_COLOR: '1' });
  assert.not.match(refused.stdout, '\x1b');
  assert.is(refused.stderr, '');
});

test('chat: a line is a turn, and the picture is remembered', async () => {
  const lines = `How many objects are there?\n/reset\n/image ${picture}\nHow many objects are there?\n/quit\n`;
  const { status, stdout, stderr } = await vlMamba(['chat', 'demo', '-i', picture], lines);
  assert.equal([status, stdout, stderr], [0, 'Three\nThree\n', '']);
});

test('bench', async () => {
  const { status, stdout } = await vlMamba(['bench', 'demo', '--tokens', '32', '--json']);
  const result = JSON.parse(stdout);
  assert.is(status, 0);
  for (const name of ['loadMs', 'decodeMs', 'prefillMs', 'pictureMs']) assert.ok(result[name] > 0, name);
  const [json, svg] = [join(folder, 'bench.json'), join(folder, 'bench.svg')];
  const drawn = await vlMamba(['bench', 'demo', '--tokens', '32', '--steps', '--json', json, '--svg', svg]);
  assert.match(drawn.stdout, /^a token +[\d.]+ +[\d.]+ +[\d.]+\na prompt of 32 +[\d.]+ +[\d.]+\na picture +[\d.]+/m);
  assert.is(JSON.parse(readFileSync(json, 'utf8')).decode[0].op, 'embedding');
  const { data, info } = await sharp(svg).greyscale().raw().toBuffer({ resolveWithObject: true });
  assert.ok(info.width === 760 && data.includes(255) && data.some((v) => v < 200), 'bars on white');
});

test('--version and --help', async () => {
  const { version } = JSON.parse(readFileSync('package.json', 'utf8'));
  assert.equal(await vlMamba(['--version']), { status: 0, stdout: `${version}\n`, stderr: '' });
  const help = await vlMamba(['--help']);
  assert.is(help.status, 0);
  for (const word of ['demo', 'run', 'chat', 'info', 'doctor', 'bench', 'Examples:', 'Exit status'])
    assert.ok(help.stdout.includes(word), word);
  const lines = help.stdout.split('\n');
  assert.ok(lines.length <= 24, `${lines.length} lines and the prompt behind them`);
  assert.ok(lines.every((line) => line.length <= 80));
});

const textNamedJpg = join(folder, 'text.jpg');
writeFileSync(textNamedJpg, 'This is no picture.\n');

/** A copy of a small checkpoint with something wrong. */
async function broken(name: string, options: Partial<Parameters<typeof writeCheckpoint>[1]>, cut = 0): Promise<string> {
  const dir = join(folder, name);
  await writeCheckpoint(dir, { config: tinyConfig(), preprocessor: tinyPreprocessor('siglip'), ...options });
  const file = join(dir, 'model.safetensors');
  if (cut) writeFileSync(file, readFileSync(file).subarray(0, -cut));
  return dir;
}

test('each mistake gives one line with its code, no stack, and status 1 or 2', async () => {
  const missing = await broken('missing', {
    edit: (sources) => sources.filter(({ name }) => !name.endsWith('layers.1.mixer.D')),
  });
  const truncated = await broken('truncated', {}, 1000);
  const negative = join(folder, 'negative');
  await writeCheckpoint(negative, { config: tinyConfig(), preprocessor: tinyPreprocessor('siglip') });
  const config = tinyConfig({ text: { num_hidden_layers: -1 } });
  writeFileSync(join(negative, 'config.json'), JSON.stringify(config));
  const run = (...args: string[]) => ['run', 'demo', '-i', picture, ...question, ...args];
  const cases: [string[], 1 | 2, RegExp][] = [
    [['run', join(folder, 'nowhere'), ...question], 1, /ERR_CKPT_NOT_FOUND: .*nowhere: no such folder/],
    [['run', 'package.json', ...question], 1, /ERR_CKPT_NOT_FOUND: package\.json: is not a folder/],
    [['run', 'demo', '-i', join(folder, 'nowhere.png'), ...question], 1, /ERR_IMAGE_READ: .*nowhere\.png/],
    [['run', 'demo', '-i', textNamedJpg, ...question], 1, /ERR_IMAGE_FORMAT: .*text\.jpg/],
    [['run', truncated, ...question], 1, /ERR_ST_\w+: .*model\.safetensors/],
    [['run', missing, ...question], 1, /ERR_CKPT_MISSING: .*language_model\.backbone\.layers\.1\.mixer\.D/],
    [['run', negative, ...question], 1, /ERR_CFG_VALUE: .*text_config\.num_hidden_layers .*-1/],
    [run('--temperature', 'NaN'), 2, /ERR_GEN_TEMPERATURE: temperature .*NaN/],
    [run('--temperature', 'warm'), 2, /ERR_GEN_TEMPERATURE/],
    [run('--top-p', '2'), 2, /ERR_GEN_TOP_P: .*2/],
    [run('--max-new-tokens', '-1'), 2, /ERR_GEN_MAX_NEW_TOKENS/],
    [run('--device', 'tpu'), 2, /ERR_ARG_DEVICE: .*"tpu"/],
    [run('--device', 'cuda:99'), 1, /ERR_CUDA_UNAVAILABLE/],
    [run('--dtype', 'f64'), 2, /ERR_ARG_DTYPE/],
    [run('--threads', '0.5'), 2, /ERR_ARG_THREADS/],
    [['run', 'demo', '-i', '-', '-i', '-'], 2, /ERR_USAGE: .*stdin/],
    [['run', 'demo'], 2, /ERR_USAGE: nothing to answer/],
    [['run'], 2, /ERR_USAGE: missing required argument 'model'/],
    [['frobnicate'], 2, /ERR_USAGE: unknown command 'frobnicate'/],
    [run('--frobnicate'), 2, /ERR_USAGE: unknown option '--frobnicate'/],
    [['bench', 'demo', '--tokens', 'many'], 2, /ERR_ARG_TOKENS/],
  ];
  for (const [args, status, message] of cases) {
    const result = await vlMamba(args);
    assert.is(result.status, status, `${args.join(' ')}: ${result.stderr}`);
    assert.is(result.stdout, '', args.join(' '));
    assert.match(result.stderr, message);
    assert.not.match(result.stderr, /\n {4}at /);
    if (/ERR_/.test(result.stderr)) assert.is(result.stderr.trim().split('\n').length, 1, result.stderr);
  }
});

test('Ctrl-C stops within 100 ms with status 130', async () => {
  const slow = join(folder, 'slow');
  const text = { hidden_size: 320, num_hidden_layers: 8, time_step_rank: 20, state_size: 16 };
  await writeCheckpoint(slow, { config: tinyConfig({ text }), preprocessor: tinyPreprocessor('siglip') });
  const child = start(['run', slow, '-p', 'for ever', '--raw', '-n', '100000', '--temperature', '1', '--seed', '1']);
  child.stdin!.end();
  await once(child.stdout!, 'data');
  const at = performance.now();
  child.kill('SIGINT');
  assert.equal(await once(child, 'close'), [130, null]);
  assert.ok(performance.now() - at < 100 + 150, `took ${performance.now() - at} ms, process end included`);
});

test('a reader that leaves early, as head does, is no failure', async () => {
  const child = start(['demo']);
  child.stdin!.end();
  await once(child.stdout!, 'data');
  child.stdout!.destroy();
  const [status] = await once(child, 'close');
  assert.is(status, 0);
});

test.run();
