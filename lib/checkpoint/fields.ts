import { show, VLMambaError } from '../errors.ts';
import { nearest } from '../nearest.ts';
import type { JsonData, JsonRecord } from './strict_json.ts';

/** Bounds of a number. `above` excludes its own value. */
export interface NumberRange {
  min?: number;
  above?: number;
  max: number;
}

const LISTED = 10;

/** What is wrong with a configuration file, collected so that all of it is reported at once. */
export class Report {
  readonly file: string;
  readonly warnings: string[] = [];
  readonly #problems: { field: string; message: string; code: string }[] = [];

  constructor(file: string) {
    this.file = file;
  }

  get clean(): boolean {
    return this.#problems.length === 0;
  }

  /** `message` follows the field's path: "must be …, found …". */
  add(field: string, message: string, code = 'ERR_CFG_VALUE'): void {
    this.#problems.push({ field, message, code });
  }

  warn(message: string): void {
    this.warnings.push(`${this.file}: ${message}`);
  }

  /** @throws VLMambaError with the code of the first problem, where there is one */
  throwIfAny(): void {
    const [first] = this.#problems;
    if (!first) return;
    const lines = this.#problems.slice(0, LISTED).map(({ field, message }) => `${field} ${message}`);
    const more = this.#problems.length - lines.length;
    throw new VLMambaError(first.code, `${this.file}: ${lines.join('; ')}${more > 0 ? `; and ${more} more` : ''}`, {
      details: { path: this.file, problems: this.#problems.map(({ field, message }) => ({ field, message })) },
    });
  }
}

/**
 * Reads the fields of one object of a configuration. A field may have several spellings, the preferred first, and
 * `a.b` is a field of a nested object. Without a fallback a field is required. A wrong field is reported and read as its
 * fallback or smallest value, so that reading goes on.
 */
export class Fields {
  readonly #record: JsonRecord;
  readonly #prefix: string;
  readonly #report: Report;
  readonly #asked = new Set<string>();

  constructor(record: JsonRecord, path: string, report: Report) {
    this.#record = record;
    this.#prefix = path === '' ? '' : `${path}.`;
    this.#report = report;
  }

  has(name: string): boolean {
    return this.#look(name) !== undefined;
  }

  /** The whole path of a field, for messages. */
  path(name: string): string {
    return this.#prefix + name;
  }

  integer(names: string | string[], min: number, max: number, fallback?: number): number {
    const rule = `an integer from ${min} to ${max}`;
    return this.#read(names, rule, (value) => isInteger(value, min, max), fallback, min);
  }

  /** An integer, or "auto" for what is worked out of other fields. */
  integerOrAuto(names: string | string[], min: number, max: number, auto: number): number {
    const rule = `an integer from ${min} to ${max} or "auto"`;
    const value = this.#read(names, rule, (value) => value === 'auto' || isInteger(value, min, max), 'auto', 'auto');
    return value === 'auto' ? auto : (value as number);
  }

  number(names: string | string[], { min, above, max }: NumberRange, fallback?: number): number {
    const rule = above === undefined ? `a number from ${min} to ${max}` : `a number above ${above} and at most ${max}`;
    const fits = (value: unknown): value is number =>
      typeof value === 'number' && value <= max && (above === undefined ? value >= min! : value > above);
    return this.#read(names, rule, fits, fallback, max);
  }

  boolean(names: string | string[], fallback: boolean): boolean {
    return this.#read(names, 'true or false', (value) => typeof value === 'boolean', fallback, fallback) as boolean;
  }

  choice<const T extends JsonData>(names: string | string[], values: readonly T[], fallback?: T): T {
    const rule = values.length === 1 ? show(values[0]) : `one of ${values.map((value) => show(value)).join(', ')}`;
    const fits = (value: unknown): value is T => values.includes(value as T);
    return this.#read(names, rule, fits, fallback, values[0]!);
  }

  /** One token id, a list of at most 64, or null for none. */
  tokenIds(name: string, vocabSize: number, fallback: number[]): number[] {
    const isId = (value: unknown): value is number => isInteger(value, 0, vocabSize - 1);
    const fits = (value: unknown): boolean =>
      value === null || isId(value) || (Array.isArray(value) && value.length <= 64 && value.every(isId));
    const rule = `an integer from 0 to ${vocabSize - 1}, a list of at most 64 of them, or null`;
    const value = this.#read(name, rule, fits as (value: unknown) => value is JsonData, fallback, fallback);
    return value === null ? [] : Array.isArray(value) ? (value as number[]) : [value as number];
  }

  tokenId(name: string, vocabSize: number, fallback: number): number | null {
    const fits = (value: unknown): value is number | null => value === null || isInteger(value, 0, vocabSize - 1);
    return this.#read(name, `an integer from 0 to ${vocabSize - 1} or null`, fits, fallback, null);
  }

  emptyList(name: string): void {
    const fits = (value: unknown): value is JsonData => Array.isArray(value) && value.length === 0;
    this.#read(name, 'an empty list', fits, [], []);
  }

  /** The fields of a nested object, or null where it is absent or null. */
  object(name: string): Fields | null {
    this.#asked.add(name);
    const value = this.#look(name);
    if (value === undefined || value === null) return null;
    if (isRecord(value)) return new Fields(value, this.path(name), this.#report);
    this.#report.add(this.path(name), `must be an object, found ${show(value)}`);
    return null;
  }

  /** Warns about fields nobody asked for whose names are like one that was asked for and is absent. */
  warnMisspelt(known: readonly string[] = []): void {
    const absent = [...this.#asked].filter((name) => !name.includes('.') && !this.has(name));
    for (const name of Object.keys(this.#record)) {
      if (this.#asked.has(name) || known.includes(name)) continue;
      const like = nearest(name, absent);
      if (like !== undefined) this.#report.warn(`${this.path(name)} is not known and not read; is it ${like}?`);
    }
  }

  #look(name: string): JsonData | undefined {
    let value: JsonData | undefined = this.#record;
    for (const part of name.split('.')) value = isRecord(value) ? value[part] : undefined;
    return value;
  }

  #read<T extends JsonData>(
    names: string | string[],
    rule: string,
    fits: (value: unknown) => value is T,
    fallback: T | undefined,
    otherwise: T,
  ): T {
    const spellings = typeof names === 'string' ? [names] : names;
    for (const name of spellings) this.#asked.add(name);
    const [name, ...others] = spellings.filter((spelling) => this.has(spelling));
    if (name === undefined) {
      if (fallback !== undefined) return fallback;
      this.#report.add(this.path(spellings[0]!), `is missing, expected ${rule}`, 'ERR_CFG_MISSING');
      return otherwise;
    }
    const value = this.#look(name);
    for (const other of others) {
      if (this.#look(other) !== value) {
        this.#report.add(
          this.path(other),
          `is ${show(this.#look(other))}, ${this.path(name)} is ${show(value)}: they must agree`,
        );
      }
    }
    if (fits(value)) return value;
    this.#report.add(this.path(name), `must be ${rule}, found ${show(value)}`);
    return fallback ?? otherwise;
  }
}

export const isRecord = (value: unknown): value is JsonRecord =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const isInteger = (value: unknown, min: number, max: number): value is number =>
  Number.isInteger(value) && (value as number) >= min && (value as number) <= max;
