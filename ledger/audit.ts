import type { Instant } from '../suppression/decision.ts';
import type { AuditEntry, Caller } from './contract/audit.ts';
import type { Queryable } from './database.ts';

/** Writes what was done, in the transaction that does it. Details carry ids and counts, never an address. */
export async function audit(
  db: Queryable,
  caller: Caller | undefined,
  action: string,
  resource: string | undefined,
  details: object,
): Promise<void> {
  await db.query(
    `insert into audit_log (at, client, key_id, caller_address, action, resource, request_id, details)
     values (clock_timestamp(), $1, $2, $3, $4, $5, $6, $7)`,
    [
      caller?.client ?? null,
      caller?.keyId ?? null,
      caller?.address ?? null,
      action,
      resource ?? null,
      caller?.requestId ?? null,
      JSON.stringify(details),
    ],
  );
}

type Row = {
  seq: number;
  at: string;
  client: string | null;
  key_id: string | null;
  caller_address: string | null;
  action: string;
  resource: string | null;
  request_id: string | null;
  details: Record<string, unknown>;
};

/** Which entries to read; a filter that is left out lets every entry through. */
export type AuditFilter = {
  readonly action?: string | undefined;
  readonly key?: string | undefined;
  /** At this instant or later. */
  readonly since?: Instant | undefined;
  /** Before this instant. */
  readonly until?: Instant | undefined;
};

// A filter only leaves rows out of a walk along the primary key: who asks for what is rare bounds the walk by $7.
export const AUDIT_PAGE = `
  select seq, at, client, key_id, caller_address, action, resource, request_id, details
  from audit_log
  where seq > $1 and seq <= $7 and ($3::text is null or action = $3) and ($4::text is null or key_id = $4)
    and ($5::timestamptz is null or at >= $5) and ($6::timestamptz is null or at < $6)
  order by seq limit $2`;

/** A page of the audit log, oldest first, after one sequence number and up to another. */
export async function readAudit(
  db: Queryable,
  {
    after,
    upTo = Number.MAX_SAFE_INTEGER,
    limit,
    action,
    key,
    since,
    until,
  }: AuditFilter & { after: number; upTo?: number; limit: number },
): Promise<readonly AuditEntry[]> {
  const { rows } = await db.query<Row>(AUDIT_PAGE, [
    after,
    limit,
    action ?? null,
    key ?? null,
    since ?? null,
    until ?? null,
    upTo,
  ]);
  return rows.map((row) => ({
    seq: row.seq,
    at: row.at,
    client: row.client ?? undefined,
    keyId: row.key_id ?? undefined,
    callerAddress: row.caller_address ?? undefined,
    action: row.action,
    resource: row.resource ?? undefined,
    requestId: row.request_id ?? undefined,
    details: row.details,
  }));
}

const PAGE = 1_000;
/** However rare the wanted entries are, one statement looks only at as many as it can in its time, some seconds at worst. */
const STRETCH = 1_000_000;

/** Page after page, with at most `limit` entries in all. */
export async function* auditPages(
  db: Queryable,
  { after, limit = Infinity, ...filter }: AuditFilter & { after: number; limit?: number | undefined },
): AsyncGenerator<readonly AuditEntry[]> {
  const { rows } = await db.query<{ seq: number }>('select coalesce(max(seq), 0) as seq from audit_log');
  const newest = rows[0]!.seq;
  let [last, left] = [after, limit];
  while (left > 0 && last < newest) {
    const [asked, upTo] = [Math.min(PAGE, left), last + STRETCH];
    const page = await readAudit(db, { after: last, upTo, limit: asked, ...filter });
    if (page.length > 0) yield page;
    last = page.length < asked ? upTo : page.at(-1)!.seq;
    left -= page.length;
  }
}
