// Reads opt-outs back: by id, as pages, by subject.
import type { Instant, SubjectState, Suppressed } from '../suppression/decision.ts';
import { coveredBy } from '../suppression/scope.ts';
import type { Scope } from '../suppression/scope.ts';
import { Address, mask } from '../suppression/subject.ts';
import type { Subject } from '../suppression/subject.ts';
import type { SubjectKind } from '../suppression/subject-kind.ts';
import { AbideError } from '../suppression/errors.ts';
import type { FoundGrant, Grant } from './contract/grants.ts';
import type {
  Evidence,
  FoundOptOut,
  FoundSubject,
  ListFilter,
  OptOut,
  Reason,
  Regime,
} from './contract/opt-outs.ts';
import type { Propagation } from './contract/propagation.ts';
import { inTransaction, toMilliseconds } from './database.ts';
import type { Pool, Queryable } from './database.ts';
import { unsealUndamaged } from './key-ring.ts';
import type { KeyRing } from './key-ring.ts';
import { propagationOf, propagationOfGrants } from './propagation.ts';
import { listStores } from './stores.ts';
import type { RegisteredStore } from './stores.ts';
import { everyMatch, subjectKey } from './subject-key.ts';

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
export const isUuid = (text: string): boolean => UUID.test(text);

type OptOutRow = {
  id: string;
  requested_scopes: Scope[];
  effective_at: string;
  received_at: string;
  recorded_at: string;
  reason: Reason;
  regimes: Regime[];
  client: string;
  idempotency_key: Buffer | null;
  first_completed_at: string | null;
};

type SubjectRow = {
  id: string;
  kind: SubjectKind;
  sealed: string | null;
  state: Record<string, Suppressed>;
  version: number;
  recorded_state: Record<string, Suppressed>;
};

type FullRow = OptOutRow & { evidence: Buffer | null; subjects: SubjectRow[] };

const OPT_OUT = `o.id, o.requested_scopes, o.effective_at, o.received_at, o.recorded_at, o.reason, o.regimes, o.client,
  o.idempotency_key, o.first_completed_at`;
/** The subjects of `o`, an opt-out, in the order of its request. */
const SUBJECTS = `cross join lateral (
    select json_agg(json_build_object('id', s.id, 'kind', s.kind, 'sealed', encode(s.sealed, 'base64'), 'state', s.state,
             'version', b.version, 'recorded_state', b.state) order by b.position) as subjects
    from opt_out_subjects b
    cross join lateral (select * from subjects s where s.id = b.subject_id offset 0) s
    where b.opt_out_id = o.id) b`;
const FULL = `select ${OPT_OUT}, o.evidence, b.subjects from opt_outs o ${SUBJECTS}`;

const toOptOut = (row: OptOutRow, ring: KeyRing): OptOut => ({
  id: row.id,
  requestedScopes: row.requested_scopes,
  effectiveAt: toMilliseconds(row.effective_at),
  receivedAt: toMilliseconds(row.received_at),
  recordedAt: toMilliseconds(row.recorded_at),
  reason: row.reason,
  regimes: row.regimes,
  client: row.client,
  idempotencyKey:
    row.idempotency_key === null
      ? `auto_${row.id}`
      : ring.unseal(row.idempotency_key, [row.id, 'idempotency_key']),
  firstCompletedAt: row.first_completed_at === null ? undefined : toMilliseconds(row.first_completed_at),
});

/** The one of these opt-outs that gave a subject its newest version; for the answer to a repeat, inside its transaction. */
export async function findNewestOf(
  db: Queryable,
  ring: KeyRing,
  subjectId: string,
  ids: readonly string[],
): Promise<OptOut | undefined> {
  const { rows } = await db.query<OptOutRow>({
    name: 'find-newest-of',
    text: `select ${OPT_OUT} from opt_outs o
           cross join lateral (
             select * from opt_out_subjects b where b.opt_out_id = o.id and b.subject_id = $2 offset 0) b
           where o.id = any ($1::uuid[]) order by b.version desc limit 1`,
    values: [ids, subjectId],
  });
  return rows[0] && toOptOut(rows[0], ring);
}

