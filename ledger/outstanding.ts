// What is due to a store and not settled: start-up catch-up, re-drive, recovery and the HTTP worker's feed all ask this one
// question. Live decisions come first, then the back-fill of a new generation; parked ones when their next try has come.
import type { Newest } from '../suppression/acknowledgement.ts';
import type { Decision, Granted, Instant } from '../suppression/decision.ts';
import { AbideError } from '../suppression/errors.ts';
import { seal } from '../suppression/seal.ts';
import type { SealingKey } from '../suppression/seal.ts';
import type { SubjectKind } from '../suppression/subject-kind.ts';
import type { Outstanding, OutstandingPage } from './contract/outstanding.ts';
import { toMilliseconds } from './database.ts';
import type { Queryable } from './database.ts';
import { isOver } from './fence.ts';
import { isUuid } from './find.ts';
import { unsealUndamaged } from './key-ring.ts';
import type { KeyRing } from './key-ring.ts';
import { wasTold } from './stores.ts';

export type DecisionRow = {
  seq: number;
  opt_out_id: string | null;
  subject_id: string;
  kind: SubjectKind;
  version: number;
  suppressed: Record<string, Instant>;
  granted: Record<string, Granted>;
  effective_at: string;
  recorded_at: string;
  sealed: Buffer | null;
  transport_key_id: number | null;
  traceparent: string | null;
  /** True: the address was erased, and what is left of the copy that travelled is not given out again. */
  erased?: boolean;
};
type Row = DecisionRow & { attempts: number | null; asked: number };

export const DECISION = `d.seq, d.opt_out_id, d.subject_id, d.kind, d.version, d.suppressed, d.granted, d.effective_at,
  d.recorded_at, d.sealed, d.transport_key_id, d.traceparent`;

// What belongs to the store comes as parameters, not from a join: only then do store, generation and sequence together bound the
// index look-ups (database.ts, SETTINGS). $1 store, $2 generation, $3 accepts, $4 due_exact, $5 due_channels.
const DUE = 'due(d.kind, d.suppressed, d.granted, $3, $4, $5)';

// A consent is not carried past a newer decision that the store did not take: it would lift what the newer one suppresses.
const MAY_LIFT = `(d.granted = '{}' or not exists (
      select from exceptions p
      where p.subject_id = d.subject_id and p.store_id = $1 and p.generation = $2 and p.version > d.version offset 0))`;

const UNSETTLED = `not exists (
      select from acknowledgements a where a.store_id = $1 and a.generation = $2 and a.seq = d.seq offset 0)
    and not exists (
      select from exceptions e where e.store_id = $1 and e.generation = $2 and e.seq = d.seq offset 0)`;

const triesOf = (when: string): string => `
  select ${DECISION}, e.attempts, e.asked,
    exists (select from subjects j where j.id = d.subject_id and j.sealed is null offset 0) as erased
  from exceptions e cross join lateral (select * from decisions d where d.seq = e.seq offset 0) d
  where ((e.store_id::bigint << 32) | e.generation) = (($1::bigint << 32) | $2) and e.next_try_at ${when} and ${DUE}
    and ${MAY_LIFT}
  order by e.next_try_at, d.seq limit $6`;
// No pause is longer than an hour: the second ones were parked before the clock was set back. Each are a range of an index that only
// this expression finds (migration 0022).
export const RETRIES = `
  (${triesOf('<= (select clock_timestamp())')})
  union all (${triesOf("> (select clock_timestamp() + interval '61 minutes')")}) limit $6`;

export const LIVE = `
  select ${DECISION}, 0 as attempts, 0 as asked
  from decisions d
  where d.seq > $6 and ${DUE} and ${MAY_LIFT}
    and ${UNSETTLED}
  order by d.seq limit $7`;

/** How many subjects are looked through for a page: of very many, few or none may be due to the store. */
const LOOKED_THROUGH = 10_000;

const BACKFILL = `
  select ${DECISION}, 0 as attempts, 0 as asked, j.erased
  from (select id, version, sealed is null as erased from subjects where id > $6 order by id limit ${LOOKED_THROUGH}) j
  cross join lateral (
    select * from decisions d where d.subject_id = j.id and d.version = j.version offset 0) d
  where d.seq <= $7 and ${isOver('$8::xid8')} and ${DUE}
    and ${UNSETTLED}
  order by j.id limit $9`;

