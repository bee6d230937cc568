// Decides the same state once more under a higher version: this heals a store that holds a version the ledger never gave it.
import { randomUUIDv7 } from 'node:crypto';
import { applyOptOut } from '../suppression/precedence.ts';
import { seal } from '../suppression/seal.ts';
import type { SealingKey } from '../suppression/seal.ts';
import type { Cause, Instant, SubjectState } from '../suppression/decision.ts';
import { inTransaction, toMilliseconds } from './database.ts';
import type { Client, Pool } from './database.ts';
import { unsealUndamaged } from './key-ring.ts';
import type { KeyRing } from './key-ring.ts';
import { SPEAKS_FROM } from './acknowledge.ts';
import { audit } from './audit.ts';

type Keys = { readonly ring: KeyRing; readonly transport: SealingKey };

/**
 * Per store. A store that came to be ahead is followed once. A store that always says that it is ahead, or a thief of its worker's
 * key, would otherwise have its people decided again without end, and every other store told of it.
 */
const FOLLOWED_AN_HOUR = 3;

// Not to follow settles nothing: the subject's newest decision stays outstanding at this store, or is so again, and is asked for in
// an hour.
const PARK_AHEAD = `
  insert into exceptions as e (store_id, generation, seq, subject_id, version, speaks_from, kind, code, attempts, since,
                               next_try_at)
  select s.id, s.generation, d.seq, d.subject_id, d.version,
    ${SPEAKS_FROM},
    'quarantine', 'AHEAD_OF_LEDGER', 1, clock_timestamp(), clock_timestamp() + interval '1 hour'
  from stores s
  cross join lateral (
    select d.* from decisions d
    where d.subject_id = $2 and d.version = (select version from subjects j where j.id = $2 offset 0) offset 0) d
  where s.id = $1 and due(d.kind, d.suppressed, d.granted, s.accepts, s.due_exact, s.due_channels)
  on conflict (store_id, generation, seq) do update
    set kind = excluded.kind, code = excluded.code, attempts = e.attempts + 1,
        next_try_at = case when e.next_try_at > clock_timestamp() then e.next_try_at else excluded.next_try_at end`;

/**
 * Raises a subject's version above the one that a store holds and decides its unchanged state again; `above_already` if there is
 * nothing to raise. `too_often`: the store is not followed for now, and what it must hold is in its quarantine.
 */
export const reissue = (
  pool: Pool,
  keys: Keys,
  { subjectId, above, store }: { subjectId: string; above: number; store: { id: number; name: string } },
): Promise<'decided' | 'above_already' | 'too_often'> =>
  inTransaction(pool, async (client) => {
    const { rows: locked } = await client.query<{ version: number }>(
      'select version from subjects where id = $1 for update',
      [subjectId],
    );
    if (locked[0] === undefined || locked[0].version > above) return 'above_already';
    const { rows } = await client.query<{ followed: number }>(
      `select count(*)::int as followed from audit_log
       where action = 'subject.reissued' and resource = $1 and at > clock_timestamp() - interval '1 hour'
         and details ->> 'store' = $2`,
      [subjectId, store.name],
    );
    if (rows[0]!.followed >= FOLLOWED_AN_HOUR) {
      await client.query(PARK_AHEAD, [store.id, subjectId]);
      return 'too_often';
    }
    const version = await decideAgain(client, keys, subjectId, { above });
    await audit(client, undefined, 'subject.reissued', subjectId, { version, store: store.name });
    return 'decided';
  });

/**
 * In the caller's transaction, decides the subject's state again, under the next version or the one after `above`, which is not
 * below its own; a canary gains the scopes that stores have added since. Returns the version.
 */
export async function decideAgain(
  client: Client,
  { ring, transport }: Keys,
  subjectId: string,
  { above, suppress = [] }: { readonly above?: number; readonly suppress?: readonly string[] },
): Promise<number> {
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
  const subject = rows[0]!;
  const version = (above ?? subject.version) + 1;
  const id = randomUUIDv7();
  const before = { version: subject.version, suppressed: subject.state, granted: subject.granted };
  // Without anybody's opt-out: its id is the decision's own.
  const { suppressed, granted } = applyOptOut(before, {
    id,
    scopes: suppress,
    effectiveAt: toMilliseconds(subject.now),
  }).state;
  await insertDecision(client, transport, {
    id,
    cause: 'reissue',
    subject: [subjectId, subject.kind],
    version,
    state: suppressed,
    granted,
    now: subject.now,
    // Of a damaged one no copy travels either: its worker is told by the ledger that it does not open (outstanding.ts).
    address:
      subject.sealed === null ? undefined : unsealUndamaged(ring, subject.sealed, [subjectId, subject.kind]),
  });
  await client.query(
    'update subjects set version = $2, state = $3, granted = $4, updated_at = $5 where id = $1',
    [subjectId, version, JSON.stringify(suppressed), JSON.stringify(granted), subject.now],
  );
  return version;
}

/** Scope → since when, as a decision says it. */
export function sinceOf(state: SubjectState['suppressed']): Record<string, Instant> {
  const since: Record<string, Instant> = {};
  for (const scope of Object.keys(state)) since[scope] = state[scope]!.first_effective_at;
  return since;
}

/**
 * Inserts a decision that no opt-out caused; its transaction must have drawn its id before (fence.ts). `address` undefined: the
 * subject is erased. Returns its sequence number.
 */
export async function insertDecision(
  client: Client,
  transport: SealingKey,
  {
    id,
    cause,
    subject,
    version,
    state,
    granted,
    now,
    effectiveAt = now,
    address,
    traceparent,
  }: {
    readonly id: string;
    readonly cause: Exclude<Cause, 'opt_out'>;
    readonly subject: readonly [id: string, kind: string];
    readonly version: number;
    readonly state: SubjectState['suppressed'];
    readonly granted: SubjectState['granted'];
    readonly now: string;
    /** Undefined: now. */
    readonly effectiveAt?: Instant;
    readonly address: string | undefined;
    readonly traceparent?: string | undefined;
  },
): Promise<number> {
  const { rows } = await client.query<{ seq: number }>(
    `insert into decisions (id, cause, opt_out_id, subject_id, kind, version, suppressed, granted, effective_at,
                            recorded_at, sealed, transport_key_id, traceparent)
     values ($1, $2, null, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) returning seq`,
    [
      id,
      cause,
      ...subject,
      version,
      JSON.stringify(sinceOf(state)),
      JSON.stringify(granted),
      effectiveAt,
      now,
      address === undefined ? null : seal(address, transport, subject),
      address === undefined ? null : transport.id,
      traceparent ?? null,
    ],
  );
  return rows[0]!.seq;
}
