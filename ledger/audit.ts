import type { Queryable } from './database.ts';
import type { AuditEntry, Caller } from './ledger.ts';

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

/** A page of the audit log, oldest first, after a sequence number. */
export async function readAudit(
  db: Queryable,
  { after, limit, action }: { after: number; limit: number; action: string | undefined },
): Promise<readonly AuditEntry[]> {
  const { rows } = await db.query<Row>(
    `select seq, at, client, key_id, caller_address, action, resource, request_id, details
     from audit_log where seq > $1 and ($2::text is null or action = $2) order by seq limit $3`,
    [after, action ?? null, limit],
  );
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
