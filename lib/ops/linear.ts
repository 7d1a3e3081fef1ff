import type { Graph } from '../program.ts';
import { type Dtype, describe, type Tensor } from '../tensor.ts';
import type { Activation } from './activation.ts';
import { expect, expectDtype, expectRank, expectShape } from './check.ts';

export interface LinearInputs {
  /** [rows…, k] f32 */
  x: Tensor;
  /** [n, k] f32 | f16 | bf16 */
  weight: Tensor;
  /** [n] f32 */
  bias?: Tensor | undefined;
  /** [rows…, n] f32, added last */
  residual?: Tensor | undefined;
  /** [rows…, n] f32: where the result goes, instead of into new memory */
  y?: Tensor | undefined;
}

/**
 * y = act(x Wᵀ + bias) + residual; [rows…, n] f32. Products are summed in f32; with bf16 weights, processors that multiply
 * bf16 round x to bf16 first. A row's result doesn't depend on the rows beside it.
 */
export function linear(
  g: Graph,
  { x, weight, bias, residual, y }: LinearInputs,
  /** dtype: of y; unless given the residual's, or what the graph's activations have */
  { activation = 'none', dtype = residual?.dtype ?? g.activations }: { activation?: Activation; dtype?: Dtype } = {},
): { y: Tensor } {
  const op = 'linear';
  for (const [name, tensor] of Object.entries({ x, residual, y })) expectDtype(op, name, tensor, ...g.floats);
  for (const [name, tensor] of Object.entries({ bias })) expectDtype(op, name, tensor, 'f32');
  expectDtype(op, 'weight', weight, 'f32', 'f16', 'bf16');
  const [n, k] = expectRank(op, 'weight', weight, 'n,k') as [number, number];
  expect(op, x.shape.at(-1) === k, `x must be [rows…,k] with k = ${k}, got ${describe(x)}`);
  const shape = [...x.shape.slice(0, -1), n];
  expectShape(op, 'bias', bias, 'n', [n]);
  expectShape(op, 'residual', residual, 'rows…,n', shape);
  expectShape(op, 'y', y, 'rows…,n', shape);
  const result = y ?? g.empty(dtype, shape);
  g.push(op, { x, weight, bias, residual }, { y: result }, { activation });
  return { y: result };
}
