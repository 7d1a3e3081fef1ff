import { getModel } from '../../../lib/model';

export const runtime = 'nodejs'; // not edge: the work is done by a native addon
export const maxDuration = 60;

const MAX_BYTES = 20 * 2 ** 20;

/** A form with `picture` and `question`; the answer is streamed. */
export async function POST(request: Request): Promise<Response> {
  const form = await request.formData().catch(() => undefined);
  const picture = form?.get('picture');
  const content = form?.get('question');
  if (!(picture instanceof Blob) || typeof content !== 'string')
    return new Response('send a form with picture and question\n', { status: 400 });
  if (picture.size > MAX_BYTES) return new Response('the picture is too large\n', { status: 413 });
  const model = await getModel();
  const generation = model.generate({
    messages: [{ role: 'user', content }],
    images: [picture],
    maxNewTokens: 512,
    signal: request.signal, // aborted when the client leaves
  });
  const pieces = generation[Symbol.asyncIterator]();
  try {
    // What is wrong with a request shows before the first piece.
    const first = await pieces.next();
    async function* text() {
      if (first.value) yield first.value;
      yield* pieces;
    }
    const body = ReadableStream.from(text()).pipeThrough(new TextEncoderStream());
    return new Response(body, { headers: { 'content-type': 'text/plain; charset=utf-8' } });
  } catch (error) {
    const { code = '', message } = error as { code?: string; message: string };
    if (code === 'ERR_QUEUE_FULL') return new Response('busy\n', { status: 503, headers: { 'retry-after': '1' } });
    if (/^ERR_(IMAGE|ARG|PROMPT|GEN)_/.test(code)) return new Response(`${message}\n`, { status: 400 });
    throw error;
  }
}
