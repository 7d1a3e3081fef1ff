// Draws every .svg of a folder as a .png beside it, with sharp (librsvg):  node train/draw_svg.mjs FOLDER
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';

const folder = process.argv[2];
for (const name of (await readdir(folder)).filter((file) => file.endsWith('.svg'))) {
  await sharp(join(folder, name))
    .flatten({ background: 'white' })
    .png({ compressionLevel: 9 })
    .toFile(join(folder, name.replace(/\.svg$/, '.png')));
}
