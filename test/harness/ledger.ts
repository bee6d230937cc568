// An open ledger on a fresh database, and the few things that tests ask of it in words.
import { openPool } from '../../ledger/database.ts';
import type { Pool } from '../../ledger/database.ts';
import type { Canaries } from '../../ledger/canary.ts';
import type { OptOutIntent, Recorded } from '../../ledger/contract/opt-outs.ts';
import type { Outstanding } from '../../ledger/contract/outstanding.ts';
import type { Propagation } from '../../ledger/contract/propagation.ts';
import { makeKeyRing, matchKeyRing } from '../../ledger/key-ring.ts';
import { openLedger } from '../../ledger/open-ledger.ts';
import type { OpenLedger } from '../../ledger/open-ledger.ts';
import { syncStores } from '../../ledger/stores.ts';
import type { StoreRegistration } from '../../ledger/stores.ts';
import type { Acknowledgement, AcknowledgementReport } from '../../suppression/acknowledgement.ts';
import { applyGrant } from '../../suppression/precedence.ts';
import { normalise } from '../../suppression/subject.ts';
import type { Subject } from '../../suppression/subject.ts';
import type { SubjectKind } from '../../suppression/subject-kind.ts';
import { freshDatabase, withClient } from './database.ts';
import type { TestDatabase } from './database.ts';

export type TestLedger = AsyncDisposable & {
  readonly ledger: OpenLedger;
  readonly db: TestDatabase;
  readonly pool: Pool;
  /** Another process on the same database, as far as the ledger can tell; its pool may be one that a test made, its ring another. */
  another(pool?: Pool, keys?: string, canaries?: Canaries): Promise<OpenLedger>;
  /** The ring's text. */
  readonly keys: string;
  register(...stores: (Partial<StoreRegistration> & { name: string })[]): Promise<void>;
};

export const store = (fields: Partial<StoreRegistration> & { name: string }): StoreRegistration => ({
  connector: 'postgres',
  accepts: ['email', 'phone', 'push_token', 'person_id'],
  scopes: ['email', 'sms', 'push'],
  topics: true,
  required: true,
  evidence: 'read_back',
  lateAfterSeconds: 10,
  fingerprint: Buffer.from(fields.name),
  keyForm: 'plain',
  stanza: Buffer.from(fields.name),
  ownScopes: [],
  formerly: undefined,
  ...fields,
});

const quiet = { info: () => undefined, warn: () => undefined };

export async function freshLedger(): Promise<TestLedger> {
  const db = await freshDatabase();
  const text = makeKeyRing();
  const opened: OpenLedger[] = [];
  const another = async (
    pool = openPool(db.urls.api, { max: 6, onError: () => undefined }),
    keys = text,
    canaries?: Canaries,
  ): Promise<OpenLedger> => {
    const ring = await matchKeyRing(pool, { read: () => keys, make: () => undefined });
    const ledger = await openLedger({ pool, ring, log: quiet, canaries });
    let closed: PromiseLike<void> | undefined;
    // A test may close it before the others.
    const closing = { ...ledger, [Symbol.asyncDispose]: () => (closed ??= ledger[Symbol.asyncDispose]()) };
    opened.push(closing);
    return closing;
  };
  const ledger = await another();
  const pool = openPool(db.urls.api, { max: 4, onError: () => undefined });
  return {
    ledger,
    db,
    pool,
    another,
    keys: text,
    register: async (...stores) => {
      await syncStores(pool, stores.map(store));
      await ledger.refresh();
    },
    [Symbol.asyncDispose]: async () => {
      await Promise.all(opened.map((one) => one[Symbol.asyncDispose]()));
      await pool.end();
      await db[Symbol.asyncDispose]();
    },
  };
}

export function subject(text: string, kind: SubjectKind = 'email'): Subject {
  const normal = normalise(kind, text);
  if (!normal.ok) throw new Error(`not a ${kind}`);
  return { kind, value: normal.value };
}

let requests = 0;

