/** The gates of a release, each against a package that breaks it and one that does not. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import * as assert from 'uvu/assert';
import { cudaArchitectures, newer } from '../../release/elf.ts';
import { gates, type Limits, listFiles } from '../../release/gates.ts';
import { suite } from '../kit.ts';

const test = suite('release gates');
const base = mkdtempSync(join(tmpdir(), 'vl-mamba-gates-'));
test.after(() => rmSync(base, { recursive: true, force: true }));

const SYMBOLS = { glibc: '2.34', glibcxx: '3.4.30' };
const LIMITS: Limits = { addon: SYMBOLS, cudaLibrary: SYMBOLS, platforms: [], cuda: [] };
const MANIFEST = { name: 'vl-mamba', gypfile: false, dependencies: { sharp: '^0.35.5' } };
const GOOD: Record<string, string | Buffer> = {
  'package.json': JSON.stringify(MANIFEST),
  'dist/index.mjs': 'export {};',
  'prebuilds/darwin-arm64/vl-mamba.node': 'Mach-O',
};
let count = 0;

/** What the gate says of a package of these files. */
function judge(
  gate: string,
  files: Record<string, string | Buffer>,
  limits: Partial<Limits> = {},
  packed = 1000,
): string {
  const at = join(base, String(count++));
  const folder = join(at, 'package');
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    writeFileSync(join(folder, name), content);
  }
  const tarball = join(at, 'vl-mamba.tgz');
  writeFileSync(tarball, Buffer.alloc(packed));
  const run = gates.find(([name]) => name === gate)![1];
  return run({ tarball, folder, files: listFiles(folder), root: '/some/clone' }, { ...LIMITS, ...limits });
}
const manifest = (more: object) => ({ ...GOOD, 'package.json': JSON.stringify({ ...MANIFEST, ...more }) });

test('a package that breaks nothing', () => {
  for (const gate of ['size', 'contents', 'no install script', 'dependencies', 'libraries', 'symbol versions', 'GPUs'])
    assert.type(judge(gate, GOOD), 'string');
  assert.type(judge('no build paths', GOOD), 'string');
});

test('size', () => {
  assert.throws(() => judge('size', GOOD, {}, 60e6 + 1), /at most 60/);
});

test('contents', () => {
  for (const extra of [
    'binding.gyp',
    'native/addon.cc',
    'dist/index.mjs.map',
    'prebuilds/linux-x64/other.so',
    '.npmrc',
  ])
    assert.throws(() => judge('contents', { ...GOOD, [extra]: '' }), new RegExp(extra.replace('.', '\\.')));
  assert.throws(() => judge('contents', GOOD, { platforms: ['linux-x64'] }), /linux-x64/);
  assert.throws(() => judge('contents', { 'package.json': '{}' }), /no addon/);
  const two = { ...GOOD, 'prebuilds/darwin-arm64/vl-mamba.glibc.node': '' };
  assert.throws(() => judge('contents', two), /more than one addon/);
  const twoLibraries = {
    'prebuilds/linux-x64/vl-mamba.glibc.node': '',
    'prebuilds/linux-x64/vl-mamba.musl.node': '',
  };
  assert.match(judge('contents', twoLibraries), /linux-x64/);
});

test('no install script', () => {
  assert.throws(() => judge('no install script', manifest({ scripts: { prepare: 'make' } })), /prepare/);
  assert.throws(() => judge('no install script', manifest({ gypfile: undefined })), /gypfile/);
});

test('dependencies', () => {
  for (const range of ['git+https://example.com/a.git', 'file:../a', '*', 'latest'])
    assert.throws(() => judge('dependencies', manifest({ dependencies: { a: range } })), /a: /);
  assert.throws(() => judge('dependencies', manifest({ devDependencies: {} })), /development/);
});

test('no build paths', () => {
  for (const path of [
    '/home/runner/work/x',
    '/Users/me/x',
    '/root/build',
    '/tmp/tmpxft_0',
    'D:\\a\\x',
    '/some/clone/native',
  ])
    assert.throws(
      () => judge('no build paths', { ...GOOD, 'prebuilds/darwin-arm64/vl-mamba.node': `\0${path}\0` }),
      /paths of the machine/,
      path,
    );
});

