import { stderr, stdout } from 'node:process';
import { writeWhole } from '../checkpoint/whole_file.ts';
import { rangeError, VLMambaError } from '../errors.ts';
import type { Model } from '../model.ts';
import { exists, listPictures, makeLibrary, snapshotPath } from './library.ts';
import { type LoadFlags, loadModel } from './load.ts';
import { ProgressBar } from './progress.ts';
import { report } from './report.ts';

interface IndexFlags extends LoadFlags {
  model: string;
  out: string;
  exact?: boolean;
  json?: boolean;
}

/** A snapshot of every picture; those that are there already are left alone, so a run that was stopped can go on. */
export async function index(names: string[], flags: IndexFlags, signal: AbortSignal): Promise<void> {
  const pictures = await listPictures(names);
  if (pictures.length === 0) throw rangeError('ERR_USAGE', `there are no pictures in ${names.join(', ')}`);
  await using model = await loadModel(flags.model, flags, signal);
  await makeLibrary(flags.out, flags.model);
  const bar = new ProgressBar('indexing', stderr.isTTY === true && !flags.quiet, String);
  const count = { added: 0, kept: 0, failed: 0 };
  try {
    for (const [i, picture] of pictures.entries()) {
      bar.draw(i, pictures.length);
      try {
        count[await add(model, picture, flags, signal)]++;
      } catch (error) {
        signal.throwIfAborted();
        bar.clear();
        report(error);
        count.failed++;
      }
    }
  } finally {
    bar.clear();
  }
  if (flags.json) stdout.write(`${JSON.stringify({ ...count, out: flags.out })}\n`);
  else if (!flags.quiet) stderr.write(`${count.added} added, ${count.kept} there already, ${count.failed} failed\n`);
  if (count.failed > 0)
    throw new VLMambaError(
      'ERR_INDEX_INCOMPLETE',
      `${count.failed} of ${pictures.length} pictures are not in ${flags.out}`,
    );
}

async function add(model: Model, picture: string, flags: IndexFlags, signal: AbortSignal): Promise<'added' | 'kept'> {
  const path = await snapshotPath(flags.out, picture, model, signal);
  if (await exists(path)) return 'kept';
  using session = await model.look(picture, { signal });
  const bytes = await session.snapshot({ dtype: flags.exact ? 'f32' : 'bf16', label: picture });
  await writeWhole(path, (file) => file.writeFile(bytes));
  return 'added';
}
