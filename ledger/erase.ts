// Erasing a person's address: what is sealed goes, and match key, scopes and dates stay. The person stays suppressed, every check
// still says so, and nobody can read any more who it is.
import { AbideError } from '../suppression/errors.ts';
import type { Fault } from '../suppression/errors.ts';
import type { SubjectState } from '../suppression/decision.ts';
import type { Subject } from '../suppression/subject.ts';
import { audit } from './audit.ts';
import type { Caller } from './contract/audit.ts';
import type { Erased } from './contract/erasure.ts';
import type { StorePropagation } from './contract/propagation.ts';
import { asLedgerError, commit, isLockTimeout, isRace, onClient } from './database.ts';
import type { Client, Pool } from './database.ts';
import type { KeyRing } from './key-ring.ts';
import { propagationOfSubjects } from './propagation.ts';
import type { RegisteredStore } from './stores.ts';
import { byEveryMatch, everyMatch, subjectKey } from './subject-key.ts';

type Context = { readonly ring: KeyRing; readonly stores: readonly RegisteredStore[] };

type Row = {
  id: string;
  match: string;
  version: number;
  state: SubjectState['suppressed'];
  granted: SubjectState['granted'];
  erased: boolean;
};

// The lock keeps back decisions about these people until all of this is done: none is erased between its recording and its stores.
// A canary is nobody; without its address no store would be known to be well.
const LOCK = `
  select s.id, encode(s.match_key, 'hex') as match, s.version, s.state, s.granted, s.sealed is null as erased
  from subjects s
  where s.match_key = any ($1::bytea[]) and is_newest_pepper($2)
    and not exists (select from canaries c where c.subject_id = s.id)
  order by s.match_key for update of s`;

const ERASE_OPT_OUTS = `
  update opt_outs set note = null, evidence = null, idempotency_key = null
  where id in (select opt_out_id from opt_out_subjects where subject_id = any ($1::uuid[]))
    and (note is not null or evidence is not null or idempotency_key is not null)`;
// A grant keeps its evidence, which nothing may change: it alone shows why a suppression was lifted.
const ERASE_GRANTS = `
  update grants set idempotency_key = null where subject_id = any ($1::uuid[]) and idempotency_key is not null`;

/**
 * Erases these people's addresses, all or none, what their opt-outs say in free words, and how clients named opt-outs and grants.
 * Throws AbideError: erasure-too-early (a store that could still be told does not hold it yet), overloaded, ledger-unavailable.
 */
export async function eraseSubjects(
  pool: Pool,
  context: Context,
  subjects: readonly Subject[],
  caller: Caller,
): Promise<readonly Erased[]> {
  try {
    return await onClient(pool, (client) => erase(client, context, subjects, caller));
  } catch (error) {
    if (isRace(error) || isLockTimeout(error))
      throw new AbideError('overloaded', undefined, { cause: error, retryAfterSeconds: 1 });
    throw asLedgerError(error);
  }
}

async function erase(
  client: Client,
  { ring, stores }: Context,
  subjects: readonly Subject[],
  caller: Caller,
): Promise<readonly Erased[]> {
  await client.query('begin isolation level read committed');
  await client.query("set local synchronous_commit = on; set local lock_timeout = '1s'");
  const keys = subjects.map((subject) => subjectKey(ring, subject));
  const { rows } = await client.query<Row>(LOCK, [everyMatch(keys), ring.pepperId]);
  const currentOf = byEveryMatch(keys);
  const known = new Map(rows.map((row) => [currentOf(row.match), row]));
  const found = keys.map(({ hex }) => known.get(hex));
  const sealed = found.flatMap((row) => (row === undefined || row.erased ? [] : [row.id]));

  const arrived = await propagationOfSubjects(client, stores, sealed);
  const errors = found.flatMap((row, n): Fault[] =>
    (arrived.get(row?.id ?? '')?.stores ?? [])
      .filter(isOutstanding)
      .map(({ store }) => ({ pointer: `/identifiers/${n}`, detail: `${store} has not confirmed it yet` })),
  );
  if (errors.length > 0)
    throw new AbideError('erasure-too-early', undefined, { errors, retryAfterSeconds: 1 });
  // These never confirm anybody whom they do not have, so nobody could be erased who is to wait for them.
  const absentOf = (id: string): string[] =>
    (arrived.get(id)?.stores ?? []).filter(({ state }) => state === 'absent').map(({ store }) => store);

  await client.query(
    'update subjects set sealed = null, updated_at = clock_timestamp() where id = any ($1::uuid[])',
    [sealed],
  );
  await client.query(ERASE_OPT_OUTS, [sealed]);
  await client.query(ERASE_GRANTS, [sealed]);
  for (const id of sealed) {
    const absent = absentOf(id);
    await audit(client, caller, 'subject.erased', id, absent.length === 0 ? {} : { absent });
  }
  await commit(client);
  return subjects.map((subject, n): Erased => {
    const row = found[n];
    return {
      subject,
      outcome: row === undefined ? 'unknown' : row.erased ? 'already_erased' : 'erased',
      absent: row === undefined ? [] : absentOf(row.id),
      state: { version: row?.version ?? 0, suppressed: row?.state ?? {}, granted: row?.granted ?? {} },
    };
  });
}

/** Whether the store could still be told, and erasing would make that impossible. */
const isOutstanding = ({ state }: StorePropagation): boolean =>
  state === 'pending' || state === 'quarantined' || state === 'paused';
