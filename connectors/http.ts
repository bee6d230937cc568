// A store that speaks HTTP, in any language: docs/http-connector.md is its side of the contract. Decisions are posted in batches,
// what is held is read by GET, and both are signed as Standard Webhooks 1.0.
//
// URLs end up in access logs, and a key may be an address. So a GET names its keys in a header, and its URL is new each time, so
// that no cache on the way can answer in the store's place.
import { createHmac, randomUUID } from 'node:crypto';
import { lookup } from 'node:dns';
import { BlockList, isIP } from 'node:net';
import type { LookupFunction } from 'node:net';
import { trace } from '@opentelemetry/api';
import { Agent, errors, request } from 'undici';
import type { Dispatcher } from 'undici';
import { z } from 'zod';
import { AbideError, CODE } from '../suppression/errors.ts';
import { readBounded } from '../suppression/read-bounded.ts';
import { channelOfTopic } from '../suppression/scope.ts';
import { SUBJECT_KINDS } from '../suppression/subject-kind.ts';
import { formatTraceparent } from '../suppression/traceparent.ts';
import { defineConnector, TryLater } from './contract/connector.ts';
import type { ApplyOutcome, Held, Item, SubjectKey } from './contract/connector.ts';
import { HeldScopes } from './contract/held-scopes.ts';
import { lineFailed } from './contract/line-failed.ts';
import { untilAborted } from './contract/until-aborted.ts';

const CONNECT_TIMEOUT_MS = 5_000;
const ANSWER_TIMEOUT_MS = 15_000;
const DISPOSE_WAIT_MS = 1_000;
/** What 1,000 scopes with the longest names take, so that an answer about one item always fits: batches are halved until it does. */
const ANSWER_BYTES_MAX = 128 * 1024;
/** Each item or key that was asked about may add this. */
const ANSWER_BYTES_EACH = 1024;
const RETRY_AFTER_MS_MAX = 15 * 60_000;
/** Limit of one `abide-keys` header: most servers and proxies take 8 KiB of headers in all. */
const KEYS_HEADER_BYTES_MAX = 6 * 1024;
const CONNECTIONS = 4;
/** These are about how we asked, or about the store's day, never about an item: the call is repeated, not refused. */
const NOT_ABOUT_ITEMS = new Set([401, 403, 404, 405, 407, 408, 421, 425, 426, 429]);

// --- private addresses

// Of IPv6 only global unicast is public, except the ranges that carry an IPv4 address or are for documentation.
const SPECIAL_V4 = `0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24
  192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4`;
const SPECIAL_V6 = '2001::/23 2001:db8::/32 2002::/16 3fff::/20';
const blockList = (ranges: string, family: 'ipv4' | 'ipv6'): BlockList => {
  const list = new BlockList();
  for (const range of ranges.split(/\s+/)) {
    const [net, prefix] = range.split('/') as [string, string];
    list.addSubnet(net, Number(prefix), family);
  }
  return list;
};
const specialV4 = blockList(SPECIAL_V4, 'ipv4');
const specialV6 = blockList(SPECIAL_V6, 'ipv6');
const globalV6 = blockList('2000::/3', 'ipv6');

/** Whether an IP address reaches the same host from anywhere on the internet. */
export function isPublicAddress(address: string): boolean {
  if (isIP(address) === 4) return !specialV4.check(address, 'ipv4');
  return isIP(address) === 6 && globalV6.check(address, 'ipv6') && !specialV6.check(address, 'ipv6');
}

class PrivateAddressError extends Error {
  readonly code = 'ABIDE_PRIVATE_ADDRESS';
}

/** The address checked here is the one that the socket connects to: a name that changes between two look-ups gains nothing. */
const lookupPublic: LookupFunction = (hostname, options, callback) => {
  lookup(hostname, { ...options, all: true }, (error, addresses) => {
    if (error !== null) callback(error, []);
    else if (!addresses.every(({ address }) => isPublicAddress(address))) {
      callback(new PrivateAddressError('The name resolves to a private address.'), []);
    } else if (options.all === true) callback(null, addresses);
    else callback(null, addresses[0]!.address, addresses[0]!.family);
  });
};

const hostOf = (url: string): string => new URL(url).hostname.replace(/^\[(.*)\]$/, '$1');
const isPrivateLiteral = (url: string): boolean => isIP(hostOf(url)) !== 0 && !isPublicAddress(hostOf(url));

// --- Standard Webhooks 1.0

/** `whsec_` and base64, as in the standard, or any other text, taken as its UTF-8 bytes. */
const secretBytes = (secret: string): Buffer =>
  secret.startsWith('whsec_') ? Buffer.from(secret.slice('whsec_'.length), 'base64') : Buffer.from(secret);

/** The three headers of a message; `at` in whole seconds since 1970. */
export function sign(secret: string, id: string, at: number, payload: string): Record<string, string> {
  const signature = createHmac('sha256', secretBytes(secret))
    .update(`${id}.${at}.${payload}`)
    .digest('base64');
  return { 'webhook-id': id, 'webhook-timestamp': `${at}`, 'webhook-signature': `v1,${signature}` };
}

