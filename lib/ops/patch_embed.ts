import type { Graph } from '../program.ts';
import type { Tensor } from '../tensor.ts';
import { expect, expectDtype, expectRank, expectShape } from './check.ts';

export interface PatchEmbedInputs {
  /** [b, c, h, w] f32 */
  image: Tensor;
  /** [d, c, p, p] f32 | f16 | bf16 */
  weight: Tensor;
  /** [d] f32 */
  bias?: Tensor | undefined;
  /** [rows, d] f32, added to every row */
  position?: Tensor | undefined;
  /** [d] f32: becomes row 0, in front of the patches */
  classEmbedding?: Tensor | undefined;
}

/**
 * The p × p patches of a picture, row by row, each through one product (Dosovitskiy et al. 2020, eq. 1); [b, rows, d] f32.
 * Pixels beyond the last whole patch are not read.
 */
export function patchEmbed(
  g: Graph,
  { image, weight, bias, position, classEmbedding }: PatchEmbedInputs,
): { y: Tensor } {
  const op = 'patch_embed';
  for (const [name, tensor] of Object.entries({ image, bias, position, classEmbedding }))
    expectDtype(op, name, tensor, 'f32');
  expectDtype(op, 'weight', weight, 'f32', 'f16', 'bf16');
  const [b, c, h, w] = expectRank(op, 'image', image, 'b,c,h,w') as [number, number, number, number];
  const [d, , p] = expectRank(op, 'weight', weight, 'd,c,p,p') as [number, number, number, number];
  expect(op, p >= 1 && p <= h && p <= w, `a patch of ${p} pixels does not fit a picture of ${w}×${h}`);
  expectShape(op, 'weight', weight, 'd,c,p,p', [d, c, p, p]);
  const rows = Math.floor(h / p) * Math.floor(w / p) + (classEmbedding ? 1 : 0);
  expectShape(op, 'bias', bias, 'd', [d]);
  expectShape(op, 'position', position, 'rows,d', [rows, d]);
  expectShape(op, 'classEmbedding', classEmbedding, 'd', [d]);
  const y = g.empty('f32', [b, rows, d]);
  g.push(op, { image, weight, bias, position, class_embedding: classEmbedding }, { y });
  return { y };
}