/** The newest opt-out that names all of these subjects and meets a condition on `o`. */
async function findNamingAll(
  db: Queryable,
  ring: KeyRing,
  subjectIds: readonly string[],
  condition: string,
  values: readonly unknown[],
): Promise<OptOut | undefined> {
  const [first, ...others] = subjectIds;
  const { rows } = await db.query<OptOutRow>(
    `select ${OPT_OUT} from opt_out_subjects b
     cross join lateral (select * from opt_outs o where o.id = b.opt_out_id offset 0) o
     where b.subject_id = $1 and ${condition}
       and not exists (select from unnest($2::uuid[]) other (id) where not exists (
         select from opt_out_subjects also where also.subject_id = other.id and also.opt_out_id = o.id offset 0))
     order by b.version desc limit 1`,
    [first, others, ...values],
  );
  return rows[0] === undefined ? undefined : toOptOut(rows[0], ring);
}

/** The newest opt-out of these subjects together, with the same scopes and the same stated date. */
export const findSameOptOut = (
  db: Queryable,
  ring: KeyRing,
  subjectIds: readonly string[],
  scopes: readonly string[],
  effectiveAt: Instant,
): Promise<OptOut | undefined> =>
  findNamingAll(
    db,
    ring,
    subjectIds,
    `o.effective_at = $3 and o.effective_at_stated
       and o.requested_scopes <@ $4::text[] and o.requested_scopes @> $4::text[]`,
    [effectiveAt, scopes],
  );

/** The newest opt-out of these subjects together that asked for all of the scopes, or more. */
export const findOptOutTogether = (
  db: Queryable,
  ring: KeyRing,
  subjectIds: readonly string[],
  scopes: readonly string[],
): Promise<OptOut | undefined> =>
  findNamingAll(db, ring, subjectIds, 'o.requested_scopes @> $3::text[]', [scopes]);

type Context = { readonly ring: KeyRing; readonly stores: readonly RegisteredStore[] };

/**
 * Keeps the first completion once it is seen, so that nothing that happens later can move it. A row that somebody else holds is left
 * to the next reader: whoever waits for one while holding others may end in a deadlock with an erasure, or another page.
 */
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
    `with free as materialized (
       select id from opt_outs where id = any ($1::uuid[]) and first_completed_at is null for no key update skip locked)
     update opt_outs o set first_completed_at = x.at
     from unnest($1::uuid[], $2::timestamptz[]) x (id, at) join free using (id)
     where o.id = x.id and o.first_completed_at is null`,
    [fresh.map((row) => row.id), fresh.map((row) => found.get(row.id)?.firstCompletedAt)],
  );
}

async function toFound(db: Queryable, rows: readonly FullRow[], context: Context): Promise<FoundOptOut[]> {
  if (rows.length === 0) return [];
  const propagation = await propagationOf(
    db,
    context.stores,
    rows.map((row) => row.id),
  );
  await keepFirstCompletions(db, rows, propagation);
  return rows.map((row) => asFound(row, propagation.get(row.id)!, context.ring));
}

const asFound = (row: FullRow, propagation: Propagation, ring: KeyRing): FoundOptOut => ({
  optOut: toOptOut(row, ring),
  subjects: row.subjects.map((subject) => toFoundSubject(subject, ring)),
  inForce: row.subjects.every(({ state }) =>
    row.requested_scopes.every((scope) => coveredBy(state, scope) !== undefined),
  ),
  evidence: row.evidence === null ? undefined : unsealEvidence(ring, row.evidence, row.id),
  propagation,
});

function toFoundSubject(row: Omit<SubjectRow, 'state'>, ring: KeyRing): FoundSubject {
  const text =
    row.sealed === null
      ? undefined
      : unsealUndamaged(ring, Buffer.from(row.sealed, 'base64'), [row.id, row.kind]);
  const address = text === undefined ? undefined : new Address(text);
  return {
    id: row.id,
    kind: row.kind,
    address,
    masked: address === undefined ? undefined : mask({ kind: row.kind, value: address }),
    state: { version: row.version, suppressed: row.recorded_state, granted: {} },
  };
}

export const sealEvidence = (ring: KeyRing, evidence: Evidence, id: string): Buffer =>
  ring.seal(JSON.stringify(evidence), [id, 'evidence']);
const unsealEvidence = (ring: KeyRing, sealed: Buffer, id: string): Evidence =>
  JSON.parse(ring.unseal(sealed, [id, 'evidence'])) as Evidence;

/** `client`: whose it must be, checked in the statement itself, so that another's takes no longer than a missing one. */
export async function findOptOut(
  db: Queryable,
  context: Context,
  id: string,
  client: string | undefined,
): Promise<FoundOptOut | undefined> {
  return (await toFound(db, await readOptOut(db, id, client), context))[0];
}

