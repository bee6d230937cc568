// The ledger believes an acknowledgement only after comparing what the store holds with what was decided.
import {
  FOLLOWED_TO,
  LIFT_NOT_UNDONE,
  compareHeld,
  grantedSince,
  isDue,
  mustClear,
} from '../suppression/acknowledgement.ts';
import type {
  Acknowledgement,
  AcknowledgementAnswer,
  AcknowledgementReport,
  Rejection,
} from '../suppression/acknowledgement.ts';
import type { Granted, Instant } from '../suppression/decision.ts';
import type { SubjectKind } from '../suppression/subject-kind.ts';
import { isRace, isUnavailable, toMilliseconds } from './database.ts';
import type { Pool } from './database.ts';
import { selectRows, toParameter } from './rows.ts';
import type { Columns } from './rows.ts';
import { LEASED, LEASE_IS_FREE, wasTold } from './stores.ts';
import type { RegisteredStore } from './stores.ts';

type Decided = {
  store_id: number;
  seq: number;
  version: number;
  kind: SubjectKind;
  subject_id: string;
  suppressed: Record<string, Instant>;
  granted: Record<string, Granted>;
  settled: boolean;
  /** It is parked, and another worker holds the lease. */
  parked_with_another: boolean;
  /** With which count it is given out to be driven again; 0: it is not, or any try will do. */
  driven_again: number;
  /** This store acknowledged it before, even if it is outstanding again. */
  acknowledged: boolean;
  /** The subject's version now. */
  newest: number;
  /** The last version that this store acknowledged; read only if something was granted. */
  acknowledged_version: number | null;
};

// `decisions` is append-only and this sees only committed rows: nothing uncommitted or foreign is ever acknowledged.
const DECIDED = `
  select i.store_id, d.seq, d.version, d.kind, d.subject_id, d.suppressed, d.granted,
    exists (select from acknowledgements a
            where a.store_id = i.store_id and a.generation = i.generation and a.seq = d.seq offset 0)
      and not p.parked as settled,
    case when p.parked then exists (
      select from stores s where s.id = i.store_id and s.lease_holder <> i.worker and s.lease_until > clock_timestamp()
      offset 0) else false end as parked_with_another,
    case when p.parked then coalesce((
      select e.asked from exceptions e
      where e.store_id = i.store_id and e.generation = i.generation and e.seq = d.seq and e.kind = 'redrive'), 0)
      else 0 end as driven_again,
    (select s.version from subjects s where s.id = d.subject_id offset 0) as newest,
    case when d.granted <> '{}' then (
      select o.version from stores s cross join lateral (
        select o.version from decisions o
        where o.subject_id = d.subject_id and o.version < d.version and ${wasTold('o.seq')}
        order by o.version desc limit 1) o
      where s.id = i.store_id
    ) end as acknowledged_version,
    case when d.granted <> '{}' then exists (
      select from stores s where s.id = i.store_id and ${wasTold('d.seq')}
    ) else false end as acknowledged
  from unnest($1::smallint[], $2::int[], $3::bigint[], $4::text[]) as i (store_id, generation, seq, worker)
  cross join lateral (select * from decisions d where d.seq = i.seq offset 0) d
  cross join lateral (
    select exists (select from exceptions e
                   where e.store_id = i.store_id and e.generation = i.generation and e.seq = d.seq offset 0) as parked) p`;

/** The columns that SETTLE takes (rows.ts). */
export const REPORTED = {
  store_id: 'smallint',
  generation: 'int',
  worker: 'text',
  seq: 'bigint',
  version: 'bigint',
  outcome: 'text',
  held: 'jsonb',
  attempts: 'int',
  carried_by: 'text',
  evidence: 'jsonb',
} as const satisfies Columns;

/**
 * While a store is back-filled, its mark is 0. What the back-fill covers, and nobody has to carry by itself, needs no row once that is
 * done; it gets one so that an older opt-out is complete before that. Only a canary has more decisions than this.
 */
