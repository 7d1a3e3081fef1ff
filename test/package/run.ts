/**
 * npm run test:package [-- TARBALL] [--npm CLI.js] [--node PATH] [--pnpm CLI.js] [--yarn CLI.js] [--berry CLI.js] [--bun PATH]
 *
 * The tarball of `npm run release:pack`, as a user meets it: installed into empty folders with a PATH that holds Node, npm and a
 * shell and no compiler, then run with every connection refused. Dependencies come from the registry or npm's cache. --node
 * and --npm take other versions than those that run this; pnpm, yarn 1, yarn from 2 on (--berry) and bun are tried when they are
 * given, and counted as skipped when not.
 */
import { spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, delimiter, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import * as assert from 'uvu/assert';

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, '..', '..');
const path = { type: 'string' } as const;
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { npm: path, node: path, pnpm: path, yarn: path, berry: path, bun: path },
});
const newest = (): string => {
  const { name, version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Record<string, string>;
  return join(root, `${name}-${version}.tgz`);
};
const tarball = resolve(positionals[0] ?? newest());
if (!existsSync(tarball)) throw new Error(`${tarball} is not there: \`npm run release:pack\` makes it`);

/** Milliseconds: what a user may wait for. */
const LIMITS = { import: 60, version: 150 };

const base = mkdtempSync(join(tmpdir(), 'vl-mamba-package-'));
process.on('exit', () => rmSync(base, { recursive: true, force: true }));

/** A PATH of a few names. */
const bin = join(base, 'bin');
mkdirSync(bin);
const onPath = (name: string): string => {
  const found = (process.env.PATH ?? '').split(delimiter).find((folder) => existsSync(join(folder, name)));
  if (!found) throw new Error(`there is no ${name} on PATH`);
  return realpathSync(join(found, name));
};
const node = values.node ? resolve(values.node) : process.execPath;
const npm = values.npm ? resolve(values.npm) : onPath('npm');
symlinkSync(node, join(bin, 'node'));
symlinkSync(npm, join(bin, 'npm'));
symlinkSync(join(dirname(npm), 'npx-cli.js'), join(bin, 'npx'));
// sh, and what the launchers that pnpm writes call.
for (const name of ['sh', 'sed', 'dirname', 'uname']) symlinkSync(onPath(name), join(bin, name));

/** The environment without what `npm run` added to it, which would point the npm inside at this clone or silence it. */
const ADDED =
  /^(npm_(package|lifecycle|command|execpath|node_execpath)|npm_config_((local_)?prefix|loglevel)$|INIT_CWD|NODE$|NODE_OPTIONS$|NODE_PATH$|VL_MAMBA)/i;
const env: NodeJS.ProcessEnv = Object.fromEntries(Object.entries(process.env).filter(([name]) => !ADDED.test(name)));
env.PATH = bin;
// What pnpm and yarn keep of it goes when this ends.
for (const name of ['XDG_CACHE_HOME', 'XDG_DATA_HOME', 'XDG_STATE_HOME', 'YARN_CACHE_FOLDER'])
  env[name] = join(base, name);

interface Run {
  status: number | null;
  stdout: string;
  stderr: string;
}

/** Every connection fails, in this process and in those it starts. */
const offline = { NODE_OPTIONS: `--require=${join(here, 'offline.cjs')}` };

function run(cwd: string, command: string, args: string[], more: NodeJS.ProcessEnv = {}): Run {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    cwd,
    encoding: 'utf8',
    env: { ...env, ...more },
    timeout: 300_000,
  });
  if (error) throw error;
  return { status, stdout, stderr };
}
const runNode = (cwd: string, args: string[], more = {}) => run(cwd, join(bin, 'node'), args, more);

let failed = 0;
function check(name: string, body: () => string | undefined): void {
  try {
    const said = body();
    console.log(`ok    ${name}${said ? `: ${said}` : ''}`);
  } catch (error) {
    failed++;
    console.log(`FAIL  ${name}: ${(error as Error).message}`);
  }
}

/** Succeeded, and wrote nothing to stderr; what it printed. */
function quiet({ status, stdout, stderr }: Run): string {
  assert.is(status, 0, `exit status ${status}: ${stdout}${stderr}`);
  assert.is(stderr, '', `stderr is not empty: ${stderr}`);
  return stdout.trim();
}

/** An empty folder of a user's. */
function empty(name: string): string {
  const folder = join(base, name);
  mkdirSync(folder);
  writeFileSync(join(folder, 'package.json'), '{ "private": true }\n');
  // So that yarn takes this for a project and not for a part of one above.
  writeFileSync(join(folder, 'yarn.lock'), '');
  return folder;
}

