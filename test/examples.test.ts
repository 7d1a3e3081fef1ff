/** Every program of examples/, run by plain Node in a folder of a user's, where node_modules/vl-mamba is what is built here. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { EventEmitter, once } from 'node:events';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import * as assert from 'uvu/assert';
import { suite } from './kit.ts';
import { tinyConfig, tinyPreprocessor, writeCheckpoint } from './models/checkpoint.ts';

const test = suite('examples');
const root = fileURLToPath(new URL('..', import.meta.url));
const examples = join(root, 'examples');
const pictures = join(root, 'models', 'demo', 'pictures');
const shapes = join(pictures, 'shapes.png');
const folder = mkdtempSync(join(tmpdir(), 'vl-mamba-examples-'));
const slow = join(folder, 'slow');
test.after(() => rmSync(folder, { recursive: true, force: true }));

test.before(async () => {
  const at = join(folder, 'node_modules', 'vl-mamba');
  mkdirSync(at, { recursive: true });
  cpSync(join(root, 'package.json'), join(at, 'package.json'));
  for (const name of ['build', 'models', 'node_modules']) symlinkSync(join(root, name), join(at, name));
  const tsdown = join(root, 'node_modules', 'tsdown', 'dist', 'run.mjs');
  execFileSync(process.execPath, [tsdown, '--no-dts', '--out-dir', join(at, 'dist')], { cwd: root, stdio: 'pipe' });
  cpSync(examples, folder, { recursive: true });
  // It writes for long, whatever it is asked.
  const text = { hidden_size: 320, num_hidden_layers: 8, time_step_rank: 20, state_size: 16 };
  await writeCheckpoint(slow, { config: tinyConfig({ text }), preprocessor: tinyPreprocessor('siglip') });
});

interface Started {
  child: ChildProcess;
  said: { stdout: string; stderr: string };
  /** Waits until what was said on stdout or stderr matches. */
  says: (what: RegExp) => Promise<RegExpExecArray>;
}

function start(...args: string[]): Started {
  const child = spawn(process.execPath, args, { cwd: folder, timeout: 60_000 });
  const said = { stdout: '', stderr: '' };
  const heard = new EventEmitter();
  for (const stream of ['stdout', 'stderr'] as const)
    child[stream]!.on('data', (data) => {
      said[stream] += data;
      heard.emit('data');
    });
  child.on('close', () => heard.emit('data'));
  const says = async (what: RegExp) => {
    for (;;) {
      const found = what.exec(said.stdout) ?? what.exec(said.stderr);
      if (found) return found;
      assert.is(child.exitCode, null, `it ended with ${child.exitCode} and never said ${what}: ${said.stderr}`);
      await once(heard, 'data');
    }
  };
  return { child, said, says };
}

/** What a program prints on stdout, when it ends well. */
async function run(...args: string[]): Promise<Started['said']> {
  const { child, said } = start(...args);
  child.stdin!.end();
  const [status] = await once(child, 'close');
  assert.is(status, 0, said.stderr);
  return said;
}

test('hello', async () => {
  const { stdout, stderr } = await run('hello.mjs', 'demo', shapes);
  assert.is(
    stdout,
    'A large red circle, a small yellow star and a large blue triangle.\n(stop; 100 positions of picture, 8 tokens of text)\n',
  );
  assert.is(stderr, '');
});

test('http: an answer, what is wrong with a request, and a client that leaves', async () => {
  const { child, said, says } = start('http.mjs', 'demo', '0');
  const [, port] = await says(/port: (\d+)/);
  const ask = async (body: Buffer, question = 'How many objects are there?') => {
    const response = await fetch(`http://localhost:${port}/?${new URLSearchParams({ question })}`, {
      method: 'POST',
      body,
    });
    return { status: response.status, text: await response.text() };
  };
  const picture = readFileSync(shapes);
  assert.equal(await ask(picture), { status: 200, text: 'Three' });
  const together = await Promise.all([ask(picture), ask(picture, 'What colour is the circle?'), ask(picture)]);
  assert.equal(
    together.map(({ text }) => text),
    ['Three', 'Red', 'Three'],
  );
  const none = await ask(Buffer.from('This is no picture.'));
  assert.is(none.status, 400);
  assert.match(none.text, /PNG/);
  assert.is((await ask(Buffer.alloc(20 * 2 ** 20 + 1))).status, 413);
  assert.is((await ask(picture, '')).status, 200);
  child.kill('SIGTERM');
  assert.equal(await once(child, 'close'), [0, null]);
  assert.is(said.stderr, '');
});

test('http: who hangs up ends their work', async () => {
  const { child, said, says } = start('http.mjs', slow, '0');
  const [, port] = await says(/port: (\d+)/);
  const picture = readFileSync(shapes);
  const client = connect(Number(port), 'localhost');
  client.write(`POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: ${picture.length}\r\n\r\n`);
  client.write(picture);
  const [head] = await once(client, 'data');
  assert.match(String(head), /^HTTP\/1\.1 200 /);
  client.destroy();
  await says(/a client left; its work has ended/);
  child.kill('SIGTERM');
  assert.equal(await once(child, 'close'), [0, null]);
  assert.is(said.stderr, '');
});