// Where such a page ends, even if nothing on it is due: there may be more. $1 cursor, $2 the fence's transaction.
const BACKFILL_SEEN = `
  select id from subjects where id > $1 and ${isOver('$2::xid8')}
  order by id offset ${LOOKED_THROUGH - 1} limit 1`;

type StoreHead = {
  id: number;
  generation: number;
  accepts: string[];
  due_exact: string[];
  due_channels: string[];
  live_after: number;
  backfill_fence: number | null;
  backfill_after_xid: string | null;
  backfill_cursor: string | null;
  in_service: boolean;
  target_since: string;
  stanza: Buffer | null;
  /** False unless the worker that asks holds the lease. */
  mine: boolean;
};

/** What the registry says of the store, and whether it is the worker's turn; undefined: no such store. */
async function headOf(
  db: Queryable,
  store: string,
  worker: string | undefined,
): Promise<StoreHead | undefined> {
  const { rows } = await db.query<StoreHead>({
    name: 'outstanding-head',
    text: `select id, generation, accepts, due_exact, due_channels,
             coalesce(backfill_live_through, scanned_through) as live_after,
             backfill_fence, backfill_after_xid::text as backfill_after_xid, backfill_cursor,
             paused_at is null and retired_at is null as in_service, target_since,
             $2::text is null or lease_holder is not distinct from $2 as mine, stanza
           from stores where name = $1`,
    values: [store, worker ?? null],
  });
  return rows[0];
}

export type Seals = {
  readonly ring: KeyRing;
  readonly transport: SealingKey;
  readonly livingKeys: ReadonlySet<number>;
};

const OPENS_NOWHERE = Buffer.of(0);

/**
 * Seals anew from the subject what no longer travels: the copy's transport key was destroyed, or there never was a copy. An address
 * that cannot be opened must not hold back its neighbours: its worker cannot open the stand-in either, and says so.
 */
async function sealAnew(
  db: Queryable,
  { ring, transport }: Seals,
  rows: readonly DecisionRow[],
): Promise<Map<string, Buffer>> {
  const { rows: subjects } = await db.query<{ id: string; kind: string; sealed: Buffer }>(
    'select id, kind, sealed from subjects where id = any ($1::uuid[]) and sealed is not null',
    [rows.map((row) => row.subject_id)],
  );
  const anew = new Map<string, Buffer>();
  for (const { id, kind, sealed } of subjects) {
    const address = unsealUndamaged(ring, sealed, [id, kind]);
    anew.set(id, address === undefined ? OPENS_NOWHERE : seal(address, transport, [id, kind]));
  }
  return anew;
}

const toDecision = (
  row: DecisionRow,
  sealed: Buffer | undefined,
  transportKeyId: number | undefined,
): Decision => ({
  seq: row.seq,
  optOutId: row.opt_out_id ?? undefined,
  subjectId: row.subject_id,
  kind: row.kind,
  version: row.version,
  suppressed: row.suppressed,
  granted: row.granted,
  effectiveAt: toMilliseconds(row.effective_at),
  recordedAt: toMilliseconds(row.recorded_at),
  sealed: sealed?.toString('base64url'),
  transportKeyId,
  traceparent: row.traceparent ?? undefined,
});

/** Rows as workers get them: every address is under a transport key that still lives. */
export async function toDecisions(
  db: Queryable,
  seals: Seals,
  rows: readonly DecisionRow[],
): Promise<readonly Decision[]> {
  const stale = rows.filter(
    (row) => row.sealed === null || row.erased === true || !seals.livingKeys.has(row.transport_key_id ?? -1),
  );
  const anew = stale.length === 0 ? undefined : await sealAnew(db, seals, stale);
  const isStale = new Set(stale);
  return rows.map((row) => {
    if (!isStale.has(row)) return toDecision(row, row.sealed!, row.transport_key_id!);
    const resealed = anew!.get(row.subject_id);
    return toDecision(row, resealed, resealed && seals.transport.id);
  });
}

/** Pages go `live:<seq>`, then `backfill:<subject id>`; the first page begins with retries whose time has come. */
function readCursor(after: string | undefined): {
  lane: 'live' | 'backfill';
  seq: number;
  subject: string | undefined;
} {
  const [lane, value = ''] = (after ?? '').split(':');
  if (lane === 'backfill' && isUuid(value)) return { lane, seq: 0, subject: value };
  return {
    lane: 'live',
    seq: lane === 'live' && /^\d{1,15}$/.test(value) ? Number(value) : 0,
    subject: undefined,
  };
}

export type OutstandingAsk = {
  readonly after: string | undefined;
  readonly limit: number;
  readonly worker: string | undefined;
  readonly stanza?: Buffer | undefined;
};

