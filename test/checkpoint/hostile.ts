import { existsSync, mkdirSync, mkdtempSync, readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { VLMambaError } from '../../lib/errors.ts';

/** A folder for the files of one test file, removed when the process ends. */
export function scratch(): { dir: string; put(name: string, content: string | Uint8Array): string } {
  const dir = mkdtempSync(join(tmpdir(), 'vl-mamba-'));
  process.once('exit', () => rmSync(dir, { recursive: true, force: true }));
  return {
    dir,
    put(name, content) {
      const path = join(dir, name);
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(path, content);
      return path;
    },
  };
}

/** The bytes of a safetensors file, of whatever is given: a length that lies, a header that is none. */
export function safetensors(
  header: string | Uint8Array | object,
  data: number | Uint8Array = 0,
  { length }: { length?: bigint } = {},
): Buffer {
  const isText = typeof header === 'string' || header instanceof Uint8Array;
  const head = Buffer.from((isText ? header : JSON.stringify(header)) as string);
  const start = Buffer.alloc(8);
  start.writeBigUInt64LE(length ?? BigInt(head.length));
  return Buffer.concat([start, head, typeof data === 'number' ? Buffer.alloc(data) : data]);
}

/** The error that `action` throws or rejects with; fails where there is none. */
export async function failure(action: () => unknown): Promise<VLMambaError> {
  try {
    await action();
  } catch (error) {
    return error as VLMambaError;
  }
  throw new Error('expected an error, there was none');
}

/** What this process has open under a folder, as far as the system says. The loader of the tests opens and closes others. */
export function openFiles(folder: string): string[] {
  const open = (descriptor: string): string[] => {
    try {
      return [readlinkSync(`/proc/self/fd/${descriptor}`)];
    } catch {
      return [];
    }
  };
  return existsSync('/proc/self/fd')
    ? readdirSync('/proc/self/fd')
        .flatMap(open)
        .filter((path) => path.startsWith(folder))
    : [];
}

/** Numbers from 0 to 1 that are the same in every run (a 32-bit linear congruential generator). */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}
