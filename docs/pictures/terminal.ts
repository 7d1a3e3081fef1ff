/**
 * npx tsx docs/pictures/terminal.ts: runs `vl-mamba demo` (as built in dist/) in a pseudo terminal of script(1) and draws what it
 * prints in the fastest of a few runs as docs/pictures/demo.svg. Where the cursor was and when becomes the animation, slowed down; without animation the
 * first screen is seen as a whole.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import sharp from 'sharp';
import { xml } from '../../lib/cli/chart.ts';

const SCREEN = { columns: 84, rows: 32 };
const CELL = { width: 8.4, height: 17 };
const MARGIN = { x: 16, top: 38, bottom: 14 };
/** Other work on a machine only adds time. */
const RUNS = 7;
/** A run is over sooner than it can be read: it is drawn to last about so long, with a pause at the end of a scene. */
const READING_MS = 5000;
const PAUSE_MS = 2500;

interface Cell {
  text: string;
  upper?: string;
  lower?: string;
  bold?: boolean;
  dim?: boolean;
}

/** The cursor at a time. */
interface Moment {
  ms: number;
  row: number;
  column: number;
}

const ESCAPE = '\x1b';
const SEQUENCE = new RegExp(`${ESCAPE}\\[([\\d;]*)([A-Za-z])|([\\s\\S])`, 'gu');
/** One whose end has not come yet. */
const BEGUN = new RegExp(`${ESCAPE}(\\[[\\d;]*)?$`);

/** As much of a terminal as the command needs: lines, colours, weights, the return to the start of a line, and its erasure. */
class Terminal {
  readonly rows: Cell[][] = [[]];
  #column = 0;
  #begun = '';
  #style: Omit<Cell, 'text'> = {};

