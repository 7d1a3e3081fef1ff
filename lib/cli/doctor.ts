import { readdir, readFile, statfs } from 'node:fs/promises';
import { freemem, homedir, totalmem } from 'node:os';
import { dirname } from 'node:path';
import { env, stdout } from 'node:process';
import { native, packageRoot } from '../binding.ts';
import { type DeviceInfo, devices } from '../devices.ts';
import { VLMambaError } from '../errors.ts';
import { hubSettings } from '../hub/settings.ts';
import { version } from './main.ts';
import { columns, paint } from './style.ts';
import { bytes, table } from './text.ts';

interface Check {
  name: string;
  ok: boolean;
  detail: string;
}

/** What the kernels can use of a processor. */
const FEATURES =
  /^(avx2|fma|f16c|avx512(f|bw|dq|vl|_bf16|_vnni)|avx_vnni|amx_(bf16|int8)|asimd|asimdhp|asimddp|bf16|i8mm|sve2?)$/;

/** Tries what the package needs of this machine. Fails when pictures can't be read or models can't run. */
export async function doctor({ json }: { json?: boolean }): Promise<void> {
  const checks: Check[] = [
    { name: 'vl-mamba', ok: true, detail: `${version()} in ${packageRoot()}` },
    { name: 'node', ok: true, detail: `${process.versions.node}, Node-API ${process.versions.napi}` },
    { name: 'system', ok: true, detail: system() },
    { name: 'memory', ok: true, detail: `${bytes(freemem())} free of ${bytes(totalmem())}` },
    ...(await features()),
    ...attempt('addon', deviceChecks),
    await sharpCheck(),
    ...(await cacheChecks()),
  ];
  const ok = checks.every((check) => check.ok);
  if (json) stdout.write(`${JSON.stringify({ ok, checks })}\n`);
  else
    stdout.write(
      colour(
        table(
          checks.map(({ name, ok, detail }) => [name, ok ? detail : `MISSING: ${detail}`]),
          columns(stdout),
        ),
      ),
    );
  if (!ok) throw new VLMambaError('ERR_DOCTOR', 'something is missing, see above');
}

const colour = (text: string): string =>
  text
    .replace(/MISSING/g, (word) => paint(stdout, 'red', word))
    .replace(/not used/g, (words) => paint(stdout, 'bold', words));

/** "linux-x64, glibc 2.36" */
function system(): string {
  const report = process.report as unknown as {
    excludeNetwork?: boolean;
    getReport(): { header: { glibcVersionRuntime?: string } };
  };
  report.excludeNetwork = true;
  const { glibcVersionRuntime } = report.getReport().header;
  const libc = process.platform === 'linux' ? [`glibc ${glibcVersionRuntime ?? 'none: musl has no binary here'}`] : [];
  return [`${process.platform}-${process.arch}`, ...libc].join(', ');
}

async function features(): Promise<Check[]> {
  const text = await readFile('/proc/cpuinfo', 'utf8').catch(() => '');
  const flags =
    /^(?:flags|Features)\s*: (.*)$/m
      .exec(text)?.[1]
      ?.split(' ')
      .filter((flag) => FEATURES.test(flag)) ?? [];
  return flags.length > 0 ? [{ name: 'processor', ok: true, detail: flags.join(' ') }] : [];
}

const describe = ({ description, isa, threads, computeCapability, memory }: DeviceInfo): string =>
  computeCapability === undefined
    ? `${description}, kernels for ${isa}${env.VL_MAMBA_ISA ? ' (VL_MAMBA_ISA)' : ''}, ${threads} threads`
    : `${description}, compute capability ${computeCapability}, ${bytes(memory!)}`;

function deviceChecks(): Check[] {
  const checks = devices().map((device) => ({
    name: device.name,
    // A machine without a GPU is complete.
    ok: device.available || device.name !== 'cpu',
    detail: device.available ? describe(device) : `not used: ${device.description}`,
  }));
  const { driver } = native().cudaSurveySync();
  return driver ? [...checks, { name: 'driver', ok: true, detail: `knows CUDA ${driver}` }] : checks;
}

async function sharpCheck(): Promise<Check> {
  try {
    const { default: sharp } = await import('sharp');
    return { name: 'sharp', ok: true, detail: `${sharp.versions.sharp}, libvips ${sharp.versions.vips}` };
  } catch (error) {
    return { name: 'sharp', ok: false, detail: `${(error as Error).message.split('\n')[0]} (npm install sharp)` };
  }
}

/** Where models of the hub are kept, and how the hub is reached. */
async function cacheChecks(): Promise<Check[]> {
  try {
    const { cache, endpoint, offline, token } = await hubSettings();
    const models = (await readdir(cache).catch(() => [])).filter((name) => name.startsWith('models--')).length;
    const shown = cache.startsWith(homedir()) ? `~${cache.slice(homedir().length)}` : cache;
    const access = offline ? 'not asked: HF_HUB_OFFLINE' : token ? 'with a token' : 'without a token';
    return [
      {
        name: 'cache',
        ok: true,
        detail: `${shown}, ${models} model${models === 1 ? '' : 's'}, ${bytes(await room(cache))} free`,
      },
      { name: 'hub', ok: true, detail: `${endpoint.host}, ${access}` },
    ];
  } catch (error) {
    // Models in folders don't need it.
    return [{ name: 'hub', ok: true, detail: `not used: ${(error as Error).message}` }];
  }
}

/** Bytes that are free where a folder is, or would be. */
async function room(folder: string): Promise<number> {
  for (let at = folder; ; at = dirname(at)) {
    const found = await statfs(at).catch(() => undefined);
    if (found) return found.bavail * found.bsize;
    if (at === dirname(at)) return 0;
  }
}

function attempt(name: string, run: () => Check[]): Check[] {
  try {
    return run();
  } catch (error) {
    return [{ name, ok: false, detail: (error as Error).message }];
  }
}
