/**
 * npm run release:prebuild [-- --arch arm64 | --built]
 *
 * prebuilds/<platform>-<arch>/ for this machine: one Node-API addon through prebuildify and node-gyp, against the headers of the
 * oldest Node that package.json allows, on Linux linked with the old libraries of sysroot.ts, and the CUDA library beside it where
 * VL_MAMBA_CUDA_LIBRARY or build/Release has one. It is built in a copy of the sources, because prebuildify moves and strips
 * what it finds: build/ stays as it is. --arch compiles for another processor, on Linux. --built takes the addon that is in
 * build/Release instead of compiling it.
 */
import { execFileSync } from 'node:child_process';
import { copyFileSync, cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { flags, tool } from './sysroot.ts';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const { values } = parseArgs({
  options: { built: { type: 'boolean', default: false }, arch: { type: 'string', default: process.arch } },
});
const { arch } = values;
const linux = process.platform === 'linux';
const cross = arch !== process.arch;
if (cross && (!linux || values.built))
  throw new Error('--arch needs Linux, and compiles: --built has one of this machine');
const platform = `${process.platform}-${arch}`;
const copy = join(root, 'build-prebuild');
const release = join(copy, 'build', 'Release');
const built = join(root, 'build', 'Release');

const { engines } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { engines: { node: string } };
const oldest = /^>=(\d+\.\d+)$/.exec(engines.node)?.[1];
if (!oldest) throw new Error(`package.json: engines.node is ${engines.node}, expected >=MAJOR.MINOR`);

rmSync(copy, { recursive: true, force: true });
rmSync(join(root, 'prebuilds', platform), { recursive: true, force: true });
mkdirSync(release, { recursive: true });
for (const source of ['package.json', 'binding.gyp', 'native', 'cuda'])
  cpSync(join(root, source), join(copy, source), { recursive: true });

const args = ['--cwd', copy, '--out', root, '--napi', '--strip', '--target', `${oldest}.0`, '--arch', arch];
const env: NodeJS.ProcessEnv = { ...process.env, JOBS: process.env.JOBS ?? 'max' };
if (linux) {
  // musl and glibc are two builds of one platform; nothing else has two C libraries.
  args.push('--tag-libc');
  env.PREBUILD_STRIP_BIN = tool(arch, 'strip');
}
if (values.built) {
  if (process.platform === 'win32') throw new Error('--built needs the command `true` in the place of node-gyp');
  copyFileSync(join(built, 'vl_mamba.node'), join(release, 'vl_mamba.node'));
  args.push('--node-gyp', 'true');
} else if (linux) {
  const { compile, link } = flags(root, arch);
  const versions = join(root, 'release', 'symbol_versions.h');
  Object.assign(env, {
    CC: tool(arch, 'gcc'),
    CXX: tool(arch, 'g++'),
    CXXFLAGS: [...compile, `-include${versions}`].join(' '),
    LDFLAGS: link.join(' '),
  });
}
execFileSync(process.execPath, [join(root, 'node_modules', 'prebuildify', 'bin.js'), ...args], {
  stdio: 'inherit',
  env,
});

// After the build, which begins with an empty build/Release.
const out = join(root, 'prebuilds', platform);
const library = process.env.VL_MAMBA_CUDA_LIBRARY ?? join(built, 'libvl_mamba_cuda.so');
if (linux && !cross && existsSync(library)) {
  const shipped = join(out, 'libvl_mamba_cuda.so');
  copyFileSync(library, shipped);
  execFileSync('strip', ['--strip-all', shipped]);
} else if (process.env.VL_MAMBA_CUDA_LIBRARY && !cross) {
  throw new Error(`VL_MAMBA_CUDA_LIBRARY is ${library}, and there is no such file`);
}
rmSync(copy, { recursive: true });
console.log(`${join('prebuilds', platform)}: ${readdirSync(out).join(', ')}`);
