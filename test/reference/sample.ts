export interface Settings {
  temperature: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
  vocabLimit?: number;
}

/** The upper 32 bits of the product of two 32-bit numbers. */
const high = (a: number, b: number): number =>
  Math.floor(((a >>> 16) * b + Math.floor(((a & 0xffff) * b) / 2 ** 16)) / 2 ** 16);

/** Philox-4x32-10 (Salmon, Moraes, Dror & Shaw 2011, §3.3): four random words for a counter of four words and a key of two. */
export function philox(counter: readonly number[], key: readonly number[]): number[] {
  let [c0, c1, c2, c3] = counter as [number, number, number, number];
  let [k0, k1] = key as [number, number];
  for (let round = 0; round < 10; round++) {
    [c0, c1, c2, c3] = [
      (high(0xcd9e8d57, c2) ^ c1 ^ k0) >>> 0,
      Math.imul(0xcd9e8d57, c2) >>> 0,
      (high(0xd2511f53, c0) ^ c3 ^ k1) >>> 0,
      Math.imul(0xd2511f53, c0) >>> 0,
    ];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/** The noise of a token at a place: −log(−log u), u in (0, 1) from the top 24 bits of the first word. */
export function gumbel(id: number, position: number, seed: readonly number[]): number {
  const n = philox([id, position >>> 0, 0, 0], [seed[0]! >>> 0, seed[1]! >>> 0])[0]! >>> 8;
  return -Math.log(-Math.log((n || 0.5) / 2 ** 24));
}

/** The logits that count: those below the vocabulary's limit, seen ones penalized (Keskar et al. 2019, §4.1). */
function penalized(logits: ArrayLike<number>, settings: Settings, seen?: ArrayLike<number>): number[] {
  const { repetitionPenalty = 1, vocabLimit = 0 } = settings;
  return Array.from(logits)
    .slice(0, vocabLimit || undefined)
    .map((z, id) => (!seen?.[id] ? z : z > 0 ? z / repetitionPenalty : z * repetitionPenalty));
}

/** Probabilities of z / temperature, float64. */
export function softmax(z: readonly number[], temperature: number): number[] {
  const top = Math.max(...z);
  const e = z.map((v) => Math.exp((v - top) / temperature));
  const total = e.reduce((a, b) => a + b, 0);
  return e.map((v) => v / total);
}

/** The ids that pass the filters, likeliest first. */
export function kept(logits: ArrayLike<number>, settings: Settings, seen?: ArrayLike<number>): number[] {
  const { temperature, topK = 0, topP = 1, minP = 0 } = settings;
  const z = penalized(logits, settings, seen);
  const order = z.map((_, id) => id).sort((a, b) => z[b]! - z[a]! || a - b);
  const best = order.slice(0, topK || undefined);
  const p = softmax(
    best.map((id) => z[id]!),
    temperature,
  );
  if (minP > 0) return best.filter((_, i) => p[i]! >= minP * p[0]!);
  if (topP === 1) return best;
  let sum = 0;
  let count = 0;
  while (count < best.length && sum < topP) sum += p[count++]!;
  return best.slice(0, Math.max(count, 1));
}

/** One token, and log softmax(logits / temperature) of it before the filters. */
export function sample(
  logits: ArrayLike<number>,
  settings: Settings,
  seed: readonly number[],
  position: number,
  seen?: ArrayLike<number>,
): { token: number; logprob: number } {
  const { temperature } = settings;
  const z = penalized(logits, settings, seen);
  let token = 0;
  if (temperature === 0) {
    for (let id = 0; id < z.length; id++) if (z[id]! > z[token]!) token = id;
  } else {
    let best = Number.NEGATIVE_INFINITY;
    for (const id of kept(logits, settings, seen).sort((a, b) => a - b)) {
      const score = z[id]! / temperature + gumbel(id, position, seed);
      if (score > best) [best, token] = [score, id];
    }
  }
  return { token, logprob: Math.log(softmax(z, temperature || 1)[token]!) };
}
