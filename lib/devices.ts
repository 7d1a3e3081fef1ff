import { cpus } from 'node:os';
import { native } from './binding.ts';

/** Why there is no CUDA device. */
export const cudaReason = 'this version of vl-mamba has no CUDA backend';

/** A device that `load` knows: usable, or with the reason why not. */
export interface DeviceInfo {
  name: string;
  available: boolean;
  /** The processor, or why the device can't be used. */
  description: string;
  /** The instruction set of the CPU's kernels. */
  isa?: string;
  threads?: number;
}

/** The devices of this machine. Never throws because of a device that is missing. */
export function devices(): DeviceInfo[] {
  const { isa, threads } = native().machine();
  const description = cpus()[0]?.model.trim() || process.arch;
  return [
    { name: 'cpu', available: true, description, isa, threads },
    { name: 'cuda', available: false, description: cudaReason },
  ];
}
