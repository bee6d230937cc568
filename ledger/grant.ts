// The only way back: the person's own later consent. Each call is one subject and one transaction: grants are scarce, so nothing is
// gained by gathering them, and no person asks for a batch of them.
import { randomUUIDv7 } from 'node:crypto';
import { isDue } from '../suppression/acknowledgement.ts';
import type { Instant, SubjectState } from '../suppression/decision.ts';
import { AbideError } from '../suppression/errors.ts';
import { applyGrant } from '../suppression/precedence.ts';
import { coveredBy } from '../suppression/scope.ts';
import type { Scope } from '../suppression/scope.ts';
import type { SealingKey } from '../suppression/seal.ts';
import { audit } from './audit.ts';
import { beginSpending } from './budgets.ts';
import type { OnRefused } from './budgets.ts';
import type { Grant, GrantAnswer, GrantIntent, RecordedGrant } from './contract/grants.ts';
import { asLedgerError, commit, isLockTimeout, isRace, onClient, toMilliseconds } from './database.ts';
import type { Client, Pool } from './database.ts';
import { findGrant, sealEvidence } from './find.ts';
import type { KeyRing, UnderEachPepper } from './key-ring.ts';
import { begunPropagation } from './propagation.ts';
import { fingerprintsOfKey } from './record.ts';
import { insertDecision, sinceOf } from './reissue.ts';
import type { RegisteredStore } from './stores.ts';
import { everyMatch, subjectKey } from './subject-key.ts';

type Context = {
  readonly ring: KeyRing;
  readonly transport: SealingKey;
  readonly stores: readonly RegisteredStore[];
  readonly onRefused: OnRefused;
};

type Render = (granted: RecordedGrant) => string;

/** One try to record one grant: everything below has it. */
type Try = Context & {
  readonly client: Client;
  readonly intent: GrantIntent;
  readonly render: Render;
  /** What the idempotency key may be kept under; empty without one. */
  readonly keys: readonly Buffer[];
  /** By what the intent of the same key may be recognised. */
  readonly intents: UnderEachPepper;
};

/** The person, whose row is locked. */
type Person = {
  /** Undefined: nobody knows this person, so nothing is suppressed either. */
  readonly id: string | undefined;
  readonly state: SubjectState;
  readonly isErased: boolean;
  /** When the lock was there, by the database's clock; `at` is the same in milliseconds. */
  readonly now: string;
  readonly at: Instant;
  /** When the request arrived, by the same clock. */
  readonly receivedAt: Instant;
};

const RACES = 5;

/**
 * Records a grant. A race (the same key at once, a new subject) is repeated. Throws AbideError: invalid-value (ahead of the
 * database's clock), grant-not-later, idempotency-key-reused, idempotency-key-in-use, budget-exhausted, ledger-unavailable.
 */
export async function recordGrant(
  pool: Pool,
  context: Context,
  intent: GrantIntent,
  render: Render,
): Promise<GrantAnswer> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await onClient(pool, (client) =>
        grantOnce({ ...context, ...fingerprintsOf(context, intent), client, intent, render }),
      );
    } catch (error) {
      if (isRace(error) && attempt < RACES) continue;
      if (isRace(error) || isLockTimeout(error)) {
        const code = intent.idempotencyKey === undefined ? 'overloaded' : 'idempotency-key-in-use';
        throw new AbideError(code, undefined, { cause: error, retryAfterSeconds: 1 });
      }
      throw asLedgerError(error);
    }
  }
}

/** Everything that makes two grants the same one. */
const intentText = ({ subject, scopes, grantedAt, evidence }: GrantIntent): string =>
  JSON.stringify([
    'grant',
    subject.kind,
    subject.value.reveal(),
    [...scopes].sort(),
    grantedAt,
    evidence.method,
    evidence.statement ?? null,
    evidence.source ?? null,
  ]);

const fingerprintsOf = ({ ring }: Context, intent: GrantIntent): Pick<Try, 'keys' | 'intents'> => ({
  keys: fingerprintsOfKey(ring, intent.caller.client, intent.idempotencyKey),
  intents: ring.fingerprints('intent', intentText(intent)),
});

/**
 * The rule, step by step. A step that answers has committed. One that throws has committed what it must leave behind (a spent
 * budget, the audit of a refusal), or leaves nothing behind.
 */
async function grantOnce(one: Try): Promise<GrantAnswer> {
  const { client, intent } = one;
  await client.query('begin isolation level read committed');
  await client.query("set local synchronous_commit = on; set local lock_timeout = '1s'");
  const replayed = await replay(one);
  if (replayed !== undefined) return replayed;

  const person = await lockPerson(one);
  requireNotAhead(intent, person);
  const repeated = await repeat(one, person);
  if (repeated !== undefined) return repeated;
  await spend(one);
  await requireRefusable(one, person);

  const effect = applyGrant(person.state, { scopes: intent.scopes, at: intent.grantedAt }, person.at);
  switch (effect.kind) {
    case 'refused':
      return await refuse(one, person, effect.scopes);
    case 'nothing_to_grant':
      return await answerNotSuppressed(one, person);
    case 'granted':
      return await record(one, person, effect.state);
  }
}

