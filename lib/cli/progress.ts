import { stderr } from 'node:process';
import { bytes } from './text.ts';

const WIDTH = 24;

/** A bar on one line of a terminal, gone when the work is done. */
export class ProgressBar {
  readonly #label: string;
  readonly #shown: boolean;
  readonly #format: (count: number) => string;
  #drawn = false;

  constructor(label: string, shown: boolean, format = bytes) {
    this.#label = label.length > 40 ? `…${label.slice(-39)}` : label;
    this.#shown = shown;
    this.#format = format;
  }

  draw(done: number, total: number): void {
    if (!this.#shown || total === 0) return;
    const full = Math.round((done / total) * WIDTH);
    const bar = '█'.repeat(full) + '░'.repeat(WIDTH - full);
    stderr.write(`\r\x1b[K${this.#label} ${bar} ${this.#format(done)} of ${this.#format(total)}`);
    this.#drawn = true;
  }

  clear(): void {
    if (this.#drawn) stderr.write('\r\x1b[K');
    this.#drawn = false;
  }
}