/** Names the span that the worker opened, if tracing is on. */
function traceHeader(): { traceparent?: string } {
  const span = trace.getActiveSpan();
  return span === undefined ? {} : { traceparent: formatTraceparent(span.spanContext()) };
}

// --- answers

/** What an answer must have: a list `name`, with an `element` for each that was asked about. */
type Wanted<T> = {
  readonly name: string;
  readonly element: z.ZodType<T>;
  /** The same in words, for the error. */
  readonly words: readonly [answers: string, asked: string];
};
const OUTCOMES: Wanted<ApplyOutcome> = {
  name: 'outcomes',
  element: z.discriminatedUnion('kind', [
    z.object({ kind: z.enum(['applied', 'already_newer', 'absent']) }),
    z.object({ kind: z.literal('refused'), code: z.string().regex(CODE) }),
  ]),
  words: ['outcomes', 'items'],
};
const HELD: Wanted<Held | undefined> = {
  name: 'held',
  element: z
    .object({ version: z.int().nonnegative().nullable(), suppressed: HeldScopes })
    .nullable()
    .transform((held) =>
      held === null ? undefined : { version: held.version ?? undefined, suppressed: held.suppressed },
    ),
  words: ['states', 'keys'],
};

/** Retry-After in milliseconds, as seconds or as a date; undefined if there is none that can be read. */
export function retryAfterMs(header: string | string[] | undefined, now: number): number | undefined {
  if (typeof header !== 'string') return undefined;
  const ms = /^\d+$/.test(header) ? Number(header) * 1_000 : Date.parse(header) - now;
  return Number.isNaN(ms) ? undefined : Math.min(Math.max(ms, 0), RETRY_AFTER_MS_MAX);
}

class StatusError extends AbideError {
  readonly status: number;
  constructor(status: number) {
    super('STORE_FAILED', `The store answered ${status}.`);
    this.status = status;
  }
}

function failure(error: unknown, signal: AbortSignal): unknown {
  if (signal.aborted) return signal.reason;
  if (error instanceof AbideError || error instanceof TryLater) return error;
  if (error instanceof PrivateAddressError) {
    return new AbideError(
      'STORE_UNREACHABLE',
      `${error.message} If that is intended, set allow_private: true.`,
    );
  }
  if (
    error instanceof errors.ConnectTimeoutError ||
    error instanceof errors.HeadersTimeoutError ||
    error instanceof errors.BodyTimeoutError
  ) {
    return new AbideError('STORE_TIMEOUT', undefined, { cause: error });
  }
  return lineFailed('the store', error);
}

/** What an answer says. The body is always read or thrown away, or its connection would be lost to the pool. */
async function readAnswer<T>(
  { statusCode, headers, body }: Dispatcher.ResponseData,
  { name, element, words: [answers, asked] }: Wanted<T>,
  count: number,
): Promise<readonly T[]> {
  if (statusCode !== 200) {
    await body.dump({ limit: 64 * 1024 });
    const delayMs = retryAfterMs(headers['retry-after'], Date.now());
    if (statusCode === 429) throw new TryLater(delayMs);
    if (statusCode === 503 && delayMs !== undefined) throw new TryLater(delayMs);
    throw new StatusError(statusCode);
  }
  // JSON is parsed at one go, and nothing else happens meanwhile.
  const text = await readBounded(body, ANSWER_BYTES_MAX + count * ANSWER_BYTES_EACH);
  if (text === undefined) throw new AbideError('STORE_FAILED', 'The answer is too large.');
  let answer;
  try {
    answer = JSON.parse(text) as Partial<Record<string, unknown>> | null;
  } catch {
    throw new AbideError('STORE_FAILED', 'The store did not answer with JSON.');
  }
  const list = answer?.[name];
  if (!Array.isArray(list)) throw anotherForm();
  if (list.length !== count)
    throw new AbideError(
      'STORE_FAILED',
      `The store answered ${list.length} ${answers} for ${count} ${asked}.`,
    );
  // One by one, up to the first fault: zod alone would go through all of them, and make an issue of each that is wrong.
  return list.map((one) => {
    const parsed = element.safeParse(one);
    if (!parsed.success) throw anotherForm();
    return parsed.data;
  });
}

const anotherForm = (): AbideError =>
  new AbideError('STORE_FAILED', 'The answer does not have the form in docs/http-connector.md.');

/** As many keys per GET as its header takes. */
function chunksOf(keys: readonly SubjectKey[]): { header: string; count: number }[] {
  const chunks: { kind: string; key: string }[][] = [[]];
  let bytes = 2;
  for (const { kind, key } of keys) {
    const length = Buffer.byteLength(JSON.stringify({ kind, key })) + 1;
    if (((bytes + length) * 4) / 3 > KEYS_HEADER_BYTES_MAX && chunks.at(-1)!.length > 0) {
      chunks.push([]);
      bytes = 2;
    }
    chunks.at(-1)!.push({ kind, key });
    bytes += length;
  }
  return chunks.map((chunk) => ({
    header: Buffer.from(JSON.stringify(chunk)).toString('base64url'),
    count: chunk.length,
  }));
}

