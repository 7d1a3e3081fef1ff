/** A hub on this machine: an endpoint, and a store of large files on another origin; both can be told to misbehave. */
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { HubSettings } from '../../lib/hub/settings.ts';

export const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
export const gitSha1 = (bytes: Uint8Array): string =>
  createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex');

export interface Asked {
  at: 'hub' | 'store';
  method: string;
  path: string;
  range: string | undefined;
  authorization: string | undefined;
}

/** Takes a request in the server's place where it returns true. */
type Trick = (asked: Asked, response: ServerResponse, content: Buffer | undefined) => boolean | undefined;

export class FakeHub {
  /** By `org/name`. */
  readonly repos = new Map<string, { commit: string; files: Map<string, Buffer> }>();
  readonly asked: Asked[] = [];
  /** Bytes of large files that were sent. */
  sent = 0;
  trick: Trick = () => false;
  ranges = true;
  readonly #hub: Server;
  readonly #store: Server;
  readonly cache = mkdtempSync(join(tmpdir(), 'vl-mamba-hub-'));

  constructor() {
    this.#hub = createServer((request, response) => this.#answer('hub', request, response));
    this.#store = createServer((request, response) => this.#answer('store', request, response));
  }

  async listen(): Promise<this> {
    for (const server of [this.#hub, this.#store])
      await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
    return this;
  }

  close(): void {
    for (const server of [this.#hub, this.#store]) {
      server.closeAllConnections();
      server.close();
    }
    rmSync(this.cache, { recursive: true, force: true });
  }

  get endpoint(): string {
    return `http://127.0.0.1:${(this.#hub.address() as AddressInfo).port}`;
  }

  get store(): string {
    return `http://127.0.0.1:${(this.#store.address() as AddressInfo).port}`;
  }

  /** Settings with a cache of their own, and short waits. */
  settings(options: Partial<HubSettings> = {}): HubSettings {
    const cache = mkdtempSync(join(this.cache, 'cache-'));
    const endpoint = new URL(this.endpoint);
    return {
      endpoint,
      token: undefined,
      cache,
      offline: false,
      symlinks: true,
      timeoutMs: 2000,
      backoffMs: 2,
      ...options,
    };
  }

  /** The environment of a process that shall use this hub. */
  env(cache = mkdtempSync(join(this.cache, 'cache-'))): Record<string, string | undefined> {
    const { HF_TOKEN: _, HF_HUB_OFFLINE: __, ...rest } = process.env;
    return {
      ...rest,
      HF_ENDPOINT: this.endpoint,
      HF_HUB_CACHE: cache,
      HF_TOKEN_PATH: join(cache, 'token'),
      NO_COLOR: '1',
    };
  }

  add(repo: string, files: Record<string, string | Buffer>): string {
    const content = new Map(Object.entries(files).map(([name, bytes]) => [name, Buffer.from(bytes as string)]));
    const commit = createHash('sha1')
      .update([...content].flat().map(String).join('\0'))
      .digest('hex');
    this.repos.set(repo, { commit, files: content });
    return commit;
  }

  /** Requests of a kind, as "GET path". */
  count(pattern: RegExp): number {
    return this.asked.filter(({ method, path }) => pattern.test(`${method} ${path}`)).length;
  }

  forget(): void {
    this.asked.length = 0;
    this.sent = 0;
    this.trick = () => false;
    this.ranges = true;
  }

  #answer(at: Asked['at'], request: IncomingMessage, response: ServerResponse): void {
    const { method = '', url = '', headers } = request;
    const path = decodeURIComponent(url.split('?')[0]!);
    const asked = { at, method, path, range: headers.range, authorization: headers.authorization };
    this.asked.push(asked);
    response.on('error', () => {});
    const [, repo, , name] = /^\/([^/]+\/[^/]+)\/(resolve|lfs)\/[^/]+\/(.+)$/.exec(path) ?? [];
    const content = name === undefined ? undefined : this.repos.get(repo!)?.files.get(name);
    if (this.trick(asked, response, content)) return;
    if (path.startsWith('/api/')) {
      this.#list(path, response);
      return;
    }
    if (content === undefined) {
      response.writeHead(404, { 'x-error-code': 'EntryNotFound' }).end();
      return;
    }
    if (at === 'store') {
      this.send(asked, response, content);
      return;
    }
    const commit = { 'x-repo-commit': this.repos.get(repo!)!.commit };
    // As the hub does it: large files elsewhere, small ones under a relative address.
    if (name!.endsWith('.safetensors')) {
      const linked = { 'x-linked-etag': `"${sha256(content)}"`, 'x-linked-size': content.length };
      const location = `${this.store}${path.replace('/resolve/', '/lfs/')}?Signature=secret`;
      response.writeHead(302, { ...commit, ...linked, location }).end();
    } else if (!url.includes('cached')) response.writeHead(307, { ...commit, location: `${url}?cached` }).end();
    else
      response
        .writeHead(200, { ...commit, etag: `"${gitSha1(content)}"`, 'content-length': content.length })
        .end(method === 'HEAD' ? '' : content);
  }

  #list(path: string, response: ServerResponse): void {
    const [, repo, revision] = /^\/api\/models\/([^/]+\/[^/]+)\/revision\/(.+)$/.exec(path) ?? [];
    const found = this.repos.get(repo ?? '');
    if (!found) {
      response.writeHead(401, { 'x-error-message': 'Invalid username or password.' }).end();
    } else if (revision !== 'main' && revision !== 'refs/pr/1' && revision !== found.commit) {
      response.writeHead(404, { 'x-error-code': 'RevisionNotFound', 'x-error-message': 'Invalid rev id' }).end();
    } else {
      const siblings = [...found.files.keys()].map((rfilename) => ({ rfilename }));
      response.end(JSON.stringify({ id: repo, sha: found.commit, siblings, cardData: { language: ['en'] } }));
    }
  }

  /** A large file, or the end of it; `until` cuts the connection before that byte. */
  send({ range }: Asked, response: ServerResponse, content: Buffer, until = content.length): void {
    const from = this.ranges && range ? Number(/^bytes=(\d+)-$/.exec(range)![1]) : 0;
    const length = { 'content-length': content.length - from };
    if (this.ranges && range)
      response.writeHead(206, { ...length, 'content-range': `bytes ${from}-${content.length - 1}/${content.length}` });
    else response.writeHead(200, length);
    const piece = content.subarray(from, until);
    this.sent += piece.length;
    if (until === content.length) response.end(piece);
    else response.write(piece, () => setTimeout(() => response.destroy(), 5));
  }
}
