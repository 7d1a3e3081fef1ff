import { readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { VLMambaError } from './errors.ts';

/** Handles into native memory. Opaque here; native code knows them by their type tags. */
export interface NativeDevice {
  readonly __device: never;
}
export interface NativeBuffer {
  readonly __buffer: never;
}
export interface NativeProgram {
  readonly __program: never;
}
export interface NativeToken {
  readonly __token: never;
}

/** One line of native/ops.def. */
export interface OpSchema {
  name: string;
  inputs: string;
  outputs: string;
  attrs: string;
}

/** What native/cuda_loader.h finds. An empty reason means that nothing stands in the way. */
export interface CudaSurvey {
  reason: string;
  /** The newest CUDA that the driver knows, e.g. 13.0; empty without a driver. */
  driver: string;
  /** arch: compute capability, 10 · major + minor; memory: bytes. */
  cards: { name: string; arch: number; memory: number; reason: string }[];
}

/** What native/addon.cc exports. Everything that returns a promise is done on the device's own thread, in order. */
export interface Native {
  schema(): OpSchema[];
  machine(): { isa: string; threads: number };
  open(threads: number): NativeDevice;
  /** Throws ERR_CUDA_UNAVAILABLE, with the reason, when there is no such GPU or it can't be used. */
  openCuda(ordinal: number, graph: boolean, verify: boolean): NativeDevice;
  cudaSurvey(): Promise<CudaSurvey>;
  /** As above, at once: starting the driver takes some hundred milliseconds the first time. */
  cudaSurveySync(): CudaSurvey;
  close(device: NativeDevice): Promise<void>;
  token(): NativeToken;
  cancel(token: NativeToken): void;
  halt(token: NativeToken): void;
  progress(token: NativeToken): number;
  alloc(device: NativeDevice, bytes: number): Promise<NativeBuffer>;
  free(buffer: NativeBuffer): void;
  write(device: NativeDevice, buffer: NativeBuffer, offset: number, data: ArrayBufferView): Promise<void>;
  read(device: NativeDevice, buffer: NativeBuffer, offset: number, bytes: number): Promise<ArrayBuffer>;
  copy(
    device: NativeDevice,
    from: NativeBuffer,
    fromOffset: number,
    to: NativeBuffer,
    toOffset: number,
    bytes: number,
  ): Promise<void>;
  fill(device: NativeDevice, buffer: NativeBuffer, offset: number, bytes: number, value: number): Promise<void>;
  load(
    device: NativeDevice,
    path: string,
    identity: BigInt64Array,
    segments: Float64Array,
    buffers: NativeBuffer[],
    token: NativeToken | null,
    threads: number,
  ): Promise<void>;
  compile(device: NativeDevice, words: Int32Array, buffers: NativeBuffer[]): Promise<NativeProgram>;
  drop(program: NativeProgram): void;
  /** An error ERR_NONFINITE_LOGITS has what `sample` was given: `leftover`, the logits' bytes. */
  run(
    device: NativeDevice,
    program: NativeProgram,
    inputs: ArrayBufferView[],
    token: NativeToken | null,
    borrow: boolean,
    profile: boolean,
  ): Promise<ArrayBuffer[]>;
  /** numbers: [steps, token, ids, position]; see native/chain.h. `take` gets each output of one or more further steps. */
  runChain(
    device: NativeDevice,
    program: NativeProgram,
    inputs: ArrayBufferView[],
    token: NativeToken | null,
    numbers: number[],
    stops: Int32Array,
    take: (...outputs: ArrayBuffer[]) => void,
  ): Promise<void>;
}

/** The package's root: the folder that holds both lib/ (in a clone) and dist/ (what is published). */
export const packageRoot = (): string => join(dirname(fileURLToPath(import.meta.url)), '..');

let loaded: Native | undefined;

/** What lies in prebuilds/, as `linux-x64/vl-mamba.glibc.node`. */
function prebuilt(root: string): string[] {
  try {
    return readdirSync(join(root, 'prebuilds'), { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.node'))
      .map((file) => file.replaceAll('\\', '/'))
      .sort();
  } catch {
    return [];
  }
}

const BUILD_YOURSELF =
  'build it: `npm install` in a clone of the repository (it needs a C++20 compiler, make and python3), then ' +
  '`npm install FOLDER_OF_THE_CLONE` here';

const OTHER_LIBC =
  'Those of this platform are linked with another C library than the one here (.glibc: Debian, Ubuntu, Red Hat; .musl: Alpine). ' +
  'Use a system or a container with that one, such as node:22-slim in the place of node:22-alpine, or ';

/** Loads the addon the first time it is needed: a build of this clone, else the prebuilt one for this platform. */
export function native(): Native {
  if (loaded) return loaded;
  const root = packageRoot();
  const platform = `${process.platform}-${process.arch}`;
  const here = `${platform} (Node ${process.versions.node})`;
  const details = { platform: process.platform, arch: process.arch, root };
  const load = createRequire(import.meta.url);
  let file: string;
  try {
    file = (load('node-gyp-build') as { resolve(folder: string): string }).resolve(root);
  } catch (cause) {
    const found = prebuilt(root);
    const fix =
      found.length > 0
        ? `There is ${found.join(', ')}. ${found.some((name) => name.startsWith(`${platform}/`)) ? OTHER_LIBC : 'For this platform, '}${BUILD_YOURSELF}.`
        : 'There is none for any platform. In a clone, type `npm run build`; installed, `npm install vl-mamba` again; with a ' +
          'bundler, mark vl-mamba as external, so that it stays in node_modules.';
    throw new VLMambaError(
      'ERR_NO_BINARY',
      `vl-mamba has no native binary for ${here}. Looked for build/Release/*.node and prebuilds/${platform}/*.node in ` +
        `${root}. ${fix}`,
      { cause, details },
    );
  }
  try {
    loaded = load(file) as Native;
  } catch (cause) {
    const reason = String((cause as Error).message).split('\n')[0];
    throw new VLMambaError(
      'ERR_NO_BINARY',
      `the native binary of vl-mamba can't be loaded on ${here}: ${reason}. If the system is older than the binary ` +
        `needs, ${BUILD_YOURSELF}; if the file is damaged, install vl-mamba again.`,
      { cause, details: { ...details, file } },
    );
  }
  return loaded;
}
