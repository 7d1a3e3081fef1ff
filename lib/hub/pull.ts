import { mkdir, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { INDEX, readShardNames } from '../checkpoint/checkpoint.ts';
import { checkSignal, show, typeError, VLMambaError } from '../errors.ts';
import { reporting } from '../progress.ts';
import { describe, type FileFacts, fileUrl, type Listing, list } from './api.ts';
import { fetchBlob } from './blob.ts';
import { CachedModel } from './cache.ts';
import { completeness, wanted } from './files.ts';
import { type ModelName, parseModelName } from './name.ts';
import { bytesThere } from './partial.ts';
import { type HubSettings, hubSettings } from './settings.ts';

/** How far a download is. */
export interface DownloadProgress {
  /** Tells it from the reading of weights, which follows. */
  phase: 'download';
  /** Bytes that are in the cache, of all files of the model. */
  loaded: number;
  /** Bytes of all of them. */
  total: number;
}

/** How a model of the hub is fetched. */
export interface PullOptions {
  /** A branch, a tag or a commit; `main` by default. */
  revision?: string;
  /** Ends the download, which rejects with its reason; what has come is kept. */
  signal?: AbortSignal;
  /** Told up to twenty times a second. */
  onProgress?: (progress: DownloadProgress) => void;
}

/** A model that is on this machine. */
export interface Pulled {
  /** The folder to load. */
  path: string;
  /** `org/name` */
  repo: string;
  /** What was asked for. */
  revision: string;
  /** What it stood for: 40 hexadecimal digits. */
  commit: string;
  /** Bytes that were fetched for it now. */
  fetched: number;
  /** What did not stop it, e.g. that the hub could not be asked. */
  warnings: string[];
}

/** Fewer than for a file: somebody may be waiting to hear that there is no network, or that a path was misspelt. */
const LIST_ATTEMPTS = 3;
const AT_ONCE = 4;

/** `pull` of the public API. `orCached` makes do with what is on this machine where the hub can't be asked. */
export async function pull(
  name: string,
  {
    revision,
    signal,
    onProgress,
    orCached = false,
    settings,
  }: PullOptions & { orCached?: boolean; settings?: HubSettings },
): Promise<Pulled> {
  if (typeof name !== 'string') throw typeError('ERR_ARG_TYPE', `a model of the hub is org/name, got ${show(name)}`);
  const model = parseModelName(name, revision);
  checkSignal('pull', signal);
  signal?.throwIfAborted();
  const hub = settings ?? (await hubSettings());
  const cached = new CachedModel(hub, model.repo);
  const commit = await cached.commitOf(model);
  const there = commit === undefined ? 'none' : await completeness(cached.snapshot(commit));
  const known = there === 'none' ? undefined : result(cached, model, commit!);
  // A commit never changes.
  if (known && there === 'all' && commit === model.revision) return known;
  if (hub.offline) {
    if (known) return known;
    throw new VLMambaError(
      'ERR_HUB_OFFLINE',
      `${name} is not whole in ${hub.cache}, and HF_HUB_OFFLINE is set; run vl-mamba pull ${name} without it`,
    );
  }
  const fallback = orCached ? known : undefined;
  let listing: Listing;
  try {
    listing = await list(hub, model, { signal, attempts: fallback ? 1 : LIST_ATTEMPTS });
  } catch (error) {
    if (!fallback || (error as VLMambaError).code !== 'ERR_HUB_HTTP') throw error;
    return { ...fallback, warnings: [`the copy of ${name} on this machine is used: ${(error as Error).message}`] };
  }
  try {
    return await bring(hub, cached, model, listing, { signal, onProgress });
  } catch (error) {
    const { code, syscall, path = cached.root } = error as NodeJS.ErrnoException;
    if (syscall === undefined || error instanceof VLMambaError) throw error;
    throw new VLMambaError('ERR_HUB_CACHE', `${path}: ${code} (${syscall}); HF_HUB_CACHE names another folder`, {
      cause: error,
    });
  }
}

const result = (cached: CachedModel, { repo, revision }: ModelName, commit: string, fetched = 0): Pulled => ({
  path: cached.snapshot(commit),
  repo,
  revision,
  commit,
  fetched,
  warnings: [],
});

async function bring(
  hub: HubSettings,
  cached: CachedModel,
  model: ModelName,
  { commit, names }: Listing,
  { signal, onProgress }: PullOptions,
): Promise<Pulled> {
  const { repo } = model;
  const { files, sharded } = wanted(names, `${repo} at ${commit.slice(0, 12)}`);
  const run = new Download(hub, cached, repo, commit);
  if (sharded) {
    // Small, and says what else there is.
    await run.fetch([INDEX], signal);
    const shards = await readShardNames(join(cached.snapshot(commit), INDEX), signal);
    const absent = shards.filter((shard) => !names.has(shard));
    if (absent.length > 0)
      throw new VLMambaError('ERR_HUB_FILES', `${repo}: ${INDEX} names ${show(absent[0])}, which is not there`);
    files.push(...shards);
  }
  await reporting(onProgress && (() => onProgress(run.progress)), signal, (any) => run.fetch(files, any));
  const pulled = result(cached, model, commit, run.fetched);
  // Last, so that a revision always stands for a commit that is whole. A cache that can't be written to is as good to read.
  await cached.remember(model, commit).catch((error) => pulled.warnings.push(String(error)));
  return pulled;
}

/** Files of one commit on their way into the cache. */
class Download {
  readonly #bytes = new Map<string, { there: number; size: number }>();
  readonly #stop = new AbortController();
  fetched = 0;

  constructor(
    readonly hub: HubSettings,
    readonly cached: CachedModel,
    readonly repo: string,
    readonly commit: string,
  ) {}

  get progress(): DownloadProgress {
    const sum = (of: 'there' | 'size') => [...this.#bytes.values()].reduce((sum, entry) => sum + entry[of], 0);
    return { phase: 'download', loaded: sum('there'), total: sum('size') };
  }

  async fetch(names: readonly string[], given: AbortSignal | undefined): Promise<void> {
    const { hub, cached, repo, commit } = this;
    const signal = given ? AbortSignal.any([given, this.#stop.signal]) : this.#stop.signal;
    const facts: FileFacts[] = [];
    await this.#each(names, async (name) => {
      if (!(await cached.has(commit, name))) facts.push(await describe(hub, repo, commit, name, signal));
    });
    if (facts.length === 0) return;
    await mkdir(cached.blobs, { recursive: true });
    for (const { name, size } of facts) this.#bytes.set(name, { there: 0, size });
    await this.#checkSpace(facts);
    await this.#each(facts, async (file) => {
      const entry = this.#bytes.get(file.name)!;
      const onBytes = (there: number, fetched: number) => {
        entry.there = there;
        this.fetched += fetched;
      };
      await fetchBlob(hub, cached, fileUrl(hub, repo, commit, file.name), file, { signal, onBytes });
      await cached.place(commit, file.name, file.etag);
    });
  }

  /** A few at a time; the first failure stops the others, and is thrown when they have put away what they had. */
  async #each<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
    const queue = [...items];
    const failures: unknown[] = [];
    const worker = async () => {
      for (let item = queue.shift(); item !== undefined && failures.length === 0; item = queue.shift()) {
        try {
          await work(item);
        } catch (error) {
          failures.push(error);
          this.#stop.abort(error);
        }
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
    if (failures.length > 0) throw failures[0];
  }

  async #checkSpace(facts: readonly FileFacts[]): Promise<void> {
    const { blobs } = this.cached;
    let needed = 0;
    for (const { etag, size } of facts)
      if (!(await this.cached.hasBlob(etag, size))) needed += size - Math.min(size, await bytesThere(blobs, etag));
    const { blocks, bavail, bsize } = await statfs(blobs);
    // Some file systems do not tell.
    if (blocks > 0 && needed > bavail * bsize)
      throw new VLMambaError('ERR_HUB_SPACE', `${blobs}: ${needed} bytes are needed, ${bavail * bsize} are free`, {
        details: { needed, free: bavail * bsize },
      });
  }
}
