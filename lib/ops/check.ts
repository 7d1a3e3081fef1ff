import { rangeError, typeError } from '../errors.ts';
import { type Dtype, describe, type Tensor } from '../tensor.ts';

/**
 * Throws unless `tensor` has the sizes given, e.g. `expectShape('selective_scan', 'B', B, 'b,g,n,l', [b, g, n, l])`; a
 * size of -1 accepts any. An absent optional tensor passes.
 */
export function expectShape(
  op: string,
  name: string,
  tensor: Tensor | undefined,
  letters: string,
  sizes: readonly number[],
): void {
  if (!tensor) return;
  const same = tensor.shape.length === sizes.length && sizes.every((n, i) => n < 0 || n === tensor.shape[i]);
  if (same) return;
  const wanted = sizes.map((n) => (n < 0 ? '*' : n)).join(',');
  throw rangeError(
    'ERR_OP_SHAPE',
    `[${op}] ${name} must be [${letters}] = [${wanted}], got [${tensor.shape.join(',')}]`,
  );
}

/** Throws unless `tensor` has one of the dtypes. An absent optional tensor passes. */
export function expectDtype(op: string, name: string, tensor: Tensor | undefined, ...accepted: Dtype[]): void {
  if (!tensor || accepted.includes(tensor.dtype)) return;
  throw typeError('ERR_OP_DTYPE', `[${op}] ${name} must be ${accepted.join(' or ')}, got ${describe(tensor)}`);
}

/** Throws unless `tensor` has `rank` dimensions; returns their sizes. */
export function expectRank(op: string, name: string, tensor: Tensor, letters: string): readonly number[] {
  const rank = letters.split(',').length;
  if (tensor.shape.length !== rank)
    throw rangeError('ERR_OP_SHAPE', `[${op}] ${name} must be [${letters}], got [${tensor.shape.join(',')}]`);
  return tensor.shape;
}

/** Throws unless `ok`; `rule` says what must hold. */
export function expect(op: string, ok: boolean, rule: string): asserts ok {
  if (!ok) throw rangeError('ERR_OP_SHAPE', `[${op}] ${rule}`);
}