async function readOptOut(db: Queryable, id: string, client: string | undefined): Promise<FullRow[]> {
  if (!isUuid(id)) return [];
  const { rows } = await db.query<FullRow>({
    name: 'find-opt-out',
    text: `${FULL} where o.id = $1 and ($2::text is null or o.client = $2)`,
    values: [id, client ?? null],
  });
  return rows;
}

/**
 * The same, all of it as the database had it at one moment: a receipt must not put together what never was. So the stores are read
 * as well: those in memory are up to half a second old.
 */
export async function findOptOutAsOf(
  pool: Pool,
  ring: KeyRing,
  id: string,
  client: string | undefined,
): Promise<{ readonly asOf: Instant; readonly found: FoundOptOut } | undefined> {
  const seen = await inTransaction(pool, async (db) => {
    await db.query('set transaction isolation level repeatable read, read only');
    const { rows: clock } = await db.query<{ at: string }>('select clock_timestamp() as at');
    const [row] = await readOptOut(db, id, client);
    if (row === undefined) return undefined;
    const stores = await listStores(db);
    return { at: clock[0]!.at, row, propagation: await propagationOf(db, stores, [row.id]) };
  });
  if (seen === undefined) return undefined;
  const { at, row, propagation } = seen;
  await keepFirstCompletions(pool, [row], propagation);
  const found = asFound(row, propagation.get(row.id)!, ring);
  // A receipt would sign for ever that they are erased.
  if (row.subjects.some(({ sealed }, n) => sealed !== null && found.subjects[n]!.address === undefined))
    throw new AbideError('SEALED_UNREADABLE');
  return { asOf: toMilliseconds(at), found };
}

/** The first UUIDv7 of a millisecond, as a bound on ids. */
const firstIdAt = (ms: number): string => {
  const digits = Math.max(0, Math.floor(ms)).toString(16).padStart(12, '0');
  return `${digits.slice(0, 8)}-${digits.slice(8)}-0000-0000-000000000000`;
};

// Ids are made by the API's clock, dates by the database's: a bound on ids only narrows the index scan.
const CLOCKS_APART_MS = 3_600_000;
/** How many opt-outs a page may look at when it filters by propagation, which has to be read for each of them. */
const LOOKED_AT = 2_000;
/** How many it may look at when it filters by what stands in the row and in no index. */
const ROWS_LOOKED_AT = 50_000;

/**
 * A keyset page, newest first. A filtered page may hold fewer than it could and have a next one. A malformed cursor throws
 * AbideError('invalid-value').
 */
export async function listOptOuts(
  db: Queryable,
  context: Context,
  filter: ListFilter,
): Promise<{ optOuts: readonly FoundOptOut[]; nextCursor: string | undefined } | undefined> {
  let below =
    filter.cursor === undefined
      ? 'ffffffff-ffff-ffff-ffff-ffffffffffff'
      : Buffer.from(filter.cursor, 'base64url').toString();
  if (!isUuid(below)) {
    const errors = [{ pointer: '/cursor', detail: 'is not a cursor that a list answered' }];
    throw new AbideError('invalid-value', undefined, { errors });
  }
  if (filter.store !== undefined && !context.stores.some(({ name }) => name === filter.store))
    return undefined;
  const { client, since, until, reason } = filter;
  if (until !== undefined) {
    const end = firstIdAt(Date.parse(until) + CLOCKS_APART_MS);
    if (end < below) below = end;
  }
  // Rows are compared, and the order names the client, so that only the index by client gives it: with `client = …`, the planner
  // takes the primary key if it believes that nearly every row is this client's, and walks past everybody else's.
  const between = (parameter: string): string =>
    client === undefined
      ? 'o.id < $1 and o.id >= $2'
      : `(o.client, o.id) < (${parameter}, $1) and (o.client, o.id) >= (${parameter}, $2)`;
  const order = client === undefined ? 'o.id desc' : 'o.client desc, o.id desc';
  const whose = client === undefined ? [] : [client];
  let from = firstIdAt(since === undefined ? 0 : Date.parse(since) - CLOCKS_APART_MS);
  let nextCursor: string | undefined;
  if (since !== undefined || until !== undefined || reason !== undefined) {
    const { rows } = await db.query<{ id: string }>(
      `select o.id from opt_outs o where ${between('$3')} order by ${order} offset ${ROWS_LOOKED_AT - 1} limit 1`,
      [below, from, ...whose],
    );
    if (rows[0] !== undefined) {
      from = rows[0].id;
      nextCursor = cursorOf(from);
    }
  }
  const byPropagation = filter.state !== undefined || filter.store !== undefined;
  const page = byPropagation ? 200 : filter.limit + 1;
  const optOuts: FoundOptOut[] = [];
  for (let looked = 0; looked < LOOKED_AT; looked += page) {
    const { rows } = await db.query<FullRow>(
      `${FULL} where ${between('$7')}
         and ($3::timestamptz is null or o.recorded_at >= $3) and ($4::timestamptz is null or o.recorded_at < $4)
         and ($5::text is null or o.reason = $5)
       order by ${order} limit $6`,
      [below, from, since ?? null, until ?? null, reason ?? null, page, ...whose],
    );
    for (const found of await toFound(db, rows, context)) {
      if (optOuts.length === filter.limit) return { optOuts, nextCursor: cursorOf(below) };
      below = found.optOut.id;
      if (matches(found, filter)) optOuts.push(found);
    }
    if (rows.length < page) return { optOuts, nextCursor };
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
    text: `select id, version, state, granted from subjects
           where match_key = any ($1::bytea[]) and is_newest_pepper($2) and kind = $3`,
    values: [everyMatch([subjectKey(context.ring, subject)]), context.ring.pepperId, subject.kind],
  });
  const row = known[0];
  if (row === undefined) {
    return { state: { version: 0, suppressed: {}, granted: {} }, optOuts: [], propagation: undefined };
  }
  const { rows } = await db.query<FullRow>(
    `select ${OPT_OUT}, o.evidence, b.subjects
     from opt_out_subjects named
     cross join lateral (select * from opt_outs o where o.id = named.opt_out_id offset 0) o
     ${SUBJECTS}
     where named.subject_id = $1 order by named.version desc, named.opt_out_id desc limit 100`,
    [row.id],
  );
  const optOuts = await toFound(db, rows, context);
  return {
    state: { version: row.version, suppressed: row.state, granted: row.granted },
    optOuts,
    propagation: optOuts[0]?.propagation,
  };
}

