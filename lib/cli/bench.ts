import { writeFile } from 'node:fs/promises';
import { stdout } from 'node:process';
import type { StepProfile } from '../device.ts';
import { rangeError, show } from '../errors.ts';
import { chart, figure } from './chart.ts';
import { type LoadFlags, loadModel } from './load.ts';
import { machine } from './machine.ts';
import { number } from './options.ts';
import { bytes } from './text.ts';

interface BenchFlags extends LoadFlags {
  tokens: string;
  steps?: boolean;
  json?: true | string;
  svg?: string;
}

const ROUNDS = 5;

const median = (list: readonly number[]): number => [...list].sort((a, b) => a - b)[list.length >> 1]!;

/** Times of native code: medians of a few runs. */
export async function bench(path: string, flags: BenchFlags, signal: AbortSignal): Promise<void> {
  const tokens = number(flags.tokens)!;
  if (!Number.isInteger(tokens) || tokens < 1 || tokens > 65_536)
    throw rangeError('ERR_ARG_TOKENS', `--tokens must be an integer from 1 to 65536, got ${show(flags.tokens)}`);
  const start = performance.now();
  await using model = await loadModel(path, flags, signal);
  const load = performance.now() - start;
  const rounds = async (length: number | 'picture') => {
    signal.throwIfAborted();
    const { ms, steps } = await model.profile(length, { rounds: ROUNDS });
    return { ms: median(ms), steps };
  };
  const decode = await rounds(1);
  const prefill = await rounds(tokens);
  const picture = model.config.vision ? await rounds('picture') : undefined;
  const result = {
    model: path,
    machine: machine(model.device),
    device: model.device,
    loadMs: load,
    weightBytes: model.weightBytes,
    decodeMs: decode.ms,
    decodeTokensPerSecond: 1000 / decode.ms,
    decodeGBps: model.weightBytes / decode.ms / 1e6,
    prefillTokens: tokens,
    prefillMs: prefill.ms,
    prefillTokensPerSecond: (tokens / prefill.ms) * 1000,
    pictureMs: picture?.ms ?? null,
  };
  const parts = { decode, prefill, ...(picture && { picture }) };
  const names = { decode: 'a token', prefill: `a prompt of ${tokens}`, picture: 'a picture' };
  const steps = Object.fromEntries(Object.entries(parts).map(([name, { steps }]) => [name, steps]));
  const json = `${JSON.stringify({ ...result, ...(flags.steps && steps) })}\n`;
  if (flags.svg) {
    const panels = Object.entries(parts).map(([name, { ms, steps }]) => ({
      title: `${names[name as keyof typeof names]} (${figure(ms)} ms) by kind of step`,
      unit: 'ms',
      bars: byOp(steps),
    }));
    await writeFile(flags.svg, chart(`vl-mamba bench ${path}`, result.machine, panels));
  }
  if (typeof flags.json === 'string') await writeFile(flags.json, json);
  if (flags.json === true) {
    stdout.write(json);
    return;
  }
  const cells = [
    ['', 'ms', 'a second', 'GB/s of weights'],
    [names.decode, figure(decode.ms), figure(result.decodeTokensPerSecond), figure(result.decodeGBps)],
    [names.prefill, figure(prefill.ms), figure(result.prefillTokensPerSecond), ''],
    ...(picture ? [[names.picture, figure(picture.ms), figure(1000 / picture.ms), '']] : []),
  ];
  stdout.write(
    `${result.machine}\n${bytes(result.weightBytes)} of weights, loaded in ${(load / 1000).toFixed(2)} s\n\n`,
  );
  stdout.write(grid(cells));
  if (!flags.steps) return;
  for (const [name, { steps }] of Object.entries(parts)) {
    stdout.write(`\n${names[name as keyof typeof names]}\n`);
    for (const { op, ms, gbps } of steps)
      stdout.write(`${op.padEnd(22)}${ms.toFixed(3).padStart(10)} ms${gbps.toFixed(1).padStart(9)} GB/s\n`);
  }
}

/** Milliseconds of each kind of step, the longest first. */
function byOp(steps: readonly StepProfile[]): { label: string; value: number }[] {
  const sums = new Map<string, { ms: number; count: number }>();
  for (const { op, ms } of steps) {
    const { ms: before, count } = sums.get(op) ?? { ms: 0, count: 0 };
    sums.set(op, { ms: before + ms, count: count + 1 });
  }
  return [...sums]
    .map(([op, { ms, count }]) => ({ label: count > 1 ? `${op} × ${count}` : op, value: ms }))
    .sort((a, b) => b.value - a.value);
}

/** Columns under their heads, a line between; all but the first have their figures at the right. */
function grid(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, i) => Math.max(...rows.map((row) => row[i]!.length)));
  const lines = rows.map((row) =>
    row
      .map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]! + 2)))
      .join('')
      .trimEnd(),
  );
  const width = widths.reduce((sum, width) => sum + width + 2, -2);
  return [lines[0], '─'.repeat(width), ...lines.slice(1)].map((line) => `${line}\n`).join('');
}