const WALKED = 1_000;

// Everything that follows from the reports of some stores. Older decisions of a subject are superseded here and nowhere else: in
// the statement that inserts the acknowledgement of the newer one. They are found by walking down the versions while their sequence
// is above the mark (a subject's versions and sequence numbers rise together), and among the exceptions. Anything looked for in the
// report itself is looked up once, in an array or a hash: comparing each of a thousand rows with a thousand costs four times as
// much as all the rest.
//
// The commit does not wait for the disk. What a crash of the server takes from the last moments is outstanding again and read back
// again, so the ledger never says more than the stores hold. And any later commit that does wait, above all that of a mark, reaches
// the disk only together with this one.
export const SETTLE = `
  with at as materialized (
    select clock_timestamp() as now, set_config('synchronous_commit', 'off', true)
  ),
  input as materialized (
    select x.*, d.subject_id, d.recorded_at, d.cause
    from (${selectRows(REPORTED, '$1')}) x
    cross join lateral (select subject_id, recorded_at, cause from decisions d where d.seq = x.seq offset 0) d
    where exists (select from stores s where s.id = x.store_id and s.generation = x.generation)
  ),
  overtaken as (
    select distinct on (i.store_id, o.seq) i.store_id, i.generation, i.worker, o.seq, o.version, o.recorded_at, i.carried_by
    from input i
    cross join lateral (select * from stores s where s.id = i.store_id offset 0) s
    cross join lateral (
      with recursive older as (
        (select 1 as walked, o.seq, o.version, o.recorded_at, o.kind, o.suppressed, o.granted from decisions o
         where o.subject_id = i.subject_id and o.version < i.version order by o.version desc limit 1)
        union all
        select older.walked + 1, o.* from older, lateral (
          select o.seq, o.version, o.recorded_at, o.kind, o.suppressed, o.granted from decisions o
          where o.subject_id = i.subject_id and o.version < older.version order by o.version desc limit 1) o
        where older.seq > s.scanned_through and (older.walked < ${WALKED} or older.seq > coalesce(least(s.backfill_fence, s.backfill_live_through), 0))
      )
      select o.seq, o.version, o.recorded_at, o.kind, o.suppressed, o.granted from older o where o.seq > s.scanned_through
      union
      select o.seq, o.version, o.recorded_at, o.kind, o.suppressed, o.granted
      from exceptions e cross join lateral (select * from decisions o where o.seq = e.seq offset 0) o
      where e.subject_id = i.subject_id and e.store_id = i.store_id and e.generation = i.generation
        and e.version < i.version
    ) o
    where i.version > 1 and i.outcome in ('verified', 'applied')
      and due(o.kind, o.suppressed, o.granted, s.accepts, s.due_exact, s.due_channels)
      and not exists (
        select from acknowledgements a
        where a.store_id = i.store_id and a.generation = i.generation and a.seq = o.seq offset 0)
      and (i.store_id, o.seq) not in (select store_id, seq from input)
  ),
  settled as (
    insert into acknowledgements (store_id, generation, seq, version, outcome, held, acknowledged_at, latency_ms,
                                  attempts, worker, carried_by, evidence)
    select one.store_id, one.generation, one.seq, one.version, one.outcome, one.held, at.now,
           greatest(0, extract(epoch from at.now - one.recorded_at) * 1000), one.attempts, one.worker, one.carried_by,
           one.evidence
    from at, (
      select store_id, generation, worker, seq, version, outcome, held, recorded_at, attempts, carried_by, evidence
      from input
      union all
      select store_id, generation, worker, seq, version, 'superseded', null, recorded_at, 0, carried_by, null
      from overtaken
      order by store_id, seq
    ) one
    on conflict do nothing
    returning store_id, generation, seq, outcome, latency_ms, carried_by, acknowledged_at
  ),
  cleared as (
    delete from exceptions e
    where e.subject_id = any (array(select subject_id from input))
      -- Within coalesce this is a hash and never a join, which might read everything that is parked.
      and coalesce((e.store_id, e.generation, e.seq) in (
        select x.store_id, x.generation, x.seq from input i cross join lateral (
          select * from exceptions x
          where x.subject_id = i.subject_id and x.store_id = i.store_id and x.generation = i.generation
            and x.version <= i.version offset 0) x), false)
  ),
  measured as (
    insert into latency_buckets as b (store_id, minute, bucket, count, max_ms)
    select store_id, date_trunc('minute', acknowledged_at), bucket, count(*), max(latency_ms)
    from (select *, round(ln(greatest(latency_ms, 0.1)) * 50)::smallint as bucket from settled s
          where carried_by <> 'backfill'
            and s.seq <> all (array(select seq from input where cause = 'reissue'))) timed
    group by 1, 2, 3 order by 1, 2, 3
    on conflict (store_id, minute, bucket)
      do update set count = b.count + excluded.count, max_ms = greatest(b.max_ms, excluded.max_ms)
  ),
  counted as (
    insert into carried as c (store_id, carried_by, count)
    select store_id, carried_by, count(*) from settled where outcome <> 'superseded' group by 1, 2 order by 1, 2
    on conflict (store_id, carried_by) do update set count = c.count + excluded.count
  )
  select store_id, seq, outcome, latency_ms, carried_by from settled`;

