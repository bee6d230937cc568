// API keys: `abide_live_<12 base62 id>_<43 base62 secret><6 base62 checksum>`. The secret has 256 random bits, so a plain SHA-256
// protects it as well as any slow hash would; the checksum exposes typos and lets leak scanners recognise a key.
import { createHash, randomInt, timingSafeEqual } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { AbideError } from '../suppression/errors.ts';
import { audit } from './audit.ts';
import type { ApiKey, KeyLimits } from './contract/api-keys.ts';
import type { Caller } from './contract/audit.ts';
import { cutIfLate, inTransaction, onClient } from './database.ts';
import type { Client, Pool } from './database.ts';

const BASE62 = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
const FORM = /^abide_live_([0-9A-Za-z]{12})_([0-9A-Za-z]{43})([0-9A-Za-z]{6})$/;

const random = (length: number): string => Array.from({ length }, () => BASE62[randomInt(62)]).join('');

const checksum = (text: string): string => {
  let rest = crc32(text);
  let digits = '';
  for (let n = 0; n < 6; n += 1) {
    digits = `${BASE62[rest % 62] ?? ''}${digits}`;
    rest = Math.floor(rest / 62);
  }
  return digits;
};

const parse = (token: string): { id: string; sha256: Buffer } | undefined => {
  const [, id, secret, check] = FORM.exec(token) ?? [];
  if (id === undefined || secret === undefined || checksum(`${id}_${secret}`) !== check) return undefined;
  return { id, sha256: createHash('sha256').update(secret).digest() };
};

export function makeToken(): string {
  const body = `${random(12)}_${random(43)}`;
  return `abide_live_${body}${checksum(body)}`;
}

const LIMITS = [
  ['ratePerSecond', 'rate_per_second'],
  ['optOutsPerDay', 'opt_outs_per_day'],
  ['grantsPerDay', 'grants_per_day'],
  ['checksPerDay', 'checks_per_day'],
] as const;
const LIMIT_COLUMNS = LIMITS.map(([, column]) => column).join(', ');

/** The named limits, for the audit log. */
const sayLimits = (limits: KeyLimits): object =>
  Object.fromEntries(
    LIMITS.flatMap(([name, column]) => (limits[name] === undefined ? [] : [[column, limits[name]]])),
  );

type Row = {
  id: string;
  client: string;
  secret_sha256: Buffer;
  scopes: string[];
  store: string | null;
  created_at: string;
  expires_at: string | null;
  revoked_at: string | null;
  last_used_at: string | null;
  rate_per_second: number | null;
  opt_outs_per_day: number | null;
  grants_per_day: number | null;
  checks_per_day: number | null;
  lineage: string | null;
  usable: boolean;
};

const COLUMNS = `id, client, secret_sha256, scopes, store, created_at, expires_at, revoked_at, last_used_at,
  ${LIMIT_COLUMNS}, lineage`;
const USABLE = 'revoked_at is null and coalesce(expires_at > clock_timestamp(), true)';

const toKey = (row: Row): ApiKey => ({
  id: row.id,
  client: row.client,
  scopes: row.scopes,
  store: row.store ?? undefined,
  ratePerSecond: row.rate_per_second ?? undefined,
  optOutsPerDay: row.opt_outs_per_day ?? undefined,
  grantsPerDay: row.grants_per_day ?? undefined,
  checksPerDay: row.checks_per_day ?? undefined,
  lineage: row.lineage ?? row.id,
  createdAt: row.created_at,
  expiresAt: row.expires_at ?? undefined,
  revokedAt: row.revoked_at ?? undefined,
  lastUsedAt: row.last_used_at ?? undefined,
});

/**
 * Makes a key; the token is returned once and kept nowhere. If `token` is given again, it is the same key, and nothing is changed.
 * Throws AbideError('invalid-request') for a malformed token.
 */
