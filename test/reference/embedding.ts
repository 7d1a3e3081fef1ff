/** The rows of weight [v,d] that ids ≥ 0 name, and the rows −1 − id of `rows` for the others, one after another. */
export function embedding(
  ids: ArrayLike<number>,
  weight: ArrayLike<number>,
  d: number,
  rows: ArrayLike<number> = [],
): Float64Array {
  const y = new Float64Array(ids.length * d);
  for (let i = 0; i < ids.length; i++)
    for (let j = 0; j < d; j++) y[i * d + j] = ids[i]! >= 0 ? weight[ids[i]! * d + j]! : rows[(-1 - ids[i]!) * d + j]!;
  return y;
}

/** The value of a bf16's bits. */
export function bf16(bits: number): number {
  return new Float32Array(Uint32Array.of(bits << 16).buffer)[0]!;
}

/** The value of an f16's bits (IEEE 754 binary16: 1 sign, 5 exponent, 10 fraction bits). */
export function f16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = (bits & 0x3ff) / 1024;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction) : sign * 2 ** -14 * fraction;
}
