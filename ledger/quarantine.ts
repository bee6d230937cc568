// What is parked, for the person who must mend it: to be listed, looked into, and tried again at once. Nothing here takes a
// decision out: only an acknowledgement does (acknowledge.ts, SETTLE).
import { audit } from './audit.ts';
import type { Caller } from './contract/audit.ts';
import type { Parked, ParkedFilter, ParkedInFull, ParkedKind, ParkedWhich } from './contract/quarantine.ts';
import { inTransaction, isRace, toMilliseconds } from './database.ts';
import type { Pool, Queryable } from './database.ts';
import { AbideError } from '../suppression/errors.ts';
import type { SubjectKind } from '../suppression/subject-kind.ts';
import { findStore } from './stores.ts';
import type { RegisteredStore } from './stores.ts';

/** How many exceptions a page looks at when it filters: a million absent people must not hide three refused ones for a minute. */
const LOOKED_AT = 50_000;
/** How many one transaction has tried again: its locks must keep no acknowledgement waiting for long. */
const STEP = 5_000;
const RACES_MAX = 5;
const SEQ_MAX = Number.MAX_SAFE_INTEGER;

type Row = {
  seq: number;
  opt_out_id: string | null;
  subject_id: string;
  subject_kind: SubjectKind;
  version: number;
  kind: ParkedKind;
  code: string | null;
  attempts: number;
  recorded_at: string;
  age: number;
  since: string;
  next_try_at: string;
};

// The age is that of the oldest decision that it speaks for: what the lag counts.
const PARKED = `e.seq, d.opt_out_id, e.subject_id, d.kind as subject_kind, e.version, e.kind, e.code, e.attempts,
    d.recorded_at, extract(epoch from clock_timestamp() - oldest.recorded_at)::float8 as age, e.since, e.next_try_at`;
const ITS_DECISIONS = `
  cross join lateral (select * from decisions d where d.seq = e.seq offset 0) d
  cross join lateral (select o.recorded_at from decisions o where o.seq = e.speaks_from offset 0) oldest`;

// $1 store, $2 generation, $3 after, $4 through, $5 kind, $6 code, $7 how many.
const PAGE = `
  select ${PARKED}
  from exceptions e ${ITS_DECISIONS}
  where e.store_id = $1 and e.generation = $2 and e.seq > $3 and e.seq <= $4
    and ($5::text is null or e.kind = $5) and ($6::text is null or e.code = $6)
  order by e.seq limit $7`;

const LOOKED_THROUGH = `
  select e.seq from exceptions e where e.store_id = $1 and e.generation = $2 and e.seq > $3
  order by e.seq offset ${LOOKED_AT - 1} limit 1`;

// The last evidence is of an older decision of the same subject, or of this one if the store has lost it since: what it then held
// of the person.
const ONE = `
  select ${PARKED}, e.generation, e.speaks_from,
    (select s.version from subjects s where s.id = e.subject_id offset 0) as newest_version,
    last.seq as last_seq, last.version as last_version, last.outcome as last_outcome, last.held as last_held,
    last.acknowledged_at as last_acknowledged_at, last.worker as last_worker
  from exceptions e ${ITS_DECISIONS}
  left join lateral (
    select a.* from decisions o
    cross join lateral (
      select * from acknowledgements a
      where a.store_id = $1 and a.generation = $2 and a.seq = o.seq and a.outcome <> 'superseded' offset 0) a
    where o.subject_id = e.subject_id and o.version <= e.version
    order by o.version desc limit 1) last on true
  where e.store_id = $1 and e.generation = $2 and e.seq = $3`;

// In sequence order, as they are parked, so that two transactions that lock several never wait for each other for ever. The request
// is counted in `asked`: a try that is under way ends with what it began with, and may fail after this (acknowledge.ts, PARK).
const TRY_AGAIN = `
  with parked as materialized (
    select e.seq from exceptions e
    where e.store_id = $1 and e.generation = $2 and e.seq > $3 and e.seq <= $4 and ($5::text is null or e.code = $5)
    order by e.seq limit ${STEP} for update
  )
  update exceptions e set next_try_at = clock_timestamp(), asked = asked + 1
  where e.store_id = $1 and e.generation = $2 and e.seq = any (array(select seq from parked))
  returning e.seq`;

const toParked = (store: string, row: Row): Parked => ({
  store,
  seq: row.seq,
  optOutId: row.opt_out_id ?? undefined,
  subjectId: row.subject_id,
  subjectKind: row.subject_kind,
  version: row.version,
  kind: row.kind,
  code: row.code ?? undefined,
  attempts: row.attempts,
  recordedAt: toMilliseconds(row.recorded_at),
  ageSeconds: Math.round(row.age * 1000) / 1000,
  since: toMilliseconds(row.since),
  nextTryAt: toMilliseconds(row.next_try_at),
});