/** Latency buckets are 2 % wide: bucket = round(50 ln(ms)). */
export const bucketMs = (bucket: number): number => Math.exp(bucket / 50);

/**
 * SQL: the oldest unsettled decision that the decision `d` speaks for at the store `s`. Decisions that are not due to the store do
 * not count, nor do those older than one that it acknowledged. At or below the mark only parked decisions count: the rest is
 * confirmed there, even without a row.
 */
export const SPEAKS_FROM = `least(
      (select min(o.seq) from decisions o
       where o.subject_id = d.subject_id and o.seq > s.scanned_through and o.seq <= d.seq
         and due(o.kind, o.suppressed, o.granted, s.accepts, s.due_exact, s.due_channels)
         and o.version > coalesce((
           select b.version from decisions b
           where b.subject_id = d.subject_id and b.version < d.version
             and exists (select from acknowledgements a
                         where a.store_id = s.id and a.generation = s.generation and a.seq = b.seq offset 0)
           order by b.version desc limit 1), 0)),
      (select min(p.seq) from exceptions p
       where p.subject_id = d.subject_id and p.store_id = s.id and p.generation = s.generation and p.seq <= d.seq
         and not exists (select from acknowledgements a
                         where a.store_id = s.id and a.generation = s.generation and a.seq = p.seq offset 0)),
      d.seq)`;

// A decision that a store refuses, or that failed five times or for a minute, is parked with its clock running and tried again ever
// more slowly, at most hourly. Somebody absent is asked for again hourly, and so is somebody erased: no store can be told who it is
// until the address is given again. If another try was asked for after the failed one was
// given out, the next try is now: the failed one began before the request.
const PARK = `
  insert into exceptions as e (store_id, generation, seq, subject_id, version, speaks_from, kind, code, attempts, since,
                               next_try_at, asked)
  select $2, $3, d.seq, d.subject_id, d.version,
    ${SPEAKS_FROM},
    case when is_absent then 'absent' else 'quarantine' end, x.code, x.attempts, clock_timestamp(),
    clock_timestamp() + case when is_absent then interval '1 hour'
      else least(interval '1 hour', interval '5 seconds' * power(2, least(greatest(x.attempts - 4, 1), 12))
                 * (0.8 + 0.4 * random())) end, x.asked
  from stores s
  cross join json_to_recordset($1) as x (seq bigint, outcome text, code text, attempts int, asked int)
  cross join lateral (select * from decisions d where d.seq = x.seq offset 0) d
  cross join lateral (
    select x.outcome = 'absent' or x.code = 'ADDRESS_ERASED' and exists (
      select from subjects j where j.id = d.subject_id and j.sealed is null offset 0) as is_absent) told
  where s.id = $2 and s.generation = $3 and (x.outcome in ('absent', 'refused') or x.attempts >= 5
         or d.recorded_at < clock_timestamp() - interval '60 seconds'
         or exists (select from exceptions was where was.store_id = $2 and was.generation = $3 and was.seq = d.seq))
    and (exists (select from exceptions was where was.store_id = $2 and was.generation = $3 and was.seq = d.seq)
         or not exists (
           select from acknowledgements a where a.store_id = $2 and a.generation = $3 and a.seq = d.seq offset 0))
  order by d.seq
  on conflict (store_id, generation, seq) do update
    set kind = excluded.kind, code = excluded.code, attempts = greatest(excluded.attempts, e.attempts + 1),
        next_try_at = case when e.asked > excluded.asked then clock_timestamp() else excluded.next_try_at end, asked = 0`;

