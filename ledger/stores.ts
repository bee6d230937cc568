// Which stores must abide. The API's process syncs them from the configuration, under a lock, and every change is audited. A store
// that disappears from the file stays due until it is retired: forgetting a store must not look like success.
import type { StoreObservation } from '../suppression/acknowledgement.ts';
import { AbideError } from '../suppression/errors.ts';
import type { SubjectKind } from '../suppression/subject-kind.ts';
import { channelOfTopic, isChannel } from '../suppression/scope.ts';
import { audit } from './audit.ts';
import type { Caller } from './contract/audit.ts';
import { BEFORE_EVERY_ID, inTransaction } from './database.ts';
import type { Client, Pool, Queryable } from './database.ts';
import { takeFence } from './fence.ts';
import type { Fence } from './fence.ts';

/** What the ledger keeps of a store's configuration. */
export type StoreRegistration = {
  readonly name: string;
  readonly connector: string;
  readonly accepts: readonly SubjectKind[];
  readonly scopes: readonly string[];
  readonly topics: boolean;
  readonly required: boolean;
  readonly evidence: 'read_back' | 'applied' | 'relay';
  readonly lateAfterSeconds: number;
  /** SHA-256 over connector, host, port, database, table or prefix and the values of scopes; never credentials. */
  readonly fingerprint: Buffer;
  readonly keyForm: string;
  /** SHA-256 of everything that its worker must agree about. */
  readonly stanza: Buffer;
  /** Scopes that are recorded as opt-outs when the store suppresses them by itself. */
  readonly ownScopes: readonly string[];
  readonly formerly: string | undefined;
};

export type RegisteredStore = {
  readonly id: number;
  readonly name: string;
  readonly generation: number;
  readonly connector: string;
  readonly accepts: readonly SubjectKind[];
  readonly scopes: readonly string[];
  readonly topics: boolean;
  readonly required: boolean;
  readonly evidence: 'read_back' | 'applied' | 'relay';
  readonly lateAfterSeconds: number;
  readonly keyForm: string;
  /** Since when, by the database's clock, the name has meant this store and it has been told of all that it is told of now. */
  readonly targetSince: string;
  /** Scopes that are recorded as opt-outs when the store suppresses them by itself; empty: they are only counted. */
  readonly ownScopes: readonly string[];
  /** Everything due at or below this seq belongs to the back-fill; undefined while there is none. */
  readonly backfillFence: number | undefined;
  /** What the store last said it is; undefined: it has not said so, or nothing was in its place. */
  readonly incarnation: string | undefined;
  /** Live decisions are those above this: scanned_through or, while the store is back-filled, the mark above the fence. */
  readonly liveAfter: number;
  readonly pausedAt: string | undefined;
  readonly retiredAt: string | undefined;
};

const COLUMNS = `
  id, name, generation, connector, accepts, scopes, topics, required, evidence,
  late_after_seconds as "lateAfterSeconds", key_form as "keyForm", target_since as "targetSince", own_scopes as "ownScopes",
  incarnation, backfill_fence as "backfillFence",
  coalesce(backfill_live_through, scanned_through) as "liveAfter", paused_at as "pausedAt", retired_at as "retiredAt"`;

type Row = { [K in keyof RegisteredStore]: RegisteredStore[K] | null };
const toStore = (row: Row): RegisteredStore =>
  Object.fromEntries(
    Object.entries(row).map(([name, value]) => [name, value ?? undefined]),
  ) as RegisteredStore;

export async function listStores(db: Queryable): Promise<readonly RegisteredStore[]> {
  const { rows } = await db.query<Row>({
    name: 'list-stores',
    text: `select ${COLUMNS} from stores order by name`,
  });
  return rows.map(toStore);
}

export async function findStore(db: Queryable, name: string): Promise<RegisteredStore | undefined> {
  // PostgreSQL's text has no NUL: a query with one would fail, and the name is nobody's.
  if (name.includes('\0')) return undefined;
  const { rows } = await db.query<Row>({
    name: 'find-store',
    text: `select ${COLUMNS} from stores where name = $1`,
    values: [name],
  });
  return rows[0] === undefined ? undefined : toStore(rows[0]);
}