/** A request under a key that was answered before gets the same answer, byte for byte. */
async function replay({ client, ring, intent, keys, intents }: Try): Promise<GrantAnswer | undefined> {
  const { caller, scopes } = intent;
  const first = keys.length === 0 ? undefined : await findAnswer(client, ring, caller.client, keys);
  if (first === undefined) return undefined;
  if (!intents.some((one) => first.intent.equals(one))) throw new AbideError('idempotency-key-reused');
  await audit(client, caller, 'grant.replayed', first.id, { scopes });
  await commit(client);
  return { status: first.status, body: first.body, replayed: true, grantId: first.id, decisions: [] };
}

/** Draws the transaction's id as well, which a decision needs (fence.ts), also if there is nobody to lock. */
async function lockPerson({ client, ring, intent }: Try): Promise<Person> {
  const { subject } = intent;
  const askedMs = performance.now();
  const { rows } = await client.query<LockedRow>(
    `with locked as materialized (
       select id, version, state, granted, sealed is null as erased from subjects
       where match_key = any ($1::bytea[]) and is_newest_pepper($2) and kind = $3 for update)
     select locked.*, pg_current_xact_id()::text as xid, clock_timestamp() as now
     from (values (1)) one left join locked on true`,
    [everyMatch([subjectKey(ring, subject)]), ring.pepperId, subject.kind],
  );
  const row = rows[0]!;
  const known = row.id !== null;
  return {
    id: known ? row.id : undefined,
    state: known
      ? { version: row.version, suppressed: row.state, granted: row.granted }
      : { version: 0, suppressed: {}, granted: {} },
    isErased: known && row.erased,
    now: row.now,
    at: toMilliseconds(row.now),
    receivedAt: new Date(Date.parse(row.now) - (askedMs - intent.receivedAtMs)).toISOString(),
  };
}

type LockedRow = { now: string } & (
  | {
      id: string;
      version: number;
      state: SubjectState['suppressed'];
      granted: SubjectState['granted'];
      erased: boolean;
    }
  | { id: null }
);

function requireNotAhead({ grantedAt }: GrantIntent, { at }: Person): void {
  if (grantedAt <= at) return;
  const errors = [{ pointer: '/granted_at', detail: 'must not be in the future' }];
  throw new AbideError('invalid-value', undefined, { errors });
}

/** A late retry of a recorded consent lifts nothing a second time, whatever was suppressed since. */
async function repeat(one: Try, person: Person): Promise<GrantAnswer | undefined> {
  const { client, intent, render } = one;
  const { caller, subject, scopes, grantedAt } = intent;
  if (person.id === undefined) return undefined;
  const before = await findGrant(client, one, { subjectId: person.id, scopes, grantedAt });
  if (before === undefined) return undefined;
  const { grant, inForce, propagation } = before;
  const body = render({
    outcome: 'already_recorded',
    grant,
    inForce,
    propagation,
    subject,
    asked: scopes,
    stillSuppressed: scopesOf(person.state),
  });
  await remember(one, person.now, { id: grant.id, status: 200, body });
  await audit(client, caller, 'grant.repeated', grant.id, { scopes });
  await commit(client);
  return { status: 200, body, replayed: false, grantId: grant.id, decisions: [] };
}

/** Whatever its outcome, a try tells whether the person opted out: only repeats are free. */
async function spend({ client, intent: { caller }, onRefused }: Try): Promise<void> {
  const spending = await beginSpending(client, 'grant', [caller], onRefused);
  const exhausted = spending.take(caller, 1);
  const tellRefused = await spending.write();
  if (exhausted === undefined) return;
  await commit(client);
  tellRefused();
  throw exhausted;
}

/** What nobody could refuse today may be lifted only if this person has refused it before. */
async function requireRefusable({ client, intent }: Try, { state }: Person): Promise<void> {
  const unheard = intent.undeclared.filter((scope) => state.suppressed[scope] === undefined);
  if (unheard.length === 0) return;
  await commit(client);
  throw new AbideError('invalid-value', undefined, {
    errors: faultsOf(
      intent,
      unheard,
      'is not declared in the configuration (topics, purposes), and was not refused by this person',
    ),
  });
}

async function refuse({ client, intent }: Try, { id }: Person, scopes: readonly string[]): Promise<never> {
  await audit(client, intent.caller, 'grant.refused', id, { scopes });
  await commit(client);
  throw new AbideError('grant-not-later', undefined, {
    errors: faultsOf(intent, scopes, 'was opted out at that time or later'),
  });
}

const faultsOf = ({ scopes }: GrantIntent, faulty: readonly string[], detail: string) =>
  faulty.map((scope) => ({ pointer: `/scopes/${scopes.indexOf(scope as Scope)}`, detail }));

/** Nothing is written, not even under the key: this answer must not lift an opt-out that comes later. */
async function answerNotSuppressed({ client, intent, render }: Try, { state }: Person): Promise<GrantAnswer> {
  await commit(client);
  const body = render({
    outcome: 'not_suppressed',
    subject: intent.subject,
    asked: intent.scopes,
    stillSuppressed: scopesOf(state),
  });
  return { status: 200, body, replayed: false, grantId: undefined, decisions: [] };
}

