import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { download, isInternalAddress } from '../../lib/image/http.ts';
import { MAX_BYTES } from '../../lib/image/limits.ts';
import { rejects } from './kit.ts';

const PICTURE = Buffer.from('the bytes of a picture');

const routes: Record<string, RequestListener> = {
  '/ok': (_, res) => res.end(PICTURE),
  '/echo': (req, res) => res.end(JSON.stringify(req.headers)),
  '/missing': (_, res) => res.writeHead(404).end('no'),
  '/empty': (_, res) => res.end(),
  '/gzip': (_, res) => res.writeHead(200, { 'content-encoding': 'gzip' }).end(PICTURE),
  '/declared': (_, res) => res.writeHead(200, { 'content-length': MAX_BYTES + 1 }).write('x'),
  '/endless': (_, res) => {
    const more = () => {
      while (!res.destroyed && res.write(Buffer.alloc(2 ** 20)));
    };
    res.on('drain', more);
    more();
  },
  '/cut': (_, res) => {
    res.writeHead(200, { 'content-length': 1000 }).write('x');
    setTimeout(() => res.destroy(), 10);
  },
  '/silent': () => undefined,
  '/relative': (_, res) => res.writeHead(302, { location: 'ok' }).end(),
  '/loop': (_, res) => res.writeHead(302, { location: '/loop' }).end(),
  '/inside': (req, res) =>
    res.writeHead(302, { location: `http://127.0.0.2:${(req.socket.address() as AddressInfo).port}/ok` }).end(),
  '/ftp': (_, res) => res.writeHead(302, { location: 'ftp://127.0.0.1/ok' }).end(),
  '/nowhere': (_, res) => res.writeHead(302, { location: 'http://[' }).end(),
};

const test = suite<{ server: Server; at: (path: string) => URL }>('http');
test.before(async (context) => {
  context.server = createServer((req, res) => routes[req.url!.split('?')[0]!]!(req, res));
  await new Promise<void>((listening) => context.server.listen(0, '127.0.0.1', listening));
  const { port } = context.server.address() as AddressInfo;
  context.at = (path) => new URL(`http://127.0.0.1:${port}${path}`);
});
test.after(({ server }) => {
  server.closeAllConnections();
  server.close();
});

test('downloads, also over a redirect', async ({ at }) => {
  for (const path of ['/ok', '/relative']) assert.equal(Buffer.from(await download(at(path))), PICTURE);
  assert.is((await download(at('/empty'))).length, 0);
});

test('resolves names', async ({ at }) => {
  const url = at('/ok');
  url.hostname = 'localhost';
  assert.equal(Buffer.from(await download(url)), PICTURE);
});

test('asks for the bytes as they are', async ({ at }) => {
  const headers = JSON.parse(Buffer.from(await download(at('/echo'))).toString());
  assert.is(headers['accept-encoding'], 'identity');
});

for (const [path, message] of [
  ['/missing', /answered 404/],
  ['/gzip', /content-encoding gzip/],
  ['/cut', /ECONNRESET/],
  ['/loop', /more than 5 redirects/],
  ['/ftp', /redirects to .*ftp/],
  ['/nowhere', /cannot download/],
] as const) {
  test(`fails: ${path}`, async ({ at }) =>
    assert.match((await rejects(download(at(path)), 'ERR_IMAGE_HTTP')).message, message));
}

test('stops at 20 MiB, declared or not', async ({ at }) => {
  for (const path of ['/declared', '/endless']) await rejects(download(at(path)), 'ERR_IMAGE_BYTES');
});

test('nobody there', async () => {
  const error = await rejects(download(new URL('http://127.0.0.1:1/x.png?token=secret')), 'ERR_IMAGE_HTTP');
  assert.match(error.message, /127\.0\.0\.1:1\/x\.png.*ECONNREFUSED/);
  assert.not.match(error.message, /secret/);
});

test('a redirect from a public host to an internal address is refused', async ({ at }) => {
  const isInternal = (address: string) => address !== '127.0.0.1';
  const error = await rejects(download(at('/inside'), { isInternal }), 'ERR_IMAGE_HTTP');
  assert.match(error.message, /redirects to .*127\.0\.0\.2.*internal/);
  assert.equal(Buffer.from(await download(at('/relative'), { isInternal })), PICTURE);
});

test('abort ends the wait with the reason', async ({ at }) => {
  const stop = new AbortController();
  const reason = new Error('enough');
  setTimeout(() => stop.abort(reason), 20);
  assert.is(await download(at('/silent'), { signal: stop.signal }).catch((e) => e), reason);
  assert.is(await download(at('/ok'), { signal: stop.signal }).catch((e) => e), reason);
});

test('internal addresses', () => {
  for (const address of [
    ...[
      '0.0.0.0',
      '10.1.2.3',
      '100.64.0.1',
      '127.0.0.1',
      '127.255.0.9',
      '169.254.169.254',
      '172.16.0.1',
      '172.31.255.255',
    ],
    ...['192.168.1.1', '198.18.0.1', '224.0.0.1', '240.0.0.1', '255.255.255.255', '192.0.0.8', '203.0.113.7'],
    ...[
      '::',
      '::1',
      '::ffff:127.0.0.1',
      '::ffff:10.0.0.1',
      'fc00::1',
      'fd12::1',
      'fe80::1',
      'ff02::1',
      '64:ff9b::a00:1',
    ],
    ...['2002:7f00:1::', '2001::1', '2001:db8::1'],
  ]) {
    assert.ok(isInternalAddress(address), address);
  }
  for (const address of [
    ...['1.1.1.1', '8.8.8.8', '11.0.0.1', '100.128.0.1', '172.32.0.1', '192.169.0.1', '223.255.255.254'],
    ...['::ffff:8.8.8.8', '2606:4700::1111', '2001:4860:4860::8888', '2a00:1450::1'],
  ]) {
    assert.not(isInternalAddress(address), address);
  }
});

test('decimal, octal and short spellings are one address before they are checked', () => {
  for (const host of ['2130706433', '0177.0.0.1', '0x7f.1', '127.1']) {
    assert.ok(isInternalAddress(new URL(`http://${host}/`).hostname), host);
  }
});

test.run();
