import { stderr } from 'node:process';
import { columns } from './style.ts';
import { bytes } from './text.ts';

const LABEL = 40;
const BAR = 24;

/** A bar on one line of a terminal, gone when the work is done. */
export class ProgressBar {
  readonly #label: string;
  readonly #shown: boolean;
  readonly #format: (count: number) => string;
  #drawn = false;

  constructor(label: string, shown: boolean, format = bytes) {
    this.#label = label;
    this.#shown = shown;
    this.#format = format;
  }

  draw(done: number, total: number): void {
    if (!this.#shown || total === 0) return;
    const sizes = `${this.#format(done)} of ${this.#format(total)}`;
    // A line that reached the edge would be folded, and could not be taken away again.
    const room = columns(stderr) - sizes.length - 3;
    const wide = Math.max(0, Math.min(BAR, room >> 1));
    const full = Math.round((done / total) * wide);
    const bar = '█'.repeat(full) + '░'.repeat(wide - full);
    stderr.write(
      `\r\x1b[K${[shorten(this.#label, Math.min(LABEL, room - wide)), bar, sizes].filter(Boolean).join(' ')}`,
    );
    this.#drawn = true;
  }

  clear(): void {
    if (this.#drawn) stderr.write('\r\x1b[K');
    this.#drawn = false;
  }
}

/** The end of a text says most: names of files do. */
const shorten = (text: string, length: number): string =>
  text.length <= length ? text : length > 1 ? `…${text.slice(1 - length)}` : '';
