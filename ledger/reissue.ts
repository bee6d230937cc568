// The same state once more under a higher version: heals a store that holds a version the ledger never gave it.
import { randomUUIDv7 } from 'node:crypto';
import { seal } from '../suppression/seal.ts';
import type { SealingKey } from '../suppression/seal.ts';
import type { Cause, Instant, SubjectState } from '../suppression/decision.ts';
import { inTransaction, toMilliseconds } from './database.ts';
import type { Client, Pool } from './database.ts';
import type { KeyRing } from './key-ring.ts';
import { audit } from './audit.ts';

type Keys = { readonly ring: KeyRing; readonly transport: SealingKey };

/** Raises a subject's version above `above` and decides its unchanged state again. Nothing where it is above already. */
export const reissue = (pool: Pool, keys: Keys, subjectId: string, above: number): Promise<boolean> =>
  inTransaction(pool, async (client) => {
    const version = await decideAgain(client, keys, subjectId, { above });
    if (version === undefined) return false;
    await audit(client, undefined, 'subject.reissued', subjectId, { version });
    return true;
  });

/**
 * In the caller's transaction: a new decision of the subject's state, under the next version, or the one after `above`; a
 * canary gains the scopes that stores have since. Gives the version; undefined where there is no subject, or it is beyond.
 */
export async function decideAgain(
  client: Client,
  { ring, transport }: Keys,
  subjectId: string,
  { above, suppress = [] }: { readonly above?: number; readonly suppress?: readonly string[] },
): Promise<number | undefined> {
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
  if (subject === undefined || (above !== undefined && subject.version > above)) return undefined;
  const version = (above ?? subject.version) + 1;
  const id = randomUUIDv7();
  const state = { ...subject.state, ...suppressedFrom(subject.now, suppress, id) };
  await insertDecision(client, transport, {
    id,
    cause: 'reissue',
    subject: [subjectId, subject.kind],
    version,
    state,
    granted: subject.granted,
    now: subject.now,
    address: subject.sealed === null ? undefined : ring.unseal(subject.sealed, [subjectId, subject.kind]),
  });
  await client.query('update subjects set version = $2, state = $3, updated_at = $4 where id = $1', [
    subjectId,
    version,
    JSON.stringify(state),
    subject.now,
  ]);
  return version;
}

/** Scopes suppressed from now on, with no opt-out of anybody's behind them: `id` is the decision's own. */
export const suppressedFrom = (
  now: string,
  scopes: readonly string[],
  id: string,
): SubjectState['suppressed'] => {
  const since = toMilliseconds(now);
  const suppressed = { first_effective_at: since, last_effective_at: since, opt_out_id: id };
  return Object.fromEntries(scopes.map((scope) => [scope, suppressed]));
};

/** Scope → since when, as a decision says it. */
export const sinceOf = (state: SubjectState['suppressed']): Record<string, Instant> =>
  Object.fromEntries(Object.entries(state).map(([scope, held]) => [scope, held.first_effective_at]));

/**
 * A decision that no opt-out caused; its transaction has drawn its id before (fence.ts). `address` undefined: erased. Gives
 * its sequence number.
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
      transport.id,
      traceparent ?? null,
    ],
  );
  return rows[0]!.seq;
}
