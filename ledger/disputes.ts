// Opt-outs that a client made by mistake or out of malice. They are marked and go on suppressing: nobody can tell those who really
// opted out from those who did not, so each person is to be asked, and only the person's own grant lifts anything.
import { randomUUIDv7 } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { AbideError } from '../suppression/errors.ts';
import type { SubjectKind } from '../suppression/subject-kind.ts';
import { audit } from './audit.ts';
import type { Caller } from './contract/audit.ts';
import { BEFORE_EVERY_ID, inTransaction } from './database.ts';
import type { Pool, Queryable } from './database.ts';
import { isFinal, takeFence } from './fence.ts';
import { isUuid } from './find.ts';
import { unsealUndamaged } from './key-ring.ts';
import type { KeyRing } from './key-ring.ts';

/** A page is one statement and, if it marks, a short transaction: nobody waits for it, however large a window is. */
const PAGE = 5_000;
const FINAL_MS = 50;
const FINAL_MS_MAX = 10_000;

export type Dispute = {
  readonly id: string;
  readonly keyId: string;
  readonly client: string;
  readonly since: string;
  readonly until: string;
  readonly reason: string;
  readonly openedAt: string;
  readonly openedBy: string;
  readonly optOuts: number;
};

/** One identifier of a disputed opt-out. */
export type Disputed = {
  readonly optOutId: string;
  readonly subjectId: string;
  readonly kind: SubjectKind;
  /** Undefined once the subject is erased. */
  readonly sealed: Buffer | undefined;
  readonly scopes: readonly string[];
  readonly recordedAt: string;
  /** Those of these scopes that are suppressed now because of this opt-out and not of an earlier one. */
  readonly stillSuppressed: readonly string[];
};

/**
 * Marks every opt-out that a key recorded from `since` to before `until`, and returns the dispute; undefined if there is no such
 * opt-out. `client` is for a key that is not ours: all tokens of an issuer have one key id. Throws AbideError: invalid-value (an
 * unknown key, a window that is not over), ledger-unavailable (a transaction has been open since before the window ended).
 */
export async function openDispute(
  pool: Pool,
  {
    keyId,
    client,
    since,
    until,
    reason,
    caller,
    onMarked = () => undefined,
  }: {
    keyId: string;
    client: string | undefined;
    since: string;
    until: string;
    reason: string;
    caller: Caller;
    onMarked?: (optOuts: number) => void;
  },
): Promise<Dispute | undefined> {
  const of = client ?? (await clientOf(pool, keyId));
  if (of === undefined) {
    throw new AbideError(
      'invalid-value',
      `There is no key ${keyId}. For an access token, give its --client as well.`,
    );
  }
  await untilFinal(pool, until);
  const id = randomUUIDv7();
  let optOuts = 0;
  for (let after: string | undefined = BEFORE_EVERY_ID; after !== undefined;) {
    const page: MarkedPage = await markPage(pool, { id, keyId, client: of, since, until, after });
    after = page.last;
    optOuts += page.marked;
    onMarked(optOuts);
  }
  if (optOuts === 0) return undefined;
  // Last: a dispute that exists is whole. The marks of an interrupted one belong to no dispute and say nothing.
  await inTransaction(pool, async (db) => {
    await db.query(
      `insert into disputes (id, key_id, client, since, until, reason, opened_at, opened_by)
       values ($1, $2, $3, $4, $5, $6, clock_timestamp(), $7)`,
      [id, keyId, of, since, until, reason, caller.client],
    );
    await audit(db, caller, 'dispute.opened', id, {
      key_id: keyId,
      client: of,
      since,
      until,
      opt_outs: optOuts,
      reason,
    });
  });
  return (await findDispute(pool, id))!;
}

async function clientOf(db: Queryable, keyId: string): Promise<string | undefined> {
  const { rows } = await db.query<{ client: string }>('select client from api_keys where id = $1', [keyId]);
  return rows[0]?.client;
}

/** Waits until nothing recorded before then can still appear: a recording under way already has its time. */
async function untilFinal(pool: Pool, until: string): Promise<void> {
  const { rows } = await pool.query<{ over: boolean }>(
    'select $1::timestamptz <= clock_timestamp() as over',
    [until],
  );
  if (rows[0]?.over !== true)
    throw new AbideError('invalid-value', 'The window must be over: what comes later would not be marked.');
  const fence = await takeFence(pool);
  if (fence === undefined) return;
  for (const end = performance.now() + FINAL_MS_MAX; !(await isFinal(pool, fence));) {
    if (performance.now() > end) {
      throw new AbideError(
        'ledger-unavailable',
        'A transaction that began before the end of the window is still open: `abide doctor` names its process. End the window before it began, or end the transaction.',
      );
    }
    await delay(FINAL_MS);
  }
}

