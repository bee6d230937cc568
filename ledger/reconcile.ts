// Does a store still hold what it acknowledged? A pass goes over the subjects in the order of their ids; the store's worker reads
// each page of them back and says what differs. The position of a pass is kept here, so that neither a restart nor another worker
// begins it anew, and a page counts in the transaction that moves the cursor: once, or not at all.
//
// A difference is an exception of kind redrive: outstanding again, counted in lag and propagation, carried in the normal way, and
// gone when its read-back is acknowledged. Only a pass without differences moves `reconciled_through`.
import { audit } from './audit.ts';
import { DRIVE_AGAIN } from './acknowledge.ts';
import type { Caller } from './contract/audit.ts';
import type { Reconciliation } from './contract/reconciliation.ts';
import { BEFORE_EVERY_ID, inTransaction, toMilliseconds } from './database.ts';
import type { Pool, Queryable } from './database.ts';
import { DECISION, toDecisions } from './outstanding.ts';
import type { DecisionRow, Seals } from './outstanding.ts';
import { findStore } from './stores.ts';
import type { RegisteredStore } from './stores.ts';
import { FOLLOWED_TO } from '../suppression/acknowledgement.ts';
import type { Comparison, ReconciliationPage } from '../suppression/acknowledgement.ts';
import type { Decision } from '../suppression/decision.ts';
import { AbideError } from '../suppression/errors.ts';

const PAGE = 500;
/** Between two pages that nobody waits for: at most 500 subjects a second beside the live decisions. */
const PAUSE_MS = 1_000;
/** From the end of a pass to the next one; shorter after a pass that found something, to see that it was mended. */
const REST = "interval '1 minute'";
const REST_AFTER_DRIFT = "interval '5 seconds'";
const AUDITED_SEQS = 100;

type Run = {
  id: number;
  asked: boolean;
  through: number;
  cursor: string;
};

const RUN = 'id, asked, through, cursor';

// $1 store, $2 generation, $3 asked. How far the store has verified is what propagation-lag.ts shows.
const BEGIN = `
  insert into reconciliations (store_id, generation, asked, through, cursor, started_at)
  select s.id, s.generation, $3, least(s.scanned_through, (
      select min(e.speaks_from) - 1 from exceptions e
      where e.store_id = s.id and e.generation = s.generation and e.kind <> 'absent')), '${BEFORE_EVERY_ID}', clock_timestamp()
  from stores s where s.id = $1 and s.generation = $2
  on conflict do nothing returning ${RUN}`;

/** The pass under way, or the next one if its time has come. */
async function currentRun(pool: Pool, store: RegisteredStore): Promise<Run | undefined> {
  const { rows } = await pool.query<Run & { current: boolean }>({
    name: 'reconciliation-under-way',
    text: `select ${RUN}, generation = $2 as current from reconciliations where store_id = $1 and finished_at is null`,
    values: [store.id, store.generation],
  });
  if (rows[0]?.current === true) return rows[0];
  if (rows[0] !== undefined) {
    // That pass compared another generation.
    await pool.query('delete from reconciliations where id = $1', [rows[0].id]);
  }
  const { rows: last } = await pool.query<{ rests: boolean }>({
    name: 'reconciliation-last',
    text: `select generation = $2 and clock_timestamp() < finished_at + case
             when missing + older + resurrected + ahead > 0 then ${REST_AFTER_DRIFT} else ${REST} end as rests
           from reconciliations where store_id = $1 order by id desc limit 1`,
    values: [store.id, store.generation],
  });
  if (last[0]?.rests === true) return undefined;
  const { rows: begun } = await pool.query<Run>({
    name: 'reconciliation-begin',
    text: BEGIN,
    values: [store.id, store.generation, false],
  });
  return begun[0];
}

// $1 store, $2 generation, $3 accepts, $4 due_exact, $5 due_channels, $6 cursor. Only what the store has confirmed and nothing
// newer has overtaken: the rest is outstanding, and read back on its way. $7: whether to include people of whom the store was never
// told anything, for what it suppresses of them by itself.
const EXPECTED = `
  with seen as materialized (
    select j.id, j.version, j.sealed is null as erased from subjects j where j.id > $6 order by j.id limit ${PAGE}
  )
  select (select count(*) from seen) as looked, (select id from seen order by id desc limit 1) as last,
    (select json_agg(one.seq order by one.subject_id) from (
      select d.seq, d.subject_id from seen
      cross join lateral (
        select * from decisions d where d.subject_id = seen.id and d.version = seen.version offset 0) d
      where due(d.kind, d.suppressed, d.granted, $3, $4, $5)
        and (d.seq <= (select scanned_through from stores where id = $1)
             or exists (select from acknowledgements a
                        where a.store_id = $1 and a.generation = $2 and a.seq = d.seq offset 0))
        and not exists (select from exceptions e
                        where e.subject_id = seen.id and e.store_id = $1 and e.generation = $2 offset 0)
    ) one) as seqs,
    (select json_agg(one.seq order by one.subject_id) from (
      select d.seq, d.subject_id from seen
      cross join lateral (
        select * from decisions d where d.subject_id = seen.id and d.version = seen.version offset 0) d
      where $7 and d.kind = any ($3) and not seen.erased and not due(d.kind, d.suppressed, d.granted, $3, $4, $5)
    ) one) as others`;

