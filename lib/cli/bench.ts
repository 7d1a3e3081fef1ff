import { stdout } from 'node:process';
import { rangeError, show } from '../errors.ts';
import { type LoadFlags, loadModel } from './load.ts';
import { number } from './options.ts';
import { bytes, table } from './text.ts';

interface BenchFlags extends LoadFlags {
  tokens: string;
  steps?: boolean;
  json?: boolean;
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
  const rounds = async (length: number) => {
    signal.throwIfAborted();
    const { ms, steps } = await model.profile(length, { rounds: ROUNDS });
    return { ms: median(ms), steps };
  };
  const decode = await rounds(1);
  const prefill = await rounds(tokens);
  const vision: number[] = [];
  if (model.config.vision) {
    const side = model.config.vision.imageSize;
    const image = { data: new Uint8Array(side * side * 3), width: side, height: side, channels: 3 as const };
    for (let i = 0; i < ROUNDS; i++) {
      const from = performance.now();
      await model.imageEmbeds(image, { signal });
      vision.push(performance.now() - from);
    }
  }
  const result = {
    device: model.device,
    loadMs: load,
    weightBytes: model.weightBytes,
    decodeMs: decode.ms,
    decodeTokensPerSecond: 1000 / decode.ms,
    decodeGBps: model.weightBytes / decode.ms / 1e6,
    prefillTokens: tokens,
    prefillMs: prefill.ms,
    prefillTokensPerSecond: (tokens / prefill.ms) * 1000,
    pictureMs: vision.length ? median(vision) : null,
  };
  if (flags.json) {
    stdout.write(
      `${JSON.stringify({ ...result, ...(flags.steps && { decode: decode.steps, prefill: prefill.steps }) })}\n`,
    );
    return;
  }
  stdout.write(
    table([
      ['load', `${(load / 1000).toFixed(2)} s for ${bytes(result.weightBytes)} of weights`],
      [
        'decode',
        `${decode.ms.toFixed(2)} ms a token, ${result.decodeTokensPerSecond.toFixed(1)} tokens/s, ${result.decodeGBps.toFixed(1)} GB/s of weights`,
      ],
      [
        'prefill',
        `${tokens} tokens in ${prefill.ms.toFixed(1)} ms, ${result.prefillTokensPerSecond.toFixed(0)} tokens/s`,
      ],
      ...(result.pictureMs === null
        ? []
        : [['picture', `${result.pictureMs.toFixed(1)} ms from pixels to rows`] as const]),
    ]),
  );
  if (!flags.steps) return;
  for (const [name, { steps }] of Object.entries({ decode, prefill })) {
    stdout.write(`\n${name}\n`);
    for (const { op, ms, gbps } of steps)
      stdout.write(`${op.padEnd(22)}${ms.toFixed(3).padStart(10)} ms${gbps.toFixed(1).padStart(9)} GB/s\n`);
  }
}
