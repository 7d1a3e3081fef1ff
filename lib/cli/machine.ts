import { cpus } from 'node:os';
import { native } from '../binding.ts';
import { devices } from '../devices.ts';

/** The machine in one line, for every table of results. */
export function machine(device: { name: string; threads: number }): string {
  const gpu = device.name === 'cpu' ? undefined : devices().find(({ name }) => name === device.name);
  const what = gpu
    ? `${gpu.description}, compute capability ${gpu.computeCapability}`
    : `${cpus()[0]?.model.trim() ?? 'unknown processor'}, ${native().machine().isa}, ${device.threads} threads`;
  return `${what}, Node ${process.versions.node}`;
}