const DECISIONS = `
  select ${DECISION} from unnest($1::bigint[]) as wanted (seq)
  cross join lateral (select * from decisions d where d.seq = wanted.seq offset 0) d`;

/**
 * The next page of a store's pass for the worker that holds its lease; undefined while nothing is to be compared: the pass rests,
 * or the store is being filled, is paused or retired, or cannot be read.
 */
export async function nextReconciliationPage(
  pool: Pool,
  seals: Seals,
  store: RegisteredStore,
  worker: string,
): Promise<ReconciliationPage | undefined> {
  if (store.evidence !== 'read_back') return undefined;
  const { rows } = await pool.query<{
    accepts: string[];
    due_exact: string[];
    due_channels: string[];
  }>({
    name: 'reconciliation-head',
    text: `select accepts, due_exact, due_channels from stores
           where id = $1 and generation = $2 and lease_holder = $3 and paused_at is null and retired_at is null
             and backfill_fence is null`,
    values: [store.id, store.generation, worker],
  });
  const head = rows[0];
  if (head === undefined) return undefined;
  const run = await currentRun(pool, store);
  if (run === undefined) return undefined;
  const recordsOwn = store.ownScopes.length > 0;
  const { rows: found } = await pool.query<{
    looked: number;
    last: string | null;
    seqs: number[] | null;
    others: number[] | null;
  }>({
    name: 'reconciliation-expected',
    text: EXPECTED,
    values: [
      store.id,
      store.generation,
      head.accepts,
      head.due_exact,
      head.due_channels,
      run.cursor,
      recordsOwn,
    ],
  });
  const { looked, last, seqs, others } = found[0]!;
  const read = async (wanted: readonly number[]): Promise<readonly Decision[]> => {
    const { rows } = await pool.query<DecisionRow>({
      name: 'reconciliation-decisions',
      text: DECISIONS,
      values: [wanted],
    });
    return await toDecisions(pool, seals, rows);
  };
  return {
    run: run.id,
    generation: store.generation,
    after: run.cursor,
    through: last ?? run.cursor,
    isLast: looked < PAGE,
    decisions: await read(seqs ?? []),
    own: recordsOwn ? { scopes: store.ownScopes, others: await read(others ?? []) } : undefined,
    pauseMs: run.asked ? 0 : PAUSE_MS,
  };
}

const COUNTED = {
  missing: 'DRIFT_MISSING',
  older: 'DRIFT_OLDER',
  resurrected: 'DRIFT_RESURRECTED',
} as const;

const MOVE = `
  update reconciliations set cursor = $2, compared = compared + $3, missing = missing + $4, older = older + $5,
    resurrected = resurrected + $6, ahead = ahead + $7, own = own + $8, unread = unread + $9,
    finished_at = case when $10 then clock_timestamp() end
  where id = $1
  returning asked, through, finished_at is not null as finished, missing + older + resurrected + ahead as differences`;

/**
 * Takes what a worker found on a page. `taken` is false if that page was counted already, or its pass is over. `ahead` are the
 * subjects of which the store holds a version that the ledger never gave it.
 */
