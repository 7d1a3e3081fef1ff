/** Matrices of rows × columns, one after the other, each transposed: [b, d, l] to [b, l, d], and back. */
export function swapped(data: ArrayLike<number>, rows: number, columns: number): Float32Array {
  const size = rows * columns;
  return Float32Array.from(
    data,
    (_, i) => data[i - (i % size) + (i % rows) * columns + Math.floor((i % size) / rows)]!,
  );
}
