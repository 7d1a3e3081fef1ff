import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
export const root = join(here, '..', '..');

export interface Mocks {
  scratch: string;
  /** Folders with a driver of ours, and with one that is none: in front of a driver that this machine may have. */
  driver: string;
  nothing: string;
  library: string;
}

/** Compiles the mock driver and the mock library. */
export function buildMocks(): Mocks {
  const scratch = mkdtempSync(join(tmpdir(), 'vl-mamba-mock-'));
  const mocks = {
    scratch,
    driver: join(scratch, 'driver'),
    nothing: join(scratch, 'nothing'),
    library: join(scratch, 'libmock.so'),
  };
  mkdirSync(mocks.driver);
  mkdirSync(mocks.nothing);
  writeFileSync(join(mocks.nothing, 'libcuda.so.1'), '');
  const compile = (...args: string[]) =>
    execFileSync(process.env.CXX ?? 'c++', ['-std=c++20', '-O1', '-shared', '-fPIC', ...args], { stdio: 'inherit' });
  compile(join(here, 'mock_driver.cc'), '-o', join(mocks.driver, 'libcuda.so.1'));
  compile(join(here, 'mock_library.cc'), '-I', join(root, 'native'), '-o', mocks.library);
  return mocks;
}