export async function createKey(
  pool: Pool,
  fields: {
    client: string;
    scopes: readonly string[];
    store: string | undefined;
    expiresAt: string | undefined;
    limits?: KeyLimits | undefined;
    token?: string;
    caller: Caller | undefined;
  },
): Promise<{ key: ApiKey; token: string }> {
  const token = fields.token ?? makeToken();
  const parsed = parse(token);
  if (parsed === undefined) throw new AbideError('invalid-request', 'That is not an Abide key.');
  const row = await inTransaction(pool, async (client) => {
    const { rows } = await client.query<Row>(
      `insert into api_keys (id, client, secret_sha256, scopes, store, created_at, expires_at, ${LIMIT_COLUMNS})
       values ($1, $2, $3, $4, $5, clock_timestamp(), $6, $7, $8, $9, $10)
       on conflict (id) do nothing returning ${COLUMNS}`,
      [
        parsed.id,
        fields.client,
        parsed.sha256,
        fields.scopes,
        fields.store ?? null,
        fields.expiresAt ?? null,
        ...LIMITS.map(([name]) => fields.limits?.[name] ?? null),
      ],
    );
    if (rows[0] !== undefined) {
      await audit(client, fields.caller, 'key.created', parsed.id, {
        client: fields.client,
        scopes: fields.scopes,
        store: fields.store ?? null,
        ...sayLimits(fields.limits ?? {}),
      });
      return rows[0];
    }
    const found = await client.query<Row>(`select ${COLUMNS} from api_keys where id = $1`, [parsed.id]);
    const existing = found.rows[0]!;
    if (!timingSafeEqual(existing.secret_sha256, parsed.sha256)) {
      throw new AbideError('invalid-request', 'A key with this id and another secret exists.');
    }
    return existing;
  });
  return { key: toKey(row), token };
}

export async function listKeys(pool: Pool): Promise<readonly ApiKey[]> {
  const { rows } = await pool.query<Row>(`select ${COLUMNS} from api_keys order by created_at, id`);
  return rows.map(toKey);
}

/**
 * Makes a key that replaces another one: the same client, scopes, store and limits, and the lifetime with which that one was made.
 * The other one stays valid for at most `overlapSeconds`. `before` are the keys in use that earlier rotations made of it: somebody
 * who lost the one that was printed rotates again. Undefined if no such key is in use.
 */
export async function rotateKey(
  pool: Pool,
  { id, overlapSeconds, caller }: { id: string; overlapSeconds: number; caller: Caller | undefined },
): Promise<{ key: ApiKey; token: string; oldExpiresAt: string; before: readonly string[] } | undefined> {
  const token = makeToken();
  const parsed = parse(token)!;
  return await inTransaction(pool, async (client) => {
    const { rows } = await client.query<Row>(
      // A rotation shortens the life of the key that it replaces, so what the keys of a lineage were made with is the longest of
      // theirs: the last one made has not been replaced.
      `insert into api_keys (id, client, secret_sha256, scopes, store, created_at, expires_at, ${LIMIT_COLUMNS}, lineage)
       select $2, client, $3, scopes, store, clock_timestamp(), clock_timestamp() + (
                select case when bool_and(expires_at is not null) then max(expires_at - created_at) end
                from api_keys one where coalesce(one.lineage, one.id) = coalesce(api_keys.lineage, api_keys.id)),
              ${LIMIT_COLUMNS}, coalesce(lineage, id)
       from api_keys where id = $1 and ${USABLE} for update
       returning ${COLUMNS}`,
      [id, parsed.id, parsed.sha256],
    );
    const made = rows[0];
    if (made === undefined) return undefined;
    const old = await client.query<{ expires_at: string }>(
      `update api_keys set expires_at = least(expires_at, clock_timestamp() + make_interval(secs => $2))
       where id = $1 returning expires_at`,
      [id, overlapSeconds],
    );
    const oldExpiresAt = old.rows[0]!.expires_at;
    await audit(client, caller, 'key.rotated', id, { to: parsed.id, expires_at: oldExpiresAt });
    const others = await client.query<{ id: string }>(
      `select id from api_keys where lineage = $1 and id <> $2 and ${USABLE}
         and created_at > (select created_at from api_keys where id = $3) order by created_at`,
      [made.lineage, parsed.id, id],
    );
    return { key: toKey(made), token, oldExpiresAt, before: others.rows.map((row) => row.id) };
  });
}

/**
 * Changes the limits that are named; null removes one. Every key that this one was rotated from or into is changed as well, or it
 * would go on under the old limits. Undefined if no such key is in use.
 */
export async function limitKey(
  pool: Pool,
  { id, limits, caller }: { id: string; limits: KeyLimits; caller: Caller | undefined },
): Promise<ApiKey | undefined> {
  return await inTransaction(pool, async (client) => {
    const named = LIMITS.filter(([name]) => limits[name] !== undefined);
    const { rows } = await client.query<Row>(
      `update api_keys set ${named.map(([, column], n) => `${column} = $${n + 2}`).join(', ')}
       where coalesce(lineage, id) = (select coalesce(lineage, id) from api_keys where id = $1 and ${USABLE})
       returning ${COLUMNS}`,
      [id, ...named.map(([name]) => limits[name])],
    );
    const row = rows.find((one) => one.id === id);
    if (row === undefined) return undefined;
    await audit(client, caller, 'key.limited', id, sayLimits(limits));
    return toKey(row);
  });
}

