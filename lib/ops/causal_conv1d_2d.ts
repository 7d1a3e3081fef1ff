import type { Graph } from '../program.ts';
import { stridesLike, type Tensor } from '../tensor.ts';
import { expect, expectDtype, expectRank, expectShape } from './check.ts';
import { expectGrid, type Grid, scanDirections } from './directions.ts';

export interface CausalConv1d2dInputs {
  /** [b, d, l] f32, patches row by row */
  x: Tensor;
  /** [d, w] f32, w from 2 to 4, or [k, d, w], one for each direction */
  weight: Tensor;
  /** [d] or [k, d] f32 */
  bias?: Tensor | undefined;
}

/**
 * The causal convolution along each direction of a height × width grid (VL-Mamba, arXiv 2403.13600 §3.2, Fig. 3), each result
 * stored where its patch is; in front of each sequence are zeros.
 * Returns y [b, k, d, l] f32, patches row by row, in memory ordered as x.
 */
export function causalConv1d2d(
  g: Graph,
  { x, weight, bias }: CausalConv1d2dInputs,
  { scan, height, width, activation = null }: Grid & { activation?: 'silu' | null },
): { y: Tensor } {
  const op = 'causal_conv1d_2d';
  for (const [name, tensor] of Object.entries({ x })) expectDtype(op, name, tensor, ...g.floats);
  for (const [name, tensor] of Object.entries({ weight, bias })) expectDtype(op, name, tensor, 'f32');
  const k = scanDirections(op, scan);
  const [b, d, l] = expectRank(op, 'x', x, 'b,d,l') as [number, number, number];
  expectGrid(op, { scan, height, width }, l);
  const shared = weight.shape.length === 2;
  expectShape(op, 'weight', weight, shared ? 'd,w' : 'k,d,w', shared ? [d, -1] : [k, d, -1]);
  const w = weight.shape.at(-1)!;
  expect(op, w >= 2 && w <= 4, `weight must have 2 to 4 taps, got ${w}`);
  if (bias?.shape.length === 1) expectShape(op, 'bias', bias, 'd', [d]);
  else expectShape(op, 'bias', bias, 'k,d', [k, d]);
  const y = g.empty(x.dtype, [b, k, d, l], [k * d * l, d * l, ...stridesLike(x).slice(1)]);
  g.push(op, { x, weight, bias }, { y }, { scan, height, width, activation: activation ?? 'none' });
  return { y };
}
