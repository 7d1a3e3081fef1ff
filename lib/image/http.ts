import { lookup } from 'node:dns/promises';
import type { IncomingMessage } from 'node:http';
import { BlockList, isIP, type LookupFunction } from 'node:net';
import { VLMambaError } from '../errors.ts';
import { abortable } from './async.ts';
import { DOWNLOAD_SECONDS, MAX_BYTES, MAX_REDIRECTS, tooManyBytes } from './limits.ts';

interface Address {
  address: string;
  family: number;
}

// IANA's special-purpose registries: this host, private use, shared, link-local, documentation, multicast, reserved.
const INTERNAL = new BlockList();
for (const [net, bits] of [
  ['0.0.0.0', 8],
  ['10.0.0.0', 8],
  ['100.64.0.0', 10],
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
  ['172.16.0.0', 12],
  ['192.0.0.0', 24],
  ['192.0.2.0', 24],
  ['192.168.0.0', 16],
  ['198.18.0.0', 15],
  ['198.51.100.0', 24],
  ['203.0.113.0', 24],
  ['224.0.0.0', 4],
  ['240.0.0.0', 4],
] as const) {
  INTERNAL.addSubnet(net, bits, 'ipv4');
}
// Of IPv6 only 2000::/3 is globally reachable, and in it the tunnels lead to any IPv4 address.
const GLOBAL6 = new BlockList();
GLOBAL6.addSubnet('2000::', 3, 'ipv6');
const TUNNELS6 = new BlockList();
for (const [net, bits] of [
  ['2001::', 23],
  ['2001:db8::', 32],
  ['2002::', 16],
] as const) {
  TUNNELS6.addSubnet(net, bits, 'ipv6');
}
const MAPPED4 = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i;

/** Whether an IP address is one that only machines near this one reach: loopback, private, link-local, reserved. */
export function isInternalAddress(address: string): boolean {
  if (isIP(address) === 4) return INTERNAL.check(address, 'ipv4');
  const mapped = MAPPED4.exec(address)?.[1];
  if (mapped) return INTERNAL.check(mapped, 'ipv4');
  return !GLOBAL6.check(address, 'ipv6') || TUNNELS6.check(address, 'ipv6');
}

/**
 * Downloads a picture over http(s): at most 20 MiB, 30 seconds, five redirects. A name is resolved once and the connection goes
 * to the address that was checked; a redirect may not lead from a public host to an internal address, nor from https to http.
 *
 * @throws `ERR_IMAGE_HTTP`, `ERR_IMAGE_BYTES`, `ERR_IMAGE_TIMEOUT`, or the signal's reason.
 */
export async function download(
  url: URL,
  { signal, isInternal = isInternalAddress }: { signal?: AbortSignal; isInternal?: (address: string) => boolean } = {},
): Promise<Uint8Array> {
  const deadline = AbortSignal.timeout(DOWNLOAD_SECONDS * 1000);
  const stop = signal ? AbortSignal.any([signal, deadline]) : deadline;
  const name = nameOf(url);
  let at = url;
  let outside = false;
  try {
    for (let hop = 0; hop <= MAX_REDIRECTS; hop++) {
      const host = at.hostname.replace(/^\[|\]$/g, '');
      const addresses = await abortable<Address[]>(lookup(host, { all: true }), stop);
      const internal = addresses.some(({ address }) => isInternal(address));
      if (internal && outside) throw failed(name, `it redirects to ${nameOf(at)}, an internal address`);
      outside ||= !internal;
      const response = await request(at, addresses, stop);
      const next = redirect(response, at);
      if (!next) return await body(response, name);
      response.destroy();
      if (next.protocol !== at.protocol && next.protocol !== 'https:') {
        throw failed(name, `it redirects to ${nameOf(next)}, which is not https`);
      }
      at = next;
    }
  } catch (cause) {
    if (signal?.aborted) throw signal.reason;
    if (deadline.aborted) {
      throw new VLMambaError('ERR_IMAGE_TIMEOUT', `${name} did not arrive within ${DOWNLOAD_SECONDS} seconds`, {
        cause,
      });
    }
    if (cause instanceof VLMambaError) throw cause;
    throw failed(name, (cause as NodeJS.ErrnoException).code ?? String(cause), cause);
  }
  throw failed(name, `more than ${MAX_REDIRECTS} redirects`);
}

/** Without the query and the password, which may be secrets. */
export const nameOf = (url: URL): string => `image ${url.protocol}//${url.host}${url.pathname}`;

const failed = (name: string, why: string, cause?: unknown): VLMambaError =>
  new VLMambaError('ERR_IMAGE_HTTP', `cannot download ${name}: ${why}`, { cause });

async function request(url: URL, addresses: Address[], signal: AbortSignal): Promise<IncomingMessage> {
  const pinned: LookupFunction = (_host, options, done) =>
    options.all ? done(null, addresses) : done(null, addresses[0]!.address, addresses[0]!.family);
  // A shared agent might reuse a connection that was made to another address.
  const options = {
    lookup: pinned,
    agent: false,
    signal,
    headers: { accept: 'image/*', 'accept-encoding': 'identity' },
  };
  // Opening node:http takes longer than the rest of this package.
  const { get } = await (url.protocol === 'https:' ? import('node:https') : import('node:http'));
  return new Promise((resolve, reject) => {
    get(url, options, resolve).on('error', reject);
  });
}

function redirect(response: IncomingMessage, from: URL): URL | undefined {
  const { statusCode = 0, headers } = response;
  return statusCode >= 300 && statusCode < 400 && headers.location ? new URL(headers.location, from) : undefined;
}

async function body(response: IncomingMessage, name: string): Promise<Uint8Array> {
  const { statusCode, headers } = response;
  try {
    if (statusCode !== 200) throw failed(name, `the server answered ${statusCode}`);
    const coding = headers['content-encoding'] ?? 'identity';
    if (coding !== 'identity') throw failed(name, `the server answered with content-encoding ${coding}, expected none`);
    if (Number(headers['content-length']) > MAX_BYTES) throw tooManyBytes(name, headers['content-length']!);
    const pieces: Buffer[] = [];
    let length = 0;
    for await (const piece of response) {
      length += piece.length;
      if (length > MAX_BYTES) throw tooManyBytes(name, `more than ${MAX_BYTES}`);
      pieces.push(piece);
    }
    return Buffer.concat(pieces, length);
  } finally {
    response.destroy();
  }
}
