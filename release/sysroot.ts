/**
 * What a Linux prebuild is linked against: the C and C++ libraries of Debian 11, older than those of the machine that builds, for
 * the processor that it is for. apt fetches five packages of it and checks their signatures; nothing is installed.
 *
 * libstdc++.so is here, as in Red Hat's compilers, a script for the linker: first the old shared library, then the
 * compiler's static one for the little that the old one lacks.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join, relative } from 'node:path';

const RELEASE = 'bullseye';
const PACKAGES = ['libc6', 'libc6-dev', 'libcrypt1', 'libgcc-s1', 'libstdc++6', 'linux-libc-dev'];
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';

/** What Debian and GNU call a processor of Node's name. */
const NAMES: Record<string, { debian: string; gnu: string }> = {
  x64: { debian: 'amd64', gnu: 'x86_64-linux-gnu' },
  arm64: { debian: 'arm64', gnu: 'aarch64-linux-gnu' },
};
function names(arch: string): { debian: string; gnu: string } {
  const found = NAMES[arch];
  if (!found) throw new Error(`there is no prebuild for linux-${arch}, only for ${Object.keys(NAMES).join(' and ')}`);
  return found;
}

/** The folder with Debian 11's libraries and headers, fetched when it is not there yet. */
export function sysroot(root: string, arch: string): string {
  const { debian, gnu } = names(arch);
  const folder = join(root, 'build-sysroot', `${RELEASE}-${arch}`);
  if (existsSync(folder)) return folder;
  const part = `${folder}.part`;
  const apt = join(part, 'apt');
  rmSync(part, { recursive: true, force: true });
  for (const name of ['lists/partial', 'cache/archives/partial', 'debs'])
    mkdirSync(join(apt, name), { recursive: true });
  writeFileSync(join(apt, 'sources.list'), `deb [signed-by=${KEYRING}] http://deb.debian.org/debian ${RELEASE} main\n`);
  writeFileSync(join(apt, 'status'), '');
  const settings = {
    'APT::Architecture': debian,
    'APT::Architectures': debian,
    'APT::Sandbox::User': '',
    'Acquire::Languages': 'none',
    'Dir::Etc::sourcelist': join(apt, 'sources.list'),
    'Dir::Etc::sourceparts': '-',
    'Dir::State': apt,
    'Dir::State::status': join(apt, 'status'),
    'Dir::Cache': join(apt, 'cache'),
  };
  const options = ['-qq', ...Object.entries(settings).flatMap(([name, value]) => ['-o', `${name}=${value}`])];
  const run = (command: string, args: string[]) =>
    execFileSync(command, args, { cwd: join(apt, 'debs'), stdio: ['ignore', 'ignore', 'inherit'] });
  run('apt-get', [...options, 'update']);
  run('apt-get', [...options, 'download', ...PACKAGES]);
  for (const deb of readdirSync(join(apt, 'debs'))) run('dpkg-deb', ['-x', deb, part]);
  rmSync(apt, { recursive: true });

  // Some links are absolute, and would lead out of here.
  for (const entry of readdirSync(part, { recursive: true, withFileTypes: true })) {
    const link = join(entry.parentPath, entry.name);
    if (!entry.isSymbolicLink() || !readlinkSync(link).startsWith('/')) continue;
    const target = relative(entry.parentPath, join(part, readlinkSync(link)));
    rmSync(link);
    symlinkSync(target, link);
  }
  const libraries = join(part, 'usr', 'lib', gnu);
  writeFileSync(join(libraries, 'libstdc++.so'), 'INPUT(libstdc++.so.6 -l:libstdc++.a)\n');
  renameSync(part, folder);
  return folder;
}

/** The compiler for a processor. On a machine of another one it is Debian's cross compiler. */
export const tool = (arch: string, name: string): string =>
  arch === process.arch ? name : `${names(arch).gnu}-${name}`;

export const hasCompiler = (arch: string): boolean => spawnSync(tool(arch, 'g++'), ['--version']).status === 0;

/** What makes the compiler and the linker see the sysroot and nothing of this machine's libraries but its own. */
export function flags(root: string, arch: string): { compile: string[]; link: string[] } {
  const folder = sysroot(root, arch);
  const { gnu } = names(arch);
  const listing = execFileSync('sh', ['-c', `${tool(arch, 'g++')} -E -x c++ -v /dev/null 2>&1`], { encoding: 'utf8' });
  const own = /#include <\.\.\.>.*\n([\s\S]*?)End of search list/
    .exec(listing)![1]!
    .split('\n')
    .map((line) => line.trim());
  const headers = own.filter((path) => /\/c\+\+\/|\/lib\/gcc(-cross)?\/[^/]+\/\d+\/include$/.test(path));
  const system = [join(folder, 'usr', 'include', gnu), join(folder, 'usr', 'include')];
  return {
    compile: [`--sysroot=${folder}`, '-nostdinc', ...[...headers, ...system].map((path) => `-isystem${path}`)],
    link: [`--sysroot=${folder}`, `-L${join(folder, 'usr', 'lib', gnu)}`, '-Wl,--exclude-libs,ALL'],
  };
}
