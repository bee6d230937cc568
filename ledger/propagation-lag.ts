// The lag cannot lie: of all decisions that a store must hold and has not acknowledged, it is the age of the oldest one, by the
// database's clock at both ends. What is not known is said to be unknown.
import { worstStatus } from '../suppression/acknowledgement.ts';
import type { SourceReport } from '../suppression/acknowledgement.ts';
import { CHANNELS } from '../suppression/scope.ts';
import { bucketMs } from './acknowledge.ts';
import { NEWEST_CANARY } from './canary.ts';
import type { LagReport, LagStatus, SourceLag, StoreLag } from './contract/propagation-lag.ts';
import { toMilliseconds } from './database.ts';
import type { Queryable } from './database.ts';
import { uncoveredScopes } from './propagation.ts';
import { listStores } from './stores.ts';

/** Counted exactly up to here. */
const COUNTED = 10_000;
const UNHEARD_SECONDS = 10;
const WINDOW_SECONDS = 300;

/** A store that begins a new generation in the middle of every one of these has a lag that is not known. */
const READINGS = 3;

type Head = {
  now: string;
  id: number;
  generation: number;
  accepts: string[];
  due_exact: string[];
  due_channels: string[];
  mark: number;
  name: string;
  connector: string;
  required: boolean;
  evidence: StoreLag['evidence'];
  late_after_seconds: number;
  paused: boolean;
  scanned_through: number;
  reconciled_through: number | null;
  backfill_started_at: string | null;
  backfill_still: number | null;
  remaining: number | null;
};

type Row = Head & {
  /** Of the head, which was read before. */
  is_current: boolean;
  live: number;
  oldest_live: number | null;
  ahead: boolean | null;
  parked: number;
  quarantined: number;
  absent: number;
  drift: number;
  canary_age: number | null;
  canary_every: number | null;
  oldest_parked: number | null;
  speaks_from: number | null;
  last_acknowledged_at: string | null;
  settled_in_window: number;
  buckets: { bucket: number; count: number; max: number }[] | null;
  instances: number;
  last_seen_at: string | null;
  heard: boolean;
  last_report: { lastError?: { code: string; at: string }; source?: SourceReport } | null;
  last_error: { code: string; at: string } | null;
  redriven: number;
};

const AGE = (expression: string): string => `extract(epoch from clock_timestamp() - ${expression})::float8`;

// One statement per store, with what belongs to the store as parameters, for the reason given in outstanding.ts. $1 store, $2
// generation, $3 accepts, $4 due_exact, $5 due_channels, $6 the mark that live decisions lie above.
export const LAG_OF_STORE = `
  select exists (select from stores s where s.id = $1 and s.generation = $2) as is_current,
    live.count as live, ${AGE('live.oldest')} as oldest_live,
    parked.count as parked, parked.quarantined, parked.absent, parked.drift, parked.speaks_from, ${AGE('parked.oldest')} as oldest_parked,
    greatest(live.newest, parked.newest) > clock_timestamp() + interval '1 second' as ahead,
    (select a.acknowledged_at from acknowledgements a
     where a.store_id = $1 and a.generation = $2 order by a.seq desc limit 1) as last_acknowledged_at,
    latency.count as settled_in_window, latency.buckets,
    canary.every_seconds as canary_every, ${AGE('canary.recorded_at')} as canary_age,
    heard.instances, heard.last_seen_at, heard.instances > 0 as heard, heard.last_report, heard.last_error,
    coalesce((select c.count from carried c where c.store_id = $1 and c.carried_by = 'redrive'), 0) as redriven
  from (
    select count(*) as count, min(one.recorded_at) as oldest, max(one.recorded_at) as newest from (
      select d.recorded_at from decisions d
      where d.seq > $6 and due(d.kind, d.suppressed, d.granted, $3, $4, $5)
        and not exists (
          select from acknowledgements a where a.store_id = $1 and a.generation = $2 and a.seq = d.seq offset 0)
        and not exists (
          select from exceptions e where e.store_id = $1 and e.generation = $2 and e.seq = d.seq offset 0)
      order by d.seq limit ${COUNTED + 1}) one
  ) live
  cross join (
    select count(*) filter (where e.kind <> 'absent') as count,
           count(*) filter (where e.kind = 'quarantine') as quarantined,
           count(*) filter (where e.kind = 'absent') as absent,
           count(*) filter (where e.kind = 'redrive' or e.kind = 'quarantine' and was.acknowledged) as drift,
           min(e.speaks_from) filter (where e.kind <> 'absent') as speaks_from,
           min(d.recorded_at) filter (where e.kind <> 'absent') as oldest,
           max(d.recorded_at) filter (where e.kind <> 'absent') as newest
    from exceptions e
    left join lateral (
      select d.recorded_at from decisions d where d.seq = e.speaks_from and e.kind <> 'absent' offset 0) d on true
    cross join lateral (
      select exists (
        select from acknowledgements a where a.store_id = $1 and a.generation = $2 and a.seq = e.seq offset 0) as acknowledged) was
    where e.store_id = $1 and e.generation = $2
  ) parked
  cross join (
    select coalesce(sum(count), 0)::bigint as count,
           json_agg(json_build_object('bucket', bucket, 'count', count, 'max', max) order by bucket) as buckets
    from (select bucket, sum(count) as count, max(max_ms) as max from latency_buckets
          where store_id = $1 and minute > (select clock_timestamp() - interval '${WINDOW_SECONDS} seconds') group by bucket) recent
  ) latency
  cross join (
    select count(*) filter (where w.last_seen_at between clock_timestamp() - interval '${UNHEARD_SECONDS} seconds'
                                                     and clock_timestamp() + interval '1 second') as instances,
           max(w.last_seen_at) as last_seen_at,
           (array_agg(w.report order by w.last_seen_at desc))[1] as last_report,
           (array_agg(w.report -> 'lastError' order by w.report -> 'lastError' ->> 'at' desc)
              filter (where w.report -> 'lastError' is not null))[1] as last_error
    from workers w where w.store_id = $1
  ) heard
  left join lateral (${NEWEST_CANARY}) canary on true`;

