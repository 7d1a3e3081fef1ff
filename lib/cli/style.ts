import { env } from 'node:process';
import { WriteStream } from 'node:tty';

type Out = NodeJS.WriteStream;

const STYLES = { bold: [1, 22], dim: [2, 22], red: [31, 39], green: [32, 39] } as const;

/** Bits of colour: 1 (none), 4, 8 or 24. NO_COLOR wins over FORCE_COLOR, which wins over what the stream is. */
export function colourDepth(stream: Out): number {
  if (env.NO_COLOR || (!stream.isTTY && env.FORCE_COLOR === undefined)) return 1;
  return WriteStream.prototype.getColorDepth.call(stream);
}

export function paint(stream: Out, style: keyof typeof STYLES, text: string): string {
  if (colourDepth(stream) === 1) return text;
  const [on, off] = STYLES[style];
  return `\x1b[${on}m${text}\x1b[${off}m`;
}

/** Characters across; a file and a pipe have no edge. */
export const columns = (stream: Out): number => (stream.isTTY ? stream.columns || 80 : Number.POSITIVE_INFINITY);