type MarkedPage = { readonly last: string | undefined; readonly marked: number };

/**
 * By client, which has an index; an index by key would slow down every recording. Rows are compared so that the planner takes it: with
 * `client = …` it may take the primary key, and walk past everybody else's (find.ts, listOptOuts).
 */
export const MARK_PAGE = `
  with page as materialized (
    select id, key_id, recorded_at from opt_outs
    where (client, id) > ($2, $3) and (client, id) <= ($2, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    order by client, id limit ${PAGE}
  ), marked as (
    insert into disputed_opt_outs (dispute_id, opt_out_id)
    select $1, id from page where key_id = $4 and recorded_at >= $5 and recorded_at < $6
    returning opt_out_id
  )
  select (select id from page order by id desc limit 1) as last, (select count(*) from marked) as marked`;

async function markPage(
  db: Queryable,
  window: { id: string; keyId: string; client: string; since: string; until: string; after: string },
): Promise<MarkedPage> {
  const { rows } = await db.query<{ last: string | null; marked: number }>({
    name: 'mark-disputed',
    text: MARK_PAGE,
    values: [window.id, window.client, window.after, window.keyId, window.since, window.until],
  });
  const { last, marked } = rows[0]!;
  return { last: last ?? undefined, marked };
}

type Row = {
  id: string;
  key_id: string;
  client: string;
  since: string;
  until: string;
  reason: string;
  opened_at: string;
  opened_by: string;
  opt_outs: number;
};

const SELECT = `select id, key_id, client, since, until, reason, opened_at, opened_by,
  (select count(*) from disputed_opt_outs o where o.dispute_id = d.id) as opt_outs from disputes d`;

const toDispute = (row: Row): Dispute => ({
  id: row.id,
  keyId: row.key_id,
  client: row.client,
  since: row.since,
  until: row.until,
  reason: row.reason,
  openedAt: row.opened_at,
  openedBy: row.opened_by,
  optOuts: row.opt_outs,
});

/** Newest first. */
export async function listDisputes(db: Queryable): Promise<readonly Dispute[]> {
  const { rows } = await db.query<Row>(`${SELECT} order by id desc`);
  return rows.map(toDispute);
}

export async function findDispute(db: Queryable, id: string): Promise<Dispute | undefined> {
  if (!isUuid(id)) return undefined;
  const { rows } = await db.query<Row>(`${SELECT} where id = $1`, [id]);
  return rows[0] && toDispute(rows[0]);
}

/** Says in the audit log that somebody exports the addresses, before the first of them. */
export const auditExport = (db: Queryable, { id, optOuts }: Dispute, caller: Caller): Promise<void> =>
  audit(db, caller, 'dispute.exported', id, { opt_outs: optOuts });

/** The people whom a dispute is about, a page at a time, in the order in which they were recorded. */
export async function* disputedPages(db: Queryable, disputeId: string): AsyncGenerator<readonly Disputed[]> {
  for (let after = BEFORE_EVERY_ID; ;) {
    const { rows } = await db.query<{
      opt_out_id: string;
      subject_id: string;
      kind: SubjectKind;
      sealed: Buffer | null;
      requested_scopes: string[];
      recorded_at: string;
      still: string[];
    }>({
      name: 'read-disputed',
      text: `select d.opt_out_id, b.subject_id, s.kind, s.sealed, o.requested_scopes, o.recorded_at,
               array(select held.key from jsonb_each(s.state) held
                     where held.value ->> 'opt_out_id' = d.opt_out_id::text order by held.key) as still
             from (select opt_out_id from disputed_opt_outs
                   where dispute_id = $1 and opt_out_id > $2 order by opt_out_id limit ${PAGE}) d
             join lateral (select * from opt_outs o where o.id = d.opt_out_id offset 0) o on true
             join lateral (select * from opt_out_subjects b where b.opt_out_id = d.opt_out_id offset 0) b on true
             join lateral (select * from subjects s where s.id = b.subject_id offset 0) s on true
             order by d.opt_out_id, b.position`,
      values: [disputeId, after],
    });
    const last = rows.at(-1);
    if (last === undefined) return;
    yield rows.map((row) => ({
      optOutId: row.opt_out_id,
      subjectId: row.subject_id,
      kind: row.kind,
      sealed: row.sealed ?? undefined,
      scopes: row.requested_scopes,
      recordedAt: row.recorded_at,
      stillSuppressed: row.still,
    }));
    after = last.opt_out_id;
  }
}

/** The plain address; undefined once the subject is erased, and if what is sealed was damaged. */
export const addressOf = (ring: KeyRing, { sealed, subjectId, kind }: Disputed): string | undefined =>
  sealed && unsealUndamaged(ring, sealed, [subjectId, kind]);
