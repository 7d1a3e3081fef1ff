import { rangeError, show, typeError } from './errors.ts';
import { nearest } from './nearest.ts';
import { StopMatcher } from './text/text_stream.ts';

/** How tokens are chosen and when a text ends. What is left out is as the checkpoint proposes, else as said here. */
export interface SamplingOptions {
  /** 0 (the default) takes the likeliest token; else 0 to 100. Values between 0 and 10⁻⁵ act as 10⁻⁵. */
  temperature?: number;
  /** Only the k likeliest tokens; 0 (the default) is all. More than the vocabulary has are all, too. */
  topK?: number;
  /** Only the fewest likeliest tokens whose probabilities add up to this, at least one; 1 (the default) is all. */
  topP?: number;
  /** Only tokens at least this many times as likely as the likeliest; 0 (the default) is all. Takes topP's place. */
  minP?: number;
  /** Makes tokens of the text so far less likely, above 1, or more, below; 0.01 to 100, 1 (the default) is off. */
  repetitionPenalty?: number;
  /** An integer from 0 to 2⁶⁴ − 1; the same seed gives the same text. A new one for each call by default. */
  seed?: number | bigint;
  /** At most this many tokens, 0 to 2²⁰; 512 by default. */
  maxNewTokens?: number;
  /** Strings that end the text before they appear in it: at most 16 of 256 bytes. */
  stop?: string | readonly string[];
}

/** All options, checked. */
export interface Sampling {
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  repetitionPenalty: number;
  seed: bigint;
  maxNewTokens: number;
  stop: string[];
}

type NumberName = Exclude<keyof Sampling, 'seed' | 'stop'>;

interface Rule {
  code: string;
  /** As a sentence has it: "must be …". */
  range: string;
  fits: (value: number) => boolean;
  fallback: number;
}

const between = (low: number, high: number) => (value: number) => value >= low && value <= high;
const integer = (high: number) => (value: number) => Number.isInteger(value) && value >= 0 && value <= high;

const rules: Record<NumberName, Rule> = {
  temperature: {
    code: 'ERR_GEN_TEMPERATURE',
    range: 'a number from 0 to 100 (0 takes the likeliest token)',
    fits: between(0, 100),
    fallback: 0,
  },
  topK: {
    code: 'ERR_GEN_TOP_K',
    range: 'an integer from 0 to 2147483647 (0 is off)',
    fits: integer(2 ** 31 - 1),
    fallback: 0,
  },
  topP: {
    code: 'ERR_GEN_TOP_P',
    range: 'a number above 0 and at most 1 (1 is off)',
    fits: (value) => value > 0 && value <= 1,
    fallback: 1,
  },
  minP: { code: 'ERR_GEN_MIN_P', range: 'a number from 0 to 1 (0 is off)', fits: between(0, 1), fallback: 0 },
  repetitionPenalty: {
    code: 'ERR_GEN_REPETITION_PENALTY',
    range: 'a number from 0.01 to 100 (1 is off)',
    fits: between(0.01, 100),
    fallback: 1,
  },
  maxNewTokens: {
    code: 'ERR_GEN_MAX_NEW_TOKENS',
    range: 'an integer from 0 to 1048576',
    fits: integer(2 ** 20),
    fallback: 512,
  },
};

const numberNames = Object.keys(rules) as NumberName[];
const known: readonly string[] = [...numberNames, 'seed', 'stop'];
/** Options that stand beside these: suggestions for a misspelt one. */
const beside = ['prompt', 'messages', 'images', 'signal'];

/** Below these, f32 and the kernels tell values from 0 no more; they change no token. */
const LEAST = { temperature: 1e-5, topP: 1e-6 };
const SEEDS = 2n ** 64n;

/**
 * Checks the options of one call and fills in what is left out: from `defaults`, which the checkpoint's
 * generation_config.json proposes, else from the rules above. Each option is read once.
 * @throws TypeError for a wrong type and RangeError for a wrong value, with a code of its own for each option:
 * ERR_GEN_TEMPERATURE, ERR_GEN_TOP_K, ERR_GEN_TOP_P, ERR_GEN_MIN_P, ERR_GEN_REPETITION_PENALTY, ERR_GEN_SEED,
 * ERR_GEN_MAX_NEW_TOKENS, ERR_GEN_STOP; ERR_GEN_OPTION for options that do not exist
 */
export function resolveSampling(
  options: SamplingOptions | undefined,
  defaults: Readonly<Partial<Record<NumberName, number>>> = {},
): Sampling {
  const given: Record<string, unknown> = readOnce(options);
  const numbers = Object.fromEntries(
    numberNames.map((name) => [name, checkNumber(name, given[name], defaults[name])]),
  ) as Record<NumberName, number>;
  const { temperature, topP } = numbers;
  return {
    ...numbers,
    temperature: temperature === 0 ? 0 : Math.max(temperature, LEAST.temperature),
    topP: Math.max(topP, LEAST.topP),
    seed: checkSeed(given.seed),
    stop: checkStop(given.stop),
  };
}

function readOnce(options: unknown): Record<string, unknown> {
  if (options === undefined) return {};
  if (typeof options !== 'object' || options === null || Array.isArray(options))
    throw typeError('ERR_GEN_OPTION', `options must be an object, got ${show(options)}`);
  for (const key of Object.keys(options)) {
    if (known.includes(key)) continue;
    const meant = nearest(key, [...known, ...beside]);
    const hint = meant && meant !== key ? `did you mean ${meant}?` : `known are ${known.join(', ')}`;
    throw typeError('ERR_GEN_OPTION', `there is no option ${show(key)}: ${hint}`);
  }
  return Object.fromEntries(known.map((name) => [name, (options as Record<string, unknown>)[name]]));
}

function checkNumber(name: NumberName, option: unknown, proposed: unknown): number {
  const { code, range, fits, fallback } = rules[name];
  const value = option === undefined ? (proposed ?? fallback) : option;
  const fail = (error: typeof typeError | typeof rangeError) => {
    const source = option === undefined ? ' from the checkpoint' : '';
    return error(code, `${name} must be ${range}, got ${show(value)}${source}`);
  };
  if (typeof value !== 'number') throw fail(typeError);
  if (!fits(value)) throw fail(rangeError);
  return value;
}

function checkSeed(seed: unknown): bigint {
  if (seed === undefined) return crypto.getRandomValues(new BigUint64Array(1))[0]!;
  const fail = (error: typeof typeError | typeof rangeError) =>
    error(
      'ERR_GEN_SEED',
      `seed must be an integer from 0 to 2^64 - 1 (a BigInt from 2^53 on), got ${typeof seed === 'bigint' ? `${seed}n` : show(seed)}`,
    );
  if (typeof seed !== 'number' && typeof seed !== 'bigint') throw fail(typeError);
  if (typeof seed === 'number' && !Number.isSafeInteger(seed)) throw fail(rangeError);
  if (seed < 0 || seed >= SEEDS) throw fail(rangeError);
  return BigInt(seed);
}

function checkStop(stop: unknown): string[] {
  if (stop === undefined) return [];
  if (typeof stop !== 'string' && !Array.isArray(stop))
    throw typeError('ERR_GEN_STOP', `stop must be a string or an array of strings, got ${show(stop)}`);
  const list: string[] = typeof stop === 'string' ? [stop] : [...stop];
  new StopMatcher(list); // throws for strings that cannot be matched
  return list;
}