// Also without a store there is a row, with the time.
const HEADS = `
  select now, id, generation, accepts, due_exact, due_channels, coalesce(backfill_live_through, scanned_through) as mark,
    name, connector, required, evidence, late_after_seconds, paused_at is not null as paused, scanned_through, reconciled_through,
    backfill_started_at, ${AGE('backfill_moved_at')} as backfill_still,
    case when backfill_fence is not null then (
      select count(*) from (select from subjects j where j.id > backfill_cursor limit ${COUNTED}) more) end as remaining
  from (select clock_timestamp() as now) clock left join stores on retired_at is null order by name`;

function percentiles(row: Row): StoreLag['latency_ms'] {
  const buckets = row.buckets ?? [];
  const max = buckets.length === 0 ? null : Math.max(...buckets.map((one) => one.max));
  const at = (share: number): number | null => {
    let seen = 0;
    for (const { bucket, count } of buckets) {
      seen += count;
      if (seen >= share * row.settled_in_window) return round(Math.min(bucketMs(bucket), max ?? Infinity));
    }
    return null;
  };
  return {
    count: row.settled_in_window,
    p50: at(0.5),
    p95: at(0.95),
    p99: at(0.99),
    max: max === null ? null : round(max),
    window_seconds: WINDOW_SECONDS,
  };
}

const round = (value: number): number => Math.round(value * 10) / 10;

/** How many canaries in a row may fail to come before their silence means something. */
const CANARIES_MISSED = 3;

function statusOf(row: Row, oldest: number | null, canariesFail: boolean): LagStatus {
  // What was decided ahead of the clock was decided before that was set back, and nobody knows for how long.
  if (!row.heard || row.ahead === true) return 'unknown';
  if (oldest !== null && oldest > row.late_after_seconds) return 'late';
  if (row.backfill_started_at !== null) return 'backfilling';
  if (row.paused) return 'paused';
  // Nothing is outstanding, and yet the canaries stopped: that nobody opts out does not show that the way works.
  const { canary_age: age, canary_every: every } = row;
  const isStale = age !== null && every !== null && age > CANARIES_MISSED * every + row.late_after_seconds;
  return isStale || canariesFail ? 'unknown' : 'ok';
}

function toStoreLag(row: Row, canariesFail: boolean): StoreLag {
  // Whom a back-fill has not reached is outstanding for at least as long as it has stood still.
  const isStuck = (row.backfill_still ?? 0) > row.late_after_seconds;
  const ages = [row.oldest_live, row.oldest_parked, isStuck ? row.backfill_still : null].filter(
    (age) => age !== null,
  );
  const oldest = ages.length === 0 ? null : Math.max(...ages);
  // Pausing hides nothing: a paused store's worker is silent by order, so the store is late or paused, but not unknown for that.
  const status = statusOf(row.paused ? { ...row, heard: true } : row, oldest, canariesFail);
  const perSecond = row.settled_in_window / WINDOW_SECONDS;
  const outstanding = row.live + row.parked;
  // What a back-fill still has to bring is not counted, so that there is none is not known.
  const isFilling = row.backfill_started_at !== null;
  const none = isFilling ? null : 0;
  return {
    store: row.name,
    connector: row.connector,
    required: row.required,
    status,
    ...(row.paused ? { paused: true as const } : {}),
    evidence: row.evidence,
    outstanding: Math.min(row.live, COUNTED) + row.parked,
    ...(row.live > COUNTED || isFilling ? { outstanding_is_at_least: true as const } : {}),
    // 0 says that there is none, so a decision of this very instant is a millisecond old.
    oldest_outstanding_seconds:
      row.ahead === true ? null : oldest === null ? none : Math.max(0.001, Math.round(oldest * 1000) / 1000),
    absent: row.absent,
    quarantined: row.quarantined,
    verified_through: isFilling ? 0 : Math.min(row.scanned_through, (row.speaks_from ?? Infinity) - 1),
    last_acknowledged_at: row.last_acknowledged_at === null ? null : toMilliseconds(row.last_acknowledged_at),
    latency_ms: percentiles(row),
    worker: {
      instances: row.instances,
      last_seen_at: row.last_seen_at === null ? null : toMilliseconds(row.last_seen_at),
    },
    last_error: row.last_error,
    backfill:
      row.backfill_started_at === null
        ? null
        : { remaining: row.remaining ?? 0, started_at: toMilliseconds(row.backfill_started_at) },
    canary_age_seconds:
      row.canary_age === null || row.canary_age < 0 ? null : Math.round(row.canary_age * 1000) / 1000,
    drift: row.drift,
    reconciled_through: row.reconciled_through,
    drain_eta_seconds: outstanding === 0 ? none : perSecond === 0 ? null : Math.ceil(outstanding / perSecond),
  };
}

