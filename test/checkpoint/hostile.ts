import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
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

/** Open files of this process, or undefined where the system does not say. */
export function openFiles(): number | undefined {
  try {
    return readdirSync('/proc/self/fd').length;
  } catch {
    return undefined;
  }
}

/** Numbers from 0 to 1 that are the same in every run (a 32-bit linear congruential generator). */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}
