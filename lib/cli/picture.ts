import { env, stdout } from 'node:process';
import { colourDepth, columns } from './style.ts';

/** Characters across. */
const WIDTH = 40;
const CHUNK = 4096;

type Form = 'kitty' | 'iterm' | 'blocks';

/** What the terminal can show, from what it says of itself. */
function form(): Form {
  if (!stdout.isTTY || env.TMUX || env.SSH_TTY) return 'blocks';
  if (env.KITTY_WINDOW_ID || env.TERM === 'xterm-kitty' || env.TERM_PROGRAM === 'ghostty') return 'kitty';
  if (env.TERM_PROGRAM === 'iTerm.app' || env.TERM_PROGRAM === 'WezTerm') return 'iterm';
  return 'blocks';
}

/** Shows a picture on stdout, if that has colours enough for one. */
export async function show(bytes: Uint8Array): Promise<void> {
  const depth = colourDepth(stdout);
  if (depth < 8) return;
  const { default: sharp } = await import('sharp');
  const across = Math.min(WIDTH, columns(stdout) - 1);
  const image = sharp(bytes).autoOrient().flatten({ background: 'white' });
  switch (form()) {
    case 'kitty':
      stdout.write(kitty(await image.png().toBuffer(), across));
      break;
    case 'iterm': {
      const png = await image.png().toBuffer();
      stdout.write(`\x1b]1337;File=inline=1;width=${across};size=${png.length}:${png.toString('base64')}\x07\n`);
      break;
    }
    case 'blocks': {
      const { data, info } = await image
        .resize({ width: across })
        .removeAlpha()
        .raw()
        .toBuffer({ resolveWithObject: true });
      stdout.write(blocks(data, info.width, info.height, depth === 24));
    }
  }
}

/** The kitty graphics protocol: base64 in pieces, all but the last announcing more. */
function kitty(png: Buffer, across: number): string {
  const text = png.toString('base64');
  const pieces = text.match(new RegExp(`.{1,${CHUNK}}`, 'g')) ?? [];
  const head = (i: number) => (i === 0 ? `f=100,a=T,c=${across},` : '');
  return `${pieces.map((piece, i) => `\x1b_G${head(i)}m=${i < pieces.length - 1 ? 1 : 0};${piece}\x1b\\`).join('')}\n`;
}

/** Two pixels to a character: ▀ has the upper one's colour, its background the lower one's. */
function blocks(rgb: Uint8Array, width: number, height: number, trueColour: boolean): string {
  const pixel = (x: number, y: number) => [...rgb.subarray(3 * (y * width + x), 3 * (y * width + x) + 3)];
  const level = (v: number) => Math.round((v / 255) * 5);
  const colour = (kind: 38 | 48, [r, g, b]: number[]) =>
    trueColour ? `${kind};2;${r};${g};${b}` : `${kind};5;${16 + 36 * level(r!) + 6 * level(g!) + level(b!)}`;
  let out = '';
  for (let y = 0; y < height; y += 2) {
    for (let x = 0; x < width; x++) {
      const lower = y + 1 < height ? `;${colour(48, pixel(x, y + 1))}` : '';
      out += `\x1b[${colour(38, pixel(x, y))}${lower}m▀\x1b[0m`;
    }
    out += '\n';
  }
  return out;
}