const warnings = ({ stdout, stderr }: Run): string[] =>
  `${stdout}\n${stderr}`.split('\n').filter((line) => /warn|error|gyp (info|err)|deprecat|script/i.test(line));

/** Installs the tarball; nothing may be said that the same command doesn't say about this machine in any folder. */
function install(name: string, command: string, args: string[], settings: string[]): string {
  const folder = empty(name);
  const usual = new Set(warnings(run(empty(`${name}-nothing`), command, settings)));
  check(`${name}: no warning, no compiler`, () => {
    const start = performance.now();
    const done = run(folder, command, args);
    assert.is(done.status, 0, `exit status ${done.status}: ${done.stdout}${done.stderr}`);
    assert.match(done.stdout, /\S/, 'it said nothing at all, so it would not have warned either');
    const said = warnings(done).filter((line) => !usual.has(line));
    assert.is(said.length, 0, said.join('\n'));
    assert.not.ok(existsSync(join(folder, 'node_modules', 'vl-mamba', 'build')), 'something was built');
    return `${((performance.now() - start) / 1000).toFixed(1)} s, ${readdirSync(join(folder, 'node_modules')).length} entries`;
  });
  return folder;
}

const ANSWERS = [/circle/, /Three/];
function demo(name: string, folder: string, command = join(bin, 'npx'), args = ['vl-mamba']): void {
  check(`${name}: vl-mamba demo answers offline`, () => {
    const { status, stdout, stderr } = run(folder, command, [...args, 'demo'], offline);
    assert.is(status, 0, `exit status ${status}: ${stdout}${stderr}`);
    for (const answer of ANSWERS) assert.match(stdout, answer);
    return stdout
      .split('\n')
      .find((line) => line.includes('→'))
      ?.trim();
  });
}

for (const compiler of ['cc', 'gcc', 'g++', 'c++', 'clang', 'make', 'python3', 'cmake', 'nvcc', 'node-gyp'])
  assert.not.ok(existsSync(join(bin, compiler)));
console.log(
  `${basename(tarball)}, Node ${quiet(runNode(base, ['--version']))}, npm ${run(base, join(bin, 'npm'), ['--version']).stdout.trim()}`,
);

const npmBin = join(bin, 'npm');
const plain = install('npm install', npmBin, ['install', tarball], ['install']);
demo('npm install', plain);
const noScripts = install(
  'npm install --ignore-scripts',
  npmBin,
  ['install', '--ignore-scripts', tarball],
  ['install'],
);
demo('npm install --ignore-scripts', noScripts);

check('offline means offline', () => {
  const { stderr } = runNode(plain, ['-e', "fetch('http://example.com')"], offline);
  assert.match(stderr, /may not connect/);
  return undefined;
});
const packageFolder = join(plain, 'node_modules', 'vl-mamba');
for (const name of ['program.cjs', 'program.mjs', 'worker.mjs', 'answer.cjs'])
  cpSync(join(here, 'programs', name), join(plain, name));

const EXPECTED = 'Three';
check('import', () => {
  assert.is(quiet(runNode(plain, ['program.mjs'], offline)), EXPECTED);
  return undefined;
});
check('require', () => {
  assert.is(quiet(runNode(plain, ['program.cjs'], offline)), EXPECTED);
  return undefined;
});
check('in two workers at once', () => {
  assert.is(quiet(runNode(plain, ['worker.mjs'], offline)), `${EXPECTED} ${EXPECTED}`);
  return undefined;
});
check('under the permission model', () => {
  const flags = "console.log(process.allowedNodeEnvironmentFlags.has('--permission'))";
  const flag = quiet(runNode(plain, ['-e', flags])) === 'true' ? '--permission' : '--experimental-permission';
  const args = [flag, '--no-warnings', '--allow-addons', '--allow-fs-read=*', 'program.mjs'];
  assert.is(quiet(runNode(plain, args)), EXPECTED);
  return flag;
});

/** The fastest and the middle of several runs. What else the machine does only adds time, so the fastest is held to the limit. */
function time(name: string, limit: number, once: () => number): void {
  check(name, () => {
    once();
    const taken = Array.from({ length: 11 }, once).sort((a, b) => a - b);
    const said = `${taken[0]!.toFixed(0)} ms, median ${taken[5]!.toFixed(0)} ms, at most ${limit} ms`;
    assert.ok(taken[0]! <= limit, said);
    return said;
  });
}
const timed = (statement: string) => () =>
  Number(
    quiet(
      runNode(plain, [
        '--input-type=module',
        '-e',
        `const start = performance.now(); ${statement}; console.log(performance.now() - start)`,
      ]),
    ),
  );
