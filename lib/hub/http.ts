import { type IncomingMessage, request as requestHttp } from 'node:http';
import { request as requestHttps } from 'node:https';
import { setTimeout as sleep } from 'node:timers/promises';
import { show, VLMambaError } from '../errors.ts';
import type { HubSettings } from './settings.ts';

const MAX_REDIRECTS = 5;
const ATTEMPTS = 5;
const LONGEST_WAIT_MS = 300_000;

/** A failure that another try may not meet: the connection broke, or the server is busy. */
export class Transient extends Error {
  readonly waitMs: number | undefined;

  constructor(message: string, { waitMs, cause }: { waitMs?: number; cause?: unknown } = {}) {
    super(message, { cause });
    this.waitMs = waitMs;
  }
}

export interface Request {
  method?: 'GET' | 'HEAD';
  headers?: Record<string, string>;
  signal?: AbortSignal;
  /** Whether a redirect is answer enough and need not be followed. */
  enough?: (redirect: IncomingMessage) => boolean;
}

/** The address of something at the endpoint, which may have a path of its own. */
export const at = (hub: HubSettings, path: string): URL => new URL(`${hub.endpoint.href.replace(/\/+$/, '')}/${path}`);

/**
 * Asks once. At most five redirects, none from https to http; the token goes to the endpoint's own origin, and never again
 * once a redirect has left it. Answers with 200, 206 or 416, or with a redirect that is `enough` (of which there is no body).
 * @throws Transient; VLMambaError ERR_HUB_AUTH, ERR_HUB_NOT_FOUND, ERR_HUB_HTTP; the signal's reason
 */
export async function ask(
  hub: HubSettings,
  url: URL,
  { method = 'GET', headers = {}, signal, enough = () => false }: Request = {},
): Promise<IncomingMessage> {
  let next = url;
  let home = true;
  for (let hop = 0; hop <= MAX_REDIRECTS; hop++) {
    home &&= next.origin === hub.endpoint.origin;
    const all = home && hub.token ? { ...headers, authorization: `Bearer ${hub.token}` } : headers;
    const response = await send(next, method, all, hub.timeoutMs, signal);
    const to = redirect(response, next);
    if (to === undefined) return accept(response, next, home);
    response.destroy();
    if (enough(response)) return response;
    if (!/^https?:$/.test(to.protocol) || (next.protocol === 'https:' && to.protocol !== 'https:'))
      throw failed(next, `it redirects to ${nameOf(to)}, which is not https`);
    next = to;
  }
  throw failed(url, `more than ${MAX_REDIRECTS} redirects`);
}

/**
 * Calls `attempt` until it gives something, at most so many times in a row without `progress()` in between, with longer and
 * longer waits.
 * @throws VLMambaError ERR_HUB_HTTP with the last failure; whatever else `attempt` throws; the signal's reason
 */
export async function persist<T>(
  hub: HubSettings,
  what: string,
  signal: AbortSignal | undefined,
  attempt: (progress: () => void) => Promise<T>,
  attempts = ATTEMPTS,
): Promise<T> {
  let failures = 0;
  for (;;) {
    try {
      signal?.throwIfAborted();
      return await attempt(() => {
        failures = 0;
      });
    } catch (error) {
      signal?.throwIfAborted();
      if (!(error instanceof Transient)) throw error;
      if (++failures >= attempts) {
        const times = attempts > 1 ? ` (tried ${attempts} times)` : '';
        throw new VLMambaError('ERR_HUB_HTTP', `${what}: ${error.message}${times}`, { cause: error });
      }
      const wait = error.waitMs ?? hub.backoffMs * 2 ** (failures - 1) * (1 + Math.random() / 4);
      await sleep(Math.min(wait, LONGEST_WAIT_MS), undefined, { signal }).catch(() => signal?.throwIfAborted());
    }
  }
}

/** Without the query, which may hold a signature. */
const nameOf = (url: URL): string => `${url.protocol}//${url.host}${url.pathname}`;

const failed = (url: URL, why: string, cause?: unknown): VLMambaError =>
  new VLMambaError('ERR_HUB_HTTP', `${nameOf(url)}: ${why}`, { cause });

