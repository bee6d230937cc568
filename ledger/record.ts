// Recording: concurrent intents share one transaction of two statements and two round trips: BEGIN travels with the
// first, COMMIT with the second. While it runs, the next ones gather; no timer.
//
//   1. read what the idempotency keys say and lock the subjects, in match key order; then the database's clock.
//   -. fold the batch in arrival order (pure): the second item of a subject sees what the first one made of it.
//   2. insert everything, set-based, sorted, without `on conflict`: a race shows as 23505 and begins again at 1.
//
// One clever statement does not do: an upsert cannot touch a row twice, a CTE sees the state from before the lock wait,
// and `on conflict do nothing` beside a select returns no row after waiting.
import { randomUUIDv7 } from 'node:crypto';
import type { Instant, SubjectState } from '../suppression/decision.ts';
import { AbideError } from '../suppression/errors.ts';
import { isDue } from '../suppression/acknowledgement.ts';
import { seal } from '../suppression/seal.ts';
import type { SealingKey } from '../suppression/seal.ts';
import type { Scope } from '../suppression/scope.ts';
import { NORMAL_FORM } from '../suppression/subject.ts';
import type { Subject } from '../suppression/subject.ts';
import type { SubjectKind } from '../suppression/subject-kind.ts';
import { beginSpending } from './budgets.ts';
import type { OnRefused, Spending } from './budgets.ts';
import {
  asLedgerError,
  isLockTimeout,
  isRace,
  isUnavailable,
  onClient,
  together,
  toMilliseconds,
  within,
} from './database.ts';
import type { Client, Pool } from './database.ts';
import { findOptOut, findOptOutsOf, findOptOutTogether, findSameOptOut, sealEvidence } from './find.ts';
import { foldIntent, LOCKED, namedBy, toLocked } from './fold.ts';
import type { Locked, LockedRow, Looks } from './fold.ts';
import type { KeyRing } from './key-ring.ts';
import type {
  OptOut,
  OptOutIntent,
  Propagation,
  RecordAnswer,
  Recorded,
  RecordedDecision,
  RecordedOutcome,
} from './ledger.ts';
import { begunPropagation, propagationOf } from './propagation.ts';
import { sinceOf } from './reissue.ts';
import { selectRows, toParameter } from './rows.ts';
import type { Columns, RowOf } from './rows.ts';
import type { RegisteredStore } from './stores.ts';

type Render = (recorded: Recorded) => string;

type Pending = {
  readonly intent: OptOutIntent;
  readonly render: Render;
  /** One a subject, in the intent's order. */
  readonly keys: readonly { readonly match: Buffer; readonly hex: string }[];
  /** Namespaced by client; undefined where the request names no key. */
  readonly keyHex: string | undefined;
  readonly intentHex: string;
  /** Of its subjects and of its key: whoever shares one goes after it. */
  readonly names: readonly string[];
  /** When it has waited for as long as anybody waits. */
  readonly until: number;
  readonly resolve: (answer: RecordAnswer) => void;
  readonly reject: (error: unknown) => void;
};

const BATCH = 256;
/** While one transaction waits for the disk, another one works; a third one records no more (measured at 32 clients). */
const FLIGHTS = 2;
/**
 * A second transaction begins for no fewer: so many at least share what one costs, and all that follows from its commit. With a
 * second one for a single request, a decision at 500/s is verified 4.5 ms after its commit instead of 2.8 (two slow cores).
 */
const SECOND_FLIGHT_MIN = 4;
/** Fewer wait for the first transaction this long: it may stand before a lock. */
const PATIENCE_MS = 10;
/** More than this waiting is more than a client waits for: refusing early keeps memory and answers bounded. */
const QUEUE = 10_000;
/** What waits for longer is answered, and tried no more: a table may be locked, or the database stand still. */
const WAIT_MS_MAX = 10_000;
/** A transaction has what is left of that to whom it waits for longest, and at least so long: else it is cut off. */
const TRANSACTION_MS_MIN = 2_000;
const LOOK_MS = 250;

