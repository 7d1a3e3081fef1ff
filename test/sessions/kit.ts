import { join } from 'node:path';
import type { LoadOptions, Model } from '../../lib/index.ts';
import { load } from '../kit.ts';

export const demo = join('models', 'demo');
export const picture = (name: 'shapes' | 'ring' | 'word'): string => join(demo, 'pictures', `${name}.png`);

/** What the demo model may be asked about its pictures, of many lengths. */
export const questions = [
  'Describe the picture.',
  'How many objects are there?',
  'Which is larger, the star or the circle?',
  'What colour is the ring?',
  'What is below the ring?',
  'What does it say?',
  'Is there a star?',
  'What?',
];

/** A picture and a question as a message of the user. */
export const asking = (question: string) => [
  { role: 'user' as const, content: [{ type: 'image' as const }, { type: 'text' as const, text: question }] },
];

/** Runs `use` with the demo model and looks afterwards that no state is left behind. */
export async function withDemo(options: LoadOptions, use: (model: Model) => Promise<void>): Promise<void> {
  await using model = await load(demo, options);
  await use(model);
  await settled(model);
}

/** Waits for what was cancelled to give its state back. */
export async function settled(model: Model, states = 0): Promise<void> {
  for (let i = 0; i < 100 && (model.load.states > states || model.load.running > 0); i++)
    await new Promise((resolve) => setTimeout(resolve, 5));
  if (model.load.states !== states || model.load.running || model.load.waiting)
    throw new Error(`left behind: ${JSON.stringify(model.load)}, expected ${states} states`);
}