// Trouble on the way, which passes; a certificate that is wrong stays wrong.
const PASSING = /^(E(CONN\w+|TIMEDOUT|PIPE|AI_AGAIN|NOTFOUND|HOSTUNREACH|NETUNREACH|NETDOWN)|HPE_\w+)$/;

/** What a failure of a socket comes to. */
export function broken(url: URL, cause: unknown): Transient | VLMambaError {
  if (cause instanceof Transient || cause instanceof VLMambaError) return cause;
  const { code, message } = cause as NodeJS.ErrnoException;
  const why = `${nameOf(url)}: ${code ?? message}`;
  return PASSING.test(code ?? '') ? new Transient(why, { cause }) : failed(url, code ?? message, cause);
}

function send(
  url: URL,
  method: string,
  headers: Record<string, string>,
  timeoutMs: number,
  signal: AbortSignal | undefined,
): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const common = { 'accept-encoding': 'identity', 'user-agent': `vl-mamba node/${process.versions.node}` };
    const options = { method, signal, timeout: timeoutMs, headers: { ...common, ...headers } };
    const request = (url.protocol === 'https:' ? requestHttps : requestHttp)(url, options);
    let response: IncomingMessage | undefined;
    request.on('timeout', () => {
      (response ?? request).destroy(new Transient(`${nameOf(url)}: silent for ${timeoutMs / 1000} seconds`));
    });
    request.on('response', (answer) => {
      // Heard by whoever reads it; between two readers nobody does.
      answer.on('error', () => {});
      resolve((response = answer));
    });
    request.on('error', (cause) => reject(signal?.aborted ? signal.reason : broken(url, cause)));
    request.end();
  });
}

function redirect(response: IncomingMessage, from: URL): URL | undefined {
  const { statusCode = 0, headers } = response;
  const { location } = headers;
  if (statusCode < 300 || statusCode >= 400 || statusCode === 304 || !location) return undefined;
  if (URL.canParse(location, from.href)) return new URL(location, from);
  response.destroy();
  throw failed(from, `it redirects to ${show(location)}, which is no address`);
}

function accept(response: IncomingMessage, url: URL, home: boolean): IncomingMessage {
  const { statusCode = 0, headers } = response;
  const coding = headers['content-encoding'] ?? 'identity';
  if ([200, 206, 416].includes(statusCode)) {
    if (coding === 'identity') return response;
    response.destroy();
    throw failed(url, `answered with content-encoding ${show(coding)}, which was not asked for`);
  }
  response.destroy();
  const says = header(response, 'x-error-message');
  const why = `${nameOf(url)}: answered ${statusCode}${says ? ` (${says.slice(0, 200)})` : ''}`;
  if (home && (statusCode === 401 || statusCode === 403)) {
    const fix = header(response, 'x-error-code') === 'GatedRepo' ? 'accept its terms on its page, and set' : 'set';
    throw new VLMambaError(
      'ERR_HUB_AUTH',
      `${why}: there is no such model, or it may not be read: ${fix} HF_TOKEN to a token that may`,
      { details: { status: statusCode } },
    );
  }
  if (home && (statusCode === 404 || statusCode === 410))
    throw new VLMambaError('ERR_HUB_NOT_FOUND', why, { details: { status: statusCode } });
  // A signed address outside the hub is made anew for each try, so what it refuses now it may give later.
  if (!home || statusCode === 408 || statusCode === 429 || statusCode >= 500)
    throw new Transient(why, { waitMs: waitOf(response) });
  throw failed(url, `answered ${statusCode}`);
}

/** How long a busy server wants to be left alone. */
function waitOf(response: IncomingMessage): number | undefined {
  const seconds = header(response, 'retry-after') ?? /\bt=(\d+)/.exec(header(response, 'ratelimit') ?? '')?.[1];
  if (seconds === undefined) return undefined;
  const wait = /^\d+$/.test(seconds) ? Number(seconds) * 1000 : Date.parse(seconds) - Date.now();
  return Number.isFinite(wait) ? Math.max(0, wait) : undefined;
}

/** A header that is there once, as printable text. */
export function header({ headers }: IncomingMessage, name: string): string | undefined {
  const value = headers[name];
  return typeof value === 'string' ? value.replace(/[^\x20-\x7e]/g, '?') : undefined;
}
