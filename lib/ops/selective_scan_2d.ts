import type { Graph } from '../program.ts';
import { index, stridesLike, type Tensor } from '../tensor.ts';
import { expect, expectDtype, expectRank, expectShape } from './check.ts';
import { expectGrid, type Grid, scanDirections } from './directions.ts';

export interface SelectiveScan2dInputs {
  /** [b, k, d, l] f32: what each direction reads, patches row by row, as causal_conv1d_2d leaves it */
  u: Tensor;
  /** [b, k, d, l] f32 */
  delta: Tensor;
  /** [d, n] f32, or [k, d, n], one for each direction */
  A: Tensor;
  /** [b, k, n, l] f32 */
  B: Tensor;
  /** [b, k, n, l] f32 */
  C: Tensor;
  /** [d] or [k, d] f32 */
  D?: Tensor | undefined;
  /** [b, d, l] f32 */
  z?: Tensor | undefined;
  /** [d] or [k, d] f32 */
  deltaBias?: Tensor | undefined;
}

/** How the directions of a grid are scanned and put together. */
export interface SelectiveScan2dOptions extends Grid {
  /** `sum` by default. */
  merge?: 'sum' | 'mean';
  /** Whether dt is softplus(delta + deltaBias) or the sum alone; false by default. */
  deltaSoftplus?: boolean;
}

/**
 * The selective scan along each direction of a height × width grid, merged where the patches are (VL-Mamba, arXiv 2403.13600
 * §3.2, Fig. 3): y[p] = (Σ_k y_k[p], or its mean)·silu(z[p]), y_k the recurrence of {@link selectiveScan} in the order of
 * direction k. Nothing is stored in a direction's order. Returns y [b, d, l] f32, patches row by row, in memory ordered as u.
 */
export function selectiveScan2d(
  g: Graph,
  inputs: SelectiveScan2dInputs,
  { scan, height, width, merge = 'sum', deltaSoftplus = false }: SelectiveScan2dOptions,
): { y: Tensor } {
  const op = 'selective_scan_2d';
  const { u, delta, A, B, C, D, z, deltaBias } = inputs;
  for (const [name, tensor] of Object.entries({ u, delta, B, C, z })) expectDtype(op, name, tensor, ...g.floats);
  for (const [name, tensor] of Object.entries({ A, D, deltaBias })) expectDtype(op, name, tensor, 'f32');
  const k = scanDirections(op, scan);
  const [b, , d, l] = expectRank(op, 'u', u, 'b,k,d,l') as [number, number, number, number];
  expectGrid(op, { scan, height, width }, l);
  expectShape(op, 'u', u, 'b,k,d,l', [b, k, d, l]);
  expectShape(op, 'delta', delta, 'b,k,d,l', [b, k, d, l]);
  const shared = A.shape.length === 2;
  expectShape(op, 'A', A, shared ? 'd,n' : 'k,d,n', shared ? [d, -1] : [k, d, -1]);
  const n = A.shape.at(-1)!;
  expect(op, n >= 1 && n <= 256, `A must have 1 to 256 states, got ${n}`);
  expectShape(op, 'B', B, 'b,k,n,l', [b, k, n, l]);
  expectShape(op, 'C', C, 'b,k,n,l', [b, k, n, l]);
  for (const [name, tensor] of Object.entries({ D, deltaBias }))
    if (tensor?.shape.length === 1) expectShape(op, name, tensor, 'd', [d]);
    else expectShape(op, name, tensor, 'k,d', [k, d]);
  expectShape(op, 'z', z, 'b,d,l', [b, d, l]);
  const y = g.empty(u.dtype, [b, d, l], stridesLike(index(u, 1, 0)));
  const tensors = { u, delta, A, B, C, D, z, delta_bias: deltaBias };
  g.push(op, tensors, { y }, { scan, height, width, merge, delta_softplus: deltaSoftplus });
  return { y };
}