// The decision must still be the subject's newest: a decision made meanwhile is read back on its own way. Nobody knows which of the
// older ones the store lost as well, so the exception speaks for all of them, or for those after `held` if the store went back to
// that version, which it had proved to hold. `asked` above 0: only a try that begins from here on ends this (judge).
const driveAgain = (onConflict: string): string => `
  insert into exceptions (store_id, generation, seq, subject_id, version, speaks_from, kind, code, attempts, since,
                          next_try_at, asked)
  select $2, $3, d.seq, d.subject_id, d.version,
    coalesce((select o.seq from decisions o
     where o.subject_id = d.subject_id and o.version > coalesce(x.held, 0) and o.version < d.version
       and due(o.kind, o.suppressed, o.granted, s.accepts, s.due_exact, s.due_channels)
     order by o.version limit 1), d.seq),
    'redrive', x.code, 1, clock_timestamp(), clock_timestamp(), coalesce(x.asked, 0)
  from stores s
  cross join json_to_recordset($1) as x (seq bigint, code text, held bigint, asked int)
  cross join lateral (select * from decisions d where d.seq = x.seq offset 0) d
  where s.id = $2 and s.generation = $3
    and d.version = (select version from subjects j where j.id = d.subject_id offset 0)
  order by d.seq
  on conflict ${onConflict}
  returning seq, subject_id, code`;
export const DRIVE_AGAIN = driveAgain('do nothing');
// A try of what is parked, or driven again already, may be under way: it does not end this.
const DRIVE_UNDONE = driveAgain(`(store_id, generation, seq) do update
    set kind = 'redrive', code = excluded.code, asked = exceptions.asked + 1, next_try_at = clock_timestamp()`);

// A person who is absent for a decision is absent for the older ones as well. A consent among them is not given out past it
// (outstanding.ts), and would be late for as long as nobody is there. The older ones are found as in SETTLE.
const PARK_OLDER = `
  insert into exceptions as e (store_id, generation, seq, subject_id, version, speaks_from, kind, code, attempts, since,
                               next_try_at)
  select distinct on (o.seq) s.id, s.generation, o.seq, o.subject_id, o.version, o.seq, 'absent', x.code, 1, clock_timestamp(),
    clock_timestamp() + interval '1 hour'
  from stores s
  cross join lateral (select coalesce(s.backfill_live_through, s.scanned_through) as through) mark
  cross join json_to_recordset($1) as x (seq bigint, outcome text, code text)
  cross join lateral (select * from decisions d where d.seq = x.seq offset 0) d
  cross join lateral (
    with recursive older as (
      (select o.* from decisions o
       where o.subject_id = d.subject_id and o.version < d.version order by o.version desc limit 1)
      union all
      select o.* from older, lateral (
        select o.* from decisions o
        where o.subject_id = d.subject_id and o.version < older.version order by o.version desc limit 1) o
      where older.seq > mark.through
    )
    select o.seq, o.subject_id, o.version from older o
    where o.seq > mark.through and due(o.kind, o.suppressed, o.granted, s.accepts, s.due_exact, s.due_channels)
      and not exists (
        select from acknowledgements a
        where a.store_id = s.id and a.generation = s.generation and a.seq = o.seq offset 0)
    union
    select p.seq, p.subject_id, p.version from exceptions p
    where p.subject_id = d.subject_id and p.store_id = s.id and p.generation = s.generation and p.version < d.version
  ) o
  where s.id = $2 and s.generation = $3 and x.outcome = 'absent'
    and exists (select from exceptions p where p.store_id = $2 and p.generation = $3 and p.seq = d.seq and p.kind = 'absent')
  order by o.seq
  on conflict (store_id, generation, seq) do update set kind = excluded.kind, code = excluded.code where e.kind <> 'absent'`;

