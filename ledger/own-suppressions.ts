// What a store suppresses by itself is recorded as opt-outs if the configuration says so. It is found in two ways: by the read-back
// of people whom the ledger knows (reconcile.ts), and in the store's own list, for those whom only the store knows. Both record it
// as any opt-out is recorded, and it is known from then on: finding it twice changes nothing.
import { hostname } from 'node:os';
import type { OwnSuppression } from '../suppression/acknowledgement.ts';
import { toBeRecorded } from '../suppression/own-suppression.ts';
import type { Listed, ListedKey, ListingPage } from '../suppression/own-suppression.ts';
import type { Scope } from '../suppression/scope.ts';
import { Address, normalise } from '../suppression/subject.ts';
import type { Subject } from '../suppression/subject.ts';
import type { SubjectKind } from '../suppression/subject-kind.ts';
import type { SubjectState } from '../suppression/decision.ts';
import type { OptOutIntent } from './contract/opt-outs.ts';
import type { Listing } from './contract/reconciliation.ts';
import { toMilliseconds } from './database.ts';
import type { Pool, Queryable } from './database.ts';
import type { KeyRing } from './key-ring.ts';
import type { RegisteredStore } from './stores.ts';
import { byEveryMatch, everyMatch, subjectKey } from './subject-key.ts';

/** Between two pages of the list that nobody waits for: at most 500 entries a second. */
const PAUSE_MS = 1_000;
const REST = "interval '1 minute'";

type Found = { readonly subject: Subject; readonly scopes: readonly Scope[] };
/** Records one opt-out in the ledger's usual way. */
export type RecordOptOut = (intent: OptOutIntent) => Promise<unknown>;

/** The store is the client; a reader of the audit log sees from the request what found it. */
const toIntent = (store: RegisteredStore, requestId: string, { subject, scopes }: Found): OptOutIntent => ({
  subjects: [subject],
  scopes,
  effectiveAt: undefined,
  reason: 'other',
  note: `suppressed in store ${store.name} by itself`,
  regimes: [],
  evidence: undefined,
  idempotencyKey: undefined,
  apiVersion: 'v2',
  caller: { client: `store:${store.name}`, keyId: 'store', address: hostname(), requestId },
  traceparent: undefined,
  receivedAtMs: performance.now(),
});

async function recordAll(
  store: RegisteredStore,
  requestId: string,
  found: readonly Found[],
  record: RecordOptOut,
): Promise<number> {
  await Promise.all(found.map((one) => record(toIntent(store, requestId, one))));
  return found.length;
}

// ---- people whom the ledger knows -------------------------------------------------------------------------------------

// The decision must still be the subject's newest: a decision made meanwhile may have lifted what the store shows. A canary is
// nobody who could have asked.
const KNOWN = `
  select s.id, s.kind, s.sealed, s.state, x.suppressed
  from json_to_recordset($1) as x (seq bigint, suppressed text[])
  cross join lateral (select * from decisions d where d.seq = x.seq offset 0) d
  join subjects s on s.id = d.subject_id and s.version = d.version
  where s.sealed is not null and not exists (select from canaries c where c.subject_id = s.id)`;

/**
 * Records what a pass found beyond the newest decisions of these people. `onUnopened` is told whose address does not open: the page
 * counts as compared already, so nobody else on it may go unrecorded for that one.
 */
export async function recordOfKnown(
  pool: Pool,
  ring: KeyRing,
  store: RegisteredStore,
  { run, own }: { readonly run: number; readonly own: readonly OwnSuppression[] },
  record: RecordOptOut,
  onUnopened: (subjectId: string, error: unknown) => void,
): Promise<void> {
  if (own.length === 0 || store.ownScopes.length === 0) return;
  const { rows } = await pool.query<{
    id: string;
    kind: SubjectKind;
    sealed: Buffer;
    state: SubjectState['suppressed'];
    suppressed: string[];
  }>({ name: 'own-of-known', text: KNOWN, values: [JSON.stringify(own)] });
  const found = rows.flatMap(({ id, kind, sealed, state, suppressed }): Found[] => {
    const scopes = toBeRecorded(suppressed, store.ownScopes, state) as Scope[];
    if (scopes.length === 0) return [];
    try {
      return [{ subject: { kind, value: new Address(ring.unseal(sealed, [id, kind])) }, scopes }];
    } catch (error) {
      onUnopened(id, error);
      return [];
    }
  });
  const recorded = await recordAll(store, `reconciliation-${run}`, found, record);
  if (recorded > 0)
    await pool.query('update reconciliations set recorded = recorded + $2 where id = $1', [run, recorded]);
}