  get cursor(): { row: number; column: number } {
    return { row: this.rows.length - 1, column: this.#column };
  }

  write(text: string): void {
    const whole = this.#begun + text;
    const end = BEGUN.exec(whole)?.index ?? whole.length;
    this.#begun = whole.slice(end);
    for (const [, sequence, letter, character] of whole.slice(0, end).matchAll(SEQUENCE)) {
      if (letter === 'm') this.#select(sequence!.split(';').map(Number));
      else if (letter === 'K') this.rows.at(-1)!.length = this.#column;
      else if (letter) throw new Error(`a sequence that is not known: ${sequence}${letter}`);
      else if (character === '\r') this.#column = 0;
      else if (character === '\n') this.rows.push([]);
      else this.rows.at(-1)![this.#column++] = { text: character!, ...this.#style };
    }
  }

  #select(codes: number[]): void {
    const colour = () => {
      if (codes.shift() !== 2) throw new Error('a colour that is not a true one');
      return `#${codes
        .splice(0, 3)
        .map((v) => v.toString(16).padStart(2, '0'))
        .join('')}`;
    };
    while (codes.length > 0) {
      const code = codes.shift();
      if (code === 0) this.#style = {};
      else if (code === 38) this.#style.upper = colour();
      else if (code === 48) this.#style.lower = colour();
      else if (code === 1 || code === 2) this.#style[code === 1 ? 'bold' : 'dim'] = true;
      else if (code === 22) this.#style.bold = this.#style.dim = false;
    }
  }
}

/** Runs a command where stdout is a terminal. */
async function record(command: string): Promise<{ terminal: Terminal; moments: Moment[]; ms: number }> {
  const { FORCE_COLOR: _, NO_COLOR: __, TMUX: ___, SSH_TTY: ____, ...env } = process.env;
  const sized = `stty cols ${SCREEN.columns} rows ${SCREEN.rows}; ${command}`;
  const child = spawn('script', ['-qec', sized, '/dev/null'], {
    env: { ...env, TERM: 'xterm-256color', COLORTERM: 'truecolor', TERM_PROGRAM: '', KITTY_WINDOW_ID: '' },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const terminal = new Terminal();
  const moments: Moment[] = [];
  const start = performance.now();
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    terminal.write(text);
    moments.push({ ms: performance.now() - start, ...terminal.cursor });
  });
  const [status] = await once(child, 'close');
  if (status !== 0) throw new Error(`${command} ended with ${status}`);
  return { terminal, moments, ms: performance.now() - start };
}

/** Rows of half blocks as one picture of the same pixels. */
async function blocks(rows: Cell[][], x: number, y: number): Promise<string> {
  const width = rows[0]!.length;
  const raw = Buffer.alloc(width * rows.length * 2 * 3);
  const put = (at: number, colour: string) => raw.write(colour.slice(1), at * 3, 'hex');
  for (const [r, row] of rows.entries())
    for (const [c, { upper, lower }] of row.entries()) {
      put(2 * r * width + c, upper!);
      put((2 * r + 1) * width + c, lower ?? upper!);
    }
  const png = await sharp(raw, { raw: { width, height: rows.length * 2, channels: 3 } })
    .png({ palette: true, quality: 90 })
    .toBuffer();
  const [w, h] = [(width * CELL.width).toFixed(1), (rows.length * CELL.height).toFixed(1)];
  return `<image x="${x}" y="${y}" width="${w}" height="${h}" preserveAspectRatio="none" style="image-rendering:pixelated" href="data:image/png;base64,${png.toString('base64')}"/>`;
}

/** Stretches of one weight. */
function line(cells: Cell[], y: number): string {
  const spans: Cell[] = [];
  for (const cell of cells) {
    const last = spans.at(-1);
    if (last && last.bold === cell.bold && last.dim === cell.dim) last.text += cell.text;
    else spans.push({ ...cell });
  }
  const weight = ({ bold, dim }: Cell) => (bold ? ' font-weight="700" fill="#ffffff"' : dim ? ' fill="#8b949e"' : '');
  const texts = spans.map((span) => `<tspan${weight(span)}>${xml(span.text)}</tspan>`);
  return `<text y="${y.toFixed(1)}" xml:space="preserve">${texts.join('')}</text>`;
}

/** An attribute that jumps from value to value. */
function jumps(tag: string, moments: { at: number; value: string }[], seconds: number, more = ''): string {
  const kept = moments.filter(({ value }, i) => i === 0 || value !== moments[i - 1]!.value);
  const times = kept.map(({ at }, i) => (i === 0 ? '0' : (at / seconds / 1000).toFixed(4)));
  return `<${tag} ${more} calcMode="discrete" dur="${seconds.toFixed(2)}s" repeatCount="indefinite" values="${kept.map(({ value }) => value).join(';')}" keyTimes="${times.join(';')}"/>`;
}

async function draw(command: string, shown: string): Promise<string> {
  let best = await record(command);
  for (let i = 1; i < RUNS; i++) {
    const run = await record(command);
    if (run.ms < best.ms) best = run;
  }
  const { terminal, moments, ms } = best;
  const slower = Math.max(1, Math.round(READING_MS / ms));
  const prompt: Cell[] = [...`$ ${shown}`].map((text) => ({ text }));
  const rows = [prompt, ...terminal.rows];
  while (rows.at(-1)!.length === 0) rows.pop();
  const parts: string[] = [];
  /** Scenes begin with their picture's path. */
  const scenes: number[] = [];
  for (let r = 0; r < rows.length; r++) {
    const y = r * CELL.height;
    if (rows[r]![0]?.text === '▀') {
      const end = rows.findIndex((row, i) => i > r && row[0]?.text !== '▀');
      parts.push(await blocks(rows.slice(r, end), 0, y));
      scenes.push(r - 1);
      r = end - 1;
    } else if (rows[r]!.length > 0) parts.push(line(rows[r]!, y + CELL.height * 0.75));
  }
  // Time stands still before a new scene, and at the end.
  let waited = 0;
  let scene = 0;
  const slow = moments.map(({ ms, row, column }) => {
    if (scene < scenes.length - 1 && row + 1 > scenes[scene + 1]!) {
      scene++;
      waited += PAUSE_MS;
    }
    return { at: ms * slower + waited, row: row + 1, column };
  });
  const seconds = (slow.at(-1)!.at + PAUSE_MS) / 1000;
  const first = { at: 0, row: 1, column: 0 };
  const all = [first, ...slow];
  const clip = (name: string, value: (moment: typeof first) => number) =>
    jumps(
      'animate',
      all.map((moment) => ({ at: moment.at, value: value(moment).toFixed(1) })),
      seconds,
      `attributeName="${name}"`,
    );
  const scroll = all.map(({ at, row }) => {
    const up = Math.max(0, row - SCREEN.rows + 1) * CELL.height;
    return { at, value: `0 ${-up}` };
  });
  const width = MARGIN.x * 2 + SCREEN.columns * CELL.width;
  const height = MARGIN.top + MARGIN.bottom + SCREEN.rows * CELL.height;
  const whole = SCREEN.columns * CELL.width;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width.toFixed(0)} ${height}" width="${width.toFixed(0)}" height="${height}" role="img">
<title>${xml(shown)}: what it prints, slowed down ${slower} times; it took ${(ms / 1000).toFixed(1)} s</title>
<defs>
<clipPath id="screen"><rect width="${whole}" height="${SCREEN.rows * CELL.height}"/></clipPath>
<clipPath id="written"><rect width="${whole}" height="${rows.length * CELL.height}">${clip('height', ({ row }) => row * CELL.height)}</rect><rect y="0" width="${whole}" height="${CELL.height}">${clip('y', ({ row }) => row * CELL.height)}${clip('width', ({ column }) => column * CELL.width)}</rect></clipPath>
</defs>
<rect width="100%" height="100%" rx="10" fill="#0d1117"/>
<g><circle cx="20" cy="18" r="5.5" fill="#ff5f57"/><circle cx="38" cy="18" r="5.5" fill="#febc2e"/><circle cx="56" cy="18" r="5.5" fill="#28c840"/></g>
<g transform="translate(${MARGIN.x} ${MARGIN.top})" clip-path="url(#screen)" font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="14" fill="#c9d1d9">
<g><g clip-path="url(#written)">
${parts.join('\n')}
</g>${jumps('animateTransform', scroll, seconds, 'attributeName="transform" type="translate"')}</g>
</g>
</svg>
`;
}

const here = dirname(fileURLToPath(import.meta.url));
void draw('node dist/cli.mjs demo', 'npx vl-mamba demo').then((svg) => {
  writeFileSync(join(here, 'demo.svg'), svg);
  console.log(`demo.svg: ${svg.length} bytes`);
});
