import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
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

const compile = (...args: string[]) =>
  execFileSync(process.env.CXX ?? 'c++', ['-std=c++20', '-O1', '-shared', '-fPIC', ...args], { stdio: 'inherit' });

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
  compile(join(here, 'mock_driver.cc'), '-o', join(mocks.driver, 'libcuda.so.1'));
  compile(join(here, 'mock_library.cc'), '-I', join(root, 'native'), '-o', mocks.library);
  return mocks;
}

/**
 * Links our CUDA library, as `npm run build:cuda` has compiled it, with a runtime that is a mock. Undefined where it was not
 * built.
 */
export function linkMockRuntime({ scratch }: Mocks): string | undefined {
  const objects = join(root, 'build-cuda', 'cuda', 'CMakeFiles', 'vl_mamba_cuda.dir');
  const nvcc = [...(process.env.PATH ?? '').split(delimiter), '/usr/local/cuda/bin']
    .map((folder) => join(folder, 'nvcc'))
    .find((file) => existsSync(file));
  if (!nvcc || !existsSync(objects)) return undefined;
  const files = readdirSync(objects, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.o'));
  const library = join(scratch, 'libmock_runtime.so');
  const paths = [join(here, 'mock_runtime.cc'), ...files.map((file) => join(objects, file))];
  const options = ['-std=c++20', '-O1', '-shared', '-cudart=none', '-Xcompiler=-fPIC', '-Xlinker=-Bsymbolic'];
  execFileSync(nvcc, [...options, ...paths, '-o', library], { stdio: 'inherit' });
  return library;
}
