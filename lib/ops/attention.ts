import type { Graph } from '../program.ts';
import { describe, numel, type Tensor } from '../tensor.ts';
import { expect, expectDtype, expectRank, expectShape } from './check.ts';

export interface AttentionInputs {
  /** [b, l, h, dh] f32 */
  q: Tensor;
  /** [b, m, h, dh] f32 */
  k: Tensor;
  /** [b, m, h, dh] f32 */
  v: Tensor;
}

/**
 * y = softmax(scale · q kᵀ) v for every head, each position seeing all (Vaswani et al. 2017, eq. 1, without a mask);
 * [b, l, h, dh] f32. scale is 1/√dh unless given. With products 'bf16', processors that multiply bf16 round q, k, v and the
 * numerators of the softmax to it; sums are f32 all the same.
 */
export function attention(
  g: Graph,
  { q, k, v }: AttentionInputs,
  { scale, products = 'f32' }: { scale?: number; products?: 'f32' | 'bf16' } = {},
): { y: Tensor } {
  const op = 'attention';
  for (const [name, tensor] of Object.entries({ q, k, v })) expectDtype(op, name, tensor, ...g.floats);
  const [b, , h, dh] = expectRank(op, 'q', q, 'b,l,h,dh') as [number, number, number, number];
  const [, m] = expectRank(op, 'k', k, 'b,m,h,dh') as [number, number];
  expectShape(op, 'k', k, 'b,m,h,dh', [b, -1, h, dh]);
  expectShape(op, 'v', v, 'b,m,h,dh', [b, m, h, dh]);
  expect(op, m > 0 || numel(q.shape) === 0, `k and v must have at least one row, got ${describe(k)}`);
  const factor = scale ?? Math.max(dh, 1) ** -0.5;
  expect(op, Number.isFinite(factor), `scale must be finite, got ${factor}`);
  const y = g.empty(q.dtype, q.shape);
  g.push(op, { q, k, v }, { y }, { scale: factor, products });
  return { y };
}
