/**
 * node http.mjs MODEL [PORT], then
 * curl --no-buffer --data-binary @photo.jpg 'http://localhost:3000/?question=What+is+this'
 *
 * A picture is posted and the answer streamed back. Who hangs up ends the work that was done for them, and no other.
 */
import { once } from 'node:events';
import { createServer } from 'node:http';
import { argv } from 'node:process';
import { load } from 'vl-mamba';

const MAX_BYTES = 20 * 2 ** 20;
const [, , name = 'demo', port = '3000'] = argv;
const model = await load(name, { maxQueue: 64 });

async function body(request) {
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    if (size > MAX_BYTES) throw Object.assign(new Error(`a picture has at most ${MAX_BYTES} bytes`), { status: 413 });
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** A full queue passes; a picture or a question that is none is the client's; everything else is ours. */
function statusOf({ code = '', status }) {
  if (status) return status;
  if (code === 'ERR_QUEUE_FULL') return 503;
  return /^ERR_(IMAGE|ARG|PROMPT|GEN)_/.test(code) ? 400 : 500;
}

async function answer(request, response, signal) {
  const content = new URL(request.url, 'http://localhost').searchParams.get('question') ?? 'Describe the picture.';
  const picture = await body(request);
  const generation = model.generate({
    messages: [{ role: 'user', content }],
    images: [picture],
    maxNewTokens: 512,
    signal,
  });
  // The status goes out with the first piece of text: what is wrong with a request shows before it.
  for await (const text of generation) {
    if (!response.headersSent) response.writeHead(200, { 'content-type': 'text/plain; charset=utf-8' });
    if (!response.write(text)) await once(response, 'drain', { signal });
  }
  response.end();
}

const server = createServer((request, response) => {
  const gone = new AbortController();
  response.on('close', () => gone.abort());
  answer(request, response, gone.signal).catch((error) => {
    if (gone.signal.aborted) return console.log('a client left; its work has ended');
    if (response.headersSent) return response.destroy(error);
    const status = statusOf(error);
    const retry = status === 503 ? { 'retry-after': '1' } : {};
    response.writeHead(status, { 'content-type': 'text/plain; charset=utf-8', connection: 'close', ...retry });
    response.end(status === 500 ? 'something went wrong\n' : `${error.message}\n`);
    if (status === 500) console.error(error);
  });
});

server.listen(Number(port), () => console.log('listening', server.address()));
process.once('SIGTERM', async () => {
  server.close();
  await model.dispose();
});