// ---- people whom only the store knows ---------------------------------------------------------------------------------

// Like a pass, it goes on where it was after a restart, and begins anew with a new generation or when it is asked for.
const BEGIN = `
  insert into listings as l (store_id, generation, asked, started_at) values ($1, $2, $3, clock_timestamp())
  on conflict (store_id) do update set generation = excluded.generation, asked = excluded.asked,
    started_at = excluded.started_at, finished_at = null, pages = 0, through = null, listed = 0, recorded = 0, unread = 0
  where $3 or l.generation <> excluded.generation or l.finished_at < clock_timestamp() - ${REST}`;

const listsOwn = ({ ownScopes, keyForm, evidence, retiredAt }: RegisteredStore): boolean =>
  ownScopes.length > 0 && keyForm === 'plain' && evidence === 'read_back' && retiredAt === undefined;

/** Begins the store's list anew, now and at full speed; does nothing if the list is not gone through. */
export async function askListing(db: Queryable, store: RegisteredStore): Promise<void> {
  if (listsOwn(store)) await db.query(BEGIN, [store.id, store.generation, true]);
}

const sealKey = (ring: KeyRing, { id }: RegisteredStore, { kind, key }: ListedKey): Buffer =>
  ring.seal(JSON.stringify([kind, key]), [String(id), 'listing']);

function unsealKey(ring: KeyRing, { id }: RegisteredStore, sealed: Buffer): ListedKey {
  const [kind, key] = JSON.parse(ring.unseal(sealed, [String(id), 'listing'])) as [SubjectKind, string];
  return { kind, key };
}

/** Where the worker that holds the store's lease goes on listing; undefined: nowhere, or not now. */
export async function nextListingPage(
  pool: Pool,
  ring: KeyRing,
  store: RegisteredStore,
  worker: string,
): Promise<ListingPage | undefined> {
  if (!listsOwn(store)) return undefined;
  const { rowCount } = await pool.query({
    name: 'listing-head',
    text: `select from stores where id = $1 and generation = $2 and lease_holder = $3 and paused_at is null
             and retired_at is null`,
    values: [store.id, store.generation, worker],
  });
  if (rowCount === 0) return undefined;
  const listing = (await underWay(pool, store)) ?? (await begun(pool, store));
  if (listing === undefined) return undefined;
  return {
    generation: store.generation,
    pages: listing.pages,
    after: listing.through === null ? undefined : unsealKey(ring, store, listing.through),
    scopes: store.ownScopes,
    pauseMs: listing.asked ? 0 : PAUSE_MS,
  };
}

type UnderWay = { readonly pages: number; readonly through: Buffer | null; readonly asked: boolean };

async function underWay(db: Queryable, store: RegisteredStore): Promise<UnderWay | undefined> {
  const { rows } = await db.query<UnderWay>({
    name: 'listing-under-way',
    text: `select pages, through, asked from listings where store_id = $1 and generation = $2 and finished_at is null`,
    values: [store.id, store.generation],
  });
  return rows[0];
}

/** Begins the next list if its time has come. */
async function begun(db: Queryable, store: RegisteredStore): Promise<UnderWay | undefined> {
  const { rows } = await db.query({
    name: 'listing-rests',
    text: `select from listings
           where store_id = $1 and generation = $2 and clock_timestamp() < finished_at + ${REST}`,
    values: [store.id, store.generation],
  });
  if (rows.length > 0) return undefined;
  await db.query({ name: 'listing-begin', text: BEGIN, values: [store.id, store.generation, false] });
  return await underWay(db, store);
}

/**
 * Records the people on a page of the store's list whom the ledger does not know. Those whom it knows are left to the read-back,
 * which sees whether the store was told of a grant. But the read-back asks by the normal form: if the store lists a known person in
 * another spelling as well, the scopes of which nothing was ever decided are recorded too. False if the page was taken already, or
 * the list is over.
 */
