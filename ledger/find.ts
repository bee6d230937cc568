// Reading opt-outs back: by id, as pages, by subject.
import type { Instant, SubjectState, Suppressed } from '../suppression/decision.ts';
import { Address, mask } from '../suppression/subject.ts';
import type { Subject, SubjectKind } from '../suppression/subject.ts';
import { AbideError } from '../suppression/errors.ts';
import { toMilliseconds } from './database.ts';
import type { Queryable } from './database.ts';
import type { KeyRing } from './key-ring.ts';
import type { FoundOptOut, ListFilter, OptOut, Propagation, Reason } from './ledger.ts';
import { propagationOf } from './propagation.ts';
import type { RegisteredStore } from './stores.ts';

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
export const isUuid = (text: string): boolean => UUID.test(text);

type OptOutRow = {
  id: string;
  requested_scopes: string[];
  effective_at: string;
  received_at: string;
  recorded_at: string;
  reason: Reason;
  client: string;
  idempotency_key: Buffer | null;
  first_completed_at: string | null;
  version: number;
  recorded_state: Record<string, Suppressed>;
  subject_id: string;
};

type FullRow = OptOutRow & {
  kind: SubjectKind;
  sealed: Buffer | null;
  state: Record<string, Suppressed>;
};

const OPT_OUT = `o.id, o.requested_scopes, o.effective_at, o.received_at, o.recorded_at, o.reason, o.client,
  o.idempotency_key, o.first_completed_at, b.version, b.state as recorded_state, b.subject_id`;
const FULL = `select ${OPT_OUT}, s.kind, s.sealed, s.state
  from opt_outs o
  cross join lateral (select * from opt_out_subjects b where b.opt_out_id = o.id offset 0) b
  cross join lateral (select * from subjects s where s.id = b.subject_id offset 0) s`;

const toOptOut = (row: OptOutRow, ring: KeyRing): OptOut => ({
  id: row.id,
  requestedScopes: row.requested_scopes,
  effectiveAt: toMilliseconds(row.effective_at),
  receivedAt: toMilliseconds(row.received_at),
  recordedAt: toMilliseconds(row.recorded_at),
  reason: row.reason,
  client: row.client,
  idempotencyKey:
    row.idempotency_key === null
      ? `auto_${row.id}`
      : ring.unseal(row.idempotency_key, [row.id, 'idempotency_key']),
  firstCompletedAt: row.first_completed_at === null ? undefined : toMilliseconds(row.first_completed_at),
});

/** The opt-outs behind a state, each with the version that it made; for a repeat's answer, inside its transaction. */
export async function findOptOutRecords(
  db: Queryable,
  ring: KeyRing,
  ids: readonly string[],
): Promise<{ optOut: OptOut; version: number }[]> {
  const { rows } = await db.query<OptOutRow>({
    name: 'find-opt-out-records',
    text: `select ${OPT_OUT} from opt_outs o
           cross join lateral (select * from opt_out_subjects b where b.opt_out_id = o.id offset 0) b
           where o.id = any ($1::uuid[])`,
    values: [ids],
  });
  return rows.map((row) => ({ optOut: toOptOut(row, ring), version: row.version }));
}

/** The newest opt-out of a subject with the same scopes and the same stated date. */
export async function findSameOptOut(
  db: Queryable,
  ring: KeyRing,
  subjectId: string,
  scopes: readonly string[],
  effectiveAt: Instant,
): Promise<OptOut | undefined> {
  const { rows } = await db.query<OptOutRow>(
    `select ${OPT_OUT} from opt_out_subjects b
     cross join lateral (select * from opt_outs o where o.id = b.opt_out_id offset 0) o
     where b.subject_id = $1 and o.effective_at = $2 and o.effective_at_stated
       and o.requested_scopes <@ $3::text[] and o.requested_scopes @> $3::text[]
     order by b.version desc limit 1`,
    [subjectId, effectiveAt, scopes],
  );
  return rows[0] === undefined ? undefined : toOptOut(rows[0], ring);
}

type Context = { readonly ring: KeyRing; readonly stores: readonly RegisteredStore[] };

/** Keeps the first completion once it is seen, so that nothing that happens later can move it. */
async function keepFirstCompletions(
  db: Queryable,
  rows: readonly OptOutRow[],
  found: ReadonlyMap<string, Propagation>,
): Promise<void> {
  const fresh = rows.filter(
    (row) => row.first_completed_at === null && found.get(row.id)?.firstCompletedAt !== undefined,
  );
  if (fresh.length === 0) return;
  await db.query(
    `update opt_outs o set first_completed_at = x.at from unnest($1::uuid[], $2::timestamptz[]) x (id, at)
     where o.id = x.id and o.first_completed_at is null`,
    [fresh.map((row) => row.id), fresh.map((row) => found.get(row.id)?.firstCompletedAt)],
  );
}

async function toFound(
  db: Queryable,
  rows: readonly FullRow[],
  { ring, stores }: Context,
): Promise<FoundOptOut[]> {
  if (rows.length === 0) return [];
  const propagation = await propagationOf(
    db,
    stores,
    rows.map((row) => row.id),
  );
  await keepFirstCompletions(db, rows, propagation);
  return rows.map((row) => {
    const address =
      row.sealed === null ? undefined : new Address(ring.unseal(row.sealed, [row.subject_id, row.kind]));
    const state: SubjectState = { version: row.version, suppressed: row.recorded_state, granted: {} };
    return {
      optOut: toOptOut(row, ring),
      subject: {
        kind: row.kind,
        masked: address === undefined ? undefined : mask({ kind: row.kind, value: address }),
      },
      state,
      inForce: row.requested_scopes.every((scope) => row.state[scope] !== undefined),
      propagation: propagation.get(row.id)!,
    };
  });
}

