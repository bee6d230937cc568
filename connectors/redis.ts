// One hash per subject, one field per scope. The comparison runs inside Redis, so neither a second worker nor an old decision read
// again can lift a newer opt-out; a scope that nobody told us of is not touched.
//
//   HGETALL suppressed:email:ada@example.com  ->  version 7, email suppressed, sms granted
//
// The store's own senders ask `HGET suppressed:email:<key> email` and do not send if it says `suppressed`.
import { createHash } from 'node:crypto';
import { ConnectionTimeoutError, createClient, ErrorReply, SocketClosedUnexpectedlyError } from 'redis';
import { z } from 'zod';
import { AbideError } from '../suppression/errors.ts';
import { SUBJECT_KINDS } from '../suppression/subject-kind.ts';
import { defineConnector } from './contract/connector.ts';
import type { ApplyOutcome, Held, Item, Log, SubjectKey } from './contract/connector.ts';
import { coded, lineFailed } from './contract/line-failed.ts';
import { untilAborted } from './contract/until-aborted.ts';

const CONNECT_TIMEOUT_MS = 5_000;
const RECONNECT_DELAY_MS_MAX = 1_000;
const DISPOSE_WAIT_MS = 1_000;
const SCAN_PAGE = 10_000;

// ARGV: the version, then pairs of a scope and either '' (suppress it) or the version of the grant that took it away.
const APPLY = `
  local version = tonumber(ARGV[1])
  local held = tonumber(redis.call('hget', KEYS[1], 'version') or 0) or 0
  if version < held then return 0 end
  for i = 2, #ARGV, 2 do
    if ARGV[i + 1] == '' then redis.call('hset', KEYS[1], ARGV[i], 'suppressed')
    elseif held < tonumber(ARGV[i + 1]) then redis.call('hset', KEYS[1], ARGV[i], 'granted') end
  end
  redis.call('hset', KEYS[1], 'version', ARGV[1])
  return 1`;
const APPLY_SHA = createHash('sha1').update(APPLY).digest('hex');

const argumentsOf = ({ version, suppressed, granted }: Item): string[] => [
  `${version}`,
  ...Object.keys(suppressed).flatMap((scope) => [scope, '']),
  ...Object.entries(granted).flatMap(([scope, grant]) =>
    scope in suppressed ? [] : [scope, `${grant.version}`],
  ),
];

function toHeld(fields: Readonly<Record<string, string>>): Held | undefined {
  const { version, ...scopes } = fields;
  if (version === undefined && Object.keys(scopes).length === 0) return undefined;
  return {
    version: version === undefined ? undefined : Number(version),
    suppressed: Object.keys(scopes).filter((scope) => scopes[scope] === 'suppressed'),
  };
}

/** Redis' code for an error is its first word or, from within a script of Redis 6, one in the middle. */
const codeOf = (error: unknown): string | undefined =>
  error instanceof ErrorReply
    ? (/\b(WRONGTYPE|NOSCRIPT|OOM|READONLY)\b/.exec(error.message) ??
        /^[A-Z]+/.exec(error.message) ?? ['ERR'])[0]
    : undefined;

/** What Redis' own words would say; they are left out, since they may quote values. */
const MEANINGS: Readonly<Record<string, string>> = {
  LOADING: 'it is still reading its data',
  MISCONF: 'it cannot write its data to disk',
  NOAUTH: 'the user or password is wrong',
  NOPERM: 'not allowed to this user',
  OOM: 'its memory is full',
  READONLY: 'it is a replica',
  WRONGPASS: 'the user or password is wrong',
};
/** This error has no code of its own. */
const isNoDatabase = (error: unknown): boolean =>
  error instanceof ErrorReply && /^ERR (invalid )?DB index/.test(error.message);

/** `lost`: why there is no connection now; the call itself only learns that there is none. */
function failure(error: unknown, signal: AbortSignal, lost: unknown): unknown {
  if (signal.aborted) return signal.reason;
  if (error instanceof AbideError) return error;
  const isAway = lost !== undefined && !(error instanceof ErrorReply);
  const reason = isAway ? lost : error;
  const code = codeOf(reason);
  if (code === undefined) {
    const isEnded = reason instanceof SocketClosedUnexpectedlyError;
    const isLate = reason instanceof ConnectionTimeoutError;
    return lineFailed('Redis', reason, isEnded ? 'ECONNRESET' : isLate ? 'ETIMEDOUT' : undefined);
  }
  const meaning = isNoDatabase(reason) ? 'no such database' : MEANINGS[code];
  return new AbideError(
    isAway || code === 'NOAUTH' || code === 'LOADING' ? 'STORE_UNREACHABLE' : 'STORE_FAILED',
    `Redis answered ${code}${meaning === undefined ? '' : `: ${meaning}`}.`,
    { cause: coded(code) },
  );
}

