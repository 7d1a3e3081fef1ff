import type { Graph } from '../program.ts';
import type { Tensor } from '../tensor.ts';
import { expectDtype, expectRank, expectShape } from './check.ts';
import { expectGrid, type Grid, scanDirections } from './directions.ts';

/**
 * Takes the sequences of {@link crossScan} back to the grid and adds them up: y[b,c,p] = Σ_k ys[b,k,c,i], p the i-th patch
 * that direction k visits (VMamba, arXiv 2401.10166, cross-merge).
 * ys [b, k, c, h·w] f32; returns y [b, c, h, w] f32.
 */
export function crossMerge(
  g: Graph,
  { ys }: { /** [b, k, c, h·w] f32 */ ys: Tensor },
  { scan = 'bsm', height, width }: Omit<Grid, 'scan'> & { scan?: Grid['scan'] },
): { y: Tensor } {
  const op = 'cross_merge';
  expectDtype(op, 'ys', ys, ...g.floats);
  const [b, , c, l] = expectRank(op, 'ys', ys, 'b,k,c,h·w') as [number, number, number, number];
  expectShape(op, 'ys', ys, 'b,k,c,h·w', [b, scanDirections(op, scan), c, l]);
  expectGrid(op, { scan, height, width }, l);
  const y = g.empty(ys.dtype, [b, c, height, width]);
  g.push(op, { ys }, { y }, { scan });
  return { y };
}
