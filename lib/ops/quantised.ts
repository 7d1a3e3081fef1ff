import type { Tensor } from '../tensor.ts';
import { expect, expectDtype, expectShape } from './check.ts';

/** Numbers of a row of weight that share a scale. */
export const QUANT_BLOCK = 128;
/** Numbers of a row of weight in int4 that share a grid. */
export const QUANT_GROUP = 32;

export const quantBlocks = (k: number): number => Math.ceil(k / QUANT_BLOCK);

/** What goes with a weight of n rows of k numbers in int8 (i8) or int4 (u8), and only with one. */
export interface QuantisedWeight {
  weight: Tensor;
  scale?: Tensor | undefined;
  grid?: Tensor | undefined;
}

/** Throws unless scale and grid are what the dtype of the weight asks for. */
export function expectQuantised(op: string, { weight, scale, grid }: QuantisedWeight, n: number, k: number): void {
  const blocks = quantBlocks(k);
  const int4 = weight.dtype === 'u8';
  expect(op, !scale === !(int4 || weight.dtype === 'i8'), 'scale goes with a weight of i8 or u8, and only with one');
  expect(op, !grid === !int4, 'grid goes with a weight of u8, and only with one');
  expectDtype(op, 'scale', scale, 'f32');
  expectShape(op, 'scale', scale, 'n,⌈k/128⌉', [n, blocks]);
  expectDtype(op, 'grid', grid, 'i8');
  expectShape(op, 'grid', grid, 'n,⌈k/128⌉·4,2', [n, (blocks * QUANT_BLOCK) / QUANT_GROUP, 2]);
}
