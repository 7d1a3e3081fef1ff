import { QUANT_BLOCK, QUANT_GROUP, quantBlocks } from './ops/quantised.ts';
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

/** What a matrix [rows…, k] is made of; `linear` says what it stands for. */
export function quantisedParts(quantised: Quantised, shape: readonly number[]): Part[] {
  const rows = shape.slice(0, -1);
  const blocks = quantBlocks(shape.at(-1)!);
  const scale: Part = { name: 'scale', dtype: 'f32', shape: [...rows, blocks] };
  if (quantised === 'int8') return [{ name: 'weight', dtype: 'i8', shape: [...shape] }, scale];
  return [
    { name: 'weight', dtype: 'u8', shape: [...rows, (blocks * QUANT_BLOCK) / 2] },
    scale,
    { name: 'grid', dtype: 'i8', shape: [...rows, (blocks * QUANT_BLOCK) / QUANT_GROUP, 2] },
  ];
}

/** What a stored matrix is, by its dtype as the file spells it; undefined for one of floats. */
export const quantisedAs = (stored: string): Quantised | undefined =>
  stored === 'I8' ? 'int8' : stored === 'U8' ? 'int4' : undefined;