// Whoever is cut off leaves a statement behind, which ends by itself. No earlier than the line is cut: a COMMIT that waits for a
// standby is, where it is cancelled, a commit that the standby does not have.
const BEGIN = `begin isolation level read committed; set local synchronous_commit = on; set local lock_timeout = '1s';
  set local statement_timeout = '${WAIT_MS_MAX}ms'`;

// The clock is read last in the list, after every lock was waited for (fold.ts); the transaction draws its id here, in a
// statement before the one that takes sequence numbers (fence.ts).
const LOCK = `
  with ${LOCKED}
  select (select json_agg(locked) from locked) as subjects,
         (select json_agg(json_build_object('client', k.client, 'key', encode(k.key_hmac, 'hex'),
            'intent', encode(k.intent_hmac, 'hex'), 'status', k.status, 'answer', encode(k.answer, 'base64'),
            'version', k.api_version, 'id', k.opt_out_id))
          from idempotency_keys k where k.key_hmac = any ($3::bytea[]) and k.pepper_id = $2) as keys,
         pg_current_xact_id()::text as xid,
         clock_timestamp() as now`;

/** Columns whose bytes travel as one binary parameter and are cut out by place: as text they would be twice as long. */
const PLACES = {
  answer: ['answer_at', 'answer_size'],
  sealed: ['sealed_at', 'sealed_size'],
  note: ['note_at', 'note_size'],
  evidence: ['evidence_at', 'evidence_size'],
  key: ['key_at', 'key_size'],
} as const;
type Placed = keyof typeof PLACES;
const CUT = (name: Placed): string => `substring($6::bytea from x.${name}_at for x.${name}_size)`;

const ITEM = {
  opt_out_id: 'uuid',
  client: 'text',
  key_id: 'text',
  api_version: 'text',
  caller_address: 'text',
  action: 'text',
  request_id: 'text',
  details: 'jsonb',
  key_hmac: 'bytea',
  intent_hmac: 'bytea',
  status: 'smallint',
  answer_at: 'int',
  answer_size: 'int',
  decision_id: 'uuid',
  subject_id: 'uuid',
  kind: 'text',
  version: 'bigint',
  suppressed: 'jsonb',
  granted: 'jsonb',
  state: 'jsonb',
  position: 'smallint',
  effective_at: 'timestamptz',
  effective_at_stated: 'boolean',
  received_at: 'timestamptz',
  requested_scopes: 'text[]',
  reason: 'text',
  regimes: 'text[]',
  sealed_at: 'int',
  sealed_size: 'int',
  note_at: 'int',
  note_size: 'int',
  evidence_at: 'int',
  evidence_size: 'int',
  key_at: 'int',
  key_size: 'int',
  traceparent: 'text',
} as const satisfies Columns;
type ItemRow = RowOf<typeof ITEM>;

const SUBJECT = {
  id: 'uuid',
  kind: 'text',
  match_key: 'bytea',
  version: 'bigint',
  state: 'jsonb',
  granted: 'jsonb',
  sealed_at: 'int',
  sealed_size: 'int',
} as const satisfies Columns;

// One row of `item` an intent: each has an audit row, one with a key its answer, one that decided something its opt-out and
// the decision of its first subject. The decisions of its other subjects are rows of their own, with nothing else.
const ITEMS = `
  with item as materialized (
    ${selectRows(ITEM, '$1')}
  ), decided as (
    insert into decisions (id, cause, opt_out_id, subject_id, kind, version, suppressed, granted, effective_at,
                           recorded_at, sealed, transport_key_id, traceparent)
    select decision_id, 'opt_out', opt_out_id, subject_id, kind, version, suppressed, granted, effective_at, $2,
           ${CUT('sealed')}, $3, traceparent
    from item x where decision_id is not null
    returning seq, id
  ), made as (
    insert into subjects (id, kind, pepper_id, match_key, normal_form, version, state, granted, sealed, updated_at)
    select id, kind, $5, match_key, ${NORMAL_FORM}, version, state, granted, ${CUT('sealed')}, $2
    from (${selectRows(SUBJECT, '$4')}) x
    order by match_key
  ), opted as (
    insert into opt_outs (id, requested_scopes, effective_at, effective_at_stated, received_at, recorded_at, reason,
                          regimes, note, evidence, client, key_id, api_version, idempotency_key)
    select opt_out_id, requested_scopes, effective_at, effective_at_stated, received_at, $2, reason, regimes,
           ${CUT('note')}, ${CUT('evidence')}, client, key_id, api_version, ${CUT('key')}
    from item x where requested_scopes is not null
  ), bound as (
    insert into opt_out_subjects (opt_out_id, subject_id, version, state, position)
    select opt_out_id, subject_id, version, state, position from item where decision_id is not null
  ), remembered as (
    insert into idempotency_keys (client, pepper_id, key_hmac, intent_hmac, opt_out_id, status, api_version, answer,
                                  created_at)
    select client, $5, key_hmac, intent_hmac, opt_out_id, status, api_version, ${CUT('answer')}, $2
    from item x where key_hmac is not null
    order by key_hmac
  ), audited as (
    insert into audit_log (at, client, key_id, caller_address, action, resource, request_id, details)
    select $2, client, key_id, caller_address, action, opt_out_id::text, request_id, details
    from item where action is not null
  )`;