// Clears decisions that were parked or made outstanding again while the newer one was being acknowledged: SETTLE could not see them.
const CLEAR_OVERTAKEN = `
  delete from exceptions e
  where e.store_id = $1 and e.generation = $2 and e.seq = any ($3)
    and exists (
      select from decisions d
      where d.subject_id = e.subject_id and d.version > e.version and exists (
        select from acknowledgements a where a.store_id = e.store_id and a.generation = e.generation and a.seq = d.seq
          and a.outcome in ('verified', 'applied') offset 0)
      offset 0)`;

// The sign of life renews the worker's lease, at most once a second. Only a report without acknowledgements takes a free lease,
// since the consumer of a relay's queue reports too and carries nothing. $4: whether this report may take it.
const SEEN = `
  with seen as (
    insert into workers as w (store_id, id, last_seen_at, report) values ($1, $2, clock_timestamp(), $3)
    on conflict (store_id, id) do update set last_seen_at = excluded.last_seen_at, report = excluded.report
  )
  update stores set ${LEASED}
  where id = $1 and paused_at is null and retired_at is null
    and case when lease_holder = $2 then lease_until not between clock_timestamp() + interval '4 seconds'
                                                             and clock_timestamp() + interval '6 seconds'
             else $4 and ${LEASE_IS_FREE} end`;

export type Settled = {
  readonly seq: number;
  readonly outcome: string;
  /** Since the decision was recorded. A back-filled decision was recorded before the store's generation began. */
  readonly latencyMs: number;
  readonly carriedBy: string;
};

type Judged = { readonly settle: readonly Acknowledgement[]; readonly park: readonly Acknowledgement[] } & {
  /** Decisions that a lift may have undone. */
  readonly undone: readonly Acknowledgement[];
  readonly duplicate: number;
  /** Decisions of which the store holds a newer one of ours: the newer one's own acknowledgement supersedes them. */
  readonly overtaken: readonly number[];
  readonly rejected: readonly { seq: number; code: Rejection }[];
  /** Subjects of which the store holds a version that the ledger never gave it. */
  readonly ahead: ReadonlyMap<string, number>;
};