test('what a Linux binary asks for', () => {
  const source = join(base, 'source.c');
  const odd = join(base, 'libodd.so');
  const binary = join(base, 'binary.so');
  const writeSource = (called: string) =>
    writeFileSync(source, `extern "C" double ${called}(double); double f(double x) { return ${called}(x); }`);
  writeSource('exp');
  const compile = (out: string, ...args: string[]) => {
    const { status, stderr } = spawnSync('g++', ['-x', 'c++', '-shared', '-fPIC', '-o', out, ...args], {
      encoding: 'utf8',
    });
    assert.is(status, 0, stderr);
  };
  if (process.platform !== 'linux') return;
  compile(odd, '-Wl,-soname,libodd.so', source);
  const made = (...args: string[]) => {
    compile(binary, source, '-x', 'none', '-Wl,--no-as-needed', ...args);
    return { ...GOOD, 'prebuilds/linux-x64/vl-mamba.glibc.node': readFileSync(binary) };
  };
  assert.match(judge('libraries', made()), /libstdc\+\+\.so\.6/);
  const addon = (glibc: string) => ({ addon: { ...SYMBOLS, glibc } });
  assert.match(judge('symbol versions', made(), addon('99')), /GLIBC_2/);
  assert.throws(() => judge('symbol versions', made(), addon('2.1')), /at most 2\.1/);
  assert.throws(() => judge('libraries', made(odd)), /libodd\.so/);
  assert.throws(() => judge('libraries', made('-Wl,-rpath,/opt/lib')), /\/opt\/lib/);
  writeSource('napi_throw');
  assert.match(judge('symbol versions', made(), addon('99')), /GLIBC_2/);
  writeSource('of_no_library');
  assert.throws(() => judge('symbol versions', made(), addon('99')), /of_no_library/);
});

test('processors', () => {
  const header = (...fields: [at: number, value: number][]) => {
    const bytes = Buffer.alloc(80);
    for (const [at, value] of fields) bytes.writeUInt32LE(value, at);
    return bytes;
  };
  const binaries = {
    'prebuilds/linux-x64/vl-mamba.glibc.node': header([0, 0x464c457f], [18, 62]),
    'prebuilds/linux-arm64/vl-mamba.glibc.node': header([0, 0x464c457f], [18, 183]),
    'prebuilds/darwin-x64/vl-mamba.node': header([0, 0xfeedfacf], [4, 0x01000007]),
    'prebuilds/darwin-arm64/vl-mamba.node': header([0, 0xfeedfacf], [4, 0x0100000c]),
    'prebuilds/win32-x64/vl-mamba.node': header([60, 64], [64, 0x4550], [68, 0x8664]),
  };
  assert.match(judge('processors', binaries), /5 binaries/);
  const arm = binaries['prebuilds/linux-arm64/vl-mamba.glibc.node'];
  for (const [wrong, said] of [
    [arm, /linux-x64.* is for linux-arm64/],
    [header([0, 0x464c457f], [18, 243]), /linux-x64.* is for none that is known/],
    [Buffer.from('damaged'), /linux-x64.* is for none that is known/],
  ] as const)
    assert.throws(() => judge('processors', { ...binaries, 'prebuilds/linux-x64/vl-mamba.glibc.node': wrong }), said);
});

test('versions are compared by number', () => {
  assert.equal(
    [newer('2.9', '2.34'), newer('2.34', '2.9'), newer('2.34', '2.34'), newer('3.4.30', '3.4'), newer('3.4', '3.4.30')],
    [false, true, false, true, false],
  );
});

/** A fat binary as nvcc lays it out: pieces of a kind (1 PTX, 2 machine code) for an architecture. */
function fatBinary(pieces: [kind: number, arch: number][]): Buffer {
  const body = pieces.map(([kind, arch]) => {
    const piece = Buffer.alloc(64 + 24);
    piece.writeUInt16LE(kind, 0);
    piece.writeUInt32LE(64, 4);
    piece.writeBigUInt64LE(24n, 8);
    piece.writeUInt32LE(arch, 28);
    return piece;
  });
  const header = Buffer.alloc(16);
  header.writeUInt32LE(0xba55ed50, 0);
  header.writeUInt16LE(16, 6);
  header.writeBigUInt64LE(BigInt(88 * pieces.length), 8);
  return Buffer.concat([Buffer.from('before'), header, ...body, Buffer.from('after')]);
}

test('GPUs that a CUDA library has kernels for', () => {
  const file = join(base, 'library.so');
  const library = fatBinary([
    [2, 80],
    [2, 120],
    [1, 120],
  ]);
  writeFileSync(file, Buffer.concat([library, library]));
  assert.equal(cudaArchitectures(file), { machine: [80, 120], ptx: [120] });
  const shipped = { ...GOOD, 'prebuilds/linux-x64/libvl_mamba_cuda.so': library };
  assert.match(judge('GPUs', shipped, { cuda: [80, 120] }), /PTX for 120/);
  assert.throws(() => judge('GPUs', shipped, { cuda: [80, 90] }), /no machine code for 90/);
  assert.throws(() => judge('GPUs', GOOD, { cuda: [90] }), /no CUDA library/);
});

test.run();
