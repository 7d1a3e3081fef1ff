import { createHash, randomBytes } from 'node:crypto';
import { readlinkSync } from 'node:fs';
import { open, readdir, rename, rm, stat, utimes } from 'node:fs/promises';
import { hostname } from 'node:os';
import { basename, join } from 'node:path';

/**
 * The part of a blob that has arrived: `<etag>.<host>-<process>-<random>.incomplete`, named after who is writing it, or
 * `<etag>.free-<random>.incomplete`. Taking one over is a rename, which only one can do. Its writer touches it as long as it lives.
 */
interface Partial {
  name: string;
  size: number;
  held: boolean;
}

/** Older than this, a part has no writer, whatever its name says. */
const LEASE_MS = 120_000;
const TOUCH_MS = 30_000;

/** Where a process's number means it: containers may share a host's name and have numbers of their own. */
const HOST = createHash('sha256').update(`${hostname()} ${pidNamespace()}`).digest('hex').slice(0, 8);
const random = () => randomBytes(4).toString('hex');

/** A part of a blob that this process alone writes, until it is released. */
export class Claim {
  readonly path: string;
  readonly #etag: string;
  readonly #blobs: string;
  readonly #timer: NodeJS.Timeout;

  constructor(blobs: string, etag: string, path: string) {
    this.path = path;
    this.#blobs = blobs;
    this.#etag = etag;
    this.#timer = setInterval(() => void touch(path).catch(() => {}), TOUCH_MS);
    this.#timer.unref();
  }

  /** It is whole and right, and becomes the blob. Not where this process slept for so long that another took it over. */
  async finish(): Promise<boolean> {
    clearInterval(this.#timer);
    try {
      await rename(this.path, join(this.#blobs, this.#etag));
      await this.#clear();
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
      throw error;
    }
  }

  /** Leaves what has arrived to whoever comes next. */
  async release(): Promise<void> {
    clearInterval(this.#timer);
    const size = (await stat(this.path).catch(() => undefined))?.size ?? 0;
    const free = join(this.#blobs, `${this.#etag}.free-${random()}.incomplete`);
    // What cannot be put away is found by its age.
    await (size === 0 ? rm(this.path, { force: true }) : rename(this.path, free)).catch(() => {});
  }

  /** It is wrong, and whatever else was left of the blob may be. */
  async discard(): Promise<void> {
    clearInterval(this.#timer);
    await rm(this.path, { force: true });
    await this.#clear();
  }

  async #clear(): Promise<void> {
    for (const { name, held } of await partials(this.#blobs, this.#etag))
      if (!held) await rm(join(this.#blobs, name), { force: true });
  }
}

/** Takes over the longest part of a blob that nobody is writing, or begins one. Where somebody is, says how far they are. */
export async function claim(blobs: string, etag: string): Promise<Claim | { othersBytes: number }> {
  const name = `${etag}.${HOST}-${process.pid}-${random()}.incomplete`;
  const path = join(blobs, name);
  const found = await partials(blobs, etag);
  const others = found.filter(({ held }) => held);
  if (others.length > 0) return { othersBytes: Math.max(...others.map(({ size }) => size)) };
  for (const free of found.sort((a, b) => b.size - a.size)) {
    try {
      // Before the rename, so that it never looks forsaken under its new name.
      await touch(join(blobs, free.name));
      await rename(join(blobs, free.name), path);
      return new Claim(blobs, etag, path);
    } catch {
      // Somebody else was faster.
    }
  }
  await (await open(path, 'wx')).close();
  // Of several that begin at the same moment one goes on. Should two, each writes a file of its own.
  const rivals = (await partials(blobs, etag)).filter((other) => other.held && other.name !== name);
  if (!rivals.some((other) => other.size > 0 || other.name < name)) return new Claim(blobs, etag, path);
  await rm(path, { force: true });
  return { othersBytes: Math.max(...rivals.map(({ size }) => size)) };
}

/** Bytes of a blob that need not be fetched again. */
export async function bytesThere(blobs: string, etag: string): Promise<number> {
  return Math.max(0, ...(await partials(blobs, etag)).map(({ size }) => size));
}

const touch = (path: string): Promise<void> => utimes(path, new Date(), new Date());

async function partials(blobs: string, etag: string): Promise<Partial[]> {
  const names = (await readdir(blobs).catch(() => [])).filter(
    (name) => name.startsWith(`${etag}.`) && /\.(free|[0-9a-f]{8}-\d+)-[0-9a-f]{8}\.incomplete$/.test(name),
  );
  const list = await Promise.all(
    names.map(async (name): Promise<Partial | undefined> => {
      const found = await stat(join(blobs, name)).catch(() => undefined);
      return found && { name: basename(name), size: found.size, held: isHeld(name, found.mtimeMs) };
    }),
  );
  return list.filter((partial) => partial !== undefined);
}

function isHeld(name: string, mtimeMs: number): boolean {
  const [, host, pid] = /\.([0-9a-f]{8})-(\d+)-\w+\.incomplete$/.exec(name) ?? [];
  if (host === undefined || Date.now() - mtimeMs > LEASE_MS) return false;
  return host !== HOST || isAlive(Number(pid));
}

function pidNamespace(): string {
  try {
    return readlinkSync('/proc/self/ns/pid');
  } catch {
    return '';
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
