/**
 * npx tsx test/gpu/answers.ts DIR DEVICE: what a checkpoint answers, for train/transformers_parity.py. Writes to DIR the ids
 * of a prompt (ids.i32), the logits behind it (logits.f32) and, where there is a tower, what the encoder reads of a picture
 * (pixels.f32) and what the connector makes of it (embeds.f32).
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { load } from '../../lib/model.ts';
import { floats } from '../kit.ts';

const [dir, device] = process.argv.slice(2) as [string, string];
await using model = await load(dir, { device });
const write = (name: string, data: Float32Array | Int32Array) => writeFileSync(join(dir, name), data);
const prompt = 'The quick brown fox jumps over the lazy dog. '.repeat(20);
write('ids.i32', Int32Array.from(await model.tokenize(prompt)));
write('logits.f32', await model.logits({ prompt }));
if (model.config.vision) {
  const side = model.config.vision.imageSize;
  const data = Uint8Array.from(floats(1, side * side * 3, 0, 256));
  const image = { data, width: side, height: side, channels: 3 as const };
  write('pixels.f32', (await model.pixels(image)).data);
  write('embeds.f32', (await model.imageEmbeds(image)).data);
}
