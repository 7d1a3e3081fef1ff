/** A short, seeded run of every target of `npm run fuzz`, and a check that the targets would notice. */
import * as assert from 'uvu/assert';
import { suite } from '../kit.ts';
import { mutator } from './mutate.ts';
import { targets } from './parsers.ts';

const test = suite('parsers under mutation');
const MUTANTS = 5000;

for (const [i, { name, seeds, words, check }] of targets.entries())
  test(`${name}: ${MUTANTS} mutants`, async () => {
    const bytes = (list: readonly (string | Uint8Array)[]) => list.map((item) => Buffer.from(item as string));
    const mutant = mutator(bytes(seeds), bytes(words), 77 + i);
    for (const seed of bytes(seeds)) await check(seed);
    let different = 0;
    let last = '';
    for (let n = 0; n < MUTANTS; n++) {
      const input = mutant();
      const text = Buffer.from(input).toString('latin1');
      different += text === last ? 0 : 1;
      last = text;
      try {
        await check(input);
      } catch (error) {
        throw new Error(`mutant ${n}, base64 ${Buffer.from(input).toString('base64')}`, { cause: error });
      }
    }
    assert.ok(different > MUTANTS * 0.8, `${different} of ${MUTANTS} mutants differ from the one before`);
  });

test.run();
