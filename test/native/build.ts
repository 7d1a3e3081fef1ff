/** Builds what test/native/CMakeLists.txt describes, once for each sanitizer. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';

/** Runs a command to its end with its output shown; throws when it fails. */
export function must(command: string, args: string[], env: NodeJS.ProcessEnv = {}): void {
  const { status, signal, error } = spawnSync(command, args, { stdio: 'inherit', env: { ...process.env, ...env } });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${error?.message ?? signal ?? `status ${status}`}`);
}

/** The newest clang++ with libFuzzer: from 16 on it compiles the kernels' lambdas. */
function compiler(): string {
  const names = ['clang++-21', 'clang++-20', 'clang++-19', 'clang++-18', 'clang++-17', 'clang++-16'];
  const found = names.find((name) => spawnSync(name, ['--version']).status === 0);
  if (!found)
    throw new Error(
      'needs clang 16 or newer with its sanitizers: apt-get install clang-16 libclang-rt-16-dev, or a newer one',
    );
  return found;
}

/** Returns the folder with the programs. */
export function build(sanitize: 'address' | 'thread'): string {
  return make(sanitize, [`-DCMAKE_CXX_COMPILER=${compiler()}`, `-DSANITIZE=${sanitize}`]);
}

/** What a process that loads the addon of build('address') has to load before anything else. */
export function asanRuntime(): string {
  const processor = { x64: 'x86_64', arm64: 'aarch64' }[process.arch as 'x64' | 'arm64'];
  const name = `libclang_rt.asan-${processor}.so`;
  return spawnSync(compiler(), [`-print-file-name=${name}`], { encoding: 'utf8' }).stdout.trim();
}

/** The same for Linux on arm64, with Debian's cross compiler, for an emulator to run. */
export function buildForArm64(): string {
  return make('arm64', [
    '-DCMAKE_SYSTEM_NAME=Linux',
    '-DCMAKE_SYSTEM_PROCESSOR=aarch64',
    '-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++',
    '-DSANITIZE=undefined',
  ]);
}

function make(name: string, settings: string[]): string {
  const out = join('build-native', name);
  must('cmake', ['-S', 'test/native', '-B', out, ...settings]);
  must('cmake', ['--build', out, '-j2']);
  return out;
}
