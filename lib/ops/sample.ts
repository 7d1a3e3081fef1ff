import type { Graph } from '../program.ts';
import type { Tensor } from '../tensor.ts';
import { expect, expectDtype, expectRank, expectShape } from './check.ts';

/** The columns of `params`. 0 switches top_k, min_p and vocab_limit off, 1 top_p and repetition_penalty. */
export const samplingColumns = ['temperature', 'top_k', 'top_p', 'min_p', 'repetition_penalty', 'vocab_limit'] as const;

export interface SampleInputs {
  /** [b, v] f32 */
  logits: Tensor;
  /** [b, 6] f32, see samplingColumns; ids from vocab_limit on are never produced */
  params: Tensor;
  /** [b, 2] i32: 64 bits, the low word first */
  seed: Tensor;
  /** [b] i32: the place of the token to be drawn, so that each place of a text has random numbers of its own */
  position: Tensor;
  /** [b, v] u8, or [slots, v] with `slots`: nonzero where a token occurred before; the drawn token is marked in place */
  seen?: Tensor | undefined;
  /** [b] i32: each batch row's row of `seen` */
  slots?: Tensor | undefined;
}

/**
 * One token for each row. The logits of seen tokens are divided (positive) or multiplied (negative) by the repetition
 * penalty. Temperature 0 takes the largest. Otherwise the top_k largest stay; of these, where min_p is above 0, those at
 * least min_p times as likely as the likeliest, else the fewest likeliest that add up to top_p; equal logits rank by lower
 * id. The draw is argmax(logit / temperature + Gumbel noise) with noise from Philox-4x32-10 (Salmon et al. 2011) of
 * (seed, id, position): it does not depend on the device, the batch or the number of threads.
 * Returns token [b] i32 and logprob [b] f32, the token's natural log-probability before the filters. A run with a logit of
 * NaN or +Inf, or with nothing but −Inf, fails with ERR_NONFINITE_LOGITS; nothing is marked then.
 */
export function sample(
  g: Graph,
  { logits, params, seed, position, seen, slots }: SampleInputs,
): { token: Tensor; logprob: Tensor } {
  const op = 'sample';
  for (const [name, tensor] of Object.entries({ logits, params })) expectDtype(op, name, tensor, 'f32');
  for (const [name, tensor] of Object.entries({ seed, position, slots })) expectDtype(op, name, tensor, 'i32');
  expectDtype(op, 'seen', seen, 'u8');
  const [b, v] = expectRank(op, 'logits', logits, 'b,v') as [number, number];
  expect(op, v >= 1 && v <= 2 ** 24, `logits must have 1 to 2^24 columns, got ${v}`);
  expectShape(op, 'params', params, 'b,6', [b, 6]);
  expectShape(op, 'seed', seed, 'b,2', [b, 2]);
  expectShape(op, 'position', position, 'b', [b]);
  expectShape(op, 'seen', seen, slots ? 'slots,v' : 'b,v', [slots ? -1 : b, v]);
  expectShape(op, 'slots', slots, 'b', [b]);
  expect(op, !slots || seen !== undefined, 'slots chooses rows of seen: it needs seen');
  const token = g.empty('i32', [b]);
  const logprob = g.empty('f32', [b]);
  g.push(op, { logits, params, seed, position, seen, slots }, { token, logprob });
  return { token, logprob };
}
