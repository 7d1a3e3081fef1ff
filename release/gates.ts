/**
 * What has to hold of a tarball before it is published. Each gate returns what it found, in words, or throws an error that
 * says which file breaks it and what to do.
 */
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { basename, join, relative, sep } from 'node:path';
import { builtFor, cudaArchitectures, dynamic, newer, symbolVersions, unresolved } from './elf.ts';

export interface Package {
  tarball: string;
  /** The tarball, unpacked. */
  folder: string;
  /** Paths below it, with forward slashes. */
  files: string[];
  /** The clone that it was made from. */
  root: string;
}

/** Versions of the symbols of the C and C++ libraries, e.g. 2.28 and 3.4.25. */
export interface SymbolLimits {
  glibc: string;
  glibcxx: string;
}

export interface Limits {
  addon: SymbolLimits;
  cudaLibrary: SymbolLimits;
  /** Platforms that have to be there, e.g. linux-x64. */
  platforms: string[];
  /** Compute capabilities that the CUDA library has to have machine code for, e.g. 90. */
  cuda: number[];
}

export type Gate = (pack: Package, limits: Limits) => string;

const MAX_PACKED = 60e6;
const mb = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;
const manifest = ({ folder }: Package): Record<string, unknown> =>
  JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as Record<string, unknown>;
const prebuilds = ({ files }: Package): string[] => files.filter((file) => file.startsWith('prebuilds/'));
const linuxBinaries = (pack: Package): string[] =>
  prebuilds(pack).filter((file) => file.startsWith('prebuilds/linux-'));

/** Everything of `found` that breaks a rule, as one error; one line each. */
function none(found: string[], rule: string): void {
  if (found.length > 0) throw new Error(`${rule}:\n  ${found.join('\n  ')}`);
}

function size({ tarball, folder, files }: Package): string {
  const packed = statSync(tarball).size;
  const unpacked = files.reduce((sum, file) => sum + statSync(join(folder, file)).size, 0);
  if (packed > MAX_PACKED) throw new Error(`${mb(packed)} packed, at most ${mb(MAX_PACKED)} are allowed`);
  return `${mb(packed)} packed, ${mb(unpacked)} unpacked, ${files.length} files`;
}

const ALLOWED = [
  /^(package\.json|README\.md|LICENSE)$/,
  /^dist\/[\w.-]+\.([cm]js|d\.[cm]ts)$/,
  /^models\/demo\/([\w.-]+|pictures\/[\w.-]+)$/,
  /^prebuilds\/(linux|darwin|win32)-(x64|arm64)\/vl-mamba(\.glibc|\.musl)?\.node$/,
  /^prebuilds\/linux-(x64|arm64)\/libvl_mamba_cuda\.so$/,
];

function contents({ files }: Package, { platforms }: Limits): string {
  none(
    files.filter((file) => !ALLOWED.some((allowed) => allowed.test(file))),
    'these are on no list of what is published (a binding.gyp makes npm run node-gyp on install)',
  );
  const addons = files.filter((file) => file.endsWith('.node'));
  const there = [...new Set(addons.map((file) => file.split('/')[1]!))].sort();
  if (there.length === 0) throw new Error('no addon for any platform: run `npm run release:prebuild`');
  none(
    platforms.filter((platform) => !there.includes(platform)),
    'no addon for these platforms',
  );
  none(
    there.filter((platform) => {
      const tags = addons.filter((file) => file.split('/')[1] === platform).map((file) => basename(file).split('.')[1]);
      return tags.length > 2 || (tags.length === 2 && tags.includes('node'));
    }),
    'more than one addon for a C library (node-gyp-build would take the first)',
  );
  const cuda = files.filter((file) => file.includes('cuda.so')).map((file) => file.split('/')[1]);
  return `${there.join(', ')}; CUDA library for ${cuda.length > 0 ? cuda.join(', ') : 'none'}`;
}

function noScripts(pack: Package): string {
  const { scripts, gypfile } = manifest(pack);
  if (scripts !== undefined) throw new Error(`package.json has scripts: ${Object.keys(scripts as object).join(', ')}`);
  if (gypfile !== false) throw new Error(`package.json has gypfile ${gypfile}, expected false`);
  return 'package.json has no scripts, gypfile is false';
}

function dependencies(pack: Package): string {
  const { dependencies: needed = {}, bundleDependencies, devDependencies } = manifest(pack);
  if (bundleDependencies || devDependencies) throw new Error('package.json has bundled or development dependencies');
  const local = Object.entries(needed as Record<string, string>).filter(([, range]) => !/^[~^]?\d/.test(range));
  none(
    local.map(([name, range]) => `${name}: ${range}`),
    'dependencies that are no versions of the registry',
  );
  return Object.keys(needed as object).join(', ');
}

