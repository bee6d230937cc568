// The same state once more under a higher version: heals a store that holds a version the ledger never gave it.
import { randomUUIDv7 } from 'node:crypto';
import { seal } from '../suppression/seal.ts';
import type { SealingKey } from '../suppression/seal.ts';
import type { SubjectState } from '../suppression/decision.ts';
import { inTransaction } from './database.ts';
import type { Pool } from './database.ts';
import type { KeyRing } from './key-ring.ts';
import { audit } from './audit.ts';

/** Raises a subject's version above `above` and decides its unchanged state again. Nothing where it is above already. */
export async function reissue(
  pool: Pool,
  { ring, transport }: { ring: KeyRing; transport: SealingKey },
  subjectId: string,
  above: number,
): Promise<boolean> {
  return await inTransaction(pool, async (client) => {
    const { rows } = await client.query<{
      kind: string;
      version: number;
      state: SubjectState['suppressed'];
      granted: SubjectState['granted'];
      sealed: Buffer | null;
      now: string;
      xid: string;
    }>(
      `select kind, version, state, granted, sealed, clock_timestamp() as now, pg_current_xact_id()::text as xid
       from subjects where id = $1 for update`,
      [subjectId],
    );
    const subject = rows[0];
    if (subject === undefined || subject.version > above) return false;
    const version = above + 1;
    const suppressed = Object.fromEntries(
      Object.entries(subject.state).map(([scope, held]) => [scope, held.first_effective_at]),
    );
    const sealed =
      subject.sealed === null
        ? null
        : seal(ring.unseal(subject.sealed, [subjectId, subject.kind]), transport, [subjectId, subject.kind]);
    await client.query(
      `insert into decisions (id, cause, opt_out_id, subject_id, kind, version, suppressed, granted, effective_at,
                              recorded_at, sealed, transport_key_id)
       values ($1, 'reissue', null, $2, $3, $4, $5, $6, $7, $7, $8, $9)`,
      [
        randomUUIDv7(),
        subjectId,
        subject.kind,
        version,
        JSON.stringify(suppressed),
        JSON.stringify(subject.granted),
        subject.now,
        sealed,
        transport.id,
      ],
    );
    await client.query('update subjects set version = $2, updated_at = $3 where id = $1', [
      subjectId,
      version,
      subject.now,
    ]);
    await audit(client, undefined, 'subject.reissued', subjectId, { version });
    return true;
  });
}
