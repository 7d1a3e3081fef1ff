import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { tinyConfig, tinyPreprocessor, writeCheckpoint } from '../models/checkpoint.ts';

/** The files of a small checkpoint, by name. */
export async function tinyFiles(): Promise<Record<string, Buffer>> {
  const dir = mkdtempSync(join(tmpdir(), 'vl-mamba-tiny-'));
  try {
    await writeCheckpoint(dir, { config: tinyConfig(), preprocessor: tinyPreprocessor('siglip') });
    const names = [
      'config.json',
      'model.safetensors',
      'preprocessor_config.json',
      'tokenizer.json',
      'tokenizer_config.json',
    ];
    return Object.fromEntries(names.map((name) => [name, readFileSync(join(dir, name))]));
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}
