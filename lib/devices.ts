import { cpus } from 'node:os';
import { type CudaSurvey, native } from './binding.ts';
import { Device, type DeviceOptions } from './device.ts';
import { rangeError, show, type VLMambaError } from './errors.ts';

/** A device that `load` knows: usable, or with the reason why not. */
export interface DeviceInfo {
  /** `cpu`, `cuda:N`, or `cuda` where there is none. */
  name: string;
  /** Whether `load` can use it. */
  available: boolean;
  /** The processor or the GPU, or why the device can't be used. */
  description: string;
  /** The instruction set of the CPU's kernels. */
  isa?: string;
  /** CPU threads that are used unless `threads` says otherwise. */
  threads?: number;
  /** Of a GPU: its compute capability, e.g. 9.0. */
  computeCapability?: string;
  /** Of a GPU: bytes. */
  memory?: number;
}

/**
 * The devices of this machine: the CPU, then each GPU, or one entry that says why there is none. Never throws because of a
 * device that is missing. The first call starts the NVIDIA driver, if there is one, which takes some hundred milliseconds.
 */
export function devices(): DeviceInfo[] {
  const { isa, threads } = native().machine();
  const description = cpus()[0]?.model.trim() || process.arch;
  return [{ name: 'cpu', available: true, description, isa, threads }, ...describeCards(native().cudaSurveySync())];
}

function describeCards({ reason, cards }: CudaSurvey): DeviceInfo[] {
  if (reason) return [{ name: 'cuda', available: false, description: reason }];
  return cards.map(({ name, arch, memory, reason }, i) => ({
    name: `cuda:${i}`,
    available: !reason,
    description: reason ? `${name}: ${reason}` : name,
    computeCapability: `${Math.floor(arch / 10)}.${arch % 10}`,
    memory,
  }));
}

/** `auto` takes the first GPU that can be used, and the CPU where there is none. */
export type DeviceName = 'auto' | 'cpu' | 'cuda' | `cuda:${number}`;

/** @throws RangeError ERR_ARG_DEVICE */
export function checkDeviceName(name: unknown): asserts name is DeviceName {
  if (name === 'auto' || name === 'cpu' || (typeof name === 'string' && /^cuda(:\d{1,6})?$/.test(name))) return;
  throw rangeError('ERR_ARG_DEVICE', `device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got ${show(name)}`);
}

/** What to try for a name, in this order; `auto` has the CPU behind the first GPU that can be used. */
async function candidates(name: DeviceName): Promise<NonNullable<DeviceOptions['name']>[]> {
  if (name === 'cpu') return ['cpu'];
  // Starting the driver takes long: not on this thread, though what is found is only wanted for `auto`.
  const { reason, cards } = await native().cudaSurvey();
  if (name !== 'auto') return [name === 'cuda' ? 'cuda:0' : name];
  const first = reason ? -1 : cards.findIndex((card) => !card.reason);
  return first < 0 ? ['cpu'] : [`cuda:${first}`, 'cpu'];
}

/**
 * Opens the first device that a name stands for and on which `use` succeeds. `auto` goes on from a GPU that can't be opened,
 * or has no room, to the CPU; `passedOver` says why.
 * @throws VLMambaError ERR_CUDA_UNAVAILABLE, ERR_CUDA, ERR_OUT_OF_MEMORY, and what `use` throws
 */
export async function onDevice<T>(
  name: DeviceName,
  options: Omit<DeviceOptions, 'name'>,
  use: (device: Device) => Promise<T>,
): Promise<{ result: T; passedOver: string[] }> {
  const passedOver: string[] = [];
  const names = await candidates(name);
  for (;;) {
    const candidate = names.shift()!;
    let device: Device | undefined;
    try {
      device = new Device({ ...options, name: candidate });
      (await device.alloc(1, 'probe')).free();
      return { result: await use(device), passedOver };
    } catch (error) {
      await device?.dispose();
      const { code = '', message } = error as VLMambaError;
      if (names.length === 0 || !/^ERR_(CUDA|OUT_OF_MEMORY)/.test(code)) throw error;
      passedOver.push(`${candidate} is not used: ${message}`);
    }
  }
}

/** Opens a device; see {@link onDevice}. */
export const openDevice = async (name: DeviceName, options: Omit<DeviceOptions, 'name'> = {}): Promise<Device> =>
  (await onDevice(name, options, async (device) => device)).result;

const shared = new Map<DeviceName, Promise<Device>>();

/** A device for small work that has no device of its own: opened once, on all cores; it doesn't keep the process alive. */
export function sharedDevice(name: DeviceName): Promise<Device> {
  let device = shared.get(name);
  if (!device) {
    device = openDevice(name);
    shared.set(name, device);
    device.catch(() => shared.delete(name));
  }
  return device;
}