/** One page of what is deliverable to a store; undefined if there is no such store. */
export async function outstandingPage(
  db: Queryable,
  seals: Seals,
  store: string,
  { after, limit, worker, stanza }: OutstandingAsk,
): Promise<OutstandingPage | undefined> {
  const head = await headOf(db, store, worker);
  if (head === undefined) return undefined;
  if (stanza !== undefined && head.stanza?.equals(stanza) !== true) throw new AbideError('another-stanza');
  const standing = { generation: head.generation, targetSince: toMilliseconds(head.target_since) };
  const nothing = { ...standing, decisions: [], next: undefined };
  if (!head.in_service) return { ...nothing, paused: true };
  if (!head.mine) return { ...nothing, unleased: true };
  const cursor = readCursor(after);
  const page = async (name: string, text: string, ...values: unknown[]): Promise<Row[]> => {
    const ofStore = [head.id, head.generation, head.accepts, head.due_exact, head.due_channels];
    return (await db.query<Row>({ name: `outstanding-${name}`, text, values: [...ofStore, ...values] })).rows;
  };
  const retries = after === undefined ? await page('retries', RETRIES, limit) : [];
  const room = limit - retries.length;
  const live =
    cursor.lane === 'live' && room > 0
      ? await page('live', LIVE, Math.max(cursor.seq, head.live_after), room)
      : [];
  const left = room - live.length;
  const from = cursor.subject ?? head.backfill_cursor;
  let backfill: Row[] = [];
  let seen: string | undefined;
  if (left > 0 && head.backfill_fence !== null && from !== null) {
    // What comes after the mark is listed as live.
    const through = Math.min(head.backfill_fence, head.live_after);
    backfill = await page('backfill', BACKFILL, from, through, head.backfill_after_xid, left);
    if (backfill.length < left) seen = await seenThrough(db, from, head.backfill_after_xid);
  }
  const rows = [...retries, ...live, ...backfill];
  const decisions = (await toDecisions(db, seals, rows)).map((decision, n): Outstanding => {
    const lane = n >= retries.length + live.length ? 'backfill' : 'live';
    const { attempts, asked } = rows[n]!;
    return { ...decision, attempts: attempts ?? 0, asked, lane };
  });
  return {
    ...standing,
    decisions,
    next: nextCursor(rows, retries, live, backfill, seen, limit),
  };
}

/** The last subject that a short page of the back-fill looked through; undefined if it looked through all. */
async function seenThrough(
  db: Queryable,
  from: string,
  afterXid: string | null,
): Promise<string | undefined> {
  const { rows } = await db.query<{ id: string }>({
    name: 'outstanding-backfill-seen',
    text: BACKFILL_SEEN,
    values: [from, afterXid],
  });
  return rows[0]?.id;
}

function nextCursor(
  rows: readonly Row[],
  retries: readonly Row[],
  live: readonly Row[],
  backfill: readonly Row[],
  seen: string | undefined,
  limit: number,
): string | undefined {
  if (rows.length < limit) return seen === undefined ? undefined : `backfill:${seen}`;
  if (backfill.length > 0) return `backfill:${backfill.at(-1)!.subject_id}`;
  if (live.length > 0) return `live:${live.at(-1)!.seq}`;
  return retries.length > 0 ? 'live:0' : undefined;
}

/** The newest decision of a subject, and what the store has acknowledged: a worker asks this before and after it lifts anything. */
export async function newestOf(db: Queryable, store: string, subjectId: string): Promise<Newest | undefined> {
  if (!isUuid(subjectId)) return undefined;
  const { rows } = await db.query<Omit<Newest, 'subjectId'>>({
    name: 'newest-of',
    text: `
      select seq, version, suppressed, granted, coalesce((
        select o.version from stores s cross join lateral (
          select o.version from decisions o
          where o.subject_id = $2 and ${wasTold('o.seq')}
          order by o.version desc limit 1) o
        where s.name = $1), 0) as "acknowledgedVersion",
        coalesce((
          select o.version from stores s cross join lateral (
            select o.version from decisions o
            where o.subject_id = $2 and ${wasTold('o.seq')}
            order by o.version limit 1) o
          where s.name = $1), 0) as "firstAcknowledgedVersion"
      from decisions where subject_id = $2 order by version desc limit 1`,
    values: [store, subjectId],
  });
  return rows[0] === undefined ? undefined : { subjectId, ...rows[0] };
}
