import type { Graph } from '../program.ts';
import { stridesLike, type Tensor } from '../tensor.ts';
import { expect, expectDtype, expectRank, expectShape } from './check.ts';

export interface CausalConv1dInputs {
  /** [b, d, l] f32 */
  x: Tensor;
  /** [d, w] f32, w from 2 to 4 */
  weight: Tensor;
  /** [d] f32 */
  bias?: Tensor | undefined;
  /** [b, d, w − 1] f32, the inputs before the first, oldest first; [slots, d, w − 1] with `slots` */
  initialState?: Tensor | undefined;
  /** [b] i32: each batch row's row of the states, all different */
  slots?: Tensor | undefined;
  /** Where the last inputs go, instead of into new memory; as initialState, and may be the same. */
  finalState?: Tensor | undefined;
}

/**
 * y[b,c,t] = act(bias[c] + Σ_k weight[c,k]·x[b,c,t−w+1+k]): the depthwise convolution in front of a selective scan (Mamba,
 * arXiv 2312.00752 §3.4). Without an initial state zeros come before the first input.
 * Returns y [b, d, l] f32, in memory ordered as x, and finalState [b, d, w − 1] f32, the last inputs.
 */
export function causalConv1d(
  g: Graph,
  { x, weight, bias, initialState, slots, finalState }: CausalConv1dInputs,
  { activation = null }: { activation?: 'silu' | null } = {},
): { y: Tensor; finalState: Tensor } {
  const op = 'causal_conv1d';
  expectDtype(op, 'x', x, ...g.floats);
  for (const [name, tensor] of Object.entries({ weight, bias, initialState, finalState }))
    expectDtype(op, name, tensor, 'f32');
  expectDtype(op, 'slots', slots, 'i32');
  const [b, d] = expectRank(op, 'x', x, 'b,d,l') as [number, number];
  expectShape(op, 'weight', weight, 'd,w', [d, -1]);
  const w = weight.shape[1]!;
  expect(op, w >= 2 && w <= 4, `weight must have 2 to 4 taps, got ${w}`);
  expectShape(op, 'bias', bias, 'd', [d]);
  const states = slots ? 'slots,d,w-1' : 'b,d,w-1';
  expectShape(op, 'initialState', initialState, states, [slots ? -1 : b, d, w - 1]);
  expectShape(op, 'slots', slots, 'b', [b]);
  expectShape(op, 'finalState', finalState, states, [slots ? -1 : b, d, w - 1]);
  expect(op, !slots || finalState !== undefined, 'slots chooses rows of finalState: it needs finalState');
  expect(
    op,
    !slots || !initialState || initialState.shape[0] === finalState?.shape[0],
    `initialState and finalState must have the same number of slots, got ${initialState?.shape[0]} and ${finalState?.shape[0]}`,
  );
  const y = g.empty(x.dtype, x.shape, stridesLike(x));
  const last = finalState ?? g.empty('f32', [b, d, w - 1]);
  g.push(
    op,
    { x, weight, bias, initial_state: initialState, slots },
    { y, final_state: last },
    { activation: activation ?? 'none' },
  );
  return { y, finalState: last };
}