/** Pure: which parts of a report can be believed. */
export function judge(
  acknowledgements: readonly Acknowledgement[],
  decided: ReadonlyMap<number, Decided>,
  store: Pick<RegisteredStore, 'scopes' | 'topics' | 'accepts' | 'evidence' | 'targetSince'>,
): Judged {
  const settle: Acknowledgement[] = [];
  const park: Acknowledgement[] = [];
  const undone: Acknowledgement[] = [];
  const rejected: { seq: number; code: Rejection }[] = [];
  const ahead = new Map<string, number>();
  const overtaken: number[] = [];
  let duplicate = 0;
  for (const one of acknowledgements) {
    const decision = decided.get(one.seq);
    const reject = (code: Rejection): number => rejected.push({ seq: one.seq, code });
    const beyond = decision && versionBeyond(one, decision);
    if (decision === undefined) reject('unknown_seq');
    else if (one.subjectId !== undefined && one.subjectId !== decision.subject_id) reject('version_mismatch');
    else if (decision.version !== one.version) {
      // What was carried is no decision of ours, such as a record that somebody else wrote to the topic; it may have left its version.
      if (beyond !== undefined && beyond <= FOLLOWED_TO) ahead.set(decision.subject_id, beyond);
      reject('version_mismatch');
    } else if (!isDue(decision, store)) reject('not_due');
    else if (one.outcome === 'failed' && one.code === LIFT_NOT_UNDONE) undone.push(one);
    else if (one.outcome !== 'verified' && one.outcome !== 'applied') park.push(one);
    else if (
      store.evidence !== 'relay' &&
      (one.outcome === 'verified') !== (store.evidence === 'read_back')
    ) {
      reject('not_verifiable');
    } else if (store.evidence !== 'relay' && decision.parked_with_another) {
      // A worker that lost the lease, frozen or cut off from us, may have read this before the store lost or refused it. The
      // lease's holder finds out at its next try whether the store holds it now.
      duplicate += 1;
    } else if (store.evidence !== 'relay' && (one.asked ?? 0) < decision.driven_again) {
      // The store may have lost it after this try. A relay's consumer is not told of the count.
      duplicate += 1;
    } else if (one.outcome === 'applied') {
      if (decision.settled) duplicate += 1;
      else settle.push(one);
    } else if (beyond !== undefined) {
      if (beyond > FOLLOWED_TO) reject('not_verifiable');
      else {
        ahead.set(decision.subject_id, beyond);
        reject('ahead_of_ledger');
      }
    } else if (decision.settled) duplicate += 1;
    else {
      switch (compareHeld(decision, store, one.held)) {
        case 'missing':
          reject('not_verifiable');
          break;
        case 'newer':
          overtaken.push(one.seq);
          duplicate += 1;
          break;
        case 'held':
          if (holdsWhatWasLifted(one, decision, store)) reject('not_verifiable');
          else settle.push(one);
      }
    }
  }
  return { settle, park, undone, duplicate, overtaken, rejected, ahead };
}

/** The version that the store holds, if the ledger never gave the subject one as high. */
const versionBeyond = ({ held }: Acknowledgement, { newest }: Decided): number | undefined =>
  held.version !== undefined && held.version > newest ? held.version : undefined;

/**
 * Whether the store still holds a scope that this step had to clear. A store may suppress it again by itself between the apply and
 * the read-back; at the second attempt a store that holds exactly this version is believed: it has been told. A store without
 * versions is told of a grant once, and not again when it lost something else.
 */
function holdsWhatWasLifted(
  one: Acknowledgement,
  decision: Decided,
  store: Pick<RegisteredStore, 'scopes' | 'topics' | 'targetSince'>,
): boolean {
  const { acknowledged_version: before, suppressed } = decision;
  const told =
    one.held.version === undefined
      ? decision.acknowledged
      : one.attempts > 1 && one.held.version === decision.version;
  const granted =
    before === null ? grantedSince(decision.granted, toMilliseconds(store.targetSince)) : decision.granted;
  return (
    !told &&
    mustClear({ suppressed, granted }, store, before ?? 0).some((scope) =>
      one.held.suppressed.includes(scope),
    )
  );
}

/** What each worker last said of itself to this process, and until when that need not be written again. */
type SignsOfLife = Map<string, { readonly said: string; readonly until: number }>;

const SIGN_OF_LIFE_MS = 1_000;
const SIGNS_MAX = 10_000;

/** Under load, reports come every few milliseconds: with acknowledgements and no news they write one sign of life a second. */
async function noteSignOfLife(
  pool: Pool,
  store: RegisteredStore,
  { worker, acknowledgements }: AcknowledgementReport,
  signs: SignsOfLife,
): Promise<void> {
  const { incarnation, lastError, source } = worker;
  const said = JSON.stringify([incarnation, lastError, source.kind, source.status, source.parked]);
  const name = `${store.id} ${worker.id}`;
  const last = signs.get(name);
  const now = performance.now();
  if (acknowledgements.length > 0 && last?.said === said && now < last.until) return;
  await pool.query({
    name: 'worker-seen',
    text: SEEN,
    values: [
      store.id,
      worker.id,
      JSON.stringify({ incarnation, lastError, source }),
      acknowledgements.length === 0,
    ],
  });
  if (signs.size >= SIGNS_MAX) signs.clear();
  signs.set(name, { said, until: now + SIGN_OF_LIFE_MS });
}

