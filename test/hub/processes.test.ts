/** The command line and the hub; processes that fetch the same model, and processes that end in the middle. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { random, suite } from '../kit.ts';
import { tinyFiles } from './kit.ts';
import { FakeHub, sha256 } from './server.ts';

const test = suite('hub processes');
const hub = await new FakeHub().listen();
test.after(() => hub.close());

const next = random(2);
const WEIGHTS = Buffer.from(Uint8Array.from({ length: 4_000_000 }, () => next() * 256));
const big = { 'config.json': '{}', 'tokenizer.json': '{}', 'model.safetensors': WEIGHTS };
const folder = () => mkdtempSync(join(hub.cache, 'cache-'));
const blobs = (cache: string) => readdirSync(join(cache, 'models--org--model', 'blobs'));

interface Run {
  child: ChildProcess;
  done: Promise<{ status: number | null; stdout: string; stderr: string }>;
}

function vlMamba(args: string[], cache: string, env: Record<string, string> = {}): Run {
  const child = spawn(process.execPath, ['--import', 'tsx', join('lib', 'cli.ts'), ...args], {
    env: { ...hub.env(cache), ...env },
  });
  const run = { status: null as number | null, stdout: '', stderr: '' };
  child.stdout.on('data', (data) => (run.stdout += data));
  child.stderr.on('data', (data) => (run.stderr += data));
  child.stdin.end();
  return { child, done: once(child, 'close').then(([status]) => ({ ...run, status })) };
}

/** Sends half of the weights and then nothing; resolves when some of it is on the disk. */
async function half(cache: string): Promise<void> {
  hub.trick = ({ at }, response) => {
    if (at !== 'store') return false;
    response.writeHead(200, { 'content-length': WEIGHTS.length }).write(WEIGHTS.subarray(0, 2_000_000));
    return true;
  };
  const size = (name: string) =>
    statSync(join(cache, 'models--org--model', 'blobs', name), { throwIfNoEntry: false })?.size;
  while (
    !(
      existsSync(join(cache, 'models--org--model', 'blobs')) && blobs(cache).some((name) => (size(name) ?? 0) > 500_000)
    )
  )
    await new Promise((resolve) => setTimeout(resolve, 10));
}

test('pull prints the folder, and --json one object', async () => {
  hub.forget();
  const cache = folder();
  const commit = hub.add('org/tiny', await tinyFiles());
  const path = join(cache, 'models--org--tiny', 'snapshots', commit);
  const first = await vlMamba(['pull', 'org/tiny'], cache).done;
  assert.equal([first.status, first.stdout], [0, `${path}\n`]);
  assert.match(first.stderr, /^org\/tiny at [0-9a-f]{12}: fetched \d+ kB\n$/);
  const second = await vlMamba(['pull', 'org/tiny', '--revision', 'main', '--json'], cache).done;
  assert.equal(JSON.parse(second.stdout), {
    path,
    repo: 'org/tiny',
    revision: 'main',
    commit,
    fetched: 0,
    warnings: [],
  });
  assert.is(second.stderr, '');
});

test('run and info take org/name; offline too', async () => {
  hub.forget();
  const cache = folder();
  hub.add('org/tiny', await tinyFiles());
  const run = await vlMamba(['run', 'org/tiny', '-p', 'A', '-n', '3', '--json'], cache).done;
  assert.is(run.status, 0, run.stderr);
  assert.is(JSON.parse(run.stdout).usage.completionTokens, 3);
  hub.forget();
  const info = await vlMamba(['info', 'org/tiny', '--json'], cache, { HF_HUB_OFFLINE: '1' }).done;
  assert.is(info.status, 0, info.stderr);
  assert.is(JSON.parse(info.stdout).vision.type, 'siglip');
  assert.equal(hub.asked, []);
});

