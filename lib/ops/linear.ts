import type { Graph } from '../program.ts';
import { type Dtype, describe, type Tensor } from '../tensor.ts';
import type { Activation } from './activation.ts';
import { expect, expectDtype, expectRank, expectShape } from './check.ts';
import { areLines, expectQuantised, inLines, rowBytes } from './quantised.ts';

export interface LinearInputs {
  /** [rows…, k] f32 */
  x: Tensor;
  /** [n, k] f32 | f16 | bf16 | i8, or [n, ⌈k/128⌉·64] u8: two int4 a byte; i8 and u8 also in lines, see `inLines` */
  weight: Tensor;
  /** [n] f32 */
  bias?: Tensor | undefined;
  /** [rows…, n] f32, added last */
  residual?: Tensor | undefined;
  /** [n, ⌈k/128⌉] f32, with weights of i8 and u8: what a whole number of each 128 of a row stands for */
  scale?: Tensor | undefined;
  /** [n, ⌈k/128⌉·4, 2] i8, with weights of u8: step and offset of each 32 of a row */
  grid?: Tensor | undefined;
  /** [rows…, n] f32: where the result goes, instead of into new memory */
  y?: Tensor | undefined;
}

/**
 * y = act(x Wᵀ + bias) + residual; [rows…, n] f32. Products are summed in f32; with bf16 weights, processors that multiply
 * bf16 round x to bf16 first. A row's result doesn't depend on the rows beside it.
 *
 * int8: a number of W is scale · q, q from −127 to 127, with one scale for 128 neighbours of a row. int4: byte j of a block of
 * 128 holds number j in its low and number j + 64 in its high four bits; q is step · bits + offset, from −127 to 127, with a
 * step from 1 to 16 and an offset for each 32 neighbours. On a CPU x is rounded the same way, each 128 of a row by its largest
 * (scale max |x| / 127, ties to even): sums of a block are exact, and the blocks' are added in f32 from the first to the last. A
 * row of x with a NaN or an infinity gives NaN. A GPU rounds x to bf16; where there are many rows also W, once the numbers
 * have their scale (docs/quantization.md).
 */
export function linear(
  g: Graph,
  { x, weight, bias, residual, scale, grid, y }: LinearInputs,
  /** dtype: of y; unless given the residual's, or what the graph's activations have */
  { activation = 'none', dtype = residual?.dtype ?? g.activations }: { activation?: Activation; dtype?: Dtype } = {},
): { y: Tensor } {
  const op = 'linear';
  for (const [name, tensor] of Object.entries({ x, residual, y })) expectDtype(op, name, tensor, ...g.floats);
  for (const [name, tensor] of Object.entries({ bias })) expectDtype(op, name, tensor, 'f32');
  expectDtype(op, 'weight', weight, 'f32', 'f16', 'bf16', 'i8', 'u8');
  const int4 = weight.dtype === 'u8';
  const lines = areLines(weight);
  const across = x.shape.at(-1) ?? 0;
  const [n, width] = (lines ? [scale?.shape[0] ?? 0, across] : expectRank(op, 'weight', weight, 'n,k')) as [
    number,
    number,
  ];
  const k = int4 ? across : width;
  expect(op, x.shape.at(-1) === k, `x must be [rows…,k] with k = ${k}, got ${describe(x)}`);
  if (lines) expectShape(op, 'weight', weight, '⌈n/16⌉,lines of k,64', inLines(int4, n, k));
  else if (int4) expectShape(op, 'weight', weight, 'n,⌈k/128⌉·64', [n, rowBytes(int4, k)]);
  expectQuantised(op, { weight, scale, grid }, n, k);
  const shape = [...x.shape.slice(0, -1), n];
  expectShape(op, 'bias', bias, 'n', [n]);
  expectShape(op, 'residual', residual, 'rows…,n', shape);
  expectShape(op, 'y', y, 'rows…,n', shape);
  const result = y ?? g.empty(dtype, shape);
  g.push(op, { x, weight, bias, residual, scale, grid }, { y: result }, { activation });
  return { y: result };
}