/** `client` is whose it must be, asked in the statement itself: another's takes no more of it than one that is not there. */
export async function findOptOut(
  db: Queryable,
  context: Context,
  id: string,
  client: string | undefined,
): Promise<FoundOptOut | undefined> {
  if (!isUuid(id)) return undefined;
  const { rows } = await db.query<FullRow>({
    name: 'find-opt-out',
    text: `${FULL} where o.id = $1 and ($2::text is null or o.client = $2)`,
    values: [id, client ?? null],
  });
  return (await toFound(db, rows, context))[0];
}

/** The first UUIDv7 of a millisecond, as a bound on ids. */
const firstIdAt = (ms: number): string => {
  const digits = Math.max(0, Math.floor(ms)).toString(16).padStart(12, '0');
  return `${digits.slice(0, 8)}-${digits.slice(8)}-0000-0000-000000000000`;
};

// Ids are made by the API's clock, dates by the database's: a bound on ids is only a bound for the index.
const CLOCKS_APART_MS = 3_600_000;
/** How many rows a page may look at when it filters by propagation, which no index knows. */
const LOOKED_AT = 2_000;

/** A keyset page, newest first. A malformed cursor throws AbideError('invalid-value'). */
export async function listOptOuts(
  db: Queryable,
  context: Context,
  filter: ListFilter,
): Promise<{ optOuts: readonly FoundOptOut[]; nextCursor: string | undefined }> {
  let below =
    filter.cursor === undefined
      ? 'ffffffff-ffff-ffff-ffff-ffffffffffff'
      : Buffer.from(filter.cursor, 'base64url').toString();
  if (!isUuid(below)) {
    const errors = [{ pointer: '/cursor', detail: 'is not a cursor that a list answered' }];
    throw new AbideError('invalid-value', undefined, { errors });
  }
  const byPropagation = filter.state !== undefined || filter.store !== undefined;
  const optOuts: FoundOptOut[] = [];
  for (let looked = 0; looked < LOOKED_AT;) {
    const page = byPropagation ? 200 : filter.limit + 1;
    const { rows } = await db.query<FullRow>(
      `${FULL} where o.id < $1 and o.id >= $2 and ($3::text is null or o.client = $3)
         and ($4::timestamptz is null or o.recorded_at >= $4) and ($5::timestamptz is null or o.recorded_at < $5)
         and ($6::text is null or o.reason = $6)
         and ($7::uuid is null or o.id < $7)
       order by o.id desc limit $8`,
      [
        below,
        firstIdAt(filter.since === undefined ? 0 : Date.parse(filter.since) - CLOCKS_APART_MS),
        filter.client ?? null,
        filter.since ?? null,
        filter.until ?? null,
        filter.reason ?? null,
        filter.until === undefined ? null : firstIdAt(Date.parse(filter.until) + CLOCKS_APART_MS),
        page,
      ],
    );
    for (const found of await toFound(db, rows, context)) {
      if (optOuts.length === filter.limit) return { optOuts, nextCursor: cursorOf(below) };
      below = found.optOut.id;
      if (matches(found, filter)) optOuts.push(found);
    }
    looked += rows.length;
    if (rows.length < page) return { optOuts, nextCursor: undefined };
  }
  return { optOuts, nextCursor: cursorOf(below) };
}

const cursorOf = (id: string): string => Buffer.from(id).toString('base64url');

const matches = ({ propagation }: FoundOptOut, { state, store }: ListFilter): boolean => {
  if (store === undefined) return state === undefined || propagation.state === state;
  const at = propagation.stores.find((one) => one.store === store);
  if (at === undefined) return false;
  const settled = ['verified', 'applied', 'superseded', 'absent'].includes(at.state);
  return state === undefined || (state === 'complete' ? settled : state === 'pending' && !settled);
};

/** What is known of a subject: its state now, and its opt-outs, newest first, at most 100. */
export async function lookupSubject(
  db: Queryable,
  context: Context,
  subject: Subject,
): Promise<{ state: SubjectState; optOuts: readonly FoundOptOut[]; propagation: Propagation | undefined }> {
  const { rows: known } = await db.query<{
    id: string;
    version: number;
    state: Record<string, Suppressed>;
    granted: SubjectState['granted'];
  }>({
    name: 'find-subject',
    text: 'select id, version, state, granted from subjects where match_key = $1 and pepper_id = $2 and kind = $3',
    values: [context.ring.matchKey(subject), context.ring.pepperId, subject.kind],
  });
  const row = known[0];
  if (row === undefined) {
    return { state: { version: 0, suppressed: {}, granted: {} }, optOuts: [], propagation: undefined };
  }
  const { rows } = await db.query<FullRow>(
    `select ${OPT_OUT}, s.kind, s.sealed, s.state
     from opt_out_subjects b
     cross join lateral (select * from opt_outs o where o.id = b.opt_out_id offset 0) o
     cross join lateral (select * from subjects s where s.id = b.subject_id offset 0) s
     where b.subject_id = $1 order by b.version desc, b.opt_out_id desc limit 100`,
    [row.id],
  );
  const optOuts = await toFound(db, rows, context);
  return {
    state: { version: row.version, suppressed: row.state, granted: row.granted },
    optOuts,
    propagation: optOuts[0]?.propagation,
  };
}
