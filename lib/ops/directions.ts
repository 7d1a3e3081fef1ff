import { rangeError, show } from '../errors.ts';
import { expect } from './check.ts';

/**
 * The ways to read a grid of patches (VL-Mamba, arXiv 2403.13600 §3.2, Fig. 3). `bsm`: row by row, and its reverse. `csm`:
 * row by row, its reverse, column by column, its reverse.
 */
export type Scan = 'bsm' | 'csm';

/** A grid of patches, and the ways it is read. */
export interface Grid {
  /** The ways. */
  scan: Scan;
  /** Patches in a column. */
  height: number;
  /** Patches in a row. */
  width: number;
}

export function scanDirections(op: string, scan: Scan): number {
  if (scan === 'bsm') return 2;
  if (scan === 'csm') return 4;
  throw rangeError('ERR_OP_ATTR', `[${op}] scan must be bsm or csm, got ${show(scan)}`);
}

/** Throws unless the grid has `l` patches. */
export function expectGrid(op: string, { height, width }: Grid, l: number): void {
  const whole = (n: number) => Number.isInteger(n) && n >= 1;
  expect(op, whole(height) && whole(width), `height and width must be positive integers, got ${height} and ${width}`);
  expect(op, height * width === l, `height·width must be ${l}, got ${height}·${width}`);
}
