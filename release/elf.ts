/** What a binary asks of the machine it is loaded on; a Linux one as readelf (binutils) prints it for any architecture. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

const ELF: Record<number, string> = { 62: 'linux-x64', 183: 'linux-arm64' };
const MACH_O: Record<number, string> = { 16777223: 'darwin-x64', 16777228: 'darwin-arm64' };
const PE: Record<number, string> = { 34404: 'win32-x64', 43620: 'win32-arm64' };

/** The platform that a binary's header names, as Node spells it; undefined for any other file. */
export function builtFor(file: string): string | undefined {
  const bytes = readFileSync(file);
  if (bytes.length < 64) return undefined;
  if (bytes.readUInt32BE(0) === 0x7f454c46) return ELF[bytes.readUInt16LE(18)];
  if (bytes.readUInt32LE(0) === 0xfeedfacf) return MACH_O[bytes.readUInt32LE(4)];
  const at = bytes.readUInt32LE(60);
  if (at + 6 <= bytes.length && bytes.toString('latin1', at, at + 4) === 'PE\0\0')
    return PE[bytes.readUInt16LE(at + 4)];
  return undefined;
}

const readelf = (...args: string[]): string =>
  execFileSync('readelf', args, { encoding: 'utf8', env: { ...process.env, LC_ALL: 'C' } });

/** The libraries that the loader opens with it, and the folders it was told to look in. */
export function dynamic(file: string): { needed: string[]; runPath: string[] } {
  const text = readelf('-dW', file);
  const all = (tag: string) => [...text.matchAll(new RegExp(`\\((?:${tag})\\).*\\[(.*)\\]`, 'g'))].map((m) => m[1]!);
  return { needed: all('NEEDED'), runPath: all('RPATH|RUNPATH') };
}

/** The highest version of each family of symbols, e.g. { GLIBC: '2.34', GLIBCXX: '3.4.30' }. */
export function symbolVersions(file: string): Record<string, string> {
  const highest: Record<string, string> = {};
  for (const [, family, version] of readelf('-VW', file).matchAll(/Name: ([A-Z]+)_(\d[\d.]*)/g))
    if (!highest[family!] || newer(version!, highest[family!]!)) highest[family!] = version!;
  return highest;
}

/**
 * Symbols that it needs and that no library it was linked with has: loading fails on them, unless the process brings them, as
 * Node does those of Node-API.
 */
export function unresolved(file: string): string[] {
  const undefinedGlobal = /\bGLOBAL\s+DEFAULT\s+UND\s+(\S+)/g;
  return [...readelf('--dyn-syms', file, '-W').matchAll(undefinedGlobal)]
    .map((match) => match[1]!)
    .filter((name) => !name.includes('@') && !/^n(api|ode_api)_/.test(name));
}

/**
 * The compute capabilities that a CUDA library has kernels for, 10 · major + minor: as machine code, and as PTX. nvcc packs
 * them into fat binaries: a header (magic, version, its size, the size of what follows), then for each piece its kind, its
 * sizes and its architecture.
 */
export function cudaArchitectures(file: string): { machine: number[]; ptx: number[] } {
  const bytes = readFileSync(file);
  const magic = Buffer.from([0x50, 0xed, 0x55, 0xba]);
  const [PTX, MACHINE, ARCH] = [1, 2, 28];
  const found = new Map<number, Set<number>>([PTX, MACHINE].map((kind) => [kind, new Set()]));
  for (let at = bytes.indexOf(magic); at >= 0; at = bytes.indexOf(magic, at + 1)) {
    let piece = at + bytes.readUInt16LE(at + 6);
    const end = piece + Number(bytes.readBigUInt64LE(at + 8));
    while (piece + ARCH < Math.min(end, bytes.length)) {
      found.get(bytes.readUInt16LE(piece))?.add(bytes.readUInt32LE(piece + ARCH));
      piece += bytes.readUInt32LE(piece + 4) + Number(bytes.readBigUInt64LE(piece + 8));
    }
  }
  const sorted = (kind: number) => [...found.get(kind)!].sort((a, b) => a - b);
  return { machine: sorted(MACHINE), ptx: sorted(PTX) };
}

/** Whether dotted version a is above b. */
export function newer(a: string, b: string): boolean {
  const [left, right] = [a, b].map((version) => version.split('.').map(Number)) as [number[], number[]];
  for (let i = 0; i < Math.max(left.length, right.length); i++)
    if ((left[i] ?? 0) !== (right[i] ?? 0)) return (left[i] ?? 0) > (right[i] ?? 0);
  return false;
}
