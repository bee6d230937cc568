// Who uses which version of the API, so that retiring one is a fact and not a date. Uses are counted in memory, since a request
// must not cost one query more, and written as a few rows every few seconds. Counts that cannot be written are kept and counted on.
// A process that is killed loses what it counted since its last write; a COMMIT in doubt counts twice.
import type { Usage, Use } from './contract/usage.ts';
import type { Queryable } from './database.ts';

/** How many keys, versions and days are told apart between two writes; the rest is counted as `others`. */
const APART_MAX = 10_000;
/** Older days are forgotten. */
export const USAGE_DAYS_KEPT = 400;
const OTHERS = '(others)';
const DAY_MS = 86_400_000;

type Counted = Use & { readonly day: number; count: number; lastAtMs: number };

export type UsageCounter = {
  count(use: Use): void;
  /** Adds what was counted to the table. What it fails to write is written by the next call. */
  write(): Promise<void>;
};

/** `now` and `apartMax` are for tests. */
export function createUsageCounter(
  db: Queryable,
  { apartMax = APART_MAX, now = Date.now }: { apartMax?: number; now?: () => number } = {},
): UsageCounter {
  let counted = new Map<string, Counted>();

  function add({ version, client, keyId }: Use, day: number, count: number, lastAtMs: number): void {
    const name = `${day}\0${version}\0${keyId}\0${client}`;
    const known = counted.get(name);
    if (known !== undefined) {
      known.count += count;
      known.lastAtMs = Math.max(known.lastAtMs, lastAtMs);
    } else if (counted.size < apartMax || keyId === OTHERS)
      counted.set(name, { version, client, keyId, day, count, lastAtMs });
    else add({ version, client: OTHERS, keyId: OTHERS }, day, count, lastAtMs);
  }

  return {
    // The day only separates what is counted around midnight: which day it was the database says, by its own clock.
    count: (use) => add(use, Math.floor(now() / DAY_MS), 1, performance.now()),
    write: async () => {
      if (counted.size === 0) return;
      const writing = [...counted.values()];
      counted = new Map();
      try {
        await addUsage(db, writing);
      } catch (error) {
        for (const one of writing) add(one, one.day, one.count, one.lastAtMs);
        throw error;
      }
    },
  };
}

async function addUsage(db: Queryable, counted: readonly Counted[]): Promise<void> {
  const nowMs = performance.now();
  // In a fixed order, since several processes write the same rows.
  await db.query(
    `insert into api_usage as held (day, version, key_id, client, count, last_at)
     select (used.last_at at time zone 'UTC')::date, version, key_id, client, sum(count), max(last_at)
     from (
       select version, key_id, client, count, clock_timestamp() - make_interval(secs => ago_ms / 1000) as last_at
       from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::float8[])
         as given (version, key_id, client, count, ago_ms)) used
     group by 1, 2, 3, 4 order by 1, 2, 3, 4
     on conflict (day, version, key_id, client) do update
     set count = held.count + excluded.count, last_at = greatest(held.last_at, excluded.last_at)`,
    [
      counted.map(({ version }) => version),
      counted.map(({ keyId }) => keyId),
      counted.map(({ client }) => client),
      counted.map(({ count }) => count),
      counted.map(({ lastAtMs }) => nowMs - lastAtMs),
    ],
  );
}

/** Over this many days, today included; by version, the key that asked most first. */
export async function listUsage(db: Queryable, days: number): Promise<readonly Usage[]> {
  const { rows } = await db.query<{
    version: string;
    key_id: string;
    client: string;
    count: number;
    last_at: string;
  }>(
    `select version, key_id, client, sum(count)::bigint as count, max(last_at) as last_at
     from api_usage where day > (clock_timestamp() at time zone 'UTC')::date - $1::int
     group by version, key_id, client order by version, count desc, client, key_id`,
    [days],
  );
  return rows.map((row) => ({
    version: row.version,
    client: row.client,
    keyId: row.key_id,
    count: row.count,
    lastAt: row.last_at,
  }));
}
