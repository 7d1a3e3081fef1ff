import { createHash } from 'node:crypto';
import { load, type Model } from '../../lib/index.ts';

const WORDS = Array.from({ length: 400 }, (_, i) => ` word${i % 37}`);

/** Reads a text in pieces, as `cuts` says, and writes on: hash of the tokens, the state before them and the logits. */
async function hash(model: Model, cuts: number): Promise<string> {
  using session = model.session();
  for (let i = 0; i <= cuts; i++) {
    const [from, to] = [i, i + 1].map((n) => Math.floor((WORDS.length * n) / (cuts + 1)));
    await session.append({ text: WORDS.slice(from, to).join('') });
  }
  const [state, logits] = await Promise.all([
    session.snapshot({ dtype: 'f32' }),
    model.logits({ prompt: WORDS.join('') }),
  ]);
  const { tokens } = await session.generate({ maxNewTokens: 6, temperature: 0.9, seed: 11 });
  return createHash('sha256').update(state).update(logits).update(Int32Array.from(tokens)).digest('hex');
}

/**
 * Hashes of so many runs of each: on the CPU 1 and 2 threads × alone and with 63 neighbours × a text read whole and in pieces.
 * A GPU has other kernels for one position than for many, so the text is read whole there.
 */
export async function determinism(
  dir: string,
  runs: number,
  device: 'cpu' | 'cuda',
): Promise<{ runs: number; results: number }> {
  const results = new Set<string>();
  let count = 0;
  for (const threads of device === 'cpu' ? [1, 2] : [1]) {
    await using model = await load(dir, { device, threads });
    for (const neighbours of [0, 63])
      for (const pieces of device === 'cpu' ? [false, true] : [false])
        for (let i = 0; i < runs; i++, count++) {
          const others = Array.from({ length: neighbours }, (_, n) =>
            model.generate({
              prompt: `neighbour ${n} `.repeat(1 + (n % 9)),
              maxNewTokens: 6,
              temperature: 1,
              seed: n + i,
            }),
          );
          results.add(await hash(model, pieces ? 1 + (i % 12) : 0));
          await Promise.all(others);
        }
  }
  return { runs: count, results: results.size };
}
