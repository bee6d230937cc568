// Canaries are synthetic subjects that nobody can reach. At an interval the same state is decided anew, and carried and read back
// like any other. They show that the way to a store works while nobody opts out; and a store that no longer holds the last canary
// that it acknowledged has forgotten more than that. HTTP reaches none of this.
import { randomUUIDv7 } from 'node:crypto';
import type { Decision } from '../suppression/decision.ts';
import { applyOptOut } from '../suppression/precedence.ts';
import type { SealingKey } from '../suppression/seal.ts';
import { Address, NORMAL_FORM } from '../suppression/subject.ts';
import type { SubjectKind } from '../suppression/subject-kind.ts';
import { inTransaction, toMilliseconds } from './database.ts';
import type { Client, Pool, Queryable } from './database.ts';
import type { KeyRing } from './key-ring.ts';
import { DECISION, toDecisions } from './outstanding.ts';
import type { DecisionRow, Seals } from './outstanding.ts';
import { decideAgain, insertDecision } from './reissue.ts';
import type { RegisteredStore } from './stores.ts';
import { everyMatch, subjectKey } from './subject-key.ts';

export type Canaries = {
  readonly everySeconds: number;
  /** Whose they are, in normal form. */
  readonly addresses: Readonly<Record<SubjectKind, string>>;
};

/** One kind per store is enough: the first of these that it accepts. */
const PREFERRED: readonly SubjectKind[] = ['email', 'phone', 'push_token', 'person_id'];

const kindOf = (store: Pick<RegisteredStore, 'accepts'>): SubjectKind | undefined =>
  PREFERRED.find((kind) => store.accepts.includes(kind));

/** Decides anew every canary whose time has come; of several processes only one does. Returns whether any was decided. */
export async function issueCanaries(
  pool: Pool,
  keys: { readonly ring: KeyRing; readonly transport: SealingKey },
  stores: readonly RegisteredStore[],
  canaries: Canaries,
): Promise<boolean> {
  const inService = stores.filter(({ retiredAt }) => retiredAt === undefined);
  const scopes = [...new Set(inService.flatMap((store) => store.scopes))].sort();
  let issued = false;
  for (const kind of new Set(inService.flatMap((store) => kindOf(store) ?? []))) {
    if (await issueCanary(pool, keys, kind, scopes, canaries)) issued = true;
  }
  return issued;
}

async function issueCanary(
  pool: Pool,
  keys: { readonly ring: KeyRing; readonly transport: SealingKey },
  kind: SubjectKind,
  scopes: readonly string[],
  { everySeconds, addresses }: Canaries,
): Promise<boolean> {
  return await inTransaction(pool, async (client) => {
    await client.query("select pg_advisory_xact_lock(hashtext('abide.canaries'))");
    const subject = { kind, value: new Address(addresses[kind]) };
    const key = subjectKey(keys.ring, subject);
    const { rows } = await client.query<{ id: string; due: boolean; held: string[] }>(
      `select s.id, coalesce(c.issued_at not between clock_timestamp() - make_interval(secs => $4) and clock_timestamp(), true) as due,
         array(select jsonb_object_keys(s.state)) as held
       from subjects s left join canaries c on c.kind = s.kind and c.subject_id = s.id
       where s.match_key = any ($1::bytea[]) and is_newest_pepper($2) and s.kind = $3 for update of s`,
      [everyMatch([key]), keys.ring.pepperId, kind, everySeconds],
    );
    const known = rows[0];
    if (known?.due === false) return false;
    const id = known?.id ?? randomUUIDv7();
    if (known === undefined)
      await makeSubject(client, keys, { id, kind, matchKey: key.match, address: addresses[kind] }, scopes);
    else
      await decideAgain(client, keys, id, {
        suppress: scopes.filter((scope) => !known.held.includes(scope)),
      });
    await client.query(
      `insert into canaries (kind, subject_id, every_seconds, issued_at) values ($1, $2, $3, clock_timestamp())
       on conflict (kind) do update set subject_id = excluded.subject_id, every_seconds = excluded.every_seconds,
         issued_at = excluded.issued_at`,
      [kind, id, everySeconds],
    );
    // A store that has nobody like that and remembers no strangers would be asked hourly for each canary there ever was.
    await client.query(
      `delete from exceptions e using stores s
       where e.subject_id = $1 and e.kind = 'absent' and s.id = e.store_id
         and e.seq <= coalesce(s.backfill_live_through, s.scanned_through)
         and e.version < (select version from subjects where id = $1)`,
      [id],
    );
    return true;
  });
}

async function makeSubject(
  client: Client,
  { ring, transport }: { readonly ring: KeyRing; readonly transport: SealingKey },
  { id, kind, matchKey, address }: { id: string; kind: SubjectKind; matchKey: Buffer; address: string },
  scopes: readonly string[],
): Promise<void> {
  const { rows } = await client.query<{ now: string; xid: string }>(
    'select clock_timestamp() as now, pg_current_xact_id()::text as xid',
  );
  const { now } = rows[0]!;
  const decision = randomUUIDv7();
  const { suppressed: state } = applyOptOut(
    { version: 0, suppressed: {}, granted: {} },
    { id: decision, scopes, effectiveAt: toMilliseconds(now) },
  ).state;
  const subject = [id, kind] as const;
  await insertDecision(client, transport, {
    cause: 'reissue',
    id: decision,
    subject,
    version: 1,
    state,
    granted: {},
    now,
    address,
  });
  await client.query(
    `insert into subjects (id, kind, pepper_id, match_key, normal_form, version, state, granted, sealed, updated_at)
     values ($1, $2, $3, $4, ${NORMAL_FORM}, 1, $5, '{}', $6, $7)`,
    [id, kind, ring.pepperId, matchKey, JSON.stringify(state), ring.seal(address, subject), now],
  );
}

/** Once canaries are off, none is missed. */
export async function forgetCanaries(db: Queryable): Promise<void> {
  await db.query('delete from canaries');
}

/** How many versions back a canary is looked for; an older one does not count. */
const LOOKED_BACK = 100;

/**
 * SQL: the newest canary that a store has acknowledged in its generation. $1 store, $2 generation, $3 accepts. A store's canary is
 * of the first kind in PREFERRED that it accepts.
 */
export const NEWEST_CANARY = `
  select d.*, c.every_seconds from canaries c
  cross join lateral (
    select d.* from decisions d
    where d.subject_id = c.subject_id
      and d.version > (select version from subjects j where j.id = c.subject_id offset 0) - ${LOOKED_BACK}
      and exists (select from acknowledgements a
                  where a.store_id = $1 and a.generation = $2 and a.seq = d.seq offset 0)
    order by d.version desc limit 1) d
  where c.kind = any ($3)
  order by array_position('{${PREFERRED.join(',')}}'::text[], c.kind) limit 1`;

/** The newest canary that a store has acknowledged; undefined if there is none. */
export async function canaryOf(
  db: Queryable,
  seals: Seals,
  store: RegisteredStore,
): Promise<Decision | undefined> {
  const { rows } = await db.query<DecisionRow>({
    name: 'canary-of',
    text: `select ${DECISION} from (${NEWEST_CANARY}) d`,
    values: [store.id, store.generation, store.accepts],
  });
  return (await toDecisions(db, seals, rows))[0];
}
