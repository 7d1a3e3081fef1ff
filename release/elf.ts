/** What a Linux binary asks of the machine it is loaded on, as readelf (binutils) prints it for any architecture. */
import { execFileSync } from 'node:child_process';

const readelf = (flags: string, file: string): string =>
  execFileSync('readelf', [flags, file], { encoding: 'utf8', env: { ...process.env, LC_ALL: 'C' } });

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

/** Whether dotted version a is above b. */
export function newer(a: string, b: string): boolean {
  const [left, right] = [a, b].map((version) => version.split('.').map(Number)) as [number[], number[]];
  for (let i = 0; i < Math.max(left.length, right.length); i++)
    if ((left[i] ?? 0) !== (right[i] ?? 0)) return (left[i] ?? 0) > (right[i] ?? 0);
  return false;
}
