// API keys: `abide_live_<12 base62 id>_<43 base62 secret><6 base62 checksum>`. The secret has 256 random bits, so a
// plain SHA-256 keeps it as well as any slow hash would; the checksum tells a typo, or a leak scanner, from a key.
import { createHash, randomInt, timingSafeEqual } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { AbideError } from '../suppression/errors.ts';
import { audit } from './audit.ts';
import { inTransaction } from './database.ts';
import type { Pool } from './database.ts';
import type { ApiKey, Caller } from './ledger.ts';

const BASE62 = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
const FORM = /^abide_live_([0-9A-Za-z]{12})_([0-9A-Za-z]{43})([0-9A-Za-z]{6})$/;

/** What a key may do. `acknowledgements:write` is for workers and bound to one store. */
export const KEY_SCOPES = [
  'opt_outs:write',
  'opt_outs:read',
  'opt_outs:read_all',
  'subjects:read',
  'checks:read',
  'lag:read',
  'stores:write',
  'acknowledgements:write',
] as const;
export const ADMINISTRATOR_SCOPES = KEY_SCOPES.filter((scope) => scope !== 'acknowledgements:write');

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
  usable: boolean;
};

const COLUMNS = 'id, client, secret_sha256, scopes, store, created_at, expires_at, revoked_at, last_used_at';

const toKey = (row: Row): ApiKey => ({
  id: row.id,
  client: row.client,
  scopes: row.scopes,
  store: row.store ?? undefined,
  createdAt: row.created_at,
  expiresAt: row.expires_at ?? undefined,
  revokedAt: row.revoked_at ?? undefined,
  lastUsedAt: row.last_used_at ?? undefined,
});

/**
 * Makes a key; the token is returned once and kept nowhere. With `token` the same token again is the same key, and
 * nothing is changed. Throws AbideError('invalid-request') for a malformed token.
 */
export async function createKey(
  pool: Pool,
  fields: {
    client: string;
    scopes: readonly string[];
    store: string | undefined;
    expiresAt: string | undefined;
    token?: string;
    caller: Caller | undefined;
  },
): Promise<{ key: ApiKey; token: string }> {
  const token = fields.token ?? makeToken();
  const parsed = parse(token);
  if (parsed === undefined) throw new AbideError('invalid-request', 'That is not an Abide key.');
  const row = await inTransaction(pool, async (client) => {
    const { rows } = await client.query<Row>(
      `insert into api_keys (id, client, secret_sha256, scopes, store, created_at, expires_at)
       values ($1, $2, $3, $4, $5, clock_timestamp(), $6) on conflict (id) do nothing returning ${COLUMNS}`,
      [
        parsed.id,
        fields.client,
        parsed.sha256,
        fields.scopes,
        fields.store ?? null,
        fields.expiresAt ?? null,
      ],
    );
    if (rows[0] !== undefined) {
      await audit(client, fields.caller, 'key.created', parsed.id, {
        client: fields.client,
        scopes: fields.scopes,
        store: fields.store ?? null,
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

/** False where there is no such key, or it is revoked already. */
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

/**
 * Who a token belongs to. Answers are kept for a second, so a revoked key works at most that long; `last_used_at` is
 * written at most once a minute. Unknown, expired and revoked are the same answer: undefined.
 */
export function createAuthenticator(pool: Pool): (token: string) => Promise<ApiKey | undefined> {
  const cache = new Map<string, { row: Promise<Row | undefined>; until: number }>();
  const find = async (id: string): Promise<Row | undefined> => {
    const { rows } = await pool.query<Row>({
      name: 'find-api-key',
      text: `select ${COLUMNS},
               revoked_at is null and coalesce(expires_at > clock_timestamp(), true) as usable
             from api_keys where id = $1`,
      values: [id],
    });
    const row = rows[0];
    if (row?.usable === true) {
      await pool.query({
        name: 'touch-api-key',
        text: `update api_keys set last_used_at = clock_timestamp()
               where id = $1 and coalesce(last_used_at < clock_timestamp() - interval '1 minute', true)`,
        values: [id],
      });
    }
    return row;
  };
  return async (token) => {
    const parsed = parse(token);
    if (parsed === undefined) return undefined;
    const now = performance.now();
    let entry = cache.get(parsed.id);
    if (entry === undefined || entry.until < now) {
      if (cache.size >= CACHE_MAX) cache.clear();
      entry = { row: find(parsed.id), until: now + CACHE_MS };
      cache.set(parsed.id, entry);
      entry.row.catch(() => cache.delete(parsed.id));
    }
    const row = await entry.row;
    return row !== undefined && timingSafeEqual(row.secret_sha256, parsed.sha256) && row.usable
      ? toKey(row)
      : undefined;
  };
}
