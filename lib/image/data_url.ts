import { VLMambaError } from '../errors.ts';
import { inTurns } from './async.ts';
import { MAX_BYTES, tooManyBytes } from './limits.ts';

const CHARACTERS_PER_TURN = 2 ** 18;

/**
 * The bytes of a `data:…;base64,…` URL. The media type is not asked: the bytes say what they are. White space is skipped.
 *
 * @throws `ERR_IMAGE_URL` when it is not base64, `ERR_IMAGE_BYTES` when it is too large (before decoding).
 */
export async function decodeDataUrl(url: string, signal?: AbortSignal): Promise<Uint8Array> {
  const comma = url.indexOf(',');
  if (comma < 0 || !/;\s*base64\s*$/i.test(url.slice(0, Math.min(comma, 1000)))) {
    throw invalid('expected "data:image/…;base64," and base64 text', url.slice(0, 40));
  }
  const begin = comma + 1;
  const room = Math.floor(((url.length - begin) * 3) / 4);
  if (room > MAX_BYTES + 2) throw tooManyBytes('data: URL', `about ${room}`);
  const bytes = Buffer.allocUnsafe(room);
  let filled = 0;
  let digits = 0;
  let rest = '';
  const write = (text: string) => {
    digits += text.length;
    filled += bytes.write(text, filled, 'base64');
  };
  await inTurns(url.length - begin, CHARACTERS_PER_TURN, signal, (from, to) => {
    const text = rest + url.slice(begin + from, begin + to).replace(/[\t\n\f\r ]+/g, '');
    const whole = text.length - (text.length % 4);
    write(text.slice(0, whole));
    rest = text.slice(whole);
  });
  write(rest);
  // Buffer skips what is not base64 and stops at the padding: both show in the length.
  const padding = /={0,2}\s*$/.exec(url.slice(-80))![0].trim().length;
  const padded = padding === 0 ? digits % 4 !== 1 : digits % 4 === 0;
  if (!padded || filled !== Math.floor(((digits - padding) * 3) / 4)) {
    throw invalid('its base64 text is damaged or cut off', `${digits} characters that decode to ${filled} bytes`);
  }
  return bytes.subarray(0, filled);
}

const invalid = (why: string, found: string): VLMambaError =>
  new VLMambaError('ERR_IMAGE_URL', `cannot read a data: URL: ${why}, found ${JSON.stringify(found)}`);
