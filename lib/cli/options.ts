import type { SamplingOptions } from '../sampling.ts';

/** A number as typed; what is no number becomes NaN, which the check behind it names. */
export const number = (text: string | undefined): number | undefined =>
  text === undefined ? undefined : Number(text || Number.NaN);

export interface SamplingFlags {
  maxNewTokens?: string;
  temperature?: string;
  topK?: string;
  topP?: string;
  minP?: string;
  repetitionPenalty?: string;
  seed?: string;
  stop?: string[];
}

export function sampling(flags: SamplingFlags): SamplingOptions {
  const given = {
    maxNewTokens: number(flags.maxNewTokens),
    temperature: number(flags.temperature),
    topK: number(flags.topK),
    topP: number(flags.topP),
    minP: number(flags.minP),
    repetitionPenalty: number(flags.repetitionPenalty),
    seed: number(flags.seed),
    stop: flags.stop,
  };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as SamplingOptions;
}
