import type { Graph } from '../program.ts';
import { stridesLike, type Tensor } from '../tensor.ts';
import { expect, expectDtype, expectRank, expectShape } from './check.ts';

export interface SelectiveScanInputs {
  /** [b, d, l] f32 */
  u: Tensor;
  /** [b, d, l] f32 */
  delta: Tensor;
  /** [d, n] f32, n from 1 to 256 */
  A: Tensor;
  /** [b, g, n, l] f32, g dividing d */
  B: Tensor;
  /** [b, g, n, l] f32 */
  C: Tensor;
  /** [d] f32 */
  D?: Tensor | undefined;
  /** [b, d, l] f32 */
  z?: Tensor | undefined;
  /** [d] f32 */
  deltaBias?: Tensor | undefined;
  /** [b, d, n] f32, or [slots, d, n] with `slots` */
  initialState?: Tensor | undefined;
  /** [b] i32: each batch row's row of the states, all different */
  slots?: Tensor | undefined;
  /** Where the state goes, instead of into new memory; as initialState, and may be the same. */
  lastState?: Tensor | undefined;
}

/**
 * The selective scan of Mamba (arXiv 2312.00752 §3, Alg. 2):
 * h_t = exp(dt_t·A)·h_{t−1} + dt_t·B_t·u_t, y_t = (C_t·h_t + D·u_t)·silu(z_t), dt = softplus(delta + deltaBias), or without
 * the softplus. Channel c reads group ⌊c / (d/g)⌋ of B and C. Without an initial state h starts at 0.
 * Returns y [b, d, l] f32, in memory ordered as u, and lastState [b, d, n] f32.
 */
export function selectiveScan(
  g: Graph,
  inputs: SelectiveScanInputs,
  { deltaSoftplus = false }: { deltaSoftplus?: boolean } = {},
): { y: Tensor; lastState: Tensor } {
  const op = 'selective_scan';
  const { u, delta, A, B, C, D, z, deltaBias, initialState, slots, lastState } = inputs;
  for (const [name, tensor] of Object.entries({ u, delta, B, C, z })) expectDtype(op, name, tensor, ...g.floats);
  for (const [name, tensor] of Object.entries({ A, D, deltaBias, initialState, lastState }))
    expectDtype(op, name, tensor, 'f32');
  expectDtype(op, 'slots', slots, 'i32');
  const [b, d, l] = expectRank(op, 'u', u, 'b,d,l') as [number, number, number];
  expectShape(op, 'delta', delta, 'b,d,l', [b, d, l]);
  expectShape(op, 'A', A, 'd,n', [d, -1]);
  const n = A.shape[1]!;
  expect(op, n >= 1 && n <= 256, `A must have 1 to 256 states, got ${n}`);
  expectShape(op, 'B', B, 'b,g,n,l', [b, -1, n, l]);
  const groups = B.shape[1]!;
  expect(op, groups >= 1 && d % groups === 0, `the groups of B must divide the ${d} channels, got ${groups}`);
  expectShape(op, 'C', C, 'b,g,n,l', [b, groups, n, l]);
  expectShape(op, 'D', D, 'd', [d]);
  expectShape(op, 'z', z, 'b,d,l', [b, d, l]);
  expectShape(op, 'deltaBias', deltaBias, 'd', [d]);
  const states = slots ? 'slots,d,n' : 'b,d,n';
  expectShape(op, 'initialState', initialState, states, [slots ? -1 : b, d, n]);
  expectShape(op, 'slots', slots, 'b', [b]);
  expectShape(op, 'lastState', lastState, states, [slots ? -1 : b, d, n]);
  expect(op, !slots || lastState !== undefined, 'slots chooses rows of lastState: it needs lastState');
  expect(
    op,
    !slots || !initialState || initialState.shape[0] === lastState?.shape[0],
    `initialState and lastState must have the same number of slots, got ${initialState?.shape[0]} and ${lastState?.shape[0]}`,
  );
  const y = g.empty(u.dtype, u.shape, stridesLike(u));
  const last = lastState ?? g.empty('f32', [b, d, n]);
  g.push(
    op,
    { u, delta, A, B, C, D, z, delta_bias: deltaBias, initial_state: initialState, slots },
    { y, last_state: last },
    { delta_softplus: deltaSoftplus },
  );
  return { y, lastState: last };
}
