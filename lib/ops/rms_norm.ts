import type { Graph } from '../program.ts';
import type { Dtype, Tensor } from '../tensor.ts';
import { expect, expectDtype, expectShape } from './check.ts';

export interface RmsNormInputs {
  /** [rows…, d] f32 */
  x: Tensor;
  /** [d] f32 */
  weight: Tensor;
  /** [rows…, d] f32, added to x before the norm */
  residual?: Tensor | undefined;
}

/**
 * s = x + residual, y = s / √(mean(s²) + eps) · weight over the last dimension (Zhang & Sennrich 2019, eq. 4).
 * Returns y and, where a residual is given, the sum s, both [rows…, d] f32.
 */
export function rmsNorm(
  g: Graph,
  { x, weight, residual }: RmsNormInputs,
  /** dtype: of y; what the graph's activations have unless given */
  { eps = 1e-5, dtype = g.activations }: { eps?: number; dtype?: Dtype } = {},
): { y: Tensor; sum?: Tensor } {
  const op = 'rms_norm';
  for (const [name, tensor] of Object.entries({ x, residual })) expectDtype(op, name, tensor, ...g.floats);
  for (const [name, tensor] of Object.entries({ weight })) expectDtype(op, name, tensor, 'f32');
  expectShape(op, 'weight', weight, 'd', [x.shape.at(-1) ?? -1]);
  expectShape(op, 'residual', residual, 'rows…,d', x.shape);
  expect(op, eps > 0 && Number.isFinite(eps), `eps must be positive, got ${eps}`);
  const y = g.empty(dtype, x.shape);
  const sum = residual && g.empty('f32', x.shape);
  g.push(op, { x, weight, residual }, { y, sum }, { eps });
  return { y, sum };
}
