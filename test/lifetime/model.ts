import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { tinyConfig, tinyPreprocessor, writeCheckpoint } from '../models/checkpoint.ts';

/** A model that is small on disk and still takes a few milliseconds a token, so that there is a middle to stop in. */
export async function slowCheckpoint(): Promise<{ dir: string; remove: () => void }> {
  const dir = mkdtempSync(join(tmpdir(), 'vl-mamba-slow-'));
  const text = { hidden_size: 320, num_hidden_layers: 8, time_step_rank: 20, state_size: 16 };
  await writeCheckpoint(dir, { config: tinyConfig({ text }), preprocessor: tinyPreprocessor('siglip') });
  return { dir, remove: () => rmSync(dir, { recursive: true, force: true }) };
}
