import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { show, VLMambaError } from '../errors.ts';

/** Where models come from and where they are kept: what Hugging Face's own tools read from the environment. */
export interface HubSettings {
  endpoint: URL;
  token: string | undefined;
  /** The folder of `models--org--name`, shared with every other tool. */
  cache: string;
  offline: boolean;
  /** Without them a snapshot holds the files themselves. */
  symlinks: boolean;
  /** A connection that is silent for this long is broken. */
  timeoutMs: number;
  /** The first wait before another try; each one after is twice as long. */
  backoffMs: number;
}

type Env = Readonly<Record<string, string | undefined>>;

const ENDPOINT = 'https://huggingface.co';
const TIMEOUT_SECONDS = 10;

/** @throws VLMambaError ERR_HUB_SETTINGS */
export async function hubSettings(env: Env = process.env): Promise<HubSettings> {
  const folder = (name: string): string | undefined => (env[name] ? expand(env[name], env) : undefined);
  const home = folder('HF_HOME') ?? join(folder('XDG_CACHE_HOME') ?? join(homedir(), '.cache'), 'huggingface');
  return {
    endpoint: endpointOf(env.HF_ENDPOINT || ENDPOINT),
    token: await tokenOf(env, folder('HF_TOKEN_PATH') ?? join(home, 'token')),
    cache: folder('HF_HUB_CACHE') ?? folder('HUGGINGFACE_HUB_CACHE') ?? join(home, 'hub'),
    offline: isTrue(env.HF_HUB_OFFLINE) || isTrue(env.TRANSFORMERS_OFFLINE),
    symlinks: !isTrue(env.HF_HUB_DISABLE_SYMLINKS),
    timeoutMs: (Number(env.HF_HUB_DOWNLOAD_TIMEOUT) || TIMEOUT_SECONDS) * 1000,
    backoffMs: 500,
  };
}

function endpointOf(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !/^https?:$/.test(url.protocol) || url.search || url.hash || url.username)
    throw new VLMambaError('ERR_HUB_SETTINGS', `HF_ENDPOINT must be an http(s) address, got ${show(text)}`);
  return url;
}

async function tokenOf(env: Env, path: string): Promise<string | undefined> {
  let from = 'HF_TOKEN';
  let token = (env.HF_TOKEN || env.HUGGING_FACE_HUB_TOKEN)?.trim();
  if (!token && !isTrue(env.HF_HUB_DISABLE_IMPLICIT_TOKEN)) {
    from = path;
    // What `hf auth login` leaves there; most machines have none.
    token = (await readFile(path, 'utf8').catch(() => '')).trim();
  }
  if (!token) return undefined;
  if (!/^[\x21-\x7e]{1,4096}$/.test(token))
    throw new VLMambaError('ERR_HUB_SETTINGS', `${from} holds no token: it has characters that no token has`);
  return token;
}

/** `~` and variables, which no shell has seen in a file of settings. */
const expand = (path: string, env: Env): string =>
  path
    .replace(/^~(?=$|[/\\])/, homedir())
    .replace(/\$(?:\{(\w+)\}|(\w+))/g, (whole, braced, plain) => env[braced ?? plain] ?? whole);

const isTrue = (value: string | undefined): boolean => /^(1|on|yes|true)$/i.test(value ?? '');
