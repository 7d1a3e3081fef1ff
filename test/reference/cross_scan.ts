/** The i-th patch that direction k visits: 0 row by row, 1 its reverse, 2 column by column, 3 its reverse. */
const patch = (k: number, i: number, height: number, width: number): number => {
  const j = k % 2 ? height * width - 1 - i : i;
  return k < 2 ? j : (j % height) * width + Math.floor(j / height);
};

/** xs[b,k,c,i] = x[b,c,p], p the i-th patch of direction k. x [b,c,h,w]; xs [b,k,c,h·w]. */
export function crossScan(
  x: ArrayLike<number>,
  [b, k, c, height, width]: readonly [number, number, number, number, number],
): Float64Array {
  const l = height * width;
  return Float64Array.from({ length: b * k * c * l }, (_, at) => {
    const i = at % l;
    const channel = Math.floor(at / l) % c;
    const direction = Math.floor(at / l / c) % k;
    const row = Math.floor(at / l / c / k);
    return x[(row * c + channel) * l + patch(direction, i, height, width)]!;
  });
}
