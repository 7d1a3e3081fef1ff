import { random } from '../kit.ts';

/** Seeded mutations: flipped bits, bytes and pieces removed, doubled and moved between inputs, words of a grammar put in. */
export function mutator(seeds: Uint8Array[], words: Uint8Array[], seed: number): () => Uint8Array {
  const next = random(seed);
  const below = (n: number) => Math.floor(next() * n);
  const pick = <T>(list: readonly T[]): T => list[below(list.length)]!;
  const put = (bytes: Uint8Array, at: number, piece: Uint8Array, over = 0) =>
    Buffer.concat([bytes.subarray(0, at), piece, bytes.subarray(at + over)]);
  const once = (bytes: Uint8Array): Uint8Array => {
    const at = below(bytes.length + 1);
    const n = 1 + below(4);
    switch (below(7)) {
      case 0:
        return put(bytes, at, Uint8Array.of((bytes[at] ?? 0) ^ (1 << below(8))), 1);
      case 1:
        return put(bytes, at, Uint8Array.of(below(256)), below(2));
      case 2:
        return put(bytes, at, new Uint8Array(), n);
      case 3:
        return put(bytes, at, bytes.subarray(at, at + n));
      case 4:
        return put(bytes, at, pick(words), below(2) * n);
      case 5: {
        const other = pick(seeds);
        const from = below(other.length);
        return put(bytes, at, other.subarray(from, from + n * 4));
      }
      default:
        return bytes.subarray(0, at);
    }
  };
  return () => {
    let bytes = pick(seeds);
    for (let i = below(4); i >= 0; i--) bytes = once(bytes);
    return bytes.subarray(0, 4096);
  };
}
