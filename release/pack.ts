/**
 * npm run release:pack [-- --built | --as-is] [--require linux-x64,…] [--cuda 80,…] [--glibc 2.28] [--glibcxx 3.4.25]
 *
 * The tarball that is published, vl-mamba-<version>.tgz, and the gates it has to pass (gates.ts). It builds prebuilds/ and dist/
 * first: for this machine, and on Linux for the other processor where its cross compiler is there. --built takes the addon of
 * build/Release and builds no other; --as-is takes prebuilds/ and dist/ as they lie there, which is how a release puts the
 * platforms of several machines together. --require names platforms that must be in it, --cuda the compute capabilities of its
 * CUDA library. --glibc and --glibcxx bound the symbol versions of its Linux addons: 2.28 is what Node's own binaries ask for,
 * 3.4.25 is the libstdc++ of the systems with that C library. --cuda-glibc and --cuda-glibcxx bound those of the CUDA library:
 * its defaults are what Debian 12's compiler makes of it.
 */
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { gates, type Limits, listFiles, type Package } from './gates.ts';
import { hasCompiler, tool } from './sysroot.ts';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const { values } = parseArgs({
  options: {
    built: { type: 'boolean', default: false },
    'as-is': { type: 'boolean', default: false },
    require: { type: 'string', default: '' },
    cuda: { type: 'string', default: '' },
    glibc: { type: 'string', default: '2.28' },
    glibcxx: { type: 'string', default: '3.4.25' },
    'cuda-glibc': { type: 'string', default: '2.34' },
    'cuda-glibcxx': { type: 'string', default: '3.4.30' },
  },
});
const limits: Limits = {
  addon: { glibc: values.glibc, glibcxx: values.glibcxx },
  cudaLibrary: { glibc: values['cuda-glibc'], glibcxx: values['cuda-glibcxx'] },
  platforms: values.require.split(',').filter(Boolean),
  cuda: values.cuda.split(',').filter(Boolean).map(Number.parseFloat),
};

const npm = (cwd: string, ...args: string[]): string =>
  execFileSync('npm', args, {
    cwd,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    shell: process.platform === 'win32',
  });
/** Packs a folder, or lists what would be packed, by the whitelist in its package.json. */
const pack = (cwd: string, ...args: string[]) =>
  (
    JSON.parse(npm(cwd, 'pack', '--ignore-scripts', '--json', '--loglevel=error', ...args)) as {
      filename: string;
      files: { path: string }[];
    }[]
  )[0]!;

if (!values['as-is']) {
  npm(root, 'run', 'release:prebuild', ...(values.built ? ['--', '--built'] : []));
  if (process.platform === 'linux' && !values.built) {
    const other = process.arch === 'x64' ? 'arm64' : 'x64';
    if (hasCompiler(other)) npm(root, 'run', 'release:prebuild', '--', '--arch', other);
    else console.log(`no linux-${other}: there is no ${tool(other, 'g++')} on PATH`);
  }
  npm(root, 'run', 'build:js');
}

// The package.json of a clone builds on `npm install`, and lists tools: a user's does neither.
const stage = join(root, 'build-package');
rmSync(stage, { recursive: true, force: true });
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Record<string, unknown>;
for (const field of ['scripts', 'devDependencies', 'binary']) delete manifest[field];
for (const { path } of pack(root, '--dry-run').files) {
  mkdirSync(dirname(join(stage, path)), { recursive: true });
  cpSync(join(root, path), join(stage, path));
}
writeFileSync(join(stage, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`);
const { filename } = pack(stage);
const tarball = join(root, filename);
renameSync(join(stage, filename), tarball);

rmSync(stage, { recursive: true });
mkdirSync(stage);
execFileSync('tar', ['-xzf', tarball, '-C', stage]);
const folder = join(stage, 'package');
const packed: Package = { tarball, folder, files: listFiles(folder), root };
let failed = 0;
for (const [name, gate] of gates) {
  try {
    console.log(`ok    ${name.padEnd(18)} ${gate(packed, limits)}`);
  } catch (error) {
    failed++;
    console.log(`FAIL  ${name.padEnd(18)} ${(error as Error).message}`);
  }
}
rmSync(stage, { recursive: true });
console.log(failed === 0 ? filename : `${filename}: ${failed} of ${gates.length} gates failed`);
process.exitCode = failed === 0 ? 0 : 1;