/** The arguments of the SQL function due(), from the rule in suppression/scope.ts. */
const dueArguments = ({ scopes, topics }: Pick<StoreRegistration, 'scopes' | 'topics'>) => ({
  exact: [...new Set(scopes.flatMap((scope) => [scope, channelOfTopic(scope) ?? scope]))],
  channels: topics ? scopes.filter(isChannel) : [],
});

/**
 * Starts a generation's back-fill: a cursor goes over what the subjects hold at or below the fence, once the fence is final; what
 * comes after is live from now on, and what comes after `mark`. An empty ledger has nothing to fill in.
 */
async function startBackfill(
  client: Client,
  storeId: number,
  fence: Fence | undefined,
  mark?: number,
): Promise<void> {
  await client.query(
    `update stores set scanned_through = 0, reconciled_through = null, backfill_fence = $2, backfill_after_xid = $3,
       backfill_live_through = case when $2::bigint is not null then least($2, $4::bigint) end,
       backfill_cursor = case when $2::bigint is not null then '${BEFORE_EVERY_ID}'::uuid end,
       backfill_started_at = case when $2::bigint is not null then clock_timestamp() end,
       backfill_moved_at = case when $2::bigint is not null then clock_timestamp() end
     where id = $1`,
    [storeId, fence?.seq ?? null, fence?.xid ?? null, mark ?? null],
  );
}

type Full = Row & { target_fingerprint: Buffer };

/** What about a change makes it another store, which was told of nothing; undefined: it is the same store. */
function whyNewStore(before: Full, now: StoreRegistration): string | undefined {
  if (!before.target_fingerprint.equals(now.fingerprint)) return 'another target';
  if (before.keyForm !== now.keyForm) return 'another key form';
  if (before.connector !== now.connector) return 'another connector';
  return undefined;
}

/** What about a change could leave old opt-outs out of the same store; undefined: nothing. */
function whyRefill(before: Full, now: StoreRegistration): string | undefined {
  if (before.retiredAt !== null) return 'in service again';
  if (now.accepts.some((kind) => !before.accepts!.includes(kind))) return 'accepts more kinds of subject';
  if (now.scopes.some((scope) => !before.scopes!.includes(scope))) return 'more scopes';
  if (now.topics && !before.topics!) return 'holds topics now';
  return undefined;
}

/** How many exceptions one statement goes over: however many there are, each statement ends in time. */
const STEP = 10_000;

/** SQL: the next exceptions of a generation after $3, and the last of them. $1 store, $2 generation. */
const overExceptions = (work: string): string => `
  with step as materialized (
    select * from exceptions where store_id = $1 and generation = $2 and seq > $3 order by seq limit ${STEP}
  ), done as (${work})
  select max(seq) as last from step`;

async function goOverExceptions(
  client: Client,
  { id, generation }: { readonly id: number; readonly generation: number },
  statement: string,
): Promise<void> {
  for (let after: number | null = 0; after !== null;) {
    const values: unknown[] = [id, generation, after];
    const { rows } = await client.query<{ last: number | null }>(statement, values);
    after = rows[0]!.last;
  }
}

// What is no longer due needs no row: nobody would try it again, and it would be late for ever. Widening fills all anew.
const FORGET_NOT_DUE = overExceptions(`
  delete from exceptions e using stores s
  where s.id = $1 and e.store_id = $1 and e.generation = $2 and e.seq = any (array(
    select step.seq from step cross join lateral (select * from decisions d where d.seq = step.seq offset 0) d
    where not due(d.kind, d.suppressed, d.granted, s.accepts, s.due_exact, s.due_channels)))`);

// In the next generation nothing of these people is settled: each speaks for all that is due of its person, for the back-fill passes
// them by. They are copied, and the old ones are deleted later (housekeeping.ts): nobody's acknowledgement waits for millions of
// rows. One that is acknowledged meanwhile is tried once more.
const CARRY_OVER = overExceptions(`
  insert into exceptions (store_id, generation, seq, subject_id, version, speaks_from, kind, code, attempts, since, next_try_at, asked)
  select e.store_id, e.generation + 1, e.seq, e.subject_id, e.version, coalesce((
      select o.seq from decisions o
      where o.subject_id = e.subject_id and o.version < e.version
        and due(o.kind, o.suppressed, o.granted, s.accepts, s.due_exact, s.due_channels)
      order by o.version limit 1), e.seq),
    e.kind, e.code, e.attempts, e.since, clock_timestamp(), e.asked
  from step e cross join lateral (select * from stores s where s.id = e.store_id offset 0) s
  where e.kind <> 'absent'`);