/** Lifts what the consent names: the decision, the person's new state, the grant, and the answer under the key. */
async function record(one: Try, person: Person, after: SubjectState): Promise<GrantAnswer> {
  const { client, intent, render, stores } = one;
  const { caller, subject, scopes, grantedAt } = intent;
  const id = randomUUIDv7();
  // Nothing is suppressed for somebody unknown, so nothing is lifted either.
  const subjectId = person.id!;
  const grant: Grant = {
    id,
    requestedScopes: scopes,
    liftedScopes: scopes.filter((scope) => person.state.suppressed[scope] !== undefined),
    grantedAt,
    receivedAt: person.receivedAt,
    recordedAt: person.at,
    client: caller.client,
    idempotencyKey: intent.idempotencyKey ?? `auto_${id}`,
  };
  const seq = await insertDecision(client, one.transport, {
    id: randomUUIDv7(),
    cause: 'grant',
    subject: [subjectId, subject.kind],
    version: after.version,
    state: after.suppressed,
    granted: after.granted,
    effectiveAt: grantedAt,
    now: person.now,
    address: subject.value.reveal(),
    traceparent: intent.traceparent,
  });
  await updateSubject(one, person, after);
  await insertGrant(one, person, { grant, version: after.version });
  const decision = { kind: subject.kind, suppressed: sinceOf(after.suppressed), granted: after.granted };
  const awaited = stores
    .filter((store) => store.required && store.retiredAt === undefined && isDue(decision, store))
    .map(({ name }) => name);
  const body = render({
    outcome: 'recorded',
    grant,
    inForce: scopes.every((scope) => coveredBy(after.suppressed, scope) === undefined),
    propagation: begunPropagation(stores, awaited, scopes, [subject.kind], person.at),
    subject,
    asked: scopes,
    stillSuppressed: scopesOf(after),
  });
  await remember(one, person.now, { id, status: 201, body });
  await audit(client, caller, 'grant.recorded', id, { scopes: grant.liftedScopes, subject_id: subjectId });
  await commit(client);
  return { status: 201, body, replayed: false, grantId: id, decisions: [{ seq, subject, awaited }] };
}

async function updateSubject(
  { client, ring, intent: { subject } }: Try,
  { id, isErased, now }: Person,
  after: SubjectState,
): Promise<void> {
  await client.query(
    `update subjects set version = $2, state = $3, granted = $4, sealed = coalesce($5, sealed), updated_at = $6
     where id = $1`,
    [
      id,
      after.version,
      JSON.stringify(after.suppressed),
      JSON.stringify(after.granted),
      // An erased subject who comes back has given the address again.
      isErased ? ring.seal(subject.value.reveal(), [id!, subject.kind]) : null,
      now,
    ],
  );
}

async function insertGrant(
  { client, ring, intent }: Try,
  person: Person,
  { grant, version }: { grant: Grant; version: number },
): Promise<void> {
  await client.query(
    `insert into grants (id, subject_id, version, requested_scopes, lifted_scopes, granted_at, received_at, recorded_at,
                         evidence, client, key_id, api_version, idempotency_key)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`,
    [
      grant.id,
      person.id,
      version,
      grant.requestedScopes,
      grant.liftedScopes,
      grant.grantedAt,
      grant.receivedAt,
      person.now,
      sealEvidence(ring, intent.evidence, grant.id),
      grant.client,
      intent.caller.keyId,
      intent.apiVersion,
      intent.idempotencyKey === undefined
        ? null
        : ring.seal(intent.idempotencyKey, [grant.id, 'idempotency_key']),
    ],
  );
}

/** Keeps the answer under the request's key, if it has one, for every retry. */
async function remember(
  { client, ring, intent, keys: [key], intents }: Try,
  now: string,
  { id, status, body }: { id: string; status: number; body: string },
): Promise<void> {
  if (key === undefined) return;
  await client.query(
    `insert into idempotency_keys (client, pepper_id, key_hmac, intent_hmac, opt_out_id, status, api_version, answer,
                                   created_at)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
    [
      intent.caller.client,
      ring.pepperId,
      key,
      intents[0],
      id,
      status,
      intent.apiVersion,
      ring.seal(body, [id, 'answer']),
      now,
    ],
  );
}

const scopesOf = ({ suppressed }: SubjectState): Scope[] => Object.keys(suppressed) as Scope[];

async function findAnswer(
  client: Client,
  ring: KeyRing,
  owner: string,
  keys: readonly Buffer[],
): Promise<{ id: string; status: number; body: string; intent: Buffer } | undefined> {
  const { rows } = await client.query<{ id: string; status: number; answer: Buffer; intent: Buffer }>(
    `select opt_out_id as id, status, answer, intent_hmac as intent from idempotency_keys
     where key_hmac = any ($1::bytea[]) and client = $2`,
    [keys, owner],
  );
  const row = rows[0];
  return row && { ...row, body: ring.unseal(row.answer, [row.id, 'answer']) };
}