export default defineConnector({
  options: z
    .strictObject({
      url: z
        .url({ protocol: /^https?$/, error: 'must be an https:// URL' })
        .describe('Where the store takes decisions and shows what it holds'),
      secret: z
        .string()
        .min(16)
        .describe('Signs every request (Standard Webhooks 1.0): whsec_ and base64, or any text'),
      allow_private: z
        .boolean()
        .default(false)
        .describe('Private and loopback addresses, and http:// without TLS, are allowed'),
    })
    .superRefine(({ url, allow_private }, context) => {
      const parts = URL.parse(url);
      if (parts === null) return;
      const refuse = (message: string): void => context.addIssue({ code: 'custom', path: ['url'], message });
      if (parts.username !== '' || parts.password !== '')
        refuse('must have no user and no password: the store knows Abide by the signature made with secret');
      if (parts.searchParams.has('read'))
        refuse('must have no read in its query: every GET puts its own there');
      if (allow_private) return;
      // As it is asked: typed, it may be HTTP:// as well.
      if (parts.protocol === 'http:') refuse('must be https://, unless allow_private: true');
      if (isPrivateLiteral(url)) refuse('is a private address: if that is intended, set allow_private: true');
    }),
  scopeValue: z.json().describe('Sent with every item of this scope, such as { list: 42 }'),
  accepts: SUBJECT_KINDS,
  topics: true,
  versions: 'stored',
  remembersUnknown: true,
  evidence: 'read_back',
  limits: { batch: 500, concurrent: 2 },

  target({ url }) {
    const { protocol, hostname, port, pathname, search } = new URL(url);
    return [hostname, port === '' ? (protocol === 'https:' ? '443' : '80') : port, `${pathname}${search}`];
  },

  open({ url, secret, allow_private }, { scopes }) {
    const agent = new Agent({
      connections: CONNECTIONS,
      allowH2: false,
      headersTimeout: ANSWER_TIMEOUT_MS,
      bodyTimeout: ANSWER_TIMEOUT_MS,
      connect: { timeout: CONNECT_TIMEOUT_MS, ...(allow_private ? {} : { lookup: lookupPublic }) },
    });

    async function ask<T>(
      method: 'GET' | 'POST',
      payload: string,
      wanted: Wanted<T>,
      count: number,
      signal: AbortSignal,
    ): Promise<readonly T[]> {
      const id = `msg_${randomUUID()}`;
      const target = new URL(url);
      if (method === 'GET') target.searchParams.set('read', id);
      try {
        const response = await request(target, {
          method,
          dispatcher: agent,
          signal,
          headers: {
            ...sign(secret, id, Math.floor(Date.now() / 1_000), payload),
            accept: 'application/json',
            'user-agent': 'abide',
            ...traceHeader(),
            ...(method === 'GET'
              ? { 'abide-keys': payload, 'cache-control': 'no-store' }
              : { 'content-type': 'application/json' }),
          },
          ...(method === 'POST' ? { body: payload } : {}),
        });
        return await untilAborted(readAnswer(response, wanted, count), signal);
      } catch (error) {
        throw failure(error, signal);
      }
    }

    /** The configured values of an item's scopes, a topic's own or its channel's; absent if there are none. */
    const valuesOf = (names: readonly string[]) => {
      const values = names
        .map((name) => [name, scopes.get(name) ?? scopes.get(channelOfTopic(name) ?? '')] as const)
        .filter(([, value]) => value !== undefined);
      return values.length === 0 ? {} : { scopes: Object.fromEntries(values) };
    };
    const toJson = ({ seq, version, kind, key, suppressed, granted, effectiveAt, lane }: Item) => ({
      seq,
      version,
      kind,
      key,
      suppressed,
      granted,
      effective_at: effectiveAt,
      lane,
      ...valuesOf([...Object.keys(suppressed), ...Object.keys(granted)]),
    });

    async function apply(batch: readonly Item[], signal: AbortSignal): Promise<readonly ApplyOutcome[]> {
      try {
        const body = JSON.stringify({ items: batch.map(toJson) });
        return await ask('POST', body, OUTCOMES, batch.length, signal);
      } catch (error) {
        if (!(error instanceof StatusError)) throw error;
        if (error.status < 400 || error.status > 499 || NOT_ABOUT_ITEMS.has(error.status)) throw error;
        if (batch.length === 1) return [{ kind: 'refused', code: `HTTP_${error.status}` }];
        // The store answers one status for the whole batch: halving finds the item that it means.
        const half = Math.ceil(batch.length / 2);
        return [...(await apply(batch.slice(0, half), signal)), ...(await apply(batch.slice(half), signal))];
      }
    }

    return Promise.resolve({
      apply,
      async readBack(keys, signal) {
        if (keys.length === 0) return [];
        const answers = await Promise.all(
          chunksOf(keys).map(({ header, count }) => ask('GET', header, HELD, count, signal)),
        );
        return answers.flat();
      },
      async [Symbol.asyncDispose]() {
        await untilAborted(agent.close(), AbortSignal.timeout(DISPOSE_WAIT_MS)).catch(() => undefined);
        await agent.destroy();
      },
    });
  },
});