/** False if there is no such key, or it is revoked already. */
export async function revokeKey(pool: Pool, id: string, caller: Caller | undefined): Promise<boolean> {
  return await inTransaction(pool, async (client) => {
    const { rowCount } = await client.query(
      'update api_keys set revoked_at = clock_timestamp() where id = $1 and revoked_at is null',
      [id],
    );
    if (rowCount === 1) await audit(client, caller, 'key.revoked', id, {});
    return rowCount === 1;
  });
}

const CACHE_MS = 1_000;
const CACHE_MAX = 10_000;
const LOOKED_UP_MAX = 1_000;
/** Everybody waits for the look-up under way, so on a line that leads nowhere it lasts no longer than this. */
const LOOK_UP_MS_MAX = 5_000;

type Presented = NonNullable<ReturnType<typeof parse>>;

const isOf = ({ secret_sha256: kept }: Row, { sha256 }: Presented): boolean => timingSafeEqual(kept, sha256);

/**
 * Finds keys by id and secret, one query at a time: callers that arrive while one is under way share the next. So a flood of keys
 * that do not exist costs the database one small query after another, however wide it is. An id alone finds nothing and leaves no
 * trace: somebody who saw one in a list can neither make the key look used nor tell from the timing that it is in use.
 */
function createLookUp(pool: Pool): (presented: Presented) => Promise<Row | undefined> {
  const waiting = new Map<string, { presented: Presented } & PromiseWithResolvers<Row | undefined>>();
  let running = false;

  async function find(client: Client, keys: readonly Presented[]): Promise<readonly (Row | undefined)[]> {
    const { rows } = await client.query<Row>({
      name: 'find-api-keys',
      text: `select ${COLUMNS}, ${USABLE} as usable from api_keys where id = any ($1::text[])`,
      values: [keys.map(({ id }) => id)],
    });
    const byId = new Map(rows.map((row) => [row.id, row]));
    const found = keys.map((presented) => {
      const row = byId.get(presented.id);
      return row !== undefined && isOf(row, presented) ? row : undefined;
    });
    const used = found.flatMap((row) => (row?.usable === true ? [row.id] : []));
    if (used.length > 0) {
      await client.query({
        name: 'touch-api-keys',
        // The same order everywhere, or two processes that touch the same keys would wait for each other for ever.
        text: `update api_keys set last_used_at = clock_timestamp() where id in (
                 select id from api_keys where id = any ($1::text[])
                   and coalesce(last_used_at < clock_timestamp() - interval '1 minute', true)
                 order by id for update skip locked)`,
        values: [used],
      });
    }
    return found;
  }

  async function run(): Promise<void> {
    running = true;
    while (waiting.size > 0) {
      const batch = [...waiting].slice(0, LOOKED_UP_MAX);
      for (const [name] of batch) waiting.delete(name);
      try {
        const keys = batch.map(([, { presented }]) => presented);
        const found = await onClient(pool, (client) =>
          cutIfLate(client, LOOK_UP_MS_MAX, () => find(client, keys)),
        );
        for (const [n, [, { resolve }]] of batch.entries()) resolve(found[n]);
      } catch (error) {
        for (const [, { reject }] of batch) reject(error);
      }
    }
    running = false;
  }

  return (presented) => {
    const name = `${presented.id}_${presented.sha256.toString('base64')}`;
    let asked = waiting.get(name);
    if (asked === undefined) {
      asked = { presented, ...Promise.withResolvers<Row | undefined>() };
      waiting.set(name, asked);
      if (!running) void run();
    }
    return asked.promise;
  };
}

/**
 * The key that a token belongs to. Answers are cached for a second, so a revoked key works at most that long; `last_used_at` is
 * written at most once a minute. Unknown, expired and revoked keys get the same answer: undefined. Only keys that exist are cached,
 * so that made-up ones push nobody out.
 */
export function createAuthenticator(
  pool: Pool,
  now = () => performance.now(),
): (token: string) => Promise<ApiKey | undefined> {
  const lookUp = createLookUp(pool);
  const kept = new Map<string, { row: Row; key: ApiKey | undefined; until: number }>();
  return async (token) => {
    const presented = parse(token);
    if (presented === undefined) return undefined;
    const asked = now();
    const before = kept.get(presented.id);
    if (before !== undefined && before.until > asked && isOf(before.row, presented)) return before.key;
    const row = await lookUp(presented);
    if (row === undefined) return undefined;
    const key = row.usable ? toKey(row) : undefined;
    if (kept.size >= CACHE_MAX) kept.clear();
    kept.set(presented.id, { row, key, until: asked + CACHE_MS });
    return key;
  };
}
