/**
 * npm run build:cuda [-- --arch 90a,120] [-- --required]
 *
 * Builds the CUDA library with nvcc and puts it beside the addon. Without --arch: for the GPUs of this machine, and for
 * Hopper where there is none; `all` is what a release ships. Where there is no nvcc it says so and goes on: the addon works
 * without the library, on the CPU.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const { values } = parseArgs({ options: { arch: { type: 'string' }, required: { type: 'boolean', default: false } } });
const ALL = '80;86;89;90a;100;120';

const find = (name) =>
  [...(process.env.PATH ?? '').split(delimiter), '/usr/local/cuda/bin']
    .map((folder) => join(folder, name))
    .find(existsSync);

/** The compute capabilities of this machine's GPUs, as nvcc spells them. */
function present() {
  const { status, stdout } = spawnSync('nvidia-smi', ['--query-gpu=compute_cap', '--format=csv,noheader'], {
    encoding: 'utf8',
  });
  if (status !== 0) return undefined;
  const found = [
    ...new Set(
      stdout
        .trim()
        .split('\n')
        .map((line) => line.trim().replace('.', '')),
    ),
  ].sort();
  return found.map((arch) => (arch === '90' ? '90a' : arch)).join(';') || undefined;
}

const [nvcc, cmake] = [find('nvcc'), find('cmake')];
const missing = [!nvcc && 'nvcc', !cmake && 'cmake'].filter(Boolean).join(' and ');
if (missing) {
  console.error(`The CUDA library was not built: no ${missing} on this machine. vl-mamba runs on the CPU without it.`);
  process.exit(values.required ? 1 : 0);
}
const archs = values.arch === 'all' ? ALL : (values.arch?.replaceAll(',', ';') ?? present() ?? '90a');
const folder = join(root, 'build-cuda');
const run = (...args) => execFileSync(cmake, args, { stdio: 'inherit', cwd: root });
try {
  run(
    '-S',
    root,
    '-B',
    folder,
    '-DCMAKE_BUILD_TYPE=Release',
    '-DVL_MAMBA_CUDA=ON',
    `-DCMAKE_CUDA_COMPILER=${nvcc}`,
    `-DVL_MAMBA_CUDA_ARCHS=${archs}`,
  );
  run('--build', folder, '-j', String(availableParallelism()));
} catch (error) {
  console.error(`The CUDA library was not built: ${error.message}`);
  process.exit(values.required ? 1 : 0);
}
const beside = join(root, 'build', 'Release');
mkdirSync(beside, { recursive: true });
copyFileSync(join(folder, 'cuda', 'libvl_mamba_cuda.so'), join(beside, 'libvl_mamba_cuda.so'));