const isNarrower = (before: Full, now: StoreRegistration): boolean =>
  before.accepts!.some((kind) => !now.accepts.includes(kind)) ||
  before.scopes!.some((scope) => !now.scopes.includes(scope)) ||
  (before.topics! && !now.topics);

/**
 * Brings the registry in line with the configuration. A change that could leave old opt-outs out starts a new generation. Returns
 * for the log the registered stores that are in no file, and the retired ones that a file put into service again.
 */
export async function syncStores(
  pool: Pool,
  registrations: readonly StoreRegistration[],
): Promise<{ missing: readonly string[]; revived: readonly string[] }> {
  const fence = await takeFence(pool);
  return await inTransaction(pool, async (client) => {
    await client.query("select pg_advisory_xact_lock(hashtext('abide.stores'))");
    await renameStores(client, registrations);
    const revived: string[] = [];
    for (const registration of registrations)
      if (await syncStore(client, registration, fence)) revived.push(registration.name);
    const { rows } = await client.query<{ name: string }>(
      'select name from stores where retired_at is null and not name = any ($1) order by name',
      [registrations.map(({ name }) => name)],
    );
    return { missing: rows.map(({ name }) => name), revived };
  });
}

/** Before anything else, and in whatever order makes the names free: a stanza may take a name that another one has just given up. */
async function renameStores(client: Client, registrations: readonly StoreRegistration[]): Promise<void> {
  let waiting = registrations.filter(({ formerly }) => formerly !== undefined);
  for (;;) {
    const remaining: StoreRegistration[] = [];
    for (const one of waiting) if (!(await renameStore(client, one))) remaining.push(one);
    if (remaining.length === waiting.length) return;
    waiting = remaining;
  }
}

/** Returns whether there was a store of the former name and none of the new one. */
async function renameStore(client: Client, { name, formerly }: StoreRegistration): Promise<boolean> {
  const renamed = await client.query(
    // What a store keeps of us under its old name is not found again: versions beside tables of the user's own.
    `update stores set name = $1, target_since = clock_timestamp()
     where name = $2 and not exists (select from stores where name = $1)`,
    [name, formerly],
  );
  if (renamed.rowCount === 0) return false;
  // They are bound to the store, not to whichever has that name next.
  const { rows } = await client.query<{ id: string }>(
    'update api_keys set store = $1 where store = $2 returning id',
    [name, formerly],
  );
  await audit(client, undefined, 'store.renamed', name, { formerly, keys: rows.map(({ id }) => id).sort() });
  return true;
}

