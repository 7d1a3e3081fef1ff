import { inLines, QUANT_BLOCK, QUANT_GROUP, quantBlocks, rowBytes } from './ops/quantised.ts';
import type { Dtype } from './tensor.ts';

/** How many bits a matrix is kept in; docs/quantization.md has the formats. */
export type Quantised = 'int8' | 'int4';

/** The tensors that a matrix is made of, and how a checkpoint calls them: `X.weight`, `X.weight_scale`, `X.weight_grid`. */
export const SUFFIXES = { weight: '', scale: '_scale', grid: '_grid' } as const;
export type PartName = keyof typeof SUFFIXES;

export interface Part {
  name: PartName;
  dtype: Dtype;
  shape: number[];
}

/** What a matrix [rows…, k] is made of, in lines if it is [n, k] and they are asked for; `linear` says what it stands for. */
export function quantisedParts(quantised: Quantised, shape: readonly number[], { lines = false } = {}): Part[] {
  const rows = shape.slice(0, -1);
  const k = shape.at(-1)!;
  const int4 = quantised === 'int4';
  const weight: Part = {
    name: 'weight',
    dtype: int4 ? 'u8' : 'i8',
    shape: lines && rows.length === 1 ? inLines(int4, rows[0]!, k) : [...rows, rowBytes(int4, k)],
  };
  const scale: Part = { name: 'scale', dtype: 'f32', shape: [...rows, quantBlocks(k)] };
  const groups = (quantBlocks(k) * QUANT_BLOCK) / QUANT_GROUP;
  return int4 ? [weight, scale, { name: 'grid', dtype: 'i8', shape: [...rows, groups, 2] }] : [weight, scale];
}

/** What a stored matrix is, by its dtype as the file spells it; undefined for one of floats. */
export const quantisedAs = (stored: string): Quantised | undefined =>
  stored === 'I8' ? 'int8' : stored === 'U8' ? 'int4' : undefined;