export async function takeListed(
  pool: Pool,
  ring: KeyRing,
  store: RegisteredStore,
  { generation, pages }: Pick<ListingPage, 'generation' | 'pages'>,
  { through, isLast, listed, suppressed }: Listed,
  record: RecordOptOut,
): Promise<boolean> {
  if (generation !== store.generation || !listsOwn(store)) return false;
  const current = 'store_id = $1 and generation = $2 and pages = $3 and finished_at is null';
  const place = [store.id, generation, pages];
  const { rowCount } = await pool.query(`select from listings where ${current}`, place);
  if (rowCount === 0) return false;
  const read = suppressed.flatMap((one) => {
    const found = toFound(store, one);
    return found === undefined ? [] : [found];
  });
  const recorded = await recordAll(
    store,
    `listing-${pages + 1}`,
    await unknownAmong(pool, ring, read),
    record,
  );
  const moved = await pool.query(
    `update listings set pages = pages + 1, through = coalesce($4, through), listed = listed + $5,
       recorded = recorded + $6, unread = unread + $7, finished_at = case when $8 then clock_timestamp() end
     where ${current}`,
    [
      ...place,
      through === undefined ? null : sealKey(ring, store, through),
      listed,
      recorded,
      suppressed.length - read.length,
      isLast,
    ],
  );
  return moved.rowCount === 1;
}

type FoundListed = Found & { readonly isSpeltOtherwise: boolean };

/** Undefined if it is no address of its kind; the store may hold it in another spelling than we would. */
function toFound(
  store: RegisteredStore,
  { kind, key, scopes }: Listed['suppressed'][number],
): FoundListed | undefined {
  const address = normalise(kind, key);
  if (!address.ok || !store.accepts.includes(kind)) return undefined;
  const wanted = toBeRecorded(scopes, store.ownScopes, {}) as Scope[];
  if (wanted.length === 0) return undefined;
  const isSpeltOtherwise = address.value.reveal() !== key;
  return { subject: { kind, value: address.value }, scopes: wanted, isSpeltOtherwise };
}

async function unknownAmong(
  db: Queryable,
  ring: KeyRing,
  found: readonly FoundListed[],
): Promise<readonly Found[]> {
  if (found.length === 0) return [];
  const keys = found.map(({ subject }) => subjectKey(ring, subject));
  const byKey = Map.groupBy(found, (_, n) => keys[n]!.hex);
  const { rows } = await db.query<{ match: string; decided: SubjectState['suppressed'] }>({
    name: 'listing-known',
    text: `select encode(match_key, 'hex') as match, state || granted as decided
           from subjects where match_key = any ($1::bytea[]) and is_newest_pepper($2)`,
    values: [everyMatch(keys), ring.pepperId],
  });
  const currentOf = byEveryMatch(keys);
  const decided = new Map(rows.map((row) => [currentOf(row.match), row.decided]));
  // One person in two spellings is one opt-out.
  return [...byKey].flatMap(([key, spellings]): Found[] => {
    const known = decided.get(key);
    const wanted = known === undefined ? spellings : spellings.filter((one) => one.isSpeltOtherwise);
    const shown = [...new Set(wanted.flatMap(({ scopes }) => scopes))];
    const scopes = toBeRecorded(shown, shown, known ?? {}) as Scope[];
    return scopes.length === 0 ? [] : [{ subject: spellings[0]!.subject, scopes }];
  });
}

/** How far the store's list is; undefined if it is not gone through. */
export async function readListing(db: Queryable, store: RegisteredStore): Promise<Listing | undefined> {
  if (!listsOwn(store)) return undefined;
  const { rows } = await db.query<{
    asked: boolean;
    started_at: string;
    finished_at: string | null;
    listed: number;
    recorded: number;
    unread: number;
  }>(
    `select asked, started_at, finished_at, listed, recorded, unread from listings
     where store_id = $1 and generation = $2`,
    [store.id, store.generation],
  );
  const row = rows[0];
  if (row === undefined) return undefined;
  const { asked, listed, recorded, unread } = row;
  return {
    ...{ asked, listed, recorded, unread },
    startedAt: toMilliseconds(row.started_at),
    finishedAt: row.finished_at === null ? undefined : toMilliseconds(row.finished_at),
  };
}