/**
 * One connection that reconnects by itself. While it is away, calls fail at once instead of queueing. A sent command cannot be
 * taken back, so an aborted call takes the connection with it: one that hangs would hold up every later call.
 */
async function openLine(url: string, log: Log) {
  let lost: unknown;
  let isClosed = false;
  const open = () => {
    // The client cannot take back a connection that it is still making; the socket's own signal can.
    const ending = new AbortController();
    const client = createClient({
      url,
      disableOfflineQueue: true,
      maintNotifications: 'disabled',
      socket: {
        signal: ending.signal,
        connectTimeout: CONNECT_TIMEOUT_MS,
        reconnectStrategy: (retries) =>
          Math.min(25 * 2 ** Math.min(retries, 10), RECONNECT_DELAY_MS_MAX) * (0.5 + Math.random() / 2),
      },
    });
    const tried = Promise.withResolvers<undefined>();
    client.on('ready', () => {
      tried.resolve(undefined);
      // It is in the client's queue before any apply; if it fails, apply falls back to sending the script.
      client.scriptLoad(APPLY).catch(() => undefined);
      if (lost !== undefined) log.info({}, 'Redis is back');
      lost = undefined;
    });
    client.on('error', (error: NodeJS.ErrnoException) => {
      tried.resolve(undefined);
      if (lost === undefined)
        log.warn({ code: error.code ?? codeOf(error) }, 'the connection to Redis was lost; it reconnects');
      lost = error;
    });
    client.connect().catch(() => undefined);
    return {
      client,
      tried: tried.promise,
      end(): void {
        client.destroy();
        ending.abort();
        tried.resolve(undefined);
      },
    };
  };
  let line = open();
  await line.tried;
  return {
    async run<T>(
      signal: AbortSignal,
      work: (client: ReturnType<typeof open>['client']) => Promise<T>,
    ): Promise<T> {
      const used = line;
      try {
        await untilAborted(used.tried, signal);
        return await untilAborted(work(used.client), signal);
      } catch (error) {
        if (signal.aborted && line === used) {
          used.end();
          if (!isClosed) line = open();
        }
        throw failure(error, signal, lost);
      }
    },
    async close(): Promise<void> {
      isClosed = true;
      if (line.client.isReady) {
        await untilAborted(line.client.close(), AbortSignal.timeout(DISPOSE_WAIT_MS)).catch(() => undefined);
      }
      line.end();
    },
  };
}

