import type { IncomingMessage } from 'node:http';
import { show, VLMambaError } from '../errors.ts';
import { ask, at, broken, header, persist } from './http.ts';
import { isCommit, type ModelName } from './name.ts';
import type { HubSettings } from './settings.ts';

/** What the hub says of a model: nothing of it is used before it has been compared with names and forms that are known. */
export interface Listing {
  commit: string;
  names: Set<string>;
}

/** What a file must turn out to be. */
export interface FileFacts {
  name: string;
  /** SHA-256 of the content, or Git's SHA-1 of a blob where a file is small; the blob's name in the cache. */
  etag: string;
  size: number;
}

const LISTING_BYTES = 2 ** 25;
/** JSON, templates and an index; a tokenizer may have as much. */
const SMALL_BYTES = 2 ** 26;
const WEIGHTS_BYTES = 2 ** 36;

/**
 * The commit that a revision stands for, and the names of its files.
 * @throws VLMambaError ERR_HUB_…; the signal's reason
 */
export function list(
  hub: HubSettings,
  { repo, revision }: ModelName,
  { signal, attempts }: { signal?: AbortSignal; attempts?: number },
): Promise<Listing> {
  const url = at(hub, `api/models/${repo}/revision/${encodeURIComponent(revision)}`);
  const attempt = async (): Promise<Listing> => {
    const response = await ask(hub, url, { headers: { accept: 'application/json' }, signal });
    const listing = readListing(await body(response, url), url);
    if (!isCommit(revision) || listing.commit === revision) return listing;
    throw new VLMambaError('ERR_HUB_HTTP', `${url.host}${url.pathname}: answers with commit ${listing.commit}`);
  };
  return persist(hub, `the files of ${repo}`, signal, attempt, attempts);
}

/**
 * Size and hash of one file at a commit.
 * @throws VLMambaError ERR_HUB_…; the signal's reason
 */
export function describe(
  hub: HubSettings,
  repo: string,
  commit: string,
  name: string,
  signal?: AbortSignal,
): Promise<FileFacts> {
  const url = fileUrl(hub, repo, commit, name);
  return persist(hub, name, signal, async () => {
    // A large file's redirect to its store says what the store's own answer does not.
    const enough = (redirect: IncomingMessage) => header(redirect, 'x-linked-etag') !== undefined;
    const response = await ask(hub, url, { method: 'HEAD', signal, enough });
    response.destroy();
    const linked = header(response, 'x-linked-etag');
    const etag = (linked ?? header(response, 'etag') ?? '').replace(/^(?:W\/)?"(.*)"$/, '$1');
    const length = header(response, linked ? 'x-linked-size' : 'content-length') ?? '';
    const size = /^\d{1,15}$/.test(length) ? Number(length) : Number.NaN;
    return check({ name, etag, size }, url);
  });
}

export const fileUrl = (hub: HubSettings, repo: string, commit: string, name: string): URL =>
  at(hub, `${repo}/resolve/${commit}/${encodeURIComponent(name)}`);

function check(facts: FileFacts, url: URL): FileFacts {
  const { name, etag, size } = facts;
  const where = `${url.host}${url.pathname}`;
  if (!/^([0-9a-f]{40}|[0-9a-f]{64})$/.test(etag))
    throw new VLMambaError('ERR_HUB_HASH', `${where}: its ETag ${show(etag)} is no hash, so it could not be checked`);
  if (Number.isNaN(size)) throw new VLMambaError('ERR_HUB_HTTP', `${where}: the hub does not say how long it is`);
  const most = name.endsWith('.safetensors') ? WEIGHTS_BYTES : SMALL_BYTES;
  if (size > most)
    throw new VLMambaError(
      'ERR_HUB_SIZE',
      `${where}: has ${size} bytes, more than the ${most} expected of such a file`,
      {
        details: { name, size, most },
      },
    );
  return facts;
}

async function body(response: IncomingMessage, url: URL): Promise<Buffer> {
  const pieces: Buffer[] = [];
  let length = 0;
  try {
    for await (const piece of response as AsyncIterable<Buffer>) {
      length += piece.length;
      if (length > LISTING_BYTES)
        throw new VLMambaError(
          'ERR_HUB_SIZE',
          `${url.host}${url.pathname}: answers with more than ${LISTING_BYTES} bytes`,
        );
      pieces.push(piece);
    }
  } catch (error) {
    throw broken(url, error);
  } finally {
    response.destroy();
  }
  return Buffer.concat(pieces, length);
}

function readListing(bytes: Buffer, url: URL): Listing {
  const wrong = (why: string, cause?: unknown) =>
    new VLMambaError('ERR_HUB_HTTP', `${url.host}${url.pathname}: ${why}; is HF_ENDPOINT a hub?`, { cause });
  let data: { sha?: unknown; siblings?: unknown };
  try {
    data = Object(JSON.parse(bytes.toString('utf8')));
  } catch (error) {
    throw wrong('does not answer with JSON', error);
  }
  const { sha, siblings } = data;
  if (typeof sha !== 'string' || !isCommit(sha) || !Array.isArray(siblings))
    throw wrong('does not answer with a commit and its files');
  const names = siblings.map((file) => (file as { rfilename?: unknown } | null)?.rfilename);
  return { commit: sha, names: new Set(names.filter((name) => typeof name === 'string')) };
}
