/** Models of the hub: what is fetched, where it is put, and what is there the next time. */
import { lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { pull } from '../../lib/hub/pull.ts';
import { load, pull as pullPublic } from '../../lib/index.ts';
import { failure, suite } from '../kit.ts';
import { tinyFiles } from './kit.ts';
import { FakeHub, gitSha1, sha256 } from './server.ts';

const test = suite('pull');
const root = process.cwd();
const hub = await new FakeHub().listen();
const tiny = await tinyFiles();
test.after(() => hub.close());

const blobs = (cache: string) => readdirSync(join(cache, 'models--org--tiny', 'blobs')).sort();

test('the layout that all Hugging Face tools share', async () => {
  hub.forget();
  const commit = hub.add('org/tiny', tiny);
  const settings = hub.settings();
  const seen: number[] = [];
  const pulled = await pull('org/tiny', { settings, onProgress: ({ loaded, total }) => seen.push(loaded, total) });
  const root = join(settings.cache, 'models--org--tiny');
  const size = Object.values(tiny).reduce((sum, bytes) => sum + bytes.length, 0);
  assert.equal(pulled, {
    path: join(root, 'snapshots', commit),
    repo: 'org/tiny',
    revision: 'main',
    commit,
    fetched: size,
    warnings: [],
  });
  assert.is(readFileSync(join(root, 'refs', 'main'), 'utf8'), commit);
  for (const [name, bytes] of Object.entries(tiny)) {
    const etag = name.endsWith('.safetensors') ? sha256(bytes) : gitSha1(bytes);
    assert.is(readlinkSync(join(pulled.path, name)), join('..', '..', 'blobs', etag));
    assert.equal(readFileSync(join(pulled.path, name)), bytes);
  }
  assert.equal(
    blobs(settings.cache),
    Object.entries(tiny)
      .map(([name, bytes]) => (name.endsWith('.safetensors') ? sha256 : gitSha1)(bytes))
      .sort(),
  );
  assert.equal(seen.slice(-2), [size, size]);
});

test('what is there is not fetched again, and a commit is not even asked for', async () => {
  const commit = hub.add('org/tiny', tiny);
  const settings = hub.settings();
  await pull('org/tiny', { settings });
  hub.forget();
  assert.is((await pull('org/tiny', { settings })).fetched, 0);
  assert.equal(
    hub.asked.map(({ path }) => path),
    ['/api/models/org/tiny/revision/main'],
  );
  hub.forget();
  assert.is((await pull('org/tiny', { settings, revision: commit })).commit, commit);
  assert.is((await pull(`org/tiny@${commit}`, { settings })).commit, commit);
  assert.equal(hub.asked, []);
});

test('a new commit fetches what changed; a branch with a slash', async () => {
  hub.add('org/tiny', tiny);
  const settings = hub.settings();
  await pull('org/tiny', { settings });
  hub.forget();
  const generation = Buffer.from('{"temperature":0}');
  const commit = hub.add('org/tiny', { ...tiny, 'generation_config.json': generation });
  const pulled = await pull('org/tiny@refs/pr/1', { settings });
  assert.equal([pulled.commit, pulled.fetched], [commit, generation.length]);
  assert.is(readFileSync(join(settings.cache, 'models--org--tiny', 'refs', 'refs', 'pr', '1'), 'utf8'), commit);
  assert.is(hub.sent, 0);
  assert.equal(readdirSync(pulled.path).sort(), [...Object.keys(tiny), 'generation_config.json'].sort());
});

test('only what a checkpoint needs is asked for, whatever names the hub gives', async () => {
  hub.forget();
  const strange = [
    '../../evil.json',
    '/etc/evil',
    'config.json/../../evil',
    'C:\\evil',
    'a/tokenizer.json',
    'pytorch_model.bin',
    'README.md',
    '.',
  ];
  hub.add('org/tiny', { ...Object.fromEntries(strange.map((name) => [name, 'evil'])), ...tiny });
  const settings = hub.settings();
  const { path } = await pull('org/tiny', { settings });
  assert.equal(readdirSync(path).sort(), Object.keys(tiny).sort());
  assert.equal(readdirSync(settings.cache), ['models--org--tiny']);
  for (const { path } of hub.asked) assert.not.match(path, /evil|README|pytorch|a\/tok/);
});

const shardsOf = (names: string[]) => ({
  ...Object.fromEntries(Object.entries(tiny).filter(([name]) => name !== 'model.safetensors')),
  'model.safetensors.index.json': JSON.stringify({
    weight_map: Object.fromEntries(names.map((name, i) => [`w${i}`, name])),
  }),
});

test('shards', async () => {
  hub.forget();
  const shards = {
    'model-00001-of-00002.safetensors': Buffer.from('one'),
    'model-00002-of-00002.safetensors': Buffer.from('two'),
  };
  hub.add('org/tiny', {
    ...shardsOf(Object.keys(shards)),
    ...shards,
    'model-extra.safetensors': 'x',
    'model.safetensors': 'both',
  });
  const settings = hub.settings();
  const { path } = await pull('org/tiny', { settings });
  assert.equal(
    readdirSync(path).filter((name) => name.endsWith('.safetensors')),
    Object.keys(shards),
  );
  hub.forget();
  assert.is((await pull('org/tiny', { settings: { ...settings, offline: true } })).path, path);
  rmSync(join(path, 'model-00002-of-00002.safetensors'));
  assert.is(
    (await failure(() => pull('org/tiny', { settings: { ...settings, offline: true } }))).code,
    'ERR_HUB_OFFLINE',
  );
});

test('an index that names what is not there, or no file of the folder', async () => {
  hub.forget();
  hub.add('org/tiny', shardsOf(['model-00001-of-00001.safetensors']));
  const absent = await failure(() => pull('org/tiny', { settings: hub.settings() }));
  assert.is(absent.code, 'ERR_HUB_FILES');
  assert.match(absent.message, /names "model-00001-of-00001\.safetensors"/);
  hub.add('org/tiny', { ...shardsOf(['../../../evil.safetensors']), '../../../evil.safetensors': 'x' });
  assert.is((await failure(() => pull('org/tiny', { settings: hub.settings() }))).code, 'ERR_SHARD_PATH');
  assert.is(hub.count(/evil/), 0);
});

test('a repository that is no checkpoint', async () => {
  hub.add('org/tiny', { 'config.json': '{}', 'pytorch_model.bin': 'x' });
  const settings = hub.settings();
  const { code, message } = await failure(() => pull('org/tiny', { settings }));
  assert.is(code, 'ERR_HUB_FILES');
  assert.match(message, /no tokenizer\.json, no model\.safetensors .*"pytorch_model\.bin"/);
  assert.equal(readdirSync(settings.cache), []);
});

test('offline', async () => {
  hub.add('org/tiny', tiny);
  const settings = hub.settings();
  const offline = { ...settings, offline: true };
  const { code, message } = await failure(() => pull('org/tiny', { settings: offline }));
  assert.is(code, 'ERR_HUB_OFFLINE');
  assert.match(message, /HF_HUB_OFFLINE/);
  const { path } = await pull('org/tiny', { settings });
  hub.forget();
  assert.is((await pull('org/tiny', { settings: offline })).path, path);
  assert.equal(hub.asked, []);
  assert.is((await failure(() => pull('org/tiny@v2', { settings: offline }))).code, 'ERR_HUB_OFFLINE');
});

test('a hub that does not answer: load makes do with what is here, pull does not', async () => {
  hub.add('org/tiny', tiny);
  const settings = hub.settings();
  const { path } = await pull('org/tiny', { settings });
  const gone = { ...settings, endpoint: new URL('http://127.0.0.1:1') };
  assert.is((await failure(() => pull('org/tiny', { settings: gone }))).code, 'ERR_HUB_HTTP');
  const pulled = await pull('org/tiny', { settings: gone, orCached: true });
  assert.is(pulled.path, path);
  assert.match(pulled.warnings[0]!, /copy of org\/tiny on this machine.*ECONNREFUSED/);
});

test('without links a snapshot has the files themselves', async () => {
  hub.add('org/tiny', tiny);
  const { path } = await pull('org/tiny', { settings: hub.settings({ symlinks: false }) });
  for (const [name, bytes] of Object.entries(tiny)) {
    assert.not(lstatSync(join(path, name)).isSymbolicLink());
    assert.equal(readFileSync(join(path, name)), bytes);
  }
});

test('a link whose blob is gone, a blob that was cut', async () => {
  hub.add('org/tiny', tiny);
  const settings = hub.settings();
  const { path } = await pull('org/tiny', { settings });
  const blob = join(settings.cache, 'models--org--tiny', 'blobs', sha256(tiny['model.safetensors']!));
  rmSync(blob);
  await pull('org/tiny', { settings });
  assert.equal(readFileSync(join(path, 'model.safetensors')), tiny['model.safetensors']);
  writeFileSync(blob, 'cut');
  rmSync(join(path, 'model.safetensors'));
  await pull('org/tiny', { settings });
  assert.equal(readFileSync(join(path, 'model.safetensors')), tiny['model.safetensors']);
});

test('a cache that cannot be written to', async () => {
  hub.add('org/tiny', tiny);
  const settings = hub.settings();
  const file = join(settings.cache, 'file');
  writeFileSync(file, '');
  const { code, message } = await failure(() => pull('org/tiny', { settings: { ...settings, cache: file } }));
  assert.is(code, 'ERR_HUB_CACHE');
  assert.match(message, /ENOTDIR.*HF_HUB_CACHE/);
});

test('more than the disk has room for', async () => {
  hub.forget();
  const names = Array.from({ length: 400 }, (_, i) => `model-${i}.safetensors`);
  hub.add('org/tiny', { ...shardsOf(names), ...Object.fromEntries(names.map((name) => [name, name])) });
  hub.trick = ({ at, path }, response, content) => {
    if (at !== 'hub' || !path.includes('model-')) return false;
    const linked = { 'x-linked-etag': sha256(content!), 'x-linked-size': 2 ** 36 };
    response.writeHead(302, { ...linked, location: 'http://127.0.0.1:1/' }).end();
    return true;
  };
  const { code, details } = await failure(() => pull('org/tiny', { settings: hub.settings() }));
  assert.is(code, 'ERR_HUB_SPACE');
  assert.ok((details!.needed as number) >= 400 * 2 ** 36);
});

test('names', async () => {
  for (const name of [
    'tiny',
    'a/b/c',
    '../x',
    './x',
    '/x/y',
    'a/b--c',
    'a/..',
    'a/b.git',
    'a/-b',
    'a/b@',
    'a/b@../x',
    'a/b@x@y',
    'a/b@x..y',
    'a b/c',
  ])
    assert.is((await failure(() => pull(name, { settings: hub.settings() }))).code, 'ERR_ARG_MODEL', name);
  assert.is((await failure(() => pullPublic('a/b', { revision: '../x' }))).code, 'ERR_ARG_MODEL');
  assert.is((await failure(() => pull('a/b@v1', { revision: 'v2' }))).code, 'ERR_ARG_MODEL');
  assert.is((await failure(() => pullPublic(7 as unknown as string))).code, 'ERR_ARG_TYPE');
});

test('load takes a name where there is no such folder', async () => {
  hub.forget();
  hub.add('org/tiny', tiny);
  const { HF_ENDPOINT, HF_HUB_CACHE, HF_TOKEN_PATH } = hub.env();
  const before = { ...process.env };
  Object.assign(process.env, { HF_ENDPOINT, HF_HUB_CACHE, HF_TOKEN_PATH });
  try {
    const phases = new Set<string>();
    await using model = await load('org/tiny', { onProgress: ({ phase }) => phases.add(phase) });
    assert.equal([...phases], ['download', 'read']);
    assert.equal(model.warnings, []);
    const { code, message } = await failure(() => load('org/other'));
    assert.is(code, 'ERR_HUB_AUTH');
    assert.match(message, /no such model.*HF_TOKEN.*no folder org\/other here/);
    hub.forget();
    // A path that exists wins.
    process.chdir(hub.cache);
    mkdirSync('org/tiny', { recursive: true });
    assert.is((await failure(() => load('org/tiny'))).code, 'ERR_CFG_FILE');
    assert.equal(hub.asked, []);
  } finally {
    process.chdir(root);
    for (const name of ['HF_ENDPOINT', 'HF_HUB_CACHE', 'HF_TOKEN_PATH']) {
      if (before[name] === undefined) delete process.env[name];
      else process.env[name] = before[name];
    }
  }
});

test.run();
