import type { Graph } from '../program.ts';
import type { Tensor } from '../tensor.ts';
import { expectDtype, expectRank, expectShape } from './check.ts';
import { areLines, expectQuantised, inLines } from './quantised.ts';

export interface EmbeddingInputs {
  /** [b, l] i32: id ≥ 0 is a row of weight, id < 0 is row −1 − id of rows */
  ids: Tensor;
  /** [v, d] f32 | f16 | bf16 | i8, which may be in lines, see `inLines` */
  weight: Tensor;
  /** [r, d] f32: vectors that stand for no word, e.g. a picture's */
  rows?: Tensor | undefined;
  /** [v, ⌈d/128⌉] f32, with weights of i8: what a whole number of each 128 of a row stands for */
  scale?: Tensor | undefined;
}

/**
 * y[b,l,:] = weight[ids[b,l],:], or a row of `rows` where the id is negative; [b, l, d] f32. A run with an id that has no
 * row fails with ERR_OP_INDEX.
 */
export function embedding(
  g: Graph,
  { ids, weight, rows, scale }: EmbeddingInputs,
  /** width: d, which lines don't tell */
  { width = 0 }: { width?: number } = {},
): { y: Tensor } {
  const op = 'embedding';
  expectDtype(op, 'ids', ids, 'i32');
  expectDtype(op, 'weight', weight, 'f32', 'f16', 'bf16', 'i8');
  expectDtype(op, 'rows', rows, 'f32');
  const [b, l] = expectRank(op, 'ids', ids, 'b,l') as [number, number];
  const lines = areLines(weight);
  const [v, d] = lines ? [scale?.shape[0] ?? 0, width] : (expectRank(op, 'weight', weight, 'v,d') as [number, number]);
  if (lines) expectShape(op, 'weight', weight, '⌈v/16⌉,lines of d,64', inLines(false, v, d));
  expectQuantised(op, { weight, scale }, v, d);
  expectShape(op, 'rows', rows, 'r,d', [-1, d]);
  const y = g.empty('f32', [b, l, d]);
  g.push(op, { ids, weight, rows, scale }, { y });
  return { y };
}
