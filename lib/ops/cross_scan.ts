import type { Graph } from '../program.ts';
import type { Tensor } from '../tensor.ts';
import { expectDtype, expectRank } from './check.ts';
import { type Scan, scanDirections } from './directions.ts';

/**
 * The patches of a grid in the order of each direction: xs[b,k,c,i] = x[b,c,p], p the i-th patch that direction k visits
 * (VL-Mamba, arXiv 2403.13600 §3.2, Fig. 3; VMamba, arXiv 2401.10166, has the same four in another order).
 * x [b, c, h, w] f32; returns xs [b, k, c, h·w] f32.
 */
export function crossScan(
  g: Graph,
  { x }: { /** [b, c, h, w] f32 */ x: Tensor },
  { scan = 'bsm' }: { scan?: Scan } = {},
): { xs: Tensor } {
  const op = 'cross_scan';
  expectDtype(op, 'x', x, ...g.floats);
  const [b, c, h, w] = expectRank(op, 'x', x, 'b,c,h,w') as [number, number, number, number];
  const xs = g.empty(x.dtype, [b, scanDirections(op, scan), c, h * w]);
  g.push(op, { x }, { xs }, { scan });
  return { xs };
}