export default defineConnector({
  options: z.strictObject({
    url: z
      .url({ protocol: /^rediss?$/, error: 'must be a redis:// or rediss:// URL' })
      .refine(
        (url) => /^\/?\d*$/.test(URL.parse(url)?.pathname ?? ''),
        "must have a database's number as its path, or none",
      )
      .describe('URL of the primary, with the database number as its path; never a replica'),
    prefix: z.string().default('suppressed:').describe('Prefix of every key: <prefix><kind>:<key>'),
  }),
  accepts: SUBJECT_KINDS,
  topics: true,
  // Whether an answered write survives a crash depends on appendfsync, which a client may not be allowed to read.
  versions: 'stored',
  remembersUnknown: true,
  evidence: 'read_back',
  limits: { batch: 1_000, concurrent: 2 },

  target({ url, prefix }) {
    const { hostname, port, pathname } = new URL(url);
    return [
      hostname,
      port === '' ? '6379' : port,
      pathname.slice(1) === '' ? '0' : pathname.slice(1),
      prefix,
    ];
  },

  async open({ url, prefix }, { log }) {
    const [writing, reading] = await Promise.all([openLine(url, log), openLine(url, log)]);
    const at = ({ kind, key }: SubjectKey): string => `${prefix}${kind}:${key}`;

    // Commands of one tick leave as one pipeline.
    const read = (keys: readonly string[], signal: AbortSignal) =>
      reading.run(signal, async (client) => {
        const [place, held] = await Promise.all([
          client.role(),
          Promise.all(
            keys.map((key) =>
              client.hGetAll(key).catch((error: unknown) => {
                // Whatever stands there now suppresses nobody.
                if (codeOf(error) === 'WRONGTYPE') return {};
                throw error;
              }),
            ),
          ),
        ]);
        if (place?.role !== 'master') {
          throw new AbideError(
            'STORE_FAILED',
            'This Redis is a replica: it shows less than the primary holds.',
          );
        }
        return held.map(toHeld);
      });

    return {
      apply: (batch, signal) =>
        writing.run(signal, async (client) => {
          const outcomeOf = async (item: Item): Promise<ApplyOutcome> => {
            const call = { keys: [at(item)], arguments: argumentsOf(item) };
            try {
              const wrote = await client.evalSha(APPLY_SHA, call).catch((error: unknown) => {
                if (codeOf(error) !== 'NOSCRIPT') throw error;
                return client.eval(APPLY, call);
              });
              return { kind: wrote === 1 ? 'applied' : 'already_newer' };
            } catch (error) {
              // Somebody else's key has our name: that is this item's trouble, not its neighbours'.
              if (codeOf(error) === 'WRONGTYPE') return { kind: 'refused', code: 'WRONGTYPE' };
              throw error;
            }
          };
          return Promise.all(batch.map(outcomeOf));
        }),

      readBack: (keys, signal) => read(keys.map(at), signal),

      async check(items, signal) {
        await read(items.map(at), signal);
        const memory = await reading.run(signal, (client) =>
          // Who may not ask for that, or cannot, may still read and write.
          client.info('memory').catch((error: unknown) => {
            if (error instanceof ErrorReply) return '';
            throw error;
          }),
        );
        const [, policy] = /^maxmemory_policy:(allkeys-\S+)/m.exec(memory) ?? [];
        if (policy !== undefined && !/^maxmemory:0\r?$/m.test(memory)) {
          throw new AbideError(
            'STORE_FAILED',
            `This Redis throws away any key once its memory is full (maxmemory-policy ${policy}), so people who opted out would be written to again. Set noeviction, or keep opt-outs in a Redis of their own.`,
          );
        }
      },

      // This is of the server's process; it does not say whether everything was written to disk before the last one ended.
      incarnation: (signal) =>
        reading.run(signal, async (client) => /^run_id:(\w+)/m.exec(await client.info('server'))?.[1]),

      // SCAN knows no order, so each page is a pass over the key space that keeps the smallest keys after the last one:
      // slow for millions, but the memory is bounded here and in Redis, and no index of ours can drift.
      async scan(after, signal) {
        const last = after === undefined ? '' : at(after);
        const subjectOf = (name: string): SubjectKey | undefined => {
          const [kind, ...key] = name.slice(prefix.length).split(':');
          const known = SUBJECT_KINDS.find((one) => one === kind);
          return known === undefined || key.length === 0 ? undefined : { kind: known, key: key.join(':') };
        };
        const names = await reading.run(signal, async (client) => {
          const MATCH = `${prefix.replace(/[*?[\]\\^]/g, '\\$&')}*`;
          let smallest = new Set<string>();
          const trim = (): void => {
            smallest = new Set([...smallest].sort().slice(0, SCAN_PAGE));
          };
          let cursor = '0';
          do {
            const page = await client.scan(cursor, { MATCH, COUNT: 5_000, TYPE: 'hash' });
            cursor = page.cursor;
            for (const name of page.keys)
              if (name > last && subjectOf(name) !== undefined) smallest.add(name);
            if (smallest.size > 2 * SCAN_PAGE) trim();
          } while (cursor !== '0' && !signal.aborted);
          trim();
          return [...smallest];
        });
        const held = await read(names, signal);
        // A key that went away between the pass and the reading is not held.
        return names.flatMap((name, index) => {
          const [subject, state] = [subjectOf(name), held[index]];
          return subject === undefined || state === undefined ? [] : [{ ...subject, held: state }];
        });
      },

      async [Symbol.asyncDispose]() {
        await Promise.all([writing.close(), reading.close()]);
      },
    };
  },
});