/** Returns whether the store was retired before. */
async function syncStore(client: Client, now: StoreRegistration, fence: Fence | undefined): Promise<boolean> {
  const { exact, channels } = dueArguments(now);
  const values = [
    now.name,
    now.connector,
    now.accepts,
    now.scopes,
    now.topics,
    exact,
    channels,
    now.required,
    now.evidence,
    now.lateAfterSeconds,
    now.fingerprint,
    now.keyForm,
    now.ownScopes,
    now.stanza,
  ];
  const { rows } = await client.query<Full>(
    `select ${COLUMNS}, target_fingerprint from stores where name = $1 for update`,
    [now.name],
  );
  const before = rows[0];
  if (before === undefined) {
    const added = await client.query<{ id: number }>(
      `insert into stores (name, connector, accepts, scopes, topics, due_exact, due_channels, required, evidence,
         late_after_seconds, target_fingerprint, key_form, own_scopes, stanza, generation, added_at, scanned_through)
       values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, 1, clock_timestamp(), 0) returning id`,
      values,
    );
    await startBackfill(client, added.rows[0]!.id, fence);
    await audit(client, undefined, 'store.added', now.name, { connector: now.connector, scopes: now.scopes });
    return false;
  }
  const newStore = whyNewStore(before, now);
  const refill = newStore ?? whyRefill(before, now);
  const changed = await client.query(
    `update stores set connector = $2, accepts = $3, scopes = $4, topics = $5, due_exact = $6, due_channels = $7,
       required = $8, evidence = $9, late_after_seconds = $10, target_fingerprint = $11, key_form = $12, own_scopes = $13,
       stanza = $14, retired_at = null
     where name = $1 and (connector, accepts, scopes, topics, due_exact, due_channels, required, evidence,
       late_after_seconds, target_fingerprint, key_form, own_scopes, stanza, retired_at is null)
       is distinct from ($2, $3::text[], $4::text[], $5::boolean, $6::text[], $7::text[], $8::boolean, $9,
       $10::double precision, $11::bytea, $12, $13::text[], $14::bytea, true)`,
    values,
  );
  if (changed.rowCount === 1) {
    await audit(client, undefined, 'store.changed', now.name, {
      scopes: now.scopes,
      required: now.required,
      own_scopes: now.ownScopes,
    });
    if (isNarrower(before, now)) await goOverExceptions(client, before as RegisteredStore, FORGET_NOT_DUE);
  }
  if (refill !== undefined) {
    await client.query(
      'update stores set incarnation = null, target_since = clock_timestamp() where name = $1',
      [now.name],
    );
    await newGeneration(client, now.name, fence, refill, undefined, {
      isAnother: newStore !== undefined,
      wasRetired: before.retiredAt !== null,
    });
  }
  return before.retiredAt !== null;
}

/**
 * Runs in the caller's transaction, under the lock of the stores. `isAnother`: the store is not what it was, what was told to it
 * before says nothing of it, and it may suppress by itself whom an earlier consent would lift. What was outstanding stays so, with
 * its age: the name still owes it, unless it comes back from retirement, where nothing was due to it. False if no such store is in
 * service.
 */
export async function newGeneration(
  client: Client,
  name: string,
  fence: Fence | undefined,
  reason: string,
  caller: Caller | undefined,
  { isAnother, wasRetired = false }: { isAnother: boolean; wasRetired?: boolean },
): Promise<boolean> {
  const { rows: found } = await client.query<{ id: number; generation: number }>(
    'select id, generation from stores where name = $1 and retired_at is null',
    [name],
  );
  if (found[0] === undefined) return false;
  if (!wasRetired) await goOverExceptions(client, found[0], CARRY_OVER);
  // Last, for it keeps the store's lease and mark from moving; but where the configuration changed, the row is locked already.
  const { rows } = await client.query<{ id: number; generation: number; mark: number }>(
    `update stores set generation = generation + 1, told_since = case when $2 then generation + 1 else told_since end,
       target_since = case when $2 then clock_timestamp() else target_since end
     where name = $1 and retired_at is null
     returning id, generation, coalesce(backfill_live_through, scanned_through) as mark`,
    [name, isAnother],
  );
  const store = rows[0];
  // It was retired meanwhile, and what was carried over is taken back.
  if (store === undefined) throw new AbideError('overloaded', undefined, { retryAfterSeconds: 1 });
  await startBackfill(client, store.id, fence, wasRetired ? undefined : store.mark);
  await audit(client, caller, 'store.refilled', name, { generation: store.generation, reason });
  return true;
}

/** Starts a new generation on demand. False if there is no such store, or it is retired. */
export async function refillStore(
  pool: Pool,
  name: string,
  reason: string,
  caller: Caller | undefined,
): Promise<boolean> {
  const fence = await takeFence(pool);
  return await inTransaction(pool, async (client) => {
    await client.query("select pg_advisory_xact_lock(hashtext('abide.stores'))");
    return await newGeneration(client, name, fence, reason, caller, { isAnother: false });
  });
}

/** Pure: why a worker's observation means that another store stands in this one's place; undefined: nothing says so. */
function whyAnother(
  before: string | undefined,
  { incarnation, canary }: StoreObservation,
): string | undefined {
  if (before !== undefined && incarnation === null) return 'the store is empty';
  if (before !== undefined && incarnation !== undefined && incarnation !== before)
    return 'another store is in its place';
  return canary === 'lost' ? 'the store lost what it had acknowledged' : undefined;
}