time('start-up: import', LIMITS.import, timed("await import('vl-mamba')"));
time(
  'start-up: require',
  LIMITS.import,
  timed("(await import('node:module')).createRequire(process.cwd() + '/x')('vl-mamba')"),
);
time('start-up: vl-mamba --version', LIMITS.version, () => {
  const start = performance.now();
  assert.match(quiet(runNode(plain, [join(packageFolder, 'dist', 'cli.mjs'), '--version'])), /^\d+\.\d+\.\d+$/);
  return performance.now() - start;
});
check('start-up: import opens no native library', () => {
  const count = `process.report.getReport().sharedObjects.filter((file) => file.includes('node_modules')).length`;
  const counts = `import('vl-mamba').then(({ devices }) => { console.log(${count}); devices(); console.log(${count}); })`;
  assert.is(quiet(runNode(plain, ['-e', counts])), '0\n1');
  return undefined;
});

/** Both ways to meet it: a program gets an error with a code, the command a line and exit status 1. */
function noBinary(said: RegExp[], more: NodeJS.ProcessEnv = {}): string {
  const devices =
    "import { devices } from 'vl-mamba'; try { devices(); } catch (e) { console.log(e.code, e.message); }";
  const program = runNode(plain, ['--input-type=module', '-e', devices], more);
  const command = runNode(plain, [join(packageFolder, 'dist', 'cli.mjs'), 'demo'], more);
  assert.is(command.status, 1);
  assert.is(command.stderr.trim().split('\n').length, 1, command.stderr);
  for (const text of [program.stdout, command.stderr])
    for (const words of [/ERR_NO_BINARY/, new RegExp(`${process.platform}-${process.arch}`), ...said])
      assert.match(text, words);
  return command.stderr.trim();
}
const prebuilds = join(packageFolder, 'prebuilds');
if (process.platform === 'linux')
  check('another C library', () => noBinary([/vl-mamba\.glibc\.node/, /another C library/, /slim/], { LIBC: 'musl' }));
const ours = join(prebuilds, `${process.platform}-${process.arch}`);
renameSync(ours, join(prebuilds, 'aix-ppc64'));
check('nothing fits the platform', () => noBinary([/Looked for .*prebuilds/, /aix-ppc64/, /npm install/]));
renameSync(prebuilds, join(plain, 'aside'));
check('no binary at all', () => noBinary([/Looked for .*prebuilds/, /bundler/, /npm install vl-mamba/]));
mkdirSync(ours, { recursive: true });
writeFileSync(join(ours, 'vl-mamba.node'), 'damaged');
check('a binary that does not load', () => noBinary([/can't be loaded/, /vl-mamba\.node/, /install vl-mamba again/]));

if (values.pnpm) {
  const pnpm = resolve(values.pnpm);
  const folder = install('pnpm add', join(bin, 'node'), [pnpm, 'add', tarball], [pnpm, 'install']);
  demo('pnpm add', folder, join(bin, 'node'), [pnpm, 'exec', 'vl-mamba']);
}
if (values.yarn) {
  const yarn = resolve(values.yarn);
  const folder = install('yarn add', join(bin, 'node'), [yarn, 'add', tarball], [yarn, 'install']);
  demo('yarn add', folder, join(bin, 'node'), [yarn, '--silent', 'vl-mamba']);
}
if (values.berry) {
  const yarn = resolve(values.berry);
  env.YARN_NODE_LINKER = 'node-modules';
  env.YARN_GLOBAL_FOLDER = join(base, 'berry');
  env.YARN_ENABLE_TELEMETRY = '0';
  env.YARN_ENABLE_IMMUTABLE_INSTALLS = 'false';
  // It reads no .npmrc.
  env.YARN_NPM_REGISTRY_SERVER = run(base, npmBin, ['config', 'get', 'registry']).stdout.trim().replace(/\/$/, '');
  const folder = install('berry add', join(bin, 'node'), [yarn, 'add', `vl-mamba@file:${tarball}`], [yarn, 'install']);
  demo('berry add', folder, join(bin, 'node'), [yarn, 'vl-mamba']);
}
if (values.bun) {
  const bun = resolve(values.bun);
  env.BUN_INSTALL_CACHE_DIR = join(base, 'bun');
  const folder = install('bun add', bun, ['add', tarball], ['install']);
  demo('bun add', folder, bun, ['run', 'vl-mamba']);
  demo('bun add, in bun itself', folder, bun, ['--bun', 'run', 'vl-mamba']);
}
const skipped = (['pnpm', 'yarn', 'berry', 'bun'] as const).filter((name) => !values[name]);
if (skipped.length > 0)
  console.log(`${skipped.length} skipped: ${skipped.map((name) => `--${name}`).join(', ')} not given`);
console.log(failed === 0 ? 'the package works' : `${failed} checks failed`);
process.exitCode = failed === 0 ? 0 : 1;