test('worker', async () => {
  const { stdout } = await run(
    'worker.mjs',
    'demo',
    shapes,
    'How many objects are there?',
    'What colour is the circle?',
  );
  assert.equal(stdout.trim().split('\n').sort(), [
    'How many objects are there? Three',
    'What colour is the circle? Red',
  ]);
  const missing = await run('worker.mjs', 'demo', 'nowhere.png', 'What is it?');
  assert.match(missing.stdout, /^What is it\? failed: ERR_IMAGE_READ: /);
});

test('camera: frames are read as they come, questions are answered on a fork', async () => {
  const frames = join(folder, 'frames');
  mkdirSync(frames);
  const { child, said, says } = start('camera.mjs', 'demo', frames);
  await says(/watching/);
  const show = (picture: string, name: string) => {
    cpSync(join(pictures, picture), join(folder, 'whole.png'));
    renameSync(join(folder, 'whole.png'), join(frames, name));
  };
  show('shapes.png', '1.png');
  await says(/1\.png: 100 positions in (\d+) bytes/);
  child.stdin!.write('How many objects are there?\nWhat colour is the circle?\n');
  await says(/Three\nRed\n/);
  show('ring.png', '2.png');
  // The questions left no trace, and the state has not grown.
  await says(/2\.png: 200 positions in 233472 bytes/);
  child.stdin!.end();
  assert.equal(await once(child, 'close'), [0, null]);
  assert.is(said.stdout, 'Three\nRed\n');
});

test('library: pictures are read once, and found by a question', async () => {
  const photos = join(folder, 'photos');
  cpSync(pictures, photos, { recursive: true });
  const text = await run('library.mjs', 'demo', photos, 'Is there any text?');
  assert.is(text.stdout, `${join(photos, 'word.png')}\n`);
  assert.is(text.stderr, 'read ring.png\nread shapes.png\nread word.png\n');
  const star = await run('library.mjs', 'demo', photos, 'Is there a star?');
  assert.equal(star, { stdout: `${join(photos, 'shapes.png')}\n`, stderr: '' });
});

test('choices', async () => {
  const question = ['demo', shapes, 'What colour is the circle?'];
  const { stdout } = await run('choices.mjs', ...question, 'Blue', 'Red', 'Yellow');
  const lines = stdout.trim().split('\n');
  assert.match(lines[0]!, /^100\.0 % {2}"Red" {2}\(log-probability -0\.\d\d\)$/);
  assert.is(lines.length, 3);
});

/** A module that is imported into this process, and finds the package's source. */
const module = (path: string) => import(pathToFileURL(join(examples, path)).href);

test('nextjs: the route answers a form', async () => {
  assert.equal((await module('nextjs/next.config.mjs')).default.serverExternalPackages, ['vl-mamba']);
  const { POST } = await module('nextjs/app/api/ask/route.ts');
  const post = async (fields: Record<string, string | Blob>) => {
    const body = new FormData();
    for (const [name, value] of Object.entries(fields)) body.set(name, value);
    const response: Response = await POST(new Request('http://localhost/api/ask', { method: 'POST', body }));
    return { status: response.status, text: await response.text() };
  };
  const picture = new Blob([readFileSync(shapes)]);
  const question = 'How many objects are there?';
  assert.equal(await post({ picture, question }), { status: 200, text: 'Three' });
  assert.is((await post({ question })).status, 400);
  const none = await post({ picture: new Blob(['This is no picture.']), question });
  assert.is(none.status, 400);
  assert.match(none.text, /PNG/);
  const { getModel } = await module('nextjs/lib/model.ts');
  await (await getModel()).dispose();
});

test('electron: the main process answers its windows', async () => {
  const { answers } = await module('electron/answers.mjs');
  class Sender extends EventEmitter {
    id = 1;
    text = '';
    send(_channel: string, { text }: { text: string }) {
      this.text += text;
    }
  }
  const sender = new Sender();
  const ask = { id: 1, picture: new Uint8Array(readFileSync(shapes)), question: 'How many objects are there?' };
  const demo = answers('demo');
  assert.equal(await demo.ask(sender, ask), { finishReason: 'stop' });
  assert.is(sender.text, 'Three');
  const { error } = await demo.ask(sender, { ...ask, picture: new Uint8Array(9) });
  assert.is(error.code, 'ERR_IMAGE_FORMAT');
  await demo.quit();
  const patient = answers(resolve(slow));
  for (const end of [() => patient.stop(sender, { id: 2 }), () => sender.emit('destroyed')]) {
    const writing = patient.ask(sender, { ...ask, id: 2 });
    sender.send = end;
    assert.equal(await writing, { finishReason: 'abort' });
  }
  assert.is(sender.listenerCount('destroyed'), 0);
  await patient.quit();
});

test.run();