/**
 * Takes what the worker that holds the lease saw of its store. A store that was wiped, restored or replaced begins a new
 * generation: what the old one acknowledged says nothing of this one. Returns the reason if a generation began. While the stores are
 * being changed it takes nothing: several would wait for one that has millions to carry over, with a connection each.
 */
export async function observeStore(
  pool: Pool,
  store: RegisteredStore,
  worker: string,
  observed: StoreObservation,
): Promise<string | undefined> {
  const { incarnation } = observed;
  const isNews = incarnation !== undefined && (incarnation ?? undefined) !== store.incarnation;
  if (!isNews && observed.canary !== 'lost') return undefined;
  const fence = await takeFence(pool);
  return await inTransaction(pool, async (client) => {
    const lock = "select pg_try_advisory_xact_lock(hashtext('abide.stores')) as had";
    if ((await client.query<{ had: boolean }>(lock)).rows[0]?.had !== true) return undefined;
    const { rows } = await client.query<{ incarnation: string | null }>(
      `select incarnation from stores
       where id = $1 and generation = $2 and lease_holder = $3 and retired_at is null`,
      [store.id, store.generation, worker],
    );
    if (rows[0] === undefined) return undefined;
    const why = whyAnother(rows[0].incarnation ?? undefined, observed);
    if (why !== undefined)
      await newGeneration(client, store.name, fence, why, undefined, { isAnother: true });
    if (incarnation !== undefined)
      await client.query('update stores set incarnation = $2 where id = $1', [store.id, incarnation]);
    return why;
  });
}

const CHANGES = {
  paused:
    'update stores set paused_at = clock_timestamp() where name = $1 and paused_at is null and retired_at is null',
  resumed: 'update stores set paused_at = null where name = $1 and paused_at is not null',
  retired: 'update stores set retired_at = clock_timestamp() where name = $1 and retired_at is null',
} as const;

/** Pauses, resumes or retires a store. False if there is no such store, or it is so already. */
export const changeStore = (
  pool: Pool,
  name: string,
  change: keyof typeof CHANGES,
  details: { readonly reason?: string },
  caller: Caller | undefined,
): Promise<boolean> =>
  inTransaction(pool, async (client) => {
    const { rowCount } = await client.query(CHANGES[change], [name]);
    if (rowCount === 1) await audit(client, caller, `store.${change}`, name, details);
    return rowCount === 1;
  });

/** SQL: whether the store `s` was told of `seq`, in any generation in which it was what it is now. */
export const wasTold = (seq: string): string => `exists (
  select from generate_series(s.told_since, s.generation) g (generation) cross join lateral (
    select from acknowledgements a
    where a.store_id = s.id and a.generation = g.generation and a.seq = ${seq} and a.outcome <> 'superseded' offset 0) a)`;

/**
 * What taking or renewing a lease sets, and when a lease is free: 5 s by the database's clock, renewed every second. One that ends
 * later than that is from before the clock was set back, and would end too late by as much.
 */
export const LEASED = "lease_holder = $2, lease_until = clock_timestamp() + interval '5 seconds'";
export const LEASE_IS_FREE = `(lease_holder is null
  or lease_until not between clock_timestamp() and clock_timestamp() + interval '6 seconds')`;

/**
 * Takes or renews a store's lease. False while another worker holds it, the store is paused or retired, or a process that started
 * later has configured it otherwise than `stanza`.
 */
export async function renewLease(
  db: Queryable,
  name: string,
  holder: string,
  stanza: Buffer,
): Promise<boolean> {
  const { rowCount } = await db.query({
    name: 'renew-lease',
    text: `update stores set ${LEASED}
           where name = $1 and paused_at is null and retired_at is null and (lease_holder = $2 or ${LEASE_IS_FREE})
             and stanza = $3`,
    values: [name, holder, stanza],
  });
  return rowCount === 1;
}

/** Gives a lease back, so that another worker need not wait for its end. */
export async function releaseLease(db: Queryable, name: string, holder: string): Promise<void> {
  await db.query(
    'update stores set lease_holder = null, lease_until = null where name = $1 and lease_holder = $2',
    [name, holder],
  );
}