/** Nothing is due to a retired store, and nobody would try again. */
async function storeInService(db: Queryable, name: string): Promise<RegisteredStore | undefined> {
  const store = await findStore(db, name);
  return store?.retiredAt === undefined ? store : undefined;
}

/**
 * A keyset page, oldest decision first; undefined if no such store is in service. A filtered page may hold fewer than it could and
 * have a next one. A malformed cursor throws AbideError('invalid-value').
 */
export async function listParked(
  db: Queryable,
  name: string,
  { limit, cursor = '0', kind, code }: ParkedFilter,
): Promise<{ parked: readonly Parked[]; nextCursor: string | undefined } | undefined> {
  if (!/^\d{1,15}$/.test(cursor)) {
    const errors = [{ pointer: '/cursor', detail: 'is not a cursor that a list answered' }];
    throw new AbideError('invalid-value', undefined, { errors });
  }
  const store = await storeInService(db, name);
  if (store === undefined) return undefined;
  const after = [store.id, store.generation, Number(cursor)];
  const filters = kind !== undefined || code !== undefined;
  const looked = filters
    ? (await db.query<{ seq: number }>({ name: 'parked-looked', text: LOOKED_THROUGH, values: after })).rows
    : [];
  const through = looked[0]?.seq;
  const { rows } = await db.query<Row>({
    name: 'parked-page',
    text: PAGE,
    values: [...after, through ?? SEQ_MAX, kind ?? null, code ?? null, limit + 1],
  });
  const page = rows.slice(0, limit);
  const next = rows.length > limit ? page.at(-1)!.seq : through;
  return {
    parked: page.map((row) => toParked(name, row)),
    nextCursor: next === undefined ? undefined : String(next),
  };
}

type FullRow = Row & {
  generation: number;
  speaks_from: number;
  newest_version: number;
  last_seq: number | null;
  last_version: number;
  last_outcome: string;
  last_held: { version?: number | null; suppressed: string[] } | null;
  last_acknowledged_at: string;
  last_worker: string;
};

/** A parked decision with all that is known of it; undefined if it is not parked (any more), or no such store is in service. */
export async function findParked(
  db: Queryable,
  name: string,
  seq: number,
): Promise<ParkedInFull | undefined> {
  const store = await storeInService(db, name);
  if (store === undefined) return undefined;
  const { rows } = await db.query<FullRow>({
    name: 'parked-one',
    text: ONE,
    values: [store.id, store.generation, seq],
  });
  const row = rows[0];
  if (row === undefined) return undefined;
  return {
    ...toParked(name, row),
    generation: row.generation,
    speaksFrom: row.speaks_from,
    newestVersion: row.newest_version,
    lastEvidence:
      row.last_seq === null
        ? undefined
        : {
            seq: row.last_seq,
            version: row.last_version,
            outcome: row.last_outcome,
            held: {
              version: row.last_held?.version ?? undefined,
              suppressed: row.last_held?.suppressed ?? [],
            },
            acknowledgedAt: toMilliseconds(row.last_acknowledged_at),
            worker: row.last_worker,
          },
  };
}

/**
 * Brings the next try forward to now: of one decision, of all with a code, or of everything that is parked. Their clocks and
 * attempts stay. Returns how many; undefined if no such store is in service. It works in steps, each audited in its own
 * transaction.
 */
export async function retryParked(
  pool: Pool,
  name: string,
  which: ParkedWhich,
  caller: Caller,
): Promise<number | undefined> {
  const store = await storeInService(pool, name);
  if (store === undefined) return undefined;
  const code = 'code' in which ? which.code : undefined;
  const [first, last] = 'seq' in which ? [which.seq, which.seq] : [1, SEQ_MAX];
  let retried = 0;
  for (let after = first - 1; ;) {
    const seqs = await tryAgain(pool, store, { after, through: last, code }, which, caller);
    retried += seqs.length;
    if (seqs.length < STEP) return retried;
    after = Math.max(...seqs);
  }
}

async function tryAgain(
  pool: Pool,
  store: RegisteredStore,
  { after, through, code }: { after: number; through: number; code: string | undefined },
  which: ParkedWhich,
  caller: Caller,
): Promise<readonly number[]> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await inTransaction(pool, async (client) => {
        const { rows } = await client.query<{ seq: number }>({
          name: 'parked-try-again',
          text: TRY_AGAIN,
          values: [store.id, store.generation, after, through, code ?? null],
        });
        if (rows.length > 0)
          await audit(client, caller, 'quarantine.retried', store.name, { ...which, retried: rows.length });
        return rows.map(({ seq }) => seq);
      });
    } catch (error) {
      // An acknowledgement that takes some of them out locks in an order of its own.
      if (!isRace(error) || attempt === RACES_MAX) throw error;
    }
  }
}
