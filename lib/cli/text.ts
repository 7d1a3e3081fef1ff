import type { GenerateResult } from '../generation.ts';

/** "5.5 GB", in powers of ten. */
export function bytes(n: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let i = 0;
  let size = n;
  for (; size >= 1000 && i < units.length - 1; i++) size /= 1000;
  return `${size >= 100 || i === 0 ? size.toFixed(0) : size.toFixed(1)} ${units[i]}`;
}

export const count = (n: number): string => n.toLocaleString('en-US');

const ms = (time: number): string => (time < 1000 ? `${time.toFixed(0)} ms` : `${(time / 1000).toFixed(2)} s`);

/** How long an answer took, on one line. */
export function stats({ usage, timings }: GenerateResult): string {
  const parts = [
    usage.imageTokens ? `picture ${ms(timings.image + timings.vision)}` : '',
    `read ${usage.imageTokens + usage.promptTokens} positions in ${ms(timings.prefill)}`,
    `first token after ${ms(timings.firstToken)}`,
    usage.completionTokens > 1
      ? `${usage.completionTokens} tokens, ${timings.tokensPerSecond.toFixed(1)} a second`
      : '',
    `${ms(timings.total)} in all`,
  ];
  return parts.filter(Boolean).join(' · ');
}

/** "name   value" lines with the values under one another. */
export function table(rows: readonly (readonly [string, string])[]): string {
  const width = Math.max(...rows.map(([name]) => name.length)) + 2;
  return rows.map(([name, value]) => `${name.padEnd(width)}${value}\n`).join('');
}
