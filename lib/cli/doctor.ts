import { freemem, totalmem } from 'node:os';
import { stdout } from 'node:process';
import { type DeviceInfo, devices } from '../devices.ts';
import { VLMambaError } from '../errors.ts';
import { version } from './main.ts';
import { bytes, table } from './text.ts';

interface Check {
  name: string;
  ok: boolean;
  detail: string;
}

/** Tries what the package needs of this machine. Fails when pictures can't be read or models can't run. */
export async function doctor({ json }: { json?: boolean }): Promise<void> {
  const checks: Check[] = [
    { name: 'vl-mamba', ok: true, detail: version() },
    { name: 'node', ok: true, detail: `${process.versions.node} on ${process.platform}-${process.arch}` },
    { name: 'memory', ok: true, detail: `${bytes(freemem())} free of ${bytes(totalmem())}` },
    ...attempt('addon', deviceChecks),
    await sharpCheck(),
  ];
  const ok = checks.every((check) => check.ok);
  if (json) stdout.write(`${JSON.stringify({ ok, checks })}\n`);
  else stdout.write(table(checks.map(({ name, ok, detail }) => [name, ok ? detail : `MISSING: ${detail}`])));
  if (!ok) throw new VLMambaError('ERR_DOCTOR', 'something is missing, see above');
}

const describe = ({ description, isa, threads, computeCapability, memory }: DeviceInfo): string =>
  computeCapability === undefined
    ? `${description}, ${isa}, ${threads} threads`
    : `${description}, compute capability ${computeCapability}, ${bytes(memory!)}`;

function deviceChecks(): Check[] {
  return devices().map((device) => ({
    name: device.name,
    // A machine without a GPU is complete.
    ok: device.available || device.name !== 'cpu',
    detail: device.available ? describe(device) : `not used: ${device.description}`,
  }));
}

async function sharpCheck(): Promise<Check> {
  try {
    const { default: sharp } = await import('sharp');
    return { name: 'sharp', ok: true, detail: `${sharp.versions.sharp}, libvips ${sharp.versions.vips}` };
  } catch (error) {
    return { name: 'sharp', ok: false, detail: `${(error as Error).message.split('\n')[0]} (npm install sharp)` };
  }
}

function attempt(name: string, run: () => Check[]): Check[] {
  try {
    return run();
  } catch (error) {
    return [{ name, ok: false, detail: (error as Error).message }];
  }
}