test('a library remembers the name', async () => {
  hub.forget();
  const cache = folder();
  hub.add('org/tiny', await tinyFiles());
  const out = folder();
  const picture = join('models', 'demo', 'pictures', 'shapes.png');
  const index = await vlMamba(['index', picture, '-m', 'org/tiny', '-o', out], cache).done;
  assert.is(index.status, 0, index.stderr);
  assert.is(JSON.parse(readFileSync(join(out, 'library.json'), 'utf8')).model, 'org/tiny');
  const ask = await vlMamba(['ask', out, '-p', 'A', '-n', '2'], cache, { HF_HUB_OFFLINE: '1' }).done;
  assert.is(ask.status, 0, ask.stderr);
});

test('what goes wrong is one line with its code', async () => {
  hub.forget();
  const cases: [string[], Record<string, string>, number, RegExp][] = [
    [['pull', 'org/none'], {}, 1, /ERR_HUB_AUTH: .*no such model/],
    [['run', 'org/none', '-p', 'x'], {}, 1, /ERR_HUB_AUTH: .*no folder org\/none here/],
    [['run', 'org/none', '-p', 'x'], { HF_HUB_OFFLINE: '1' }, 1, /ERR_HUB_OFFLINE/],
    [['pull', 'none'], {}, 2, /ERR_ARG_MODEL/],
    [['pull', 'org/none'], { HF_ENDPOINT: 'nonsense' }, 1, /ERR_HUB_SETTINGS: HF_ENDPOINT/],
    [['pull', 'org/none'], { HF_TOKEN: 'two words' }, 1, /ERR_HUB_SETTINGS: HF_TOKEN/],
  ];
  for (const [args, env, status, message] of cases) {
    const result = await vlMamba(args, folder(), env).done;
    assert.is(result.status, status, result.stderr);
    assert.match(result.stderr, message);
    assert.is(result.stderr.trim().split('\n').length, 1);
    assert.not.match(result.stderr, 'two words');
  }
});

test('processes that fetch the same at the same time wait for one of them, and all have it', async () => {
  hub.forget();
  hub.add('org/model', big);
  const cache = folder();
  let open = 0;
  hub.trick = (asked, response, content) => {
    if (asked.at !== 'store') return false;
    open++;
    setTimeout(() => hub.send(asked, response, content!), 3000);
    return true;
  };
  const runs = await Promise.all(Array.from({ length: 4 }, () => vlMamba(['pull', 'org/model'], cache).done));
  for (const { status, stdout, stderr } of runs) {
    assert.is(status, 0, stderr);
    assert.ok(readFileSync(join(stdout.trim(), 'model.safetensors')).equals(WEIGHTS));
  }
  // Two where they began in the same instant; never one for each.
  assert.ok(open <= 2, `${open} fetched it`);
  assert.equal(
    blobs(cache).filter((name) => name.endsWith('.incomplete')),
    [],
  );
});

for (const [signal, status] of [
  ['SIGKILL', null],
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const) {
  test(`${signal} in the middle: the next pull goes on from there`, async () => {
    hub.forget();
    hub.add('org/model', big);
    const cache = folder();
    const begun = half(cache);
    const { child, done } = vlMamba(['pull', 'org/model'], cache);
    await begun;
    child.kill(signal);
    assert.is((await done).status, status);
    const parts = blobs(cache).filter((name) => name.startsWith(sha256(WEIGHTS)));
    assert.ok(parts.length === 1 && parts[0]!.endsWith('.incomplete'), parts.join());
    hub.forget();
    const again = await vlMamba(['pull', 'org/model'], cache).done;
    assert.is(again.status, 0, again.stderr);
    assert.match(hub.asked.find(({ at }) => at === 'store')!.range!, /^bytes=\d{6,7}-$/);
    assert.ok(hub.sent < WEIGHTS.length);
    assert.equal(
      blobs(cache).filter((name) => name.endsWith('.incomplete')),
      [],
    );
    assert.ok(blobs(cache).includes(sha256(WEIGHTS)));
  });
}

test.run();
