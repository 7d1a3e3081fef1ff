export interface PatchEmbedShape {
  b: number;
  c: number;
  h: number;
  w: number;
  d: number;
  p: number;
}

/**
 * y[b,i,o] = Σ_{c,r,s} image[b,c,p·u+r,p·v+s] weight[o,c,r,s] + bias[o] + position[i,o], patch u·⌊w/p⌋ + v being row i, or
 * i − 1 where the class embedding is row 0. Naive, float64.
 */
export function patchEmbed(
  { b, c, h, w, d, p }: PatchEmbedShape,
  image: ArrayLike<number>,
  weight: ArrayLike<number>,
  { bias, position, classEmbedding }: Partial<Record<'bias' | 'position' | 'classEmbedding', ArrayLike<number>>> = {},
): Float64Array {
  const down = Math.floor(h / p);
  const across = Math.floor(w / p);
  const front = classEmbedding ? 1 : 0;
  const rows = front + down * across;
  const y = new Float64Array(b * rows * d);
  for (let n = 0; n < b; n++)
    for (let i = 0; i < rows; i++)
      for (let o = 0; o < d; o++) {
        let sum = position ? position[i * d + o]! : 0;
        if (i < front) sum += classEmbedding![o]!;
        else {
          const u = Math.floor((i - front) / across);
          const v = (i - front) % across;
          if (bias) sum += bias[o]!;
          for (let ch = 0; ch < c; ch++)
            for (let r = 0; r < p; r++)
              for (let s = 0; s < p; s++)
                sum += image[((n * c + ch) * h + p * u + r) * w + p * v + s]! * weight[((o * c + ch) * p + r) * p + s]!;
        }
        y[(n * rows + i) * d + o] = sum;
      }
  return y;
}
