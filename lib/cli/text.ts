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

export const ms = (time: number): string => (time < 1000 ? `${time.toFixed(0)} ms` : `${(time / 1000).toFixed(2)} s`);

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

/** Lines of whole words, none longer than `width` where the words allow it. */
export function fold(text: string, width: number): string[] {
  const lines = [''];
  for (const word of text.split(' ')) {
    const line = lines.at(-1)!;
    if (line && line.length + 1 + word.length > width) lines.push(word);
    else lines[lines.length - 1] = line ? `${line} ${word}` : word;
  }
  return lines;
}

/** "name   value" lines with the values under one another, folded to lie side by side with their names. */
export function table(rows: readonly (readonly [string, string])[], width = Number.POSITIVE_INFINITY): string {
  const indent = Math.max(...rows.map(([name]) => name.length)) + 2;
  const line = ([name, value]: readonly [string, string]) =>
    name.padEnd(indent) + fold(value, width - indent).join(`\n${' '.repeat(indent)}`);
  return rows.map((row) => `${line(row)}\n`).join('');
}