/** A report with more acknowledgements than this is a batch of its own, so that a store that catches up makes no other one wait. */
const TOGETHER_MAX = 100;

type Pending = {
  readonly store: RegisteredStore;
  readonly worker: string;
  readonly acknowledgements: readonly Acknowledgement[];
  readonly resolve: (believed: Believed) => void;
  readonly reject: (error: unknown) => void;
};
type Believed = { readonly judged: Judged; readonly settled: readonly Settled[] };

/** Takes a worker's report: sign of life and lease, acknowledgements, failures. Idempotent. */
export type Acknowledge = (
  store: RegisteredStore,
  report: AcknowledgementReport,
) => Promise<AcknowledgementAnswer & { readonly settled: readonly Settled[] }>;

/**
 * Settles reports of several stores that arrive at the same time together: while one statement is under way, the next reports
 * gather. `raise` heals a store that is ahead.
 */
export function createAcknowledge(
  pool: Pool,
  raise: (store: RegisteredStore, subjectId: string, above: number) => Promise<void>,
): Acknowledge {
  const signs: SignsOfLife = new Map();
  let queue: Pending[] = [];
  let underWay = false;

  function gather(): void {
    if (underWay || queue.length === 0) return;
    underWay = true;
    setImmediate(() => {
      // One report per store: if two report the same decision, the second is a duplicate.
      const batch = [...new Map(queue.toReversed().map((one) => [one.store.id, one])).values()];
      queue = queue.filter((one) => !batch.includes(one));
      void believe(pool, batch).finally(() => {
        underWay = false;
        gather();
      });
    });
  }
  const believed = (
    store: RegisteredStore,
    worker: string,
    acknowledgements: readonly Acknowledgement[],
  ): Promise<Believed> =>
    new Promise((resolve, reject) => {
      const pending = { store, worker, acknowledgements, resolve, reject };
      if (acknowledgements.length > TOGETHER_MAX) void believe(pool, [pending]);
      else {
        queue.push(pending);
        gather();
      }
    });

  return async (store, report) => {
    const { worker, acknowledgements } = report;
    await noteSignOfLife(pool, store, report, signs);
    if (acknowledgements.length === 0) return { accepted: 0, duplicate: 0, rejected: [], settled: [] };
    if (report.generation !== store.generation) {
      const rejected = acknowledgements.map(({ seq }) => ({ seq, code: 'old_generation' as const }));
      return { accepted: 0, duplicate: 0, rejected, settled: [] };
    }
    // The same decision twice in one report counts once.
    const unique = [...new Map(acknowledgements.map((one) => [one.seq, one])).values()];
    const { judged, settled } = await believed(store, worker.id, unique);
    if (judged.park.length > 0) {
      const parked = judged.park.map(({ seq, outcome, code, attempts, asked }) => ({
        seq,
        outcome,
        code: code ?? null,
        attempts,
        asked: asked ?? 0,
      }));
      const values = [JSON.stringify(parked), store.id, store.generation];
      await pool.query({ name: 'park', text: PARK, values });
      if (parked.some(({ outcome }) => outcome === 'absent'))
        await pool.query({ name: 'park-older', text: PARK_OLDER, values });
    }
    if (judged.undone.length > 0) {
      const undone = judged.undone.map(({ seq, code }) => ({ seq, code, asked: 1 }));
      const values = [JSON.stringify(undone), store.id, store.generation];
      await pool.query({ name: 'drive-undone', text: DRIVE_UNDONE, values });
    }
    if (judged.overtaken.length > 0) {
      await pool.query({
        name: 'clear-overtaken',
        text: CLEAR_OVERTAKEN,
        values: [store.id, store.generation, judged.overtaken],
      });
    }
    for (const [subjectId, version] of judged.ahead) await raise(store, subjectId, version);
    const written = new Set(settled.map(({ seq }) => seq));
    const raced = judged.settle.filter(({ seq }) => !written.has(seq)).length;
    return {
      accepted: judged.settle.length - raced + judged.park.length + judged.undone.length,
      duplicate: acknowledgements.length - unique.length + judged.duplicate + raced,
      rejected: judged.rejected,
      settled,
    };
  };
}