/** What was counted for one generation says nothing of the next one, which has taken over what was outstanding. */
const NOT_KNOWN = {
  status: 'unknown',
  outstanding: null,
  oldest_outstanding_seconds: null,
  absent: null,
  quarantined: null,
  verified_through: null,
  drift: null,
  reconciled_through: null,
  drain_eta_seconds: null,
} as const satisfies Partial<StoreLag>;

const WORST: readonly LagStatus[] = ['unknown', 'late', 'backfilling', 'paused', 'ok'];
const worst = (statuses: readonly LagStatus[]): LagStatus =>
  WORST.find((status) => statuses.includes(status)) ?? 'unknown';

type Slot = { slot_name: string; active: boolean; retained: number | null };

/** One entry per kind of source, from the workers' own reports; what concerns the slot comes from the server. */
function toSources(rows: readonly Row[], slots: readonly Slot[]): SourceLag[] {
  const reports = rows.flatMap((row) =>
    row.last_report?.source === undefined ? [] : [{ source: row.last_report.source, row }],
  );
  return [...Map.groupBy(reports, ({ source }) => source.kind)].map(([kind, group]) => {
    // The last report of a paused store's worker is old, and says nothing of the source that others read.
    const reading = group.filter(({ row }) => row.heard || !row.paused);
    const statuses = reading.map(({ source, row }) => (row.heard ? source.status : 'unknown'));
    const ages = reading.map(({ source }) => source.positionAgeSeconds).filter((age) => age !== undefined);
    const own = kind === 'http' ? [] : slots;
    const retained = own.map((slot) => slot.retained).filter((bytes) => bytes !== null);
    return {
      kind,
      status: worstStatus(statuses),
      position_age_seconds: ages.length === 0 ? null : Math.max(...ages),
      retained_wal_bytes: retained.length === 0 ? null : Math.max(...retained),
      slot: own.length === 0 ? null : own.some((slot) => slot.active) ? 'active' : 'inactive',
      // Each store's group parks the same record for itself.
      ...(kind === 'kafka' ? { parked: Math.max(...group.map(({ source }) => source.parked)) } : {}),
      redriven: group.reduce((sum, { row }) => sum + row.redriven, 0),
    };
  });
}

const SLOTS = `
  select slot_name, active, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::float8 as retained
  from pg_replication_slots where database = current_database() and slot_type = 'logical'`;

/** The stores in service, and a time since when that holds. */
async function readStores(db: Queryable): Promise<{ now: string; rows: readonly Row[] }> {
  const { rows: heads } = await db.query<Head | { now: string; id: null }>({
    name: 'lag-heads',
    text: HEADS,
  });
  const rows = await Promise.all(
    heads
      .filter((head) => head.id !== null)
      .map(async (head): Promise<Row> => {
        const { id, generation, accepts, due_exact: exact, due_channels: channels, mark } = head;
        const values = [id, generation, accepts, exact, channels, mark];
        const { rows: of } = await db.query<Omit<Row, keyof Head>>({
          name: 'lag-of-store',
          text: LAG_OF_STORE,
          values,
        });
        return { ...head, ...of[0]! };
      }),
  );
  return { now: heads[0]!.now, rows };
}

/**
 * Reads the lag of every store in service; throws if it is not known. `canariesFail`: canaries cannot be decided, of which the
 * database itself shows nothing, least of all before the first one.
 */
export async function readLag(
  db: Queryable,
  { canariesFail = false }: { canariesFail?: boolean } = {},
): Promise<LagReport> {
  const [stores, slots, first] = await Promise.all([
    listStores(db),
    db.query<Slot>({ name: 'lag-slots', text: SLOTS }),
    readStores(db),
  ]);
  let { now, rows } = first;
  for (let n = 1; n < READINGS && rows.some((row) => !row.is_current); n += 1)
    ({ now, rows } = await readStores(db));
  const lags = rows.map((row) => ({
    ...toStoreLag(row, canariesFail),
    ...(row.is_current ? undefined : NOT_KNOWN),
  }));
  const required = lags.filter((lag) => lag.required);
  return {
    as_of: toMilliseconds(now),
    status: required.length === 0 ? 'unknown' : worst(required.map((lag) => lag.status)),
    uncovered: uncoveredScopes(stores, CHANNELS),
    sources: toSources(rows, slots.rows),
    stores: lags,
  };
}
