import type { Dtype } from './tensor.ts';

/** How many bits a matrix is kept in; docs/quantization.md has the formats. */
export type Quantized = 'int8' | 'int4';

/** Elements of a row that share a scale, and of those, in int4, that share a grid. */
export const BLOCK = 128;
export const GROUP = 32;

/** The tensors that a matrix is made of, and how a checkpoint calls them: `X.weight`, `X.weight_scale`, `X.weight_grid`. */
export const SUFFIXES = { weight: '', scale: '_scale', grid: '_grid' } as const;
export type PartName = keyof typeof SUFFIXES;

export interface Part {
  name: PartName;
  dtype: Dtype;
  shape: number[];
}

/**
 * What a matrix [rows…, k] is made of.
 *   int8: weight i8 [rows…, k], scale f32 [rows…, ⌈k/128⌉]; W = scale · weight.
 *   int4: weight u8 [rows…, ⌈k/128⌉·64], byte j of a block holding its elements j (low bits) and j + 64; grid i8
 *         [rows…, ⌈k/128⌉·4, 2], a step and an offset for each 32; W = scale · (step · q + offset).
 */
export function quantizedParts(quantized: Quantized, shape: readonly number[]): Part[] {
  const rows = shape.slice(0, -1);
  const blocks = Math.ceil(shape.at(-1)! / BLOCK);
  const scale: Part = { name: 'scale', dtype: 'f32', shape: [...rows, blocks] };
  if (quantized === 'int8') return [{ name: 'weight', dtype: 'i8', shape: [...shape] }, scale];
  return [
    { name: 'weight', dtype: 'u8', shape: [...rows, (blocks * BLOCK) / 2] },
    scale,
    { name: 'grid', dtype: 'i8', shape: [...rows, (blocks * BLOCK) / GROUP, 2] },
  ];
}

/** What a stored matrix is, by its dtype as the file spells it; undefined for one of floats. */
export const quantizedAs = (stored: string): Quantized | undefined =>
  stored === 'I8' ? 'int8' : stored === 'U8' ? 'int4' : undefined;