/** Answers every report of a batch. If they fail together, each is tried alone, so that none fails because of another. */
async function believe(pool: Pool, batch: readonly Pending[]): Promise<void> {
  try {
    const decided = await readDecided(pool, batch);
    const judged = batch.map((one) =>
      judge(one.acknowledgements, decided.get(one.store.id) ?? new Map<number, Decided>(), one.store),
    );
    const settled = await settle(
      pool,
      batch.map((one, n) => ({ ...one, acknowledgements: judged[n]!.settle })),
    );
    for (const [n, one] of batch.entries())
      one.resolve({ judged: judged[n]!, settled: settled.get(one.store.id) ?? [] });
  } catch (error) {
    if (batch.length === 1 || isUnavailable(error)) for (const one of batch) one.reject(error);
    else for (const one of batch) await believe(pool, [one]);
  }
}

/** By store and sequence number. */
async function readDecided(
  pool: Pool,
  batch: readonly Pending[],
): Promise<ReadonlyMap<number, ReadonlyMap<number, Decided>>> {
  const asked = batch.flatMap(({ store, worker, acknowledgements }) =>
    acknowledgements.map(({ seq }) => ({ id: store.id, generation: store.generation, seq, worker })),
  );
  const { rows } = await pool.query<Decided>({
    name: 'acknowledge-decided',
    text: DECIDED,
    values: [
      asked.map(({ id }) => id),
      asked.map(({ generation }) => generation),
      asked.map(({ seq }) => seq),
      asked.map(({ worker }) => worker),
    ],
  });
  const byStore = Map.groupBy(rows, (row) => row.store_id);
  return new Map([...byStore].map(([id, decided]) => [id, new Map(decided.map((row) => [row.seq, row]))]));
}

/** What was settled, by store. */
async function settle(
  pool: Pool,
  batch: readonly Pick<Pending, 'store' | 'worker' | 'acknowledgements'>[],
): Promise<ReadonlyMap<number, readonly Settled[]>> {
  const input = batch.flatMap(({ store, worker, acknowledgements }) =>
    acknowledgements.map((one) => ({
      store_id: store.id,
      generation: store.generation,
      worker,
      seq: one.seq,
      version: one.version,
      outcome: one.outcome,
      held: { version: one.held.version, suppressed: one.held.suppressed },
      attempts: one.attempts,
      carried_by: one.carriedBy,
      evidence: one.evidence,
    })),
  );
  if (input.length === 0) return new Map();
  const text = toParameter(REPORTED, input);
  for (let attempt = 1; ; attempt += 1) {
    try {
      const { rows } = await pool.query<{
        store_id: number;
        seq: number;
        outcome: string;
        latency_ms: number;
        carried_by: string;
      }>({ name: 'settle', text: SETTLE, values: [text] });
      const settled = Map.groupBy(rows, (row) => row.store_id);
      return new Map(
        [...settled].map(([id, own]) => [
          id,
          own.map((row) => ({
            seq: row.seq,
            outcome: row.outcome,
            latencyMs: row.latency_ms,
            carriedBy: row.carried_by,
          })),
        ]),
      );
    } catch (error) {
      // Two API processes that acknowledge for one store may deadlock on a histogram row; nothing was written.
      if (!isRace(error) || attempt === 5) throw error;
    }
  }
}
