import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Row } from './kit.ts';

/**
 * The machine's limits as rows of a table, measured now: multiply-adds in registers (f32; bf16 and int8 where the processor
 * has them) and reading from memory. Needs the compiler that built the addon ($CXX or c++).
 */
export function peak(threads: number): Row[] {
  const folder = mkdtempSync(join(tmpdir(), 'vl-mamba-peak-'));
  try {
    const source = join(dirname(fileURLToPath(import.meta.url)), 'peak.cc');
    const binary = join(folder, 'peak');
    const flags = ['-std=c++20', '-O3', '-march=native', '-ffp-contract=fast', '-pthread'];
    execFileSync(process.env.CXX ?? 'c++', [...flags, source, '-o', binary]);
    const { f32, bf16, int8, read } = JSON.parse(
      execFileSync(binary, [String(threads)], { encoding: 'utf8' }),
    ) as Record<'f32' | 'bf16' | 'int8' | 'read', number>;
    return [
      { name: 'limit: f32 multiply-adds', gflops: f32 },
      { name: 'limit: bf16 multiply-adds', gflops: bf16 },
      { name: 'limit: int8 multiply-adds', gflops: int8 },
      { name: 'limit: memory read', gbps: read },
    ]
      .filter((row) => row.gflops !== 0)
      .map((row) => ({ ms: 0, ...row }));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
