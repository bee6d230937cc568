// How far each store is. The mark moves only to a fenced sequence and only over what is acknowledged or an exception; the cursor of
// a back-fill moves only past subjects whose newest decision is either.
import { isFinal, isOver, SERVER, takeFence } from './fence.ts';
import type { Fence } from './fence.ts';
import type { Pool, Queryable } from './database.ts';

const STEP = 10_000;

// $1 store, $2 generation, $3 accepts, $4 due_exact, $5 due_channels: as parameters, for the reason given in outstanding.ts.
const OPEN = `due(d.kind, d.suppressed, d.granted, $3, $4, $5)
      and not exists (
        select from acknowledgements a where a.store_id = $1 and a.generation = $2 and a.seq = d.seq offset 0)
      and not exists (
        select from exceptions e where e.store_id = $1 and e.generation = $2 and e.seq = d.seq offset 0)`;

/** The first decision in ($6, $7] that holds the mark back. */
const BLOCKED = `
  select d.seq from decisions d
  where d.seq > $6 and d.seq <= $7 and ${OPEN}
  order by d.seq limit 1`;

const ADVANCE = `
  update stores set
    scanned_through = case when backfill_fence is null then $4 else scanned_through end,
    backfill_live_through = case when backfill_fence is null then null else $4 end
  where id = $1 and generation = $2 and coalesce(backfill_live_through, scanned_through) = $3 and ${SERVER} = $5::timestamptz
    and $4 <= (select last_value from decisions_seq_seq)`;

// The next subjects after the cursor ($6), and the first of them whose newest decision is neither acknowledged nor parked. A
// subject with nothing at or below the fence ($7) belongs to the live stream alone.
const FILLED = `
  with seen as materialized (
    select j.id, j.version from subjects j where j.id > $6 order by j.id limit ${STEP}
  ), blocked as (
    select seen.id from seen
    cross join lateral (
      select * from decisions d where d.subject_id = seen.id and d.version = seen.version offset 0) d
    where ${OPEN}
      and (d.seq <= $7 or exists (select from decisions o where o.subject_id = d.subject_id and o.seq <= $7 offset 0))
    order by seen.id limit 1
  )
  select (select count(*) from seen) as looked, (select id from blocked) as stuck_at,
    (select seen.id from seen
     where seen.id < coalesce((select id from blocked), 'ffffffff-ffff-ffff-ffff-ffffffffffff')
     order by seen.id desc limit 1) as passed`;

const FILL = `update stores set backfill_cursor = $4, backfill_moved_at = clock_timestamp() where id = $1 and generation = $2 and backfill_cursor = $3`;

const FULL = `
  update stores set scanned_through = backfill_live_through, backfill_fence = null, backfill_after_xid = null,
    backfill_live_through = null, backfill_cursor = null, backfill_started_at = null, backfill_moved_at = null
  where id = $1 and generation = $2 and backfill_cursor = $3`;

type Marks = {
  id: number;
  generation: number;
  accepts: string[];
  due_exact: string[];
  due_channels: string[];
  mark: number;
  backfill_cursor: string | null;
  backfill_fence: number | null;
  fence_is_final: boolean;
  server: string;
  last: number;
};

const STORES = `
  select id, generation, accepts, due_exact, due_channels, coalesce(backfill_live_through, scanned_through) as mark,
    backfill_cursor, backfill_fence, coalesce(${isOver('backfill_after_xid')}, false) as fence_is_final,
    ${SERVER}::text as server, (select last_value from decisions_seq_seq) as last
  from stores where retired_at is null order by id`;

export type WatermarkJob = {
  /** One round over every store; resolves when no store can move further now. */
  advance(): Promise<void>;
};

/** Keeps one fence under way at a time: it is taken, becomes final, and only then do the marks move up to it. */
export function createWatermarkJob(pool: Pool): WatermarkJob {
  let pending: Fence | undefined;
  let final: Pick<Fence, 'seq' | 'server'> | undefined;
  return {
    advance: async () => {
      const { rows } = await pool.query<Marks>({ name: 'marks', text: STORES });
      const [now] = rows;
      if (now === undefined) return;
      // A server that knows less, or another server, may still decide under numbers that were final.
      if (final !== undefined && (now.server !== final.server || now.last < final.seq)) final = undefined;
      if (pending?.server !== now.server) pending = undefined;
      // Drawing a transaction id is a write. While nothing has been decided since, or every store is there already, none is drawn.
      pending ??= await takeFence(pool, Math.max(final?.seq ?? 0, Math.min(...rows.map(({ mark }) => mark))));
      if (pending !== undefined && (await isFinal(pool, pending))) {
        final = pending;
        pending = undefined;
      }
      for (const store of rows) {
        if (final !== undefined) await advanceStore(pool, store, final);
        if (store.backfill_cursor !== null && store.fence_is_final)
          await advanceBackfill(pool, store, store.backfill_cursor);
      }
    },
  };
}

const ofStore = (store: Marks): unknown[] => [
  store.id,
  store.generation,
  store.accepts,
  store.due_exact,
  store.due_channels,
];

async function advanceStore(
  db: Queryable,
  store: Marks,
  { seq: final, server }: Pick<Fence, 'seq' | 'server'>,
): Promise<void> {
  let mark = store.mark;
  while (mark < final) {
    const end = Math.min(mark + STEP, final);
    const { rows } = await db.query<{ seq: number }>({
      name: 'mark-blocked',
      text: BLOCKED,
      values: [...ofStore(store), mark, end],
    });
    const to = rows[0] === undefined ? end : rows[0].seq - 1;
    if (to > mark) {
      const moved = await db.query({
        name: 'advance-mark',
        text: ADVANCE,
        values: [store.id, store.generation, mark, to, server],
      });
      // Another process moved it, or a new generation began: the next round sees the state of then.
      if (moved.rowCount !== 1) return;
    }
    if (to < end) return;
    mark = to;
  }
}

async function advanceBackfill(db: Queryable, store: Marks, from: string): Promise<void> {
  for (let cursor = from; ;) {
    const { rows } = await db.query<{ looked: number; stuck_at: string | null; passed: string | null }>({
      name: 'backfill-passed',
      text: FILLED,
      values: [...ofStore(store), cursor, store.backfill_fence],
    });
    const { looked, stuck_at: stuckAt, passed } = rows[0]!;
    // These are the last subjects, and none is open: a subject that comes later has nothing at or below the final fence.
    if (looked < STEP && stuckAt === null) {
      await db.query({ name: 'backfill-full', text: FULL, values: [store.id, store.generation, cursor] });
      return;
    }
    if (passed === null) return;
    const moved = await db.query({
      name: 'backfill-fill',
      text: FILL,
      values: [store.id, store.generation, cursor, passed],
    });
    if (stuckAt !== null || moved.rowCount !== 1) return;
    cursor = passed;
  }
}

/** The oldest open write transaction of the server, which holds every mark back; for operations. */
export async function oldestWriter(db: Queryable): Promise<{ pid: number; seconds: number } | undefined> {
  const { rows } = await db.query<{ pid: number; seconds: number }>(
    `select pid, extract(epoch from clock_timestamp() - xact_start)::float8 as seconds from pg_stat_activity
     where backend_xid is not null order by age(backend_xid) desc limit 1`,
  );
  return rows[0];
}
