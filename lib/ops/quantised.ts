import type { Tensor } from '../tensor.ts';
import { expect, expectDtype, expectShape } from './check.ts';

/** Numbers of a row of weight that share a scale. */
export const QUANT_BLOCK = 128;
/** Numbers of a row of weight in int4 that share a grid. */
export const QUANT_GROUP = 32;

/** Rows and bytes of a line, where rows stand side by side. */
export const LINE_ROWS = 16;
export const LINE_BYTES = 64;

export const quantBlocks = (k: number): number => Math.ceil(k / QUANT_BLOCK);

/** What goes with a weight of n rows of k numbers in int8 (i8) or int4 (u8), and only with one. */
export interface QuantisedWeight {
  weight: Tensor;
  scale?: Tensor | undefined;
  grid?: Tensor | undefined;
}

/** Bytes that a row of k numbers takes, or lines for sixteen of them. */
export const rowBytes = (int4: boolean, k: number): number => (int4 ? (quantBlocks(k) * QUANT_BLOCK) / 2 : k);
/**
 * The shape of a matrix [n, k] as a CPU keeps it: sixteen rows stand side by side in lines of 64 bytes, with four bytes of each, so
 * that a line has what sixteen sums need next. What fills up the last rows and lines is 0.
 */
export const inLines = (int4: boolean, n: number, k: number): number[] => [
  Math.ceil(n / LINE_ROWS),
  Math.ceil(rowBytes(int4, k) / 4),
  LINE_BYTES,
];

export const areLines = ({ dtype, shape }: Tensor): boolean => (dtype === 'i8' || dtype === 'u8') && shape.length === 3;

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
