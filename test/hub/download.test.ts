/** Downloads from hubs that break off, lie, redirect and refuse. */
import { readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import type { ServerResponse } from 'node:http';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { pull } from '../../lib/hub/pull.ts';
import type { HubSettings } from '../../lib/hub/settings.ts';
import { failure, random, suite } from '../kit.ts';
import { type Asked, FakeHub, gitSha1, sha256 } from './server.ts';

const test = suite('download');
const hub = await new FakeHub().listen();
test.after(() => hub.close());

const next = random(1);
const WEIGHTS = Buffer.from(Uint8Array.from({ length: 3_000_000 }, () => next() * 256));
const CONFIG = Buffer.from('{"model_type":"mamba"}');
const files = { 'config.json': CONFIG, 'tokenizer.json': '{}', 'model.safetensors': WEIGHTS };

/** A hub that has the model and has not been told to misbehave yet, and an empty cache. */
function fresh(options: Partial<HubSettings> = {}): HubSettings {
  hub.forget();
  hub.add('org/model', files);
  return hub.settings(options);
}

const blobsOf = ({ cache }: HubSettings) => join(cache, 'models--org--model', 'blobs');
const leftovers = (settings: HubSettings) =>
  readdirSync(blobsOf(settings)).filter((name) => name.endsWith('.incomplete'));

/** The weights are there, whole and right, and nothing else is left. */
async function arrives(settings: HubSettings): Promise<void> {
  const { path } = await pull('org/model', { settings });
  assert.ok(readFileSync(join(path, 'model.safetensors')).equals(WEIGHTS));
  assert.ok(readFileSync(join(path, 'config.json')).equals(CONFIG));
  assert.equal(leftovers(settings), []);
}

/** The pull fails with a code, and what is wrong never becomes a blob or a revision. */
async function fails(settings: HubSettings, code: string, message?: RegExp): Promise<Error> {
  const error = await failure(() => pull('org/model', { settings }));
  assert.is(error.code, code, error.message);
  if (message) assert.match(error.message, message);
  const there = readdirSync(join(settings.cache), { recursive: true }) as string[];
  assert.not(
    there.some((name) => name.includes('refs')),
    there.join(),
  );
  for (const name of there.filter((name) => /blobs\/[0-9a-f]+$/.test(name))) {
    const bytes = readFileSync(join(settings.cache, name));
    assert.ok([sha256(bytes), gitSha1(bytes)].includes(name.split('/').at(-1)!), `${name} is not what it says`);
  }
  return error;
}

const isWeights = ({ at }: Asked) => at === 'store';

test('a connection that breaks again and again goes on where it was', async () => {
  const settings = fresh();
  let cuts = 0;
  hub.trick = (asked, response, content) => {
    if (!isWeights(asked) || ++cuts > 8) return false;
    const from = Number(asked.range?.slice(6, -1) ?? 0);
    hub.send(asked, response, content!, Math.min(WEIGHTS.length, from + 300_000));
    return true;
  };
  await arrives(settings);
  // Cut off eight times, it was fetched once: each range begins where the last ended, but for what was still under way.
  assert.is(hub.count(/GET \/org\/model\/lfs/), 9);
  assert.ok(hub.sent < WEIGHTS.length * 1.5, `${hub.sent} bytes were sent for ${WEIGHTS.length}`);
});

test('five breaks without progress are enough', async () => {
  const settings = fresh();
  hub.trick = (asked, response) => isWeights(asked) && !!response.destroy();
  await fails(settings, 'ERR_HUB_HTTP', /model\.safetensors: .*ECONNRESET \(tried 5 times\)/);
  assert.is(hub.count(/GET \/org\/model\/lfs/), 5);
});

test('what came is kept for the next pull', async () => {
  const settings = fresh();
  let first = true;
  hub.trick = (asked, response, content) => {
    if (!isWeights(asked)) return false;
    if (first) hub.send(asked, response, content!, 2_000_000);
    else response.destroy();
    first = false;
    return true;
  };
  await fails(settings, 'ERR_HUB_HTTP');
  assert.is(leftovers(settings).length, 1);
  assert.match(leftovers(settings)[0]!, /^[0-9a-f]{64}\.free-/);
  hub.forget();
  const seen: number[] = [];
  const { fetched } = await pull('org/model', { settings, onProgress: ({ loaded }) => seen.push(loaded) });
  assert.ok(fetched <= 1_500_000, `${fetched} bytes were fetched again`);
  assert.match(hub.asked.find(isWeights)!.range!, /^bytes=1\d{6}-$|^bytes=2000000-$/);
  await arrives(settings);
});

test('a server without ranges begins again', async () => {
  const settings = fresh();
  hub.ranges = false;
  let cuts = 0;
  hub.trick = (asked, response, content) => {
    if (!isWeights(asked) || ++cuts > 3) return false;
    hub.send(asked, response, content!, 1_000_000);
    return true;
  };
  await arrives(settings);
});

test('a range that cannot be had begins again', async () => {
  const settings = fresh();
  let cut = false;
  hub.trick = (asked, response, content) => {
    if (!isWeights(asked)) return false;
    if (asked.range) response.writeHead(416).end();
    else if (cut) return false;
    else hub.send(asked, response, content!, 1_000_000);
    cut = true;
    return true;
  };
  await arrives(settings);
});

test('a part that is wrong is thrown away, and fetched anew once', async () => {
  const settings = fresh();
  const wrong = Buffer.alloc(1_000_000, 7);
  await pull('org/model', { settings });
  const blob = join(blobsOf(settings), sha256(WEIGHTS));
  for (const part of [wrong, Buffer.alloc(WEIGHTS.length, 7), Buffer.alloc(WEIGHTS.length + 9, 7)]) {
    writeFileSync(blob, 'no longer it');
    writeFileSync(`${blob}.free-00000000.incomplete`, part);
    writeFileSync(`${blob}.free-11111111.incomplete`, part.subarray(1));
    writeFileSync(`${blob}.00000000-1-00000000.incomplete`, part);
    utimesSync(`${blob}.00000000-1-00000000.incomplete`, 0, 0);
    const link = join(settings.cache, 'models--org--model', 'snapshots', hub.repos.get('org/model')!.commit);
    rmSync(join(link, 'model.safetensors'));
    await arrives(settings);
  }
});

const lie = (change: (response: ServerResponse, content: Buffer) => void, who = isWeights) => {
  hub.trick = (asked, response, content) => {
    if (!who(asked) || asked.method !== 'GET') return false;
    change(response, content!);
    return true;
  };
};
const isConfig = ({ path }: Asked) => path.endsWith('config.json');

test('bytes that have another hash', async () => {
  const settings = fresh();
  const forged = Buffer.from(WEIGHTS);
  forged[1_234_567]! ^= 1;
  lie((response) => response.end(forged));
  await fails(settings, 'ERR_HUB_HASH', /model\.safetensors: its bytes have the hash [0-9a-f]{64}, not [0-9a-f]{64}/);
  assert.equal(leftovers(settings), []);
  assert.is(hub.count(/GET \/org\/model\/lfs/), 1);
  const small = fresh();
  lie((response) => response.end('{"model_type":"mambo"}'), isConfig);
  await fails(small, 'ERR_HUB_HASH', /config\.json: its bytes have the hash [0-9a-f]{40}/);
});

test('lengths that are not those announced', async () => {
  const longer = fresh();
  lie((response) => response.writeHead(200, { 'content-length': WEIGHTS.length + 1 }).end(WEIGHTS));
  await fails(longer, 'ERR_HUB_SIZE', /has 3000001 bytes, not 3000000/);
  const endless = fresh();
  lie((response) => {
    const more = () => {
      while (!response.destroyed && response.write(WEIGHTS));
    };
    response.on('drain', more);
    more();
  });
  await fails(endless, 'ERR_HUB_SIZE', /more than the 3000000 bytes/);
  const shorter = fresh();
  lie((response) => {
    response.write(WEIGHTS.subarray(0, 1000));
    response.end();
  });
  await fails(shorter, 'ERR_HUB_HTTP', /ended after 1000 of 3000000 bytes|answers with/);
});

test('a range that is another one', async () => {
  const settings = fresh();
  hub.trick = (asked, response, content) => {
    if (!isWeights(asked)) return false;
    if (!asked.range) hub.send(asked, response, content!, 1_000_000);
    else response.writeHead(206, { 'content-range': `bytes 0-${WEIGHTS.length - 1}/${WEIGHTS.length}` }).end(WEIGHTS);
    return true;
  };
  await fails(settings, 'ERR_HUB_SIZE', /answers with "bytes 0-/);
});

test('files larger than any of their kind, without a length, without a hash', async () => {
  const head = (headers: Record<string, string | number>, name: string) => {
    hub.trick = ({ at, method, path }, response) => {
      if (at !== 'hub' || method !== 'HEAD' || !path.endsWith(name)) return false;
      response.writeHead(200, headers).end();
      return true;
    };
  };
  const etag = gitSha1(CONFIG);
  const cases: [Record<string, string | number>, string, string, RegExp][] = [
    [{ etag, 'content-length': 2 ** 27 }, 'config.json', 'ERR_HUB_SIZE', /134217728 bytes/],
    [
      { 'x-linked-etag': sha256(WEIGHTS), 'x-linked-size': 2 ** 40 },
      'model.safetensors',
      'ERR_HUB_SIZE',
      /1099511627776 bytes/,
    ],
    [{ 'x-linked-etag': sha256(WEIGHTS), 'x-linked-size': '-1' }, 'model.safetensors', 'ERR_HUB_HTTP', /how long/],
    [{ etag, 'transfer-encoding': 'chunked' }, 'config.json', 'ERR_HUB_HTTP', /how long/],
    [{ etag: '"../../../evil"', 'content-length': 22 }, 'config.json', 'ERR_HUB_HASH', /no hash/],
    [{ 'content-length': 22 }, 'config.json', 'ERR_HUB_HASH', /ETag "" is no hash/],
  ];
  for (const [headers, name, code, message] of cases) {
    const settings = fresh();
    head(headers, name);
    await fails(settings, code, message);
  }
});

test('a listing that is none', async () => {
  const commit = 'a'.repeat(40);
  for (const [text, message] of [
    ['<html>Sign in</html>', /does not answer with JSON; is HF_ENDPOINT a hub/],
    ['null', /commit and its files/],
    ['{"sha":"../../x","siblings":[]}', /commit and its files/],
    [`{"sha":"${commit}","siblings":{}}`, /commit and its files/],
  ] as const) {
    const settings = fresh();
    hub.trick = (_, response) => !!response.end(text);
    await fails(settings, 'ERR_HUB_HTTP', message);
  }
  const odd = fresh();
  hub.trick = (_, response) => !!response.end(`{"sha":"${commit}","siblings":[null,7,{"rfilename":7},{}]}`);
  await fails(odd, 'ERR_HUB_FILES');
  const large = fresh();
  hub.trick = (_, response) => !!response.end(Buffer.alloc(2 ** 25 + 1, ' '));
  await fails(large, 'ERR_HUB_SIZE');
  const other = fresh();
  hub.trick = (_, response) => !!response.end(`{"sha":"${commit}","siblings":[]}`);
  assert.is((await failure(() => pull(`org/model@${'b'.repeat(40)}`, { settings: other }))).code, 'ERR_HUB_HTTP');
});

test('the token goes to the endpoint and nowhere else', async () => {
  const settings = fresh({ token: 'hf_secret' });
  await arrives(settings);
  for (const { at, authorization } of hub.asked)
    assert.is(authorization, at === 'hub' ? 'Bearer hf_secret' : undefined);
  assert.ok(hub.asked.some(isWeights));
});

test('a redirect that leaves the endpoint and comes back has lost the token', async () => {
  const settings = fresh({ token: 'hf_secret' });
  hub.trick = ({ at, path }, response) => {
    if (at === 'hub' || path.startsWith('/api')) return false;
    response.writeHead(302, { location: `${hub.endpoint}/back` }).end();
    return true;
  };
  await fails(settings, 'ERR_HUB_HTTP', /\/back: answered 404/);
  const back = hub.asked.filter(({ path }) => path === '/back');
  assert.ok(back.length > 0);
  for (const { authorization } of back) assert.is(authorization, undefined);
});

test('redirects without end, to no address, to other schemes', async () => {
  for (const [location, message] of [
    ['/org/model/resolve/x/loop', /more than 5 redirects/],
    ['http://[', /is no address/],
    ['file:///etc/passwd', /redirects to file:.*which is not https/],
    ['ftp://127.0.0.1/x', /redirects to ftp:/],
  ] as const) {
    const settings = fresh();
    hub.trick = ({ at, method }, response) =>
      at === 'hub' && method === 'GET' && !!response.writeHead(302, { location }).end();
    await fails(settings, 'ERR_HUB_HTTP', message);
  }
});

test('the signature of an address is in no message', async () => {
  const settings = fresh();
  hub.trick = (asked, response) => isWeights(asked) && !!response.writeHead(403).end();
  const { message } = await fails(settings, 'ERR_HUB_HTTP', /lfs\/.*answered 403/);
  assert.not.match(message, /Signature|secret/);
});

test('what the hub refuses', async () => {
  const refuse = (status: number, headers: Record<string, string> = {}) => {
    const settings = fresh();
    hub.trick = ({ at }, response) => at === 'hub' && !!response.writeHead(status, headers).end();
    return settings;
  };
  await fails(refuse(401), 'ERR_HUB_AUTH', /answered 401: there is no such model, or it may not be read: set HF_TOKEN/);
  await fails(refuse(403, { 'x-error-code': 'GatedRepo' }), 'ERR_HUB_AUTH', /accept its terms/);
  await fails(
    refuse(404, { 'x-error-message': 'Repository not found' }),
    'ERR_HUB_NOT_FOUND',
    /\(Repository not found\)/,
  );
  assert.is(hub.asked.length, 1);
  await fails(refuse(400), 'ERR_HUB_HTTP', /answered 400/);
  assert.is(hub.asked.length, 1);
  await fails(refuse(500), 'ERR_HUB_HTTP', /answered 500 \(tried 3 times\)/);
  assert.is(hub.asked.length, 3);
});

test('a hub that is busy for a while', async () => {
  for (const headers of [
    { 'retry-after': '0' },
    { ratelimit: '"api";r=0;t=0' },
    { 'retry-after': new Date(0).toUTCString() },
  ]) {
    const settings = fresh();
    const busy = new Map<string, number>();
    hub.trick = ({ method, path, at }, response) => {
      const key = `${at}${method}${path}`;
      const times = (busy.get(key) ?? 0) + 1;
      busy.set(key, times);
      if (times > 2) return false;
      return !!response.writeHead(times === 1 ? 429 : 503, headers).end();
    };
    await arrives(settings);
  }
  const settings = fresh();
  hub.trick = ({ path }, response) =>
    path.startsWith('/api') && hub.asked.length === 1 && !!response.writeHead(429, { 'retry-after': '1' }).end();
  const at = performance.now();
  await arrives(settings);
  assert.ok(performance.now() - at > 900, 'waited as long as it was told');
});

test('a server that falls silent', async () => {
  const settings = fresh({ timeoutMs: 50 });
  hub.trick = (asked, response) => {
    if (!isWeights(asked)) return false;
    response.writeHead(200, { 'content-length': WEIGHTS.length }).write('x');
    return true;
  };
  await fails(settings, 'ERR_HUB_HTTP', /silent for 0\.05 seconds/);
});

test('an encoding that was not asked for', async () => {
  const settings = fresh();
  lie((response) => response.writeHead(200, { 'content-encoding': 'gzip' }).end(WEIGHTS));
  await fails(settings, 'ERR_HUB_HTTP', /content-encoding "gzip"/);
});

test('abort: before, while it waits, in the middle; then it goes on', async () => {
  const settings = fresh({ backoffMs: 60_000 });
  const reason = new Error('enough');
  assert.is(await pull('org/model', { settings, signal: AbortSignal.abort(reason) }).catch((e) => e), reason);
  assert.equal(hub.asked, []);

  const stop = new AbortController();
  hub.trick = ({ path }, response) => {
    if (!path.startsWith('/api')) return false;
    setTimeout(() => stop.abort(reason), 20);
    return !!response.writeHead(503).end();
  };
  assert.is(await pull('org/model', { settings, signal: stop.signal }).catch((e) => e), reason);

  const middle = new AbortController();
  hub.trick = (asked, response) => {
    if (!isWeights(asked)) return false;
    response.writeHead(200, { 'content-length': WEIGHTS.length }).write(WEIGHTS.subarray(0, 2_000_000));
    return true;
  };
  const onProgress = ({ loaded }: { loaded: number }) => loaded > 500_000 && middle.abort(reason);
  assert.is(await pull('org/model', { settings, signal: middle.signal, onProgress }).catch((e) => e), reason);
  assert.is(leftovers(settings).length, 1);
  hub.forget();
  await arrives(settings);
  assert.ok(hub.asked.find(isWeights)!.range !== undefined);
  assert.is((await failure(() => pull('org/model', { signal: 7 as unknown as AbortSignal }))).code, 'ERR_ARG_TYPE');
});

test('what onProgress throws ends the download and comes through', async () => {
  hub.forget();
  const settings = hub.settings();
  hub.trick = (asked, response) => {
    if (!isWeights(asked)) return false;
    response.writeHead(200, { 'content-length': WEIGHTS.length }).write(WEIGHTS.subarray(0, 10_000));
    return true;
  };
  const own = new Error('mine');
  const onProgress = () => {
    throw own;
  };
  assert.is(await pull('org/model', { settings, onProgress }).catch((error) => error), own);
});

test.run();