const WRITE = `${ITEMS}
  select seq, id from decided`;

// Apart, since the trigger that checks an update costs as much as a third of the rest even where nothing is updated.
const WRITE_AND_MOVE = `${ITEMS}, moved as (
    update subjects s set version = x.version, state = x.state, granted = x.granted,
      sealed = coalesce(${CUT('sealed')}, s.sealed), updated_at = $2
    from (${selectRows(SUBJECT, '$7')}) x
    where s.id = any ($8::uuid[]) and s.id = x.id
  )
  select seq, id from decided`;

/** Collects the bytes of a batch; each place is two columns, or none where there is nothing. */
class Bytes {
  readonly #parts: Buffer[] = [];
  #length = 0;
  add(name: Placed, part: Buffer | undefined): Record<string, number> | undefined {
    if (part === undefined) return undefined;
    const at = this.#length + 1;
    this.#parts.push(part);
    this.#length += part.length;
    const [place, size] = PLACES[name];
    return { [place]: at, [size]: part.length };
  }
  all(): Buffer {
    return Buffer.concat(this.#parts, this.#length);
  }
}

type Remembered = {
  status: number;
  body: string;
  apiVersion: string;
  optOutId: string;
  intentHex: string;
  /** What the body says, where it was made in this very batch. */
  recorded?: Recorded;
};

/**
 * The text that two requests share when they ask for the same thing, whatever their spelling or API version. What only some
 * requests say stands at the end, so that those without it have the text that they always had.
 */
function intentText(intent: OptOutIntent): string {
  const [first, ...others] = intent.subjects
    .map(({ kind, value }) => [kind, value.reveal()] as const)
    .sort((a, b) => (`${a[0]}\0${a[1]}` < `${b[0]}\0${b[1]}` ? -1 : 1));
  const { regimes, evidence } = intent;
  const always = [
    ...first!,
    [...intent.scopes].sort(),
    intent.effectiveAt ?? null,
    intent.reason,
    intent.note ?? null,
  ];
  if (others.length === 0 && regimes.length === 0 && evidence === undefined) return JSON.stringify(always);
  return JSON.stringify([
    ...always,
    others,
    [...regimes].sort(),
    evidence === undefined ? null : [evidence.method, evidence.statement ?? null, evidence.source ?? null],
  ]);
}

/** What this very batch made, oldest first. */
type Made = {
  readonly optOut: OptOut;
  readonly subjectIds: readonly string[];
  readonly propagation: Propagation;
};

/** One decision a subject: the columns of the opt-out with those of its first one, and the rows of the others. */
type Decided = {
  readonly decisions: readonly (Omit<RecordedDecision, 'seq'> & { readonly id: string })[];
  readonly columns: ItemRow;
  readonly others: readonly ItemRow[];
};

export type Recorder = {
  record(intent: OptOutIntent, render: Render): Promise<RecordAnswer>;
  /** Whether anybody waits for a transaction to be free. */
  isWaiting(): boolean;
};

/** `onRecorded` is called after COMMIT with the number of new decisions. */
export function createRecorder({
  pool,
  ring,
  transportKey,
  stores,
  onRecorded,
  onRefused,
}: {
  pool: Pool;
  ring: KeyRing;
  transportKey: () => SealingKey;
  stores: () => readonly RegisteredStore[];
  onRecorded: (decisions: number) => void;
  onRefused: OnRefused;
}): Recorder {
  let queue: Pending[] = [];
  let flights = 0;
  let scheduled = false;
  let patience: NodeJS.Timeout | undefined;
  let looking = false;
  /** Subjects and keys of the batches under way: whoever shares one waits for it instead of racing it. */
  const underWay = new Set<string>();

  /** After the current turn: requests that arrived in the same burst share a transaction. */
  function schedule(): void {
    if (scheduled || flights >= FLIGHTS || queue.length === 0) return;
    const patientMs = flights > 0 && queue.length < SECOND_FLIGHT_MIN ? patienceOf(queue[0]!) : 0;
    if (patientMs > 0) {
      patience ??= setTimeout(() => {
        patience = undefined;
        schedule();
      }, patientMs);
      return;
    }
    scheduled = true;
    setImmediate(() => {
      scheduled = false;
      const batch = nextBatch();
      if (batch.length === 0) return;
      flights += 1;
      void recordBatch(batch).finally(() => {
        flights -= 1;
        for (const { names } of batch) for (const name of names) underWay.delete(name);
        schedule();
      });
      schedule();
    });
  }

  /** Whoever waits for longest stands first. */
  function refuseLate(): void {
    const now = performance.now();
    const inTime = queue.findIndex(({ until }) => until > now);
    for (const item of queue.splice(0, inTime === -1 ? queue.length : inTime)) item.reject(tooLate());
  }

  /** As long as somebody waits, however long the batches under way take. */
  function lookForLate(): void {
    if (looking || queue.length === 0) return;
    looking = true;
    setTimeout(() => {
      looking = false;
      refuseLate();
      lookForLate();
    }, LOOK_MS).unref();
  }

  /** In order of arrival; an item whose subject or key is under way, or waits already, stays where it is. */
  function nextBatch(): Pending[] {
    refuseLate();
    const batch: Pending[] = [];
    const waiting: Pending[] = [];
    const held = new Set<string>();
    // What waits is shared among the free flights: one batch of everybody would leave this process idle while it is written,
    // and the database idle while the next one is made.
    const share = Math.ceil(queue.length / (FLIGHTS - flights));
    const most = Math.min(BATCH, queue.length - share < SECOND_FLIGHT_MIN ? queue.length : share);
    for (const [n, item] of queue.entries()) {
      if (batch.length === most) {
        waiting.push(...queue.slice(n));
        break;
      }
      const { names } = item;
      if (names.some((name) => underWay.has(name) || held.has(name))) {
        for (const name of names) held.add(name);
        waiting.push(item);
      } else batch.push(item);
    }
    for (const { names } of batch) for (const name of names) underWay.add(name);
    queue = waiting;
    return batch;
  }

  /** A race is repeated; after two failures, or where one item is at fault, each item goes alone. */
  async function recordBatch(batch: readonly Pending[]): Promise<void> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        await recordOnce(batch);
        return;
      } catch (error) {
        if (isRace(error) && attempt < (batch.length === 1 ? 10 : 3)) continue;
        if (isUnavailable(error) || batch.length === 1) {
          for (const item of batch) item.reject(asLedgerError(whatItMeans(error, item)));
          return;
        }
        for (const item of batch) {
          if (item.until <= performance.now()) item.reject(tooLate());
          else await recordBatch([item]);
        }
        return;
      }
    }
  }

  async function recordOnce(batch: readonly Pending[]): Promise<void> {
    const settle: (() => void)[] = [];
    const decisions = await onClient(pool, (client) => {
      const leftMs = Math.max(TRANSACTION_MS_MIN, batch[0]!.until - performance.now());
      return within(client, leftMs, async () => {
        const [, opened] = await together(client, () => [client.query(BEGIN), lockAndRead(client, batch)]);
        const callers = batch.map(({ intent }) => intent.caller);
        const spending = await beginSpending(client, 'opt_out', callers, onRefused);
        return await fold(client, batch, { ...opened, spending }, settle);
      });
    });
    // Only here, after COMMIT returned, does anybody get a 2xx.
    for (const answer of settle) answer();
    if (decisions > 0) onRecorded(decisions);
  }

  async function lockAndRead(client: Client, batch: readonly Pending[]) {
    const bySubject = new Map(batch.flatMap(({ keys }) => keys).map(({ hex, match }) => [hex, match]));
    const byKey = new Map(
      batch.filter((item) => item.keyHex !== undefined).map((item) => [item.keyHex!, item]),
    );
    const { rows } = await client.query<{
      subjects: LockedRow[] | null;
      keys:
        | {
            client: string;
            key: string;
            intent: string;
            status: number;
            answer: string;
            version: string;
            id: string;
          }[]
        | null;
      now: string;
    }>({
      name: 'record-lock',
      text: LOCK,
      values: [
        [...bySubject.values()],
        ring.pepperId,
        [...byKey.keys()].map((key) => Buffer.from(key.slice(0, 64), 'hex')),
      ],
    });
    const row = rows[0]!;
    const remembered = new Map<string, Remembered>();
    for (const { client: owner, key, intent, status, answer, version: apiVersion, id } of row.keys ?? []) {
      const body = ring.unseal(Buffer.from(answer, 'base64'), [id, 'answer']);
      remembered.set(keyName(key, owner), { status, body, apiVersion, optOutId: id, intentHex: intent });
    }
    return { subjects: toLocked(row.subjects), remembered, now: row.now };
  }

  async function fold(
    client: Client,
    batch: readonly Pending[],
    {
      subjects,
      remembered,
      now,
      spending,
    }: Awaited<ReturnType<typeof lockAndRead>> & { readonly spending: Spending },
    settle: (() => void)[],
  ): Promise<number> {
    const registered = stores();
    const transport = transportKey();
    const nowMs = Date.parse(now);
    const bytes = new Bytes();
    const rows: ItemRow[] = [];
    const made: Made[] = [];
    /** Whose address is given by whom: for subjects that are new, or were erased. */
    const addresses = new Map<string, Subject>();
    const answers: {
      item: Pending;
      recorded: Omit<Recorded, 'propagation'>;
      propagation: Propagation | undefined;
      /** Undefined where nothing was decided. */
      decided: Decided | undefined;
    }[] = [];
    const replays: { item: Pending; of: string }[] = [];
    const claimed = new Map<string, string>();

    const looks: Omit<Looks<OptOut>, 'spend' | 'tell'> = {
      same: (named, scopes, effectiveAt) =>
        findSameOptOut(
          client,
          ring,
          named.map(({ id }) => id),
          scopes,
          effectiveAt,
        ),
      covering: (named, scopes) =>
        named.length === 1
          ? newestCovering(client, named[0]!, scopes, made)
          : newestTogether(client, named, scopes, made),
    };

    for (const item of batch) {
      const { intent } = item;
      if (item.keyHex !== undefined) {
        const before = remembered.get(item.keyHex)?.intentHex ?? claimed.get(item.keyHex);
        if (before !== undefined) {
          if (before !== item.intentHex)
            settle.push(() => item.reject(new AbideError('idempotency-key-reused')));
          else replays.push({ item, of: item.keyHex });
          continue;
        }
      }
      const receivedAt = new Date(nowMs - Math.max(0, performance.now() - intent.receivedAtMs)).toISOString();
      const named = namedBy(item.keys, subjects);
      const folded = await foldIntent(
        intent,
        named,
        { receivedAt, nowMs },
        {
          ...looks,
          spend: (count) => spending.take(intent.caller, count),
          // A spent key would otherwise learn of anybody whether they opted out: who did not would be refused, and so unchanged.
          tell: ({ client: whose }) =>
            whose === intent.caller.client ? undefined : spending.take(intent.caller, 0),
        },
      );
      if (folded.kind === 'too_far_ahead') {
        const errors = [{ pointer: '/effective_at', detail: 'must not lie more than an hour ahead' }];
        settle.push(() => item.reject(new AbideError('invalid-value', undefined, { errors })));
        continue;
      }
      if (folded.kind === 'exhausted') {
        // Nothing is recorded under the key either.
        settle.push(() => item.reject(folded.error));
        continue;
      }
      if (item.keyHex !== undefined) claimed.set(item.keyHex, item.intentHex);
      const answer = (
        optOut: OptOut,
        outcome: RecordedOutcome,
        propagation: Propagation | undefined,
        decided?: Decided,
      ): void => {
        answers.push({
          item,
          propagation,
          decided,
          recorded: {
            outcome,
            optOut,
            subjects: intent.subjects.map((subject, n) => ({ subject, state: named[n]!.state })),
            asked: intent.scopes,
            idempotencyKey: intent.idempotencyKey ?? `auto_${optOut.id}`,
            effectiveAtAdjusted: folded.adjusted,
          },
        });
      };

      if (folded.kind !== 'recorded') {
        const here = made.find(({ optOut }) => optOut.id === folded.before.id);
        answer(folded.before, folded.kind, here?.propagation);
        continue;
      }
      const { id, effectiveAt } = folded;
      const optOut: OptOut = {
        id,
        requestedScopes: intent.scopes,
        effectiveAt,
        receivedAt,
        recordedAt: toMilliseconds(now),
        reason: intent.reason,
        regimes: intent.regimes,
        client: intent.caller.client,
        idempotencyKey: intent.idempotencyKey ?? `auto_${id}`,
        firstCompletedAt: undefined,
      };
      const decisions = named.map((locked, n) => {
        const subject = intent.subjects[n]!;
        const { hex } = item.keys[n]!;
        subjects.set(hex, locked);
        addresses.set(hex, subject);
        return { id: randomUUIDv7(), subject, awaited: awaitedBy(subject.kind, locked.state) };
      });
      const propagation = begunPropagation(
        registered,
        [...new Set(decisions.flatMap(({ awaited }) => awaited))],
        intent.scopes,
        intent.subjects.map(({ kind }) => kind),
        optOut.recordedAt,
      );
      made.push({ optOut, subjectIds: named.map((locked) => locked.id), propagation });
      const rowsOf = named.map((locked, n) => {
        const { kind, value } = intent.subjects[n]!;
        return {
          decision_id: decisions[n]!.id,
          opt_out_id: id,
          subject_id: locked.id,
          kind,
          version: locked.state.version,
          suppressed: since(locked.state),
          granted: locked.state.granted,
          state: locked.state.suppressed,
          position: n,
          effective_at: effectiveAt,
          traceparent: intent.traceparent,
          ...bytes.add('sealed', seal(value.reveal(), transport, [locked.id, kind])),
        };
      });
      answer(optOut, 'recorded', propagation, {
        decisions,
        others: rowsOf.slice(1),
        columns: {
          ...rowsOf[0],
          effective_at_stated: folded.isStated,
          received_at: receivedAt,
          requested_scopes: intent.scopes,
          reason: intent.reason,
          regimes: intent.regimes,
          ...bytes.add('note', intent.note === undefined ? undefined : ring.seal(intent.note, [id, 'note'])),
          ...bytes.add(
            'evidence',
            intent.evidence === undefined ? undefined : sealEvidence(ring, intent.evidence, id),
          ),
          ...bytes.add(
            'key',
            intent.idempotencyKey === undefined
              ? undefined
              : ring.seal(intent.idempotencyKey, [id, 'idempotency_key']),
          ),
        },
      });
    }

    function awaitedBy(kind: SubjectKind, state: SubjectState): string[] {
      const decision = { kind, suppressed: since(state), granted: state.granted };
      return registered
        .filter((store) => store.required && store.retiredAt === undefined && isDue(decision, store))
        .map(({ name }) => name);
    }

    const olderIds = [
      ...new Set(answers.filter((one) => one.propagation === undefined).map((one) => one.recorded.optOut.id)),
    ];
    const older =
      olderIds.length === 0
        ? new Map<string, Propagation>()
        : await propagationOf(client, registered, olderIds);
    const seqs = new Map<string, number>();
    for (const { item, recorded, propagation, decided } of answers) {
      const optOutId = recorded.optOut.id;
      const status = recorded.outcome === 'recorded' ? 201 : 200;
      const its = propagation ?? older.get(optOutId);
      if (its === undefined) throw new Error('an opt-out without a decision');
      const full: Recorded = { ...recorded, propagation: its };
      const body = item.render(full);
      const row = {
        ...audited(item, recorded.outcome === 'recorded' ? 'opt_out.recorded' : 'opt_out.repeated', optOutId),
        ...decided?.columns,
      };
      const others = decided?.others ?? [];
      if (item.keyHex === undefined) rows.push(row, ...others);
      else {
        const { intentHex, intent } = item;
        const { apiVersion } = intent;
        remembered.set(item.keyHex, { status, body, apiVersion, optOutId, intentHex, recorded: full });
        rows.push({
          ...row,
          key_hmac: `\\x${item.keyHex.slice(0, 64)}`,
          intent_hmac: `\\x${intentHex}`,
          status,
          ...bytes.add('answer', ring.seal(body, [optOutId, 'answer'])),
        });
        rows.push(...others);
      }
      settle.push(() =>
        item.resolve({
          status,
          body,
          replayed: false,
          optOutId,
          decisions: (decided?.decisions ?? []).map(({ id, ...decision }): RecordedDecision => ({
            seq: seqs.get(id)!,
            ...decision,
          })),
        }),
      );
    }
    for (const { item, of } of replays) {
      const first = remembered.get(of);
      if (first === undefined) throw new Error('a replay of nothing');
      const { status, optOutId } = first;
      const body =
        first.apiVersion === item.intent.apiVersion ? first.body : await inOtherWords(client, item, first);
      rows.push(audited(item, 'opt_out.replayed', optOutId));
      settle.push(() => item.resolve({ status, body, replayed: true, optOutId, decisions: [] }));
    }

    function audited(item: Pending, action: string, optOutId: string): ItemRow {
      const { client: owner, keyId, address, requestId } = item.intent.caller;
      return {
        opt_out_id: optOutId,
        client: owner,
        key_id: keyId,
        api_version: item.intent.apiVersion,
        caller_address: address,
        action,
        request_id: requestId,
        details: { scopes: item.intent.scopes, api_version: item.intent.apiVersion },
      };
    }

    settle.push(await spending.write());
    if (rows.length === 0) {
      await client.query('commit');
      return 0;
    }
    const changed = [...subjects.entries()].filter(([, subject]) => subject.changed);
    const subjectRow = ([hex, locked]: [string, Locked]): RowOf<typeof SUBJECT> => {
      const given = addresses.get(hex);
      const { id, state, isNew, erased } = locked;
      return {
        id,
        kind: given?.kind,
        match_key: `\\x${hex}`,
        version: state.version,
        state: state.suppressed,
        granted: state.granted,
        // An erased subject who asks again has given the address again.
        ...bytes.add(
          'sealed',
          given !== undefined && (isNew || erased)
            ? ring.seal(given.value.reveal(), [id, given.kind])
            : undefined,
        ),
      };
    };
    const moved = changed.filter(([, subject]) => !subject.isNew);
    const toSubjects = (some: typeof changed): string => toParameter(SUBJECT, some.map(subjectRow));
    const newSubjects = toSubjects(changed.filter(([, subject]) => subject.isNew));
    const movedSubjects = toSubjects(moved);
    const values = [toParameter(ITEM, rows), now, transport.id, newSubjects, ring.pepperId, bytes.all()];
    const write =
      moved.length === 0
        ? { name: 'record-write', text: WRITE, values }
        : {
            name: 'record-write-and-move',
            text: WRITE_AND_MOVE,
            values: [...values, movedSubjects, moved.map(([, subject]) => subject.id)],
          };
    // Where the first fails, the second rolls back.
    const [{ rows: written }, { command }] = await together(client, () => [
      client.query<{ seq: number; id: string }>(write),
      client.query('commit'),
    ]);
    if (command !== 'COMMIT') throw new Error(`commit was answered ${command}`);
    for (const row of written) seqs.set(row.id, row.seq);
    return written.length;
  }

  /** The first answer to a key in the words of another API version: the same opt-out, propagated as far as it is now. */
  async function inOtherWords(client: Client, item: Pending, first: Remembered): Promise<string> {
    if (first.recorded !== undefined) return item.render(first.recorded);
    const found = await findOptOut(client, { ring, stores: stores() }, first.optOutId, undefined);
    if (found === undefined) throw new Error('an answer without its opt-out');
    const { intent } = item;
    const { outcome } = JSON.parse(first.body) as { outcome: RecordedOutcome };
    return item.render({
      outcome,
      optOut: found.optOut,
      subjects: intent.subjects.map((subject, n) => ({
        subject,
        state: found.subjects[n]?.state ?? found.subjects[0]!.state,
      })),
      asked: intent.scopes,
      idempotencyKey: intent.idempotencyKey!,
      effectiveAtAdjusted: false,
      propagation: found.propagation,
    });
  }

  /**
   * The newest opt-out, by version, whose resulting state first covered all that was asked; undefined where no opt-out did: a
   * canary is suppressed without any.
   */
  async function newestCovering(
    client: Client,
    { id, state }: Locked,
    scopes: readonly string[],
    made: readonly Made[],
  ): Promise<OptOut | undefined> {
    const ids = new Set(scopes.map((scope) => state.suppressed[scope]!.opt_out_id));
    // Whatever this batch made is newer than anything that was there before.
    const recent = made.findLast(({ optOut }) => ids.has(optOut.id));
    if (recent !== undefined) return recent.optOut;
    const [newest] = await findOptOutsOf(client, ring, id, [...ids]);
    return newest;
  }

  async function newestTogether(
    client: Client,
    named: readonly Locked[],
    scopes: readonly Scope[],
    made: readonly Made[],
  ): Promise<OptOut | undefined> {
    const recent = made.findLast(
      ({ optOut, subjectIds }) =>
        named.every(({ id }) => subjectIds.includes(id)) &&
        scopes.every((scope) => optOut.requestedScopes.includes(scope)),
    );
    if (recent !== undefined) return recent.optOut;
    const ids = named.map(({ id }) => id);
    return await findOptOutTogether(client, ring, ids, scopes);
  }

  return {
    isWaiting: () => queue.length > 0,
    record: (intent, render) => {
      if (queue.length >= QUEUE) {
        return Promise.reject(new AbideError('overloaded', undefined, { retryAfterSeconds: 1 }));
      }
      const { caller } = intent;
      const key = fingerprintOfKey(ring, caller.client, intent.idempotencyKey);
      const keyHex = key && keyName(key.toString('hex'), caller.client);
      const keys = intent.subjects.map((subject) => {
        const match = ring.matchKey(subject);
        return { match, hex: match.toString('hex') };
      });
      const names = keys.map(({ hex }) => hex);
      if (keyHex !== undefined) names.push(keyHex);
      return new Promise((resolve, reject) => {
        queue.push({
          intent,
          render,
          keys,
          keyHex,
          names,
          intentHex: ring.fingerprint('intent', intentText(intent)).toString('hex'),
          until: performance.now() + WAIT_MS_MAX,
          resolve,
          reject,
        });
        schedule();
        lookForLate();
      });
    },
  };
}

/** What is left of the time that it waits for the transaction under way. */
const patienceOf = ({ until }: Pending): number => until - WAIT_MS_MAX + PATIENCE_MS - performance.now();

/** What a caller's key is known by: the key itself may be somebody's address. */
export const fingerprintOfKey = (
  ring: KeyRing,
  client: string,
  idempotencyKey: string | undefined,
): Buffer | undefined =>
  idempotencyKey === undefined
    ? undefined
    : ring.fingerprint('idempotency-key', `${client}\0${idempotencyKey}`);

const keyName = (keyHex: string, client: string): string => `${keyHex}${client}`;

const since = (state: SubjectState): Record<string, Instant> => sinceOf(state.suppressed);

/** Nothing of it was begun. */
const tooLate = (): AbideError =>
  new AbideError('overloaded', `It waited for ${WAIT_MS_MAX / 1000} s, and nothing was recorded.`, {
    retryAfterSeconds: 1,
  });

function whatItMeans(error: unknown, item: Pending): unknown {
  if (isLockTimeout(error) || isRace(error)) {
    const code = item.keyHex === undefined ? 'overloaded' : 'idempotency-key-in-use';
    return new AbideError(code, undefined, { cause: error, retryAfterSeconds: 1 });
  }
  return error;
}
