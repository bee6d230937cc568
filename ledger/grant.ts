// The only way back: the person's own later consent. Each call is one subject and one transaction: grants are scarce, so nothing is
// gained by gathering them, and no person asks for a batch of them.
import { randomUUIDv7 } from 'node:crypto';
import { isDue } from '../suppression/acknowledgement.ts';
import type { SubjectState } from '../suppression/decision.ts';
import { AbideError } from '../suppression/errors.ts';
import { applyGrant } from '../suppression/precedence.ts';
import { coveredBy } from '../suppression/scope.ts';
import type { Scope } from '../suppression/scope.ts';
import type { SealingKey } from '../suppression/seal.ts';
import { audit } from './audit.ts';
import { beginSpending } from './budgets.ts';
import type { OnRefused } from './budgets.ts';
import { asLedgerError, isLockTimeout, isRace, onClient, toMilliseconds } from './database.ts';
import type { Client, Pool } from './database.ts';
import { findGrant, sealEvidence } from './find.ts';
import type { KeyRing } from './key-ring.ts';
import type { Grant, GrantAnswer, GrantIntent, RecordedGrant } from './ledger.ts';
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
      return await onClient(pool, (client) => grantOnce(client, context, intent, render));
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

type Locked = {
  id: string;
  version: number;
  state: SubjectState['suppressed'];
  granted: SubjectState['granted'];
  erased: boolean;
};

