import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { sniff } from '../../lib/image/format.ts';
import { picture } from './kit.ts';

const refuses = (bytes: Uint8Array, code: string, message: RegExp) =>
  assert.throws(
    () => sniff(bytes, 'image "x"'),
    (e: Error & { code: string }) => e.code === code && message.test(e.message),
  );
const latin1 = (text: string) => Buffer.from(text, 'latin1');

test('the bytes decide', async () => {
  assert.is(sniff(await picture(9, 9).jpeg().toBuffer(), 'a.png'), 'jpeg');
  assert.is(sniff(await picture(9, 9).png().toBuffer(), 'a.jpg'), 'png');
  assert.is(sniff(await picture(9, 9).webp().toBuffer(), 'a'), 'webp');
});

test('no bytes, and less than a signature', () => {
  refuses(latin1(''), 'ERR_IMAGE_EMPTY', /image "x" is empty/);
  refuses(latin1('\xff'), 'ERR_IMAGE_TRUNCATED', /after 1 bytes/);
  refuses(latin1('\x89PNG\r'), 'ERR_IMAGE_TRUNCATED', /after 5 bytes/);
});

for (const [bytes, name] of [
  ['GIF89a\x01\0\x01\0', 'a GIF'],
  ['\0\0\0\x1cftypavif\0\0\0\0', 'an AVIF picture'],
  ['\0\0\0\x18ftypheic\0\0\0\0', 'a HEIC picture'],
  ['\0\0\0\x18ftypisom\0\0\0\0', 'a video'],
  ['II*\0\x08\0\0\0', 'a TIFF'],
  ['MM\0*\0\0\0\x08', 'a TIFF'],
  ['BM6\0\0\0', 'a BMP'],
  ['\xff\x0a\xfa\x1f', 'a JPEG XL picture'],
  ['\0\0\0\x0cJXL \r\n\x87\n', 'a JPEG XL picture'],
  ['\0\0\0\x0cjP  \r\n\x87\n', 'a JPEG 2000 picture'],
  ['%PDF-1.7\n', 'a PDF'],
  ['<svg xmlns="http://www.w3.org/2000/svg"/>', 'SVG, HTML or XML text'],
  ['<?xml version="1.0"?><svg/>', 'SVG, HTML or XML text'],
  ['a,b\n1,2\n', 'bytes 612c620a312c320a'],
  ['\x08\xf2\xa6\xb6\0\0\0\0', 'bytes 08f2a6b600000000'],
  ['RIFF\x10\0\0\0WAVEfmt ', 'bytes 5249464610000000'],
] as const) {
  test(`refuses ${name} (${JSON.stringify(bytes.slice(0, 12))})`, () =>
    refuses(latin1(bytes), 'ERR_IMAGE_FORMAT', new RegExp(`starts like ${name}`)));
}

test.run();