/** A tool of the registry at a fixed version: the installed one where it is, else fetched. It prints what it objects to. */
function tool(name: string, args: string[]): string {
  try {
    execFileSync('npx', ['--yes', name, ...args], {
      encoding: 'utf8',
      env: { ...process.env, NO_COLOR: '1', FORCE_COLOR: '0' },
      shell: process.platform === 'win32',
    });
  } catch (error) {
    const { stdout, stderr, message } = error as { stdout?: string; stderr?: string; message: string };
    throw new Error(`${name}: ${[stdout, stderr].join('\n').trim() || message}`);
  }
  return name;
}

const publint: Gate = ({ tarball }) => tool('publint@0.3.25', ['run', tarball, '--strict']);
const types: Gate = ({ tarball }) => tool('@arethetypeswrong/cli@0.18.5', [tarball, '--format', 'ascii', '--no-emoji']);

// librt and libdl, libpthread are parts of glibc, of their own before 2.34.
const LIBRARIES = /^(libc|libm|libstdc\+\+|libgcc_s|libpthread|libdl|librt)\.so\.\d+$|^ld-linux-[\w-]+\.so\.\d+$/;

function libraries(pack: Package): string {
  const seen = new Set<string>();
  for (const file of linuxBinaries(pack)) {
    const { needed, runPath } = dynamic(join(pack.folder, file));
    none(
      needed.filter((name) => !LIBRARIES.test(name)),
      `${file} needs libraries that a bare system does not have`,
    );
    none(runPath, `${file} looks for libraries in folders of its own`);
    for (const name of needed) seen.add(name);
  }
  return [...seen].sort().join(', ') || 'no Linux binary';
}

function processors(pack: Package): string {
  const binaries = prebuilds(pack);
  none(
    binaries.flatMap((file) => {
      const [wanted, found] = [file.split('/')[1]!, builtFor(join(pack.folder, file))];
      return found === wanted ? [] : [`${file} is for ${found ?? 'none that is known'}`];
    }),
    'binaries that are not for the platform of their folder',
  );
  return `${binaries.length} binaries are what their folders say`;
}

function symbols(pack: Package, limits: Limits): string {
  const found = linuxBinaries(pack).map((file) => {
    const path = join(pack.folder, file);
    const limit = file.endsWith('.node') ? limits.addon : limits.cudaLibrary;
    const { GLIBC = '0', GLIBCXX = '0' } = symbolVersions(path);
    for (const [family, version, highest] of [
      ['GLIBC', GLIBC, limit.glibc],
      ['GLIBCXX', GLIBCXX, limit.glibcxx],
    ] as const)
      if (newer(version, highest))
        throw new Error(
          `${file} needs ${family}_${version}, at most ${highest} is allowed: build where the C library is older, as ` +
            '`npm run release:prebuild` does (release/sysroot.ts), or name an older version in release/symbol_versions.h',
        );
    none(unresolved(path), `${file} needs symbols that no library has`);
    return `${relative('prebuilds', file).replaceAll(sep, '/')}: GLIBC_${GLIBC}, GLIBCXX_${GLIBCXX}`;
  });
  return found.join('; ') || 'no Linux binary';
}

function cuda(pack: Package, limits: Limits): string {
  const libraries = prebuilds(pack).filter((file) => file.endsWith('cuda.so'));
  if (libraries.length === 0 && limits.cuda.length > 0) throw new Error('there is no CUDA library');
  const found = libraries.map((file) => {
    const { machine, ptx } = cudaArchitectures(join(pack.folder, file));
    const missing = limits.cuda.filter((arch) => !machine.includes(arch));
    if (missing.length > 0)
      throw new Error(
        `${file} has no machine code for ${missing.join(', ')}, only for ${machine.join(', ')}: ` +
          'build it with `npm run build:cuda -- --arch all`',
      );
    return `machine code for ${machine.join(', ')}; PTX for ${ptx.join(', ') || 'none'}`;
  });
  return found.join('; ') || 'no CUDA library';
}

function paths(pack: Package): string {
  const literal = (text: string) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
  const homes = [
    '(?:/home|/Users|/root|/tmp|/work|/build|/__w|/github)/[\\w.-]{2}',
    '[A-Z]:\\\\(?:Users|a|actions)\\\\',
  ];
  const mine = [pack.root, homedir()].filter((path) => path.length > 1).map(literal);
  const machine = new RegExp(`(?:${[...homes, ...mine].join('|')})[\\x20-\\x7e]*`, 'g');
  for (const file of pack.files.filter((name) => /^(prebuilds|dist)\//.test(name)))
    none(
      [...new Set(readFileSync(join(pack.folder, file), 'latin1').match(machine) ?? [])].slice(0, 5),
      `${file} holds paths of the machine it was built on`,
    );
  return `looked for ${[...mine, ...homes].length} kinds in prebuilds/ and dist/`;
}

export const gates: [name: string, gate: Gate][] = [
  ['size', size],
  ['contents', contents],
  ['no install script', noScripts],
  ['dependencies', dependencies],
  ['processors', processors],
  ['libraries', libraries],
  ['symbol versions', symbols],
  ['GPUs', cuda],
  ['no build paths', paths],
  ['publint', publint],
  ['types', types],
];

export const listFiles = (folder: string): string[] =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)).replaceAll(sep, '/'))
    .sort();