async function grantOnce(
  client: Client,
  context: Context,
  intent: GrantIntent,
  render: Render,
): Promise<GrantAnswer> {
  const { ring } = context;
  const { caller, subject, scopes, grantedAt } = intent;
  await client.query('begin isolation level read committed');
  await client.query("set local synchronous_commit = on; set local lock_timeout = '1s'");
  const keys = fingerprintsOfKey(ring, caller.client, intent.idempotencyKey);
  const [key] = keys;
  const intents = ring.fingerprints('intent', intentText(intent));
  const first = key && (await findAnswer(client, ring, caller.client, keys));
  if (first !== undefined) {
    if (!intents.some((one) => first.intent.equals(one))) throw new AbideError('idempotency-key-reused');
    await audit(client, caller, 'grant.replayed', first.id, { scopes });
    await client.query('commit');
    return { status: first.status, body: first.body, replayed: true, grantId: first.id, decisions: [] };
  }
  const askedMs = performance.now();
  const { rows } = await client.query<Locked & { now: string }>(
    `with locked as materialized (
       select id, version, state, granted, sealed is null as erased from subjects
       where match_key = any ($1::bytea[]) and is_newest_pepper($2) and kind = $3 for update)
     select locked.*, pg_current_xact_id()::text as xid, clock_timestamp() as now
     from (values (1)) one left join locked on true`,
    [everyMatch([subjectKey(ring, subject)]), ring.pepperId, subject.kind],
  );
  const { now, ...locked } = rows[0]!;
  const at = toMilliseconds(now);
  if (grantedAt > at) {
    const errors = [{ pointer: '/granted_at', detail: 'must not be in the future' }];
    throw new AbideError('invalid-value', undefined, { errors });
  }
  const known = (locked.id as string | null) !== null;
  const state: SubjectState = known
    ? { version: locked.version, suppressed: locked.state, granted: locked.granted }
    : { version: 0, suppressed: {}, granted: {} };
  const remember = async (id: string, status: number, body: string): Promise<void> => {
    if (key === undefined) return;
    await client.query(
      `insert into idempotency_keys (client, pepper_id, key_hmac, intent_hmac, opt_out_id, status, api_version, answer,
                                     created_at)
       values ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
      [
        caller.client,
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
  };

  // This is a late retry of a recorded consent: it lifts nothing a second time, whatever was suppressed since.
  const before = known
    ? await findGrant(client, context, { subjectId: locked.id, scopes, grantedAt })
    : undefined;
  if (before !== undefined) {
    const { grant, inForce, propagation } = before;
    const stillSuppressed = scopesOf(state);
    const body = render({
      outcome: 'already_recorded',
      grant,
      inForce,
      propagation,
      subject,
      asked: scopes,
      stillSuppressed,
    });
    await remember(grant.id, 200, body);
    await audit(client, caller, 'grant.repeated', grant.id, { scopes });
    await client.query('commit');
    return { status: 200, body, replayed: false, grantId: grant.id, decisions: [] };
  }

  // Whatever its outcome, a try tells whether the person opted out: only repeats are free.
  const spending = await beginSpending(client, 'grant', [caller], context.onRefused);
  const exhausted = spending.take(caller, 1);
  const tellRefused = await spending.write();
  if (exhausted !== undefined) {
    await client.query('commit');
    tellRefused();
    throw exhausted;
  }

  const unheard = intent.undeclared.filter((scope) => state.suppressed[scope] === undefined);
  if (unheard.length > 0) {
    await client.query('commit');
    const errors = unheard.map((scope) => ({
      pointer: `/scopes/${scopes.indexOf(scope)}`,
      detail: 'is not declared in the configuration (topics, purposes), and was not refused by this person',
    }));
    throw new AbideError('invalid-value', undefined, { errors });
  }

  const effect = applyGrant(state, { scopes, at: grantedAt }, at);
  if (effect.kind === 'refused') {
    await audit(client, caller, 'grant.refused', known ? locked.id : undefined, { scopes: effect.scopes });
    await client.query('commit');
    const errors = effect.scopes.map((scope) => ({
      pointer: `/scopes/${scopes.indexOf(scope as Scope)}`,
      detail: 'was opted out at that time or later',
    }));
    throw new AbideError('grant-not-later', undefined, { errors });
  }
  if (effect.kind === 'nothing_to_grant') {
    // Nothing is written, not even under the key: this answer must not lift an opt-out that comes later.
    await client.query('commit');
    const body = render({
      outcome: 'not_suppressed',
      subject,
      asked: scopes,
      stillSuppressed: scopesOf(state),
    });
    return { status: 200, body, replayed: false, grantId: undefined, decisions: [] };
  }

  const id = randomUUIDv7();
  const after = effect.state;
  const receivedAt = new Date(Date.parse(now) - (askedMs - intent.receivedAtMs)).toISOString();
  const grant: Grant = {
    id,
    requestedScopes: scopes,
    liftedScopes: scopes.filter((scope) => state.suppressed[scope] !== undefined),
    grantedAt,
    receivedAt,
    recordedAt: at,
    client: caller.client,
    idempotencyKey: intent.idempotencyKey ?? `auto_${id}`,
  };
  const seq = await insertDecision(client, context.transport, {
    id: randomUUIDv7(),
    cause: 'grant',
    subject: [locked.id, subject.kind],
    version: after.version,
    state: after.suppressed,
    granted: after.granted,
    effectiveAt: grantedAt,
    now,
    address: subject.value.reveal(),
    traceparent: intent.traceparent,
  });
  await client.query(
    `update subjects set version = $2, state = $3, granted = $4, sealed = coalesce($5, sealed), updated_at = $6
     where id = $1`,
    [
      locked.id,
      after.version,
      JSON.stringify(after.suppressed),
      JSON.stringify(after.granted),
      // An erased subject who comes back has given the address again.
      locked.erased ? ring.seal(subject.value.reveal(), [locked.id, subject.kind]) : null,
      now,
    ],
  );
  await client.query(
    `insert into grants (id, subject_id, version, requested_scopes, lifted_scopes, granted_at, received_at, recorded_at,
                         evidence, client, key_id, api_version, idempotency_key)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`,
    [
      id,
      locked.id,
      after.version,
      scopes,
      grant.liftedScopes,
      grantedAt,
      receivedAt,
      now,
      sealEvidence(ring, intent.evidence, id),
      caller.client,
      caller.keyId,
      intent.apiVersion,
      intent.idempotencyKey === undefined ? null : ring.seal(intent.idempotencyKey, [id, 'idempotency_key']),
    ],
  );
  const decision = { kind: subject.kind, suppressed: sinceOf(after.suppressed), granted: after.granted };
  const awaited = context.stores
    .filter((store) => store.required && store.retiredAt === undefined && isDue(decision, store))
    .map(({ name }) => name);
  const body = render({
    outcome: 'recorded',
    grant,
    inForce: scopes.every((scope) => coveredBy(after.suppressed, scope) === undefined),
    propagation: begunPropagation(context.stores, awaited, scopes, [subject.kind], at),
    subject,
    asked: scopes,
    stillSuppressed: scopesOf(after),
  });
  await remember(id, 201, body);
  await audit(client, caller, 'grant.recorded', id, { scopes: grant.liftedScopes, subject_id: locked.id });
  const { command } = await client.query('commit');
  if (command !== 'COMMIT') throw new Error(`commit was answered ${command}`);
  return { status: 201, body, replayed: false, grantId: id, decisions: [{ seq, subject, awaited }] };
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
