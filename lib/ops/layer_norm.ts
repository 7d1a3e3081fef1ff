import type { Graph } from '../program.ts';
import type { Dtype, Tensor } from '../tensor.ts';
import { expect, expectDtype, expectShape } from './check.ts';

export interface LayerNormInputs {
  /** [rows…, d] f32 */
  x: Tensor;
  /** [d] f32 */
  weight: Tensor;
  /** [d] f32 */
  bias?: Tensor | undefined;
  /** [rows…, d] f32, added to x before the norm */
  residual?: Tensor | undefined;
}

/**
 * s = x + residual, y = (s − mean(s)) / √(var(s) + eps) · weight + bias over the last dimension, var being the mean of the
 * squared deviations (Ba et al. 2016, eq. 3). Returns y and, where a residual is given, the sum s, both [rows…, d] f32.
 */
export function layerNorm(
  g: Graph,
  { x, weight, bias, residual }: LayerNormInputs,
  /** dtype: of y; what the graph's activations have unless given */
  { eps = 1e-5, dtype = g.activations }: { eps?: number; dtype?: Dtype } = {},
): { y: Tensor; sum?: Tensor } {
  const op = 'layer_norm';
  for (const [name, tensor] of Object.entries({ x, residual })) expectDtype(op, name, tensor, ...g.floats);
  for (const [name, tensor] of Object.entries({ weight, bias })) expectDtype(op, name, tensor, 'f32');
  const d = x.shape.at(-1) ?? -1;
  expectShape(op, 'weight', weight, 'd', [d]);
  expectShape(op, 'bias', bias, 'd', [d]);
  expectShape(op, 'residual', residual, 'rows…,d', x.shape);
  expect(op, eps > 0 && Number.isFinite(eps), `eps must be positive, got ${eps}`);
  const y = g.empty(dtype, x.shape);
  const sum = residual && g.empty('f32', x.shape);
  g.push(op, { x, weight, bias, residual }, { y, sum }, { eps });
  return { y, sum };
}
