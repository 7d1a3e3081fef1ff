/** Certificates and redirects that leave https; needs the openssl command for a certificate of its own. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, globalAgent, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { pull } from '../../lib/hub/pull.ts';
import { failure, suite } from '../kit.ts';
import { FakeHub } from './server.ts';

const folder = mkdtempSync(join(tmpdir(), 'vl-mamba-tls-'));
const [key, cert] = [join(folder, 'key.pem'), join(folder, 'cert.pem')];
const names = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1'];
const request = ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-keyout', key, '-out', cert, ...names];
const hasOpenssl = spawnSync('openssl', request).status === 0;

const test = suite('https');
const cases = hasOpenssl ? test : test.skip;
const hub = await new FakeHub().listen();
const asked: string[] = [];
let server: Server;

test.before(async () => {
  if (!hasOpenssl) return;
  server = createServer({ key: readFileSync(key), cert: readFileSync(cert) }, (request, response) => {
    asked.push(request.headers.authorization ?? 'none');
    response.writeHead(302, { location: `${hub.endpoint}${request.url}` }).end();
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
});
test.after(() => {
  server?.closeAllConnections();
  server?.close();
  hub.close();
  rmSync(folder, { recursive: true, force: true });
});

const settings = () =>
  hub.settings({
    token: 'hf_secret',
    endpoint: new URL(`https://127.0.0.1:${(server.address() as AddressInfo).port}`),
  });

cases('a certificate that nobody vouches for is refused at once, and sees no token', async () => {
  const { code, message } = await failure(() => pull('org/model', { settings: settings() }));
  assert.is(code, 'ERR_HUB_HTTP');
  assert.match(message, /SELF_SIGNED/);
  assert.not.match(message, /tried/);
  assert.equal(asked, []);
});

cases('a redirect from https to http is not followed', async () => {
  globalAgent.options.ca = readFileSync(cert);
  const { code, message } = await failure(() => pull('org/model', { settings: settings() }));
  delete globalAgent.options.ca;
  assert.is(code, 'ERR_HUB_HTTP');
  assert.match(message, /redirects to http:.*which is not https/);
  assert.equal(asked, ['Bearer hf_secret']);
  assert.equal(hub.asked, []);
});

test.run();