export const intent = (who: string | Subject, fields: Partial<OptOutIntent> = {}): OptOutIntent => ({
  subjects: [typeof who === 'string' ? subject(who) : who],
  scopes: ['email', 'sms', 'push'],
  effectiveAt: undefined,
  reason: 'person_request',
  note: undefined,
  regimes: [],
  evidence: undefined,
  idempotencyKey: undefined,
  apiVersion: 'v1',
  caller: { client: 'shop', keyId: 'testtesttest', address: '127.0.0.1', requestId: `r${(requests += 1)}` },
  traceparent: undefined,
  receivedAtMs: performance.now(),
  ...fields,
});

/** What was recorded, as text: enough to tell one answer from another. */
export const render = ({ outcome, optOut, subjects, propagation }: Recorded): string =>
  JSON.stringify({
    outcome,
    id: optOut.id,
    version: subjects[0]!.state.version,
    suppressed: subjects[0]!.state.suppressed,
    propagation,
  });

/** The current propagation of an opt-out. */
export const propagationIn = async (ledger: OpenLedger, id: string): Promise<Propagation | undefined> =>
  (await ledger.findOptOut(id, undefined))?.propagation;

export type Answer = { outcome: string; id: string; version: number };
export const read = ({ body }: { body: string }): Answer => JSON.parse(body) as Answer;

export async function outstandingOf(ledger: OpenLedger, name: string, limit = 1_000): Promise<Outstanding[]> {
  const all: Outstanding[] = [];
  let after: string | undefined;
  do {
    const page = await ledger.outstanding(name, {
      after,
      limit,
      waitMs: 0,
      worker: undefined,
      signal: AbortSignal.timeout(10_000),
    });
    if (page === undefined) throw new Error(`no store ${name}`);
    all.push(...page.decisions);
    after = page.next;
  } while (after !== undefined);
  return all;
}

/** What a worker would report of a store that holds all it was told. */
export const verified = (
  decision: Pick<Outstanding, 'seq' | 'version' | 'suppressed'> & Partial<Pick<Outstanding, 'asked'>>,
  fields: Partial<Acknowledgement> = {},
): Acknowledgement => ({
  seq: decision.seq,
  version: decision.version,
  outcome: 'verified',
  held: { version: decision.version, suppressed: Object.keys(decision.suppressed) },
  carriedBy: 'stream',
  attempts: 1,
  asked: decision.asked || undefined,
  code: undefined,
  evidence: {},
  ...fields,
});

export const report = (
  acknowledgements: readonly Acknowledgement[],
  fields: Partial<AcknowledgementReport> = {},
): AcknowledgementReport => ({
  generation: 1,
  worker: {
    id: 'worker-1',
    incarnation: 'one',
    lastError: undefined,
    source: { kind: 'pgoutput', status: 'ok', position: undefined, positionAgeSeconds: 0, parked: 0 },
  },
  acknowledgements,
  ...fields,
});

/** The person's own consent, written as the owner would: the API for it is v2's. */
export async function grant(
  { db }: Pick<TestLedger, 'db'>,
  subjectId: string,
  scopes: readonly string[],
): Promise<void> {
  await withClient(db.superuserUrl, async (client) => {
    await client.query('begin');
    const { rows } = await client.query<{
      version: string;
      state: never;
      granted: never;
      kind: string;
      now: Date;
    }>('select *, clock_timestamp() as now from subjects where id = $1 for update', [subjectId]);
    const row = rows[0]!;
    const at = row.now.toISOString();
    const before = {
      version: Number(row.version),
      suppressed: row.state as object,
      granted: row.granted as object,
    };
    const effect = applyGrant(before as never, { scopes, at }, at);
    if (effect.kind !== 'granted') throw new Error(effect.kind);
    const { version, suppressed, granted } = effect.state;
    const since = Object.fromEntries(
      Object.entries(suppressed).map(([scope, held]) => [scope, held.first_effective_at]),
    );
    await client.query(
      `insert into decisions (id, cause, subject_id, kind, version, suppressed, granted, effective_at, recorded_at, sealed, transport_key_id)
       select gen_random_uuid(), 'grant', $1, $2, $3, $4, $5, $6, clock_timestamp(), d.sealed, d.transport_key_id
       from decisions d where d.subject_id = $1 order by d.version desc limit 1`,
      [subjectId, row.kind, version, since, granted, at],
    );
    await client.query('update subjects set version = $2, state = $3, granted = $4 where id = $1', [
      subjectId,
      version,
      suppressed,
      granted,
    ]);
    await client.query('commit');
  });
}
