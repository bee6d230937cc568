// How often a key may call, how much of a daily budget it may spend, and how often an address may fail to show a key. The rates are
// token buckets in the memory of this process: each of several processes allows as much. Budgets are the ledger's.
import type { Context } from 'koa';
import type { LimitSettings } from '../../config/configuration.ts';
import type { KEY_SCOPES, ApiKey } from '../../ledger/contract/api-keys.ts';
import type { Budgets } from '../../ledger/contract/budgets.ts';
import { AbideError } from '../../suppression/errors.ts';
import { rememberLast } from '../../suppression/remember-last.ts';

/** Everything that has a rate. */
export const LIMITED = ['writes', 'checks', 'reads', 'failed_authentications'] as const;
export type Limited = (typeof LIMITED)[number];
export type CallClass = Exclude<Limited, 'failed_authentications'>;

/** By the scope that a call asks for. Holding back a worker makes its store late, so workers are in no class. */
export const CLASS_OF: Readonly<Record<(typeof KEY_SCOPES)[number], CallClass | undefined>> = {
  'opt_outs:write': 'writes',
  'grants:write': 'writes',
  'imports:write': 'writes',
  'imports:approve': 'writes',
  'stores:write': 'writes',
  'subjects:erase': 'writes',
  'checks:read': 'checks',
  'subjects:read': 'checks',
  'opt_outs:read': 'reads',
  'opt_outs:read_all': 'reads',
  'lag:read': 'reads',
  'acknowledgements:write': undefined,
};

/** What was not used of a rate within this time may be made up for at once. */
const RATE_WINDOW_SECONDS = 10;
const FAILURE_WINDOW_SECONDS = 60;
/** At least this many buckets are remembered, and at most twice as many: some MiB. */
const BUCKETS_MIN = 50_000;
const SAID_MS = 60_000;
/** A rounding error does not make a call one too many. */
const SLACK_MS = 0.001;

type Taken = { readonly left: number; readonly retryAfterSeconds: number | undefined };

/**
 * Token buckets by name, each refilled evenly within the window. Their number is bounded: the least recently used ones are
 * forgotten, and are full again when they come back.
 */
export function createBuckets(windowSeconds: number, least = BUCKETS_MIN) {
  const windowMs = windowSeconds * 1000;
  /** When each bucket would be full again. */
  const fullAt = rememberLast<string, number>(least);
  return {
    /** Takes one of `quota` per window; `retryAfterSeconds` is there if none was left. */
    take(name: string, quota: number, nowMs: number): Taken {
      const before = Math.max(fullAt.get(name) ?? 0, nowMs);
      const after = before + windowMs / quota;
      const emptyBy = after - nowMs - windowMs;
      if (emptyBy > SLACK_MS) return { left: 0, retryAfterSeconds: Math.max(1, Math.ceil(emptyBy / 1000)) };
      fullAt.set(name, after);
      const left = Math.floor(((windowMs - (after - nowMs) + SLACK_MS) * quota) / windowMs);
      return { left: Math.max(0, left), retryAfterSeconds: undefined };
    },
  };
}

/** An IPv4 address, or the /64 of an IPv6 one, which is what a single customer is given. */
export function networkOf(address: string): string {
  const plain = address.replace(/^::ffff:(?=\d+\.)/i, '').replace(/%.*$/, '');
  if (!plain.includes(':')) return plain;
  const [head = '', tail] = plain.split('::');
  const groups = head.split(':').filter((group) => group !== '');
  if (tail !== undefined) {
    const after = tail.split(':').filter((group) => group !== '').length;
    while (groups.length < 8 - after) groups.push('0');
    groups.push(...tail.split(':').filter((group) => group !== ''));
  }
  return groups.slice(0, 4).join(':');
}

export type Limits = {
  /** Counts a call of a key and states in the draft RateLimit fields what is left. Throws too-many-requests. */
  call(ctx: Context, key: ApiKey, of: CallClass): void;
  /** Counts a call without a valid credential, and gives what to answer: `answer`, if the address has not made too many. */
  failed(address: string, answer: AbideError): AbideError;
  /** How much a key may spend per day: its own limits, else those of the configuration. */
  budgetsOf(key: ApiKey): Budgets;
};

export function createLimits({
  settings,
  onLimited,
  log,
  now = () => performance.now(),
}: {
  settings: LimitSettings;
  onLimited: (of: Limited) => void;
  log: { warn: (fields: object, message: string) => void };
  /** In milliseconds; it never goes back. */
  now?: (() => number) | undefined;
}): Limits {
  const calls = createBuckets(RATE_WINDOW_SECONDS);
  const failures = createBuckets(FAILURE_WINDOW_SECONDS);
  const perSecond: Readonly<Record<CallClass, number | undefined>> = {
    writes: settings.writesPerSecond,
    checks: settings.checksPerSecond,
    reads: settings.readsPerSecond,
  };
  let saidAt = -Infinity;

  return {
    call: (ctx, key, of) => {
      const rate = key.ratePerSecond ?? perSecond[of];
      if (rate === undefined) return;
      const quota = rate * RATE_WINDOW_SECONDS;
      const name = `${of}\0${key.lineage}\0${key.client}`;
      const { left, retryAfterSeconds } = calls.take(name, quota, now());
      // draft-ietf-httpapi-ratelimit-headers-10: `t` is when there will be more, which is within the next second.
      ctx.set('RateLimit-Policy', `"${of}";q=${quota};w=${RATE_WINDOW_SECONDS}`);
      ctx.set('RateLimit', `"${of}";r=${left};t=1`);
      if (retryAfterSeconds === undefined) return;
      onLimited(of);
      throw new AbideError('too-many-requests', `The key makes more than ${rate} ${of} per second.`, {
        retryAfterSeconds,
      });
    },
    failed: (address, answer) => {
      const quota = settings.failedAuthenticationsPerMinute;
      if (quota === undefined) return answer;
      const nowMs = now();
      const { retryAfterSeconds } = failures.take(networkOf(address), quota, nowMs);
      if (retryAfterSeconds === undefined) return answer;
      onLimited('failed_authentications');
      if (nowMs - saidAt > SAID_MS) {
        saidAt = nowMs;
        log.warn({ remote: address }, 'too many calls without a valid credential from an address');
      }
      return new AbideError(
        'too-many-requests',
        'Too many calls from this address had no valid credential.',
        {
          retryAfterSeconds,
        },
      );
    },
    budgetsOf: (key) => ({
      lineage: key.lineage,
      perDay: {
        opt_out: key.optOutsPerDay,
        grant: key.grantsPerDay ?? settings.grantsPerDay,
        check: key.checksPerDay ?? settings.checksPerDay,
      },
    }),
  };
}
