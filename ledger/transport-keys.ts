// Transport keys seal the copy of an address that travels: in `decisions`, and so in every topic. A new one is made weekly; workers
// fetch keys by id and keep them; a key is destroyed once nothing under it is outstanding and 35 days have passed.
import { randomBytes } from 'node:crypto';
import type { SealingKey } from '../suppression/seal.ts';
import { inTransaction } from './database.ts';
import type { Pool, Queryable } from './database.ts';
import type { KeyRing } from './key-ring.ts';

const context = (id: number) => [`transport-key ${id}`, 'key'] as const;

const NEWEST = `
  select id, key, created_at < clock_timestamp() - interval '7 days' as old
  from transport_keys where destroyed_at is null order by id desc limit 1`;

type Row = { id: number; key: Buffer; old: boolean };

/** The key to seal with now; makes a new one if there is none or the newest is a week old. */
export async function currentTransportKey(pool: Pool, ring: KeyRing): Promise<SealingKey> {
  const unseal = (row: Row): SealingKey => ({
    id: row.id,
    secret: Buffer.from(ring.unseal(row.key, context(row.id)), 'base64'),
  });
  const newest = (await pool.query<Row>(NEWEST)).rows[0];
  if (newest !== undefined && !newest.old) return unseal(newest);
  return await inTransaction(pool, async (client) => {
    await client.query("select pg_advisory_xact_lock(hashtext('abide.transport_keys'))");
    const already = (await client.query<Row>(NEWEST)).rows[0];
    if (already !== undefined && !already.old) return unseal(already);
    const secret = randomBytes(32);
    // After the first key, ids follow the clock: a ledger back from its backup must not give a new key the id of one that it has
    // forgotten, which workers still have.
    const next = await client.query<{ id: number }>(
      `select case when max(id) is null then 1 else greatest(max(id) + 1, extract(epoch from clock_timestamp())::bigint) end as id
       from transport_keys`,
    );
    const id = next.rows[0]!.id;
    await client.query(
      'insert into transport_keys (id, key, created_at) values ($1, $2, clock_timestamp())',
      [id, ring.seal(secret.toString('base64'), context(id))],
    );
    return { id, secret };
  });
}

/** One key by id; undefined if it never existed or is destroyed. */
export async function findTransportKey(
  db: Queryable,
  ring: KeyRing,
  id: number,
): Promise<Buffer | undefined> {
  const { rows } = await db.query<{ key: Buffer | null }>({
    name: 'find-transport-key',
    text: 'select key from transport_keys where id = $1',
    values: [id],
  });
  const key = rows[0]?.key;
  return key === null || key === undefined ? undefined : Buffer.from(ring.unseal(key, context(id)), 'base64');
}

/** The keys that may still be needed: a decision sealed under any other is sealed anew from its subject. */
export async function livingTransportKeys(db: Queryable): Promise<ReadonlySet<number>> {
  const { rows } = await db.query<{ id: number }>('select id from transport_keys where destroyed_at is null');
  return new Set(rows.map((row) => row.id));
}

/**
 * Destroys keys older than 35 days under which nothing is outstanding. That is so once every store in service has scanned past the
 * last decision under the key and has no exception at or below it, but for people whom it does not know: they are not outstanding,
 * may stay unknown for ever, and are sealed anew when they are asked for again. Returns how many.
 */
export async function destroyOldTransportKeys(db: Queryable): Promise<number> {
  const { rowCount } = await db.query(`
    update transport_keys k set key = null, destroyed_at = clock_timestamp()
    where k.destroyed_at is null
      and k.created_at < clock_timestamp() - interval '35 days'
      and exists (select from transport_keys newer where newer.id > k.id
                  and newer.created_at < clock_timestamp() - interval '35 days')
      and not exists (
        select from stores s
        where s.retired_at is null and (
          s.backfill_fence is not null
          or exists (select from decisions d where d.seq > s.scanned_through and d.transport_key_id <= k.id)
          or exists (select from exceptions e join decisions d using (seq)
                     where e.store_id = s.id and e.generation = s.generation and e.kind <> 'absent'
                       and d.transport_key_id <= k.id)))`);
  return rowCount ?? 0;
}