export async function takeComparison(
  pool: Pool,
  store: RegisteredStore,
  page: Pick<ReconciliationPage, 'run' | 'generation' | 'after' | 'through' | 'isLast'>,
  { compared, differences, own, unread }: Comparison,
): Promise<{ readonly taken: boolean; readonly ahead: ReadonlyMap<string, number> }> {
  const nothing = { taken: false, ahead: new Map<string, number>() };
  if (page.generation !== store.generation) return nothing;
  return await inTransaction(pool, async (client) => {
    const drifted = differences.filter(({ kind }) => kind !== 'ahead');
    const ahead = differences.filter(
      ({ kind, heldVersion }) => kind === 'ahead' && (heldVersion ?? Infinity) <= FOLLOWED_TO,
    );
    // Both rows are locked first: a refill that begins meanwhile ends the pass, and a page counts once.
    const { rowCount } = await client.query(
      `select from reconciliations r join stores s on s.id = r.store_id and s.generation = r.generation
       where r.id = $1 and r.cursor = $2 and r.finished_at is null and s.id = $3 and s.generation = $4 for update`,
      [page.run, page.after, store.id, store.generation],
    );
    if (rowCount === 0) return nothing;
    const { rows: driven } = await client.query<{ seq: number; subject_id: string; code: string }>({
      name: 'reconciliation-drive',
      text: DRIVE_AGAIN,
      values: [
        JSON.stringify(
          drifted.map(({ seq, kind, heldVersion }) => ({
            seq,
            code: COUNTED[kind as keyof typeof COUNTED],
            // A report from before the comparison may come again, if its answer was lost: it says nothing of what was lost since.
            asked: 1,
            held: kind === 'older' ? heldVersion : undefined,
          })),
        ),
        store.id,
        store.generation,
      ],
    });
    const { rows: beyond } = await client.query<{ subject_id: string; held: number }>({
      name: 'reconciliation-ahead',
      text: `select d.subject_id, x.held from json_to_recordset($1) as x (seq bigint, held bigint)
             cross join lateral (select * from decisions d where d.seq = x.seq offset 0) d
             where x.held > (select version from subjects j where j.id = d.subject_id offset 0)`,
      values: [JSON.stringify(ahead.map(({ seq, heldVersion }) => ({ seq, held: heldVersion })))],
    });
    const count = (code: string): number => driven.filter((one) => one.code === code).length;
    const { rows: moved } = await client.query<{
      asked: boolean;
      through: number;
      finished: boolean;
      differences: number;
    }>({
      name: 'reconciliation-move',
      text: MOVE,
      values: [
        page.run,
        page.through,
        compared,
        ...Object.values(COUNTED).map(count),
        beyond.length,
        own,
        unread,
        page.isLast,
      ],
    });
    const run = moved[0]!;
    if (driven.length + beyond.length > 0) {
      await audit(client, undefined, 'store.drifted', store.name, {
        reconciliation: page.run,
        ...Object.fromEntries(Object.entries(COUNTED).map(([kind, code]) => [kind, count(code)])),
        ahead: beyond.length,
        seqs: driven.slice(0, AUDITED_SEQS).map(({ seq }) => seq),
      });
    }
    if (run.finished && run.differences === 0) {
      await client.query(
        'update stores set reconciled_through = greatest(reconciled_through, $2) where id = $1',
        [store.id, run.through],
      );
    }
    if (run.finished && (run.asked || run.differences > 0)) {
      await audit(client, undefined, 'store.reconciled', store.name, {
        reconciliation: page.run,
        differences: run.differences,
      });
    }
    return {
      taken: true,
      ahead: new Map(beyond.map(({ subject_id: subjectId, held }) => [subjectId, held])),
    };
  });
}

/**
 * Begins a pass now, at full speed. A pass under way begins anew, so that it sees the store as it is after the request. Throws
 * AbideError('overloaded') if the store changes all the while.
 */
export async function askReconciliation(
  pool: Pool,
  store: RegisteredStore,
  caller: Caller | undefined,
): Promise<number> {
  return await inTransaction(pool, async (client) => {
    await client.query('delete from reconciliations where store_id = $1 and finished_at is null', [store.id]);
    const begin = async ({ generation }: RegisteredStore): Promise<number | undefined> => {
      const { rows } = await client.query<Run>(BEGIN, [store.id, generation, true]);
      const id = rows[0]?.id;
      if (id !== undefined)
        await audit(client, caller, 'store.reconciliation_asked', store.name, { reconciliation: id });
      return id;
    };
    const begun = await begin(store);
    if (begun !== undefined) return begun;
    // Another pass was asked for at the same moment, and is as good.
    const { rows: other } = await client.query<{ id: number }>(
      'select id from reconciliations where store_id = $1 and finished_at is null',
      [store.id],
    );
    if (other[0] !== undefined) return other[0].id;
    // Or a generation of the store began after it was read.
    const now = await findStore(client, store.name);
    const again = now && (await begin(now));
    if (again === undefined) throw new AbideError('overloaded', undefined, { retryAfterSeconds: 1 });
    return again;
  });
}

type ReconciliationRow = {
  id: number;
  asked: boolean;
  through: number;
  started_at: string;
  finished_at: string | null;
  compared: number;
  missing: number;
  older: number;
  resurrected: number;
  ahead: number;
  own: number;
  recorded: number;
  unread: number;
};

/** The latest passes of a store, newest first. */
export async function listReconciliations(
  db: Queryable,
  store: RegisteredStore,
  limit: number,
): Promise<readonly Reconciliation[]> {
  const { rows } = await db.query<ReconciliationRow>(
    `select id, asked, through, started_at, finished_at, compared, missing, older, resurrected, ahead, own, recorded, unread
     from reconciliations where store_id = $1 order by id desc limit $2`,
    [store.id, limit],
  );
  return rows.map((row) => ({
    id: row.id,
    asked: row.asked,
    through: row.through,
    startedAt: toMilliseconds(row.started_at),
    finishedAt: row.finished_at === null ? undefined : toMilliseconds(row.finished_at),
    compared: row.compared,
    missing: row.missing,
    older: row.older,
    resurrected: row.resurrected,
    ahead: row.ahead,
    own: row.own,
    recorded: store.ownScopes.length === 0 ? undefined : row.recorded,
    unread: row.unread,
  }));
}
