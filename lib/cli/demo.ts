import { readFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { stdout } from 'node:process';
import { demoFolder } from '../bundled.ts';
import { type LoadFlags, loadModel } from './load.ts';
import { show } from './picture.ts';
import { paint } from './style.ts';
import { ms } from './text.ts';

interface DemoFlags extends LoadFlags {
  prompt?: string[];
}

interface Scene {
  picture: string;
  questions: string[];
}

const OWN_QUESTIONS = ['Describe the picture.'];

/** The bundled model on its bundled pictures, or on one of the user's. */
export async function demo(own: string | undefined, flags: DemoFlags, signal: AbortSignal): Promise<void> {
  const pictures = join(demoFolder(), 'pictures');
  const scenes: Scene[] = own
    ? [{ picture: own, questions: flags.prompt ?? OWN_QUESTIONS }]
    : (JSON.parse(await readFile(join(pictures, 'questions.json'), 'utf8')) as Scene[]).map((scene) => ({
        picture: join(pictures, scene.picture),
        questions: flags.prompt ?? scene.questions,
      }));
  await using model = await loadModel(demoFolder(), flags, signal);
  for (const { picture, questions } of scenes) {
    // Checked by the model's own reader before anything is shown of it.
    await model.pixels(picture, { signal });
    stdout.write(`${paint(stdout, 'dim', nearby(picture))}\n`);
    await show(await readFile(picture));
    for (const question of questions) {
      stdout.write(`\n  ${question}\n  → `);
      const messages = [{ role: 'user' as const, content: question }];
      const generation = model.generate({ messages, images: [picture], maxNewTokens: 64, signal });
      for await (const text of generation) stdout.write(paint(stdout, 'bold', text));
      const { total } = (await generation).timings;
      stdout.write(flags.quiet ? '\n' : `  ${paint(stdout, 'dim', ms(total))}\n`);
    }
    stdout.write('\n');
  }
}

/** A path as it would be typed here, if that is shorter. */
function nearby(path: string): string {
  const from = relative('.', path);
  return from.length < path.length ? from : path;
}
