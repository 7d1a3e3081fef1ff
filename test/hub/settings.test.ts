/** What Hugging Face's tools read from the environment. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { hubSettings } from '../../lib/hub/settings.ts';
import { failure, suite } from '../kit.ts';

const test = suite('hub settings');
const home = mkdtempSync(join(tmpdir(), 'vl-mamba-hf-'));
test.after(() => rmSync(home, { recursive: true, force: true }));

test('the cache', async () => {
  const cache = async (env: Record<string, string>) => (await hubSettings(env)).cache;
  assert.is(await cache({}), join(homedir(), '.cache', 'huggingface', 'hub'));
  assert.is(await cache({ XDG_CACHE_HOME: '/x' }), join('/x', 'huggingface', 'hub'));
  assert.is(await cache({ HF_HOME: '/h', XDG_CACHE_HOME: '/x' }), join('/h', 'hub'));
  assert.is(await cache({ HUGGINGFACE_HUB_CACHE: '/old', HF_HOME: '/h' }), '/old');
  assert.is(await cache({ HF_HUB_CACHE: '/new', HUGGINGFACE_HUB_CACHE: '/old' }), '/new');
  assert.is(await cache({ HF_HUB_CACHE: '~/models' }), join(homedir(), 'models'));
  assert.is(await cache({ HF_HOME: '$DISK/hf/\x24{USER}/$NONE', DISK: '/d', USER: 'u' }), join('/d/hf/u/$NONE', 'hub'));
});

test('the token: HF_TOKEN, then what hf auth login wrote', async () => {
  writeFileSync(join(home, 'token'), 'hf_file\n');
  const token = async (env: Record<string, string>) => (await hubSettings({ HF_HOME: home, ...env })).token;
  assert.is(await token({}), 'hf_file');
  assert.is(await token({ HF_TOKEN: ' hf_env\r\n' }), 'hf_env');
  assert.is(await token({ HUGGING_FACE_HUB_TOKEN: 'hf_old' }), 'hf_old');
  assert.is(await token({ HF_HUB_DISABLE_IMPLICIT_TOKEN: '1' }), undefined);
  assert.is(await token({ HF_TOKEN_PATH: join(home, 'none') }), undefined);
  const { code, message } = await failure(() => token({ HF_TOKEN: 'hf_a\r\nx-header: 1' }));
  assert.is(code, 'ERR_HUB_SETTINGS');
  assert.not.match(message, 'hf_a');
});

test('switches', async () => {
  for (const value of ['1', 'on', 'YES', 'True']) assert.ok((await hubSettings({ HF_HUB_OFFLINE: value })).offline);
  for (const value of ['', '0', 'off', 'no']) assert.not((await hubSettings({ HF_HUB_OFFLINE: value })).offline);
  assert.ok((await hubSettings({ TRANSFORMERS_OFFLINE: '1' })).offline);
  assert.not((await hubSettings({ HF_HUB_DISABLE_SYMLINKS: '1' })).symlinks);
  assert.is((await hubSettings({ HF_HUB_DOWNLOAD_TIMEOUT: '30' })).timeoutMs, 30_000);
  assert.is((await hubSettings({ HF_HUB_DOWNLOAD_TIMEOUT: 'soon' })).timeoutMs, 10_000);
});

test('the endpoint', async () => {
  const endpoint = async (HF_ENDPOINT: string) => (await hubSettings({ HF_ENDPOINT })).endpoint.href;
  assert.is(await endpoint(''), 'https://huggingface.co/');
  assert.is(await endpoint('https://mirror.example/api/hf/'), 'https://mirror.example/api/hf/');
  for (const wrong of ['nonsense', 'ftp://x', 'file:///x', 'https://user:pw@x', 'https://x?y'])
    assert.is((await failure(() => endpoint(wrong))).code, 'ERR_HUB_SETTINGS', wrong);
});

test.run();