type GrantRow = {
  id: string;
  requested_scopes: Scope[];
  lifted_scopes: Scope[];
  granted_at: string;
  received_at: string;
  recorded_at: string;
  client: string;
  idempotency_key: Buffer | null;
  evidence: Buffer;
  subject_id: string;
  kind: SubjectKind;
  sealed: string | null;
  version: number;
  state: Record<string, Suppressed>;
};

/** A grant by its id, or the newest one that a subject gave for the same scopes at the same time. */
export async function findGrant(
  db: Queryable,
  { ring, stores }: Context,
  by:
    | { readonly id: string; readonly client: string | undefined }
    | { readonly subjectId: string; readonly scopes: readonly Scope[]; readonly grantedAt: Instant },
): Promise<FoundGrant | undefined> {
  const byId = 'id' in by;
  if (byId && !isUuid(by.id)) return undefined;
  const { rows } = await db.query<GrantRow>(
    `select g.id, g.requested_scopes, g.lifted_scopes, g.granted_at, g.received_at, g.recorded_at, g.client,
            g.idempotency_key, g.evidence, g.subject_id, s.kind, encode(s.sealed, 'base64') as sealed,
            g.version, s.state
     from grants g cross join lateral (select * from subjects s where s.id = g.subject_id offset 0) s
     where ${
       byId
         ? 'g.id = $1 and ($2::text is null or g.client = $2)'
         : `g.subject_id = $1 and g.granted_at = $2
            and g.requested_scopes <@ $3::text[] and g.requested_scopes @> $3::text[]`
     } order by g.version desc limit 1`,
    byId ? [by.id, by.client ?? null] : [by.subjectId, by.grantedAt, by.scopes],
  );
  const row = rows[0];
  if (row === undefined) return undefined;
  const grant: Grant = {
    id: row.id,
    requestedScopes: row.requested_scopes,
    liftedScopes: row.lifted_scopes,
    grantedAt: toMilliseconds(row.granted_at),
    receivedAt: toMilliseconds(row.received_at),
    recordedAt: toMilliseconds(row.recorded_at),
    client: row.client,
    idempotencyKey:
      row.idempotency_key === null
        ? `auto_${row.id}`
        : ring.unseal(row.idempotency_key, [row.id, 'idempotency_key']),
  };
  const propagation = await propagationOfGrants(db, stores, [row.id]);
  return {
    grant,
    subject: toFoundSubject({ ...row, id: row.subject_id, recorded_state: {} }, ring),
    inForce: row.requested_scopes.every((scope) => coveredBy(row.state, scope) === undefined),
    stillSuppressed: Object.keys(row.state) as Scope[],
    evidence: unsealEvidence(ring, row.evidence, row.id),
    propagation: propagation.get(row.id)!,
  };
}
