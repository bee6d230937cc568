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
import { UNKNOWN_SUBJECT } from '../suppression/decision.ts';
import { AbideError } from '../suppression/errors.ts';
import { isDue } from '../suppression/acknowledgement.ts';
import { applyOptOut } from '../suppression/precedence.ts';
import { seal } from '../suppression/seal.ts';
import type { SealingKey } from '../suppression/seal.ts';
import { NORMAL_FORM } from '../suppression/subject.ts';
import {
  asLedgerError,
  isLockTimeout,
  isRace,
  isUnavailable,
  onClient,
  together,
  toMilliseconds,
} from './database.ts';
import type { Client, Pool } from './database.ts';
import { findOptOutRecords, findSameOptOut } from './find.ts';
import type { KeyRing } from './key-ring.ts';
import type { OptOut, OptOutIntent, Propagation, RecordAnswer, Recorded } from './ledger.ts';
import { begunPropagation, propagationOf } from './propagation.ts';
import type { RegisteredStore } from './stores.ts';

type Render = (recorded: Recorded) => string;

type Pending = {
  readonly intent: OptOutIntent;
  readonly render: Render;
  readonly matchKey: Buffer;
  readonly matchHex: string;
  /** Namespaced by client; undefined where the request names no key. */
  readonly keyHex: string | undefined;
  readonly intentHex: string;
  readonly resolve: (answer: RecordAnswer) => void;
  readonly reject: (error: unknown) => void;
};

const BATCH = 256;
/** While one transaction waits for the disk, another one works. */
const FLIGHTS = 2;
/** More than this waiting is more than a client waits for: refusing early keeps memory and answers bounded. */
const QUEUE = 10_000;
const HOUR_MS = 3_600_000;

const BEGIN =
  "begin isolation level read committed; set local synchronous_commit = on; set local lock_timeout = '1s'";

// The clock is read last in the list, after every lock was waited for; the transaction draws its id here, in a statement
// before the one that takes sequence numbers (fence.ts).
const LOCK = `
  with locked as materialized (
    select s.id, encode(s.match_key, 'hex') as match, s.version, s.state, s.granted, s.sealed is null as erased
    from subjects s where s.match_key = any ($1::bytea[]) and s.pepper_id = $2
    order by s.match_key for update
  )
  select (select json_agg(locked) from locked) as subjects,
         (select json_agg(json_build_object('client', k.client, 'key', encode(k.key_hmac, 'hex'),
            'intent', encode(k.intent_hmac, 'hex'), 'status', k.status, 'answer', encode(k.answer, 'base64'),
            'id', k.opt_out_id))
          from idempotency_keys k where k.key_hmac = any ($3::bytea[]) and k.pepper_id = $2) as keys,
         pg_current_xact_id()::text as xid,
         clock_timestamp() as now`;

/** Bytes travel as one binary parameter and are cut out by place: as text they would be twice as long. */
const CUT = (name: string): string => `substring($6::bytea from x.${name}_at for x.${name}_size)`;
const PLACE = (name: string): string => `${name}_at int, ${name}_size int`;

// One row of `item` an intent: each has an audit row, one with a key its answer, one that decided something its decision.
const ITEMS = `
  with item as materialized (
    select * from json_to_recordset($1) as x (opt_out_id uuid, client text, key_id text, api_version text,
      caller_address text, action text, request_id text, details jsonb,
      key_hmac bytea, intent_hmac bytea, status smallint, ${PLACE('answer')},
      decision_id uuid, subject_id uuid, kind text, version bigint, suppressed jsonb, granted jsonb, state jsonb,
      effective_at timestamptz, effective_at_stated boolean, received_at timestamptz, requested_scopes text[],
      reason text, ${PLACE('sealed')}, ${PLACE('note')}, ${PLACE('key')}, traceparent text)
  ), decided as (
    insert into decisions (id, cause, opt_out_id, subject_id, kind, version, suppressed, granted, effective_at,
                           recorded_at, sealed, transport_key_id, traceparent)
    select decision_id, 'opt_out', opt_out_id, subject_id, kind, version, suppressed, granted, effective_at, $2,
           ${CUT('sealed')}, $3, traceparent
    from item x where decision_id is not null
    returning seq, opt_out_id
  ), made as (
    insert into subjects (id, kind, pepper_id, match_key, normal_form, version, state, granted, sealed, updated_at)
    select id, kind, $5, match_key, ${NORMAL_FORM}, version, state, granted, ${CUT('sealed')}, $2
    from json_to_recordset($4) as x (id uuid, kind text, match_key bytea, version bigint, state jsonb, granted jsonb,
      ${PLACE('sealed')})
    order by match_key
  ), opted as (
    insert into opt_outs (id, requested_scopes, effective_at, effective_at_stated, received_at, recorded_at, reason,
                          note, client, key_id, api_version, idempotency_key)
    select opt_out_id, requested_scopes, effective_at, effective_at_stated, received_at, $2, reason, ${CUT('note')},
           client, key_id, api_version, ${CUT('key')}
    from item x where decision_id is not null
  ), bound as (
    insert into opt_out_subjects (opt_out_id, subject_id, version, state)
    select opt_out_id, subject_id, version, state from item where decision_id is not null
  ), remembered as (
    insert into idempotency_keys (client, pepper_id, key_hmac, intent_hmac, opt_out_id, status, answer, created_at)
    select client, $5, key_hmac, intent_hmac, opt_out_id, status, ${CUT('answer')}, $2
    from item x where key_hmac is not null
    order by key_hmac
  ), audited as (
    insert into audit_log (at, client, key_id, caller_address, action, resource, request_id, details)
    select $2, client, key_id, caller_address, action, opt_out_id::text, request_id, details from item
  )`;

const WRITE = `${ITEMS}
  select seq, opt_out_id from decided`;

// Apart, since the trigger that checks an update costs as much as a third of the rest even where nothing is updated.
const WRITE_AND_MOVE = `${ITEMS}, moved as (
    update subjects s set version = x.version, state = x.state, granted = x.granted,
      sealed = coalesce(${CUT('sealed')}, s.sealed), updated_at = $2
    from json_to_recordset($7) as x (id uuid, version bigint, state jsonb, granted jsonb, ${PLACE('sealed')})
    where s.id = any ($8::uuid[]) and s.id = x.id
  )
  select seq, opt_out_id from decided`;

/** Collects the bytes of a batch; each place is the members that PLACE reads, or none where there is nothing. */
class Bytes {
  readonly #parts: Buffer[] = [];
  #length = 0;
  add(name: string, part: Buffer | undefined): Record<string, number> {
    if (part === undefined) return {};
    const at = this.#length + 1;
    this.#parts.push(part);
    this.#length += part.length;
    return { [`${name}_at`]: at, [`${name}_size`]: part.length };
  }
  all(): Buffer {
    return Buffer.concat(this.#parts, this.#length);
  }
}

type Subject = { id: string; state: SubjectState; isNew: boolean; changed: boolean; erased: boolean };
type Remembered = { status: number; body: string; optOutId: string; intentHex: string };

/** The text that two requests share when they ask for the same thing, whatever their spelling or API version. */
const intentText = (intent: OptOutIntent): string =>
  JSON.stringify([
    intent.subject.kind,
    intent.subject.value.reveal(),
    [...intent.scopes].sort(),
    intent.effectiveAt ?? null,
    intent.reason,
    intent.note ?? null,
  ]);

export type Recorder = {
  record(intent: OptOutIntent, render: Render): Promise<RecordAnswer>;
};

/** `onRecorded` is called after COMMIT with the number of new decisions. */
export function createRecorder({
  pool,
  ring,
  transportKey,
  stores,
  onRecorded,
}: {
  pool: Pool;
  ring: KeyRing;
  transportKey: () => SealingKey;
  stores: () => readonly RegisteredStore[];
  onRecorded: (decisions: number) => void;
}): Recorder {
  let queue: Pending[] = [];
  let flights = 0;
  let scheduled = false;
  /** Subjects and keys of the batches under way: whoever shares one waits for it instead of racing it. */
  const underWay = new Set<string>();

  /** After the current turn: requests that arrived in the same burst share a transaction. */
  function schedule(): void {
    if (scheduled || flights >= FLIGHTS || queue.length === 0) return;
    scheduled = true;
    setImmediate(() => {
      scheduled = false;
      const batch = nextBatch();
      if (batch.length === 0) return;
      flights += 1;
      void recordBatch(batch).finally(() => {
        flights -= 1;
        for (const name of batch.flatMap(namesOf)) underWay.delete(name);
        schedule();
      });
      schedule();
    });
  }

  /** In order of arrival; an item whose subject or key is under way, or waits already, stays where it is. */
  function nextBatch(): Pending[] {
    const batch: Pending[] = [];
    const waiting: Pending[] = [];
    const held = new Set<string>();
    // What waits is shared among the free flights: one batch of everybody would leave this process idle while it is written,
    // and the database idle while the next one is made.
    const most = Math.min(BATCH, Math.ceil(queue.length / (FLIGHTS - flights)));
    for (const [n, item] of queue.entries()) {
      if (batch.length === most) {
        waiting.push(...queue.slice(n));
        break;
      }
      const names = namesOf(item);
      if (names.some((name) => underWay.has(name) || held.has(name))) {
        for (const name of names) held.add(name);
        waiting.push(item);
      } else batch.push(item);
    }
    for (const name of batch.flatMap(namesOf)) underWay.add(name);
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
        for (const item of batch) await recordBatch([item]);
        return;
      }
    }
  }

  async function recordOnce(batch: readonly Pending[]): Promise<void> {
    const settle: (() => void)[] = [];
    const decisions = await onClient(pool, async (client) => {
      const [, opened] = await together(client, () => [client.query(BEGIN), lockAndRead(client, batch)]);
      return await fold(client, batch, opened, settle);
    });
    // Only here, after COMMIT returned, does anybody get a 2xx.
    for (const answer of settle) answer();
    if (decisions > 0) onRecorded(decisions);
  }

  async function lockAndRead(client: Client, batch: readonly Pending[]) {
    const bySubject = new Map(batch.map((item) => [item.matchHex, item]));
    const byKey = new Map(
      batch.filter((item) => item.keyHex !== undefined).map((item) => [item.keyHex!, item]),
    );
    const { rows } = await client.query<{
      subjects:
        | {
            id: string;
            match: string;
            version: number;
            state: SubjectState['suppressed'];
            granted: SubjectState['granted'];
            erased: boolean;
          }[]
        | null;
      keys:
        { client: string; key: string; intent: string; status: number; answer: string; id: string }[] | null;
      now: string;
    }>({
      name: 'record-lock',
      text: LOCK,
      values: [
        [...bySubject.values()].map((item) => item.matchKey),
        ring.pepperId,
        [...byKey.keys()].map((key) => Buffer.from(key.slice(0, 64), 'hex')),
      ],
    });
    const row = rows[0]!;
    const subjects = new Map<string, Subject>();
    for (const { id, match, version, state, granted, erased } of row.subjects ?? []) {
      subjects.set(match, {
        id,
        state: { version, suppressed: state, granted },
        isNew: false,
        changed: false,
        erased,
      });
    }
    const remembered = new Map<string, Remembered>();
    for (const { client: owner, key, intent, status, answer, id } of row.keys ?? []) {
      const body = ring.unseal(Buffer.from(answer, 'base64'), [id, 'answer']);
      remembered.set(keyName(key, owner), { status, body, optOutId: id, intentHex: intent });
    }
    return { subjects, remembered, now: row.now };
  }

  async function fold(
    client: Client,
    batch: readonly Pending[],
    { subjects, remembered, now }: Awaited<ReturnType<typeof lockAndRead>>,
    settle: (() => void)[],
  ): Promise<number> {
    const registered = stores();
    const transport = transportKey();
    const nowMs = Date.parse(now);
    const bytes = new Bytes();
    const rows: object[] = [];
    /** Opt-outs made in this very batch, with the version each one made. */
    const made = new Map<string, { optOut: OptOut; version: number }>();
    const addresses = new Map<string, { id: string; item: Pending }>();
    const answers: {
      item: Pending;
      recorded: Omit<Recorded, 'propagation'>;
      propagation: Propagation | undefined;
      /** The columns of its decision and opt-out; undefined where nothing was decided. */
      decided: object | undefined;
    }[] = [];
    const replays: { item: Pending; of: string }[] = [];
    const claimed = new Map<string, string>();

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
      const ahead = intent.effectiveAt === undefined ? 0 : Date.parse(intent.effectiveAt) - nowMs;
      if (ahead > HOUR_MS) {
        const errors = [{ pointer: '/effective_at', detail: 'must not lie more than an hour ahead' }];
        settle.push(() => item.reject(new AbideError('invalid-value', undefined, { errors })));
        continue;
      }
      const adjusted = ahead > 0;
      const effectiveAt = intent.effectiveAt === undefined || adjusted ? receivedAt : intent.effectiveAt;
      const subject = subjects.get(item.matchHex) ?? {
        id: randomUUIDv7(),
        state: UNKNOWN_SUBJECT,
        isNew: true,
        changed: false,
        erased: false,
      };
      if (item.keyHex !== undefined) claimed.set(item.keyHex, item.intentHex);
      const answer = (
        optOut: OptOut,
        outcome: Recorded['outcome'],
        propagation: Propagation | undefined,
        decided?: object,
      ): void => {
        answers.push({
          item,
          propagation,
          decided,
          recorded: {
            outcome,
            optOut,
            subject: intent.subject,
            asked: intent.scopes,
            idempotencyKey: intent.idempotencyKey ?? `auto_${optOut.id}`,
            state: subject.state,
            effectiveAtAdjusted: adjusted,
          },
        });
      };

      // After a grant, the same dated opt-out once more is a late retry, not a change of mind.
      if (
        intent.effectiveAt !== undefined &&
        intent.scopes.some((scope) => subject.state.granted[scope] !== undefined)
      ) {
        const same = await findSameOptOut(client, ring, subject.id, intent.scopes, effectiveAt);
        if (same !== undefined) {
          answer(same, 'already_recorded', undefined);
          continue;
        }
      }
      const id = randomUUIDv7();
      const effect = applyOptOut(subject.state, { id, scopes: intent.scopes, effectiveAt });
      if (effect.kind === 'already_opted_out') {
        if (effect.widened) {
          subject.state = effect.state;
          subject.changed = true;
        }
        const optOut = await newestCovering(client, effect.state, intent.scopes, made);
        answer(
          optOut,
          'already_opted_out',
          made.has(optOut.id) ? begun(optOut, item, effect.state) : undefined,
        );
        continue;
      }
      subject.state = effect.state;
      subject.changed = true;
      subjects.set(item.matchHex, subject);
      addresses.set(item.matchHex, { id: subject.id, item });
      const optOut: OptOut = {
        id,
        requestedScopes: intent.scopes,
        effectiveAt,
        receivedAt,
        recordedAt: toMilliseconds(now),
        reason: intent.reason,
        client: intent.caller.client,
        idempotencyKey: intent.idempotencyKey ?? `auto_${id}`,
        firstCompletedAt: undefined,
      };
      made.set(id, { optOut, version: subject.state.version });
      answer(optOut, 'recorded', begun(optOut, item, subject.state), {
        decision_id: randomUUIDv7(),
        subject_id: subject.id,
        kind: intent.subject.kind,
        version: subject.state.version,
        suppressed: since(subject.state),
        granted: subject.state.granted,
        state: subject.state.suppressed,
        effective_at: effectiveAt,
        effective_at_stated: intent.effectiveAt !== undefined && !adjusted,
        received_at: receivedAt,
        requested_scopes: intent.scopes,
        reason: intent.reason,
        traceparent: intent.traceparent,
        ...bytes.add(
          'sealed',
          seal(intent.subject.value.reveal(), transport, [subject.id, intent.subject.kind]),
        ),
        ...bytes.add('note', intent.note === undefined ? undefined : ring.seal(intent.note, [id, 'note'])),
        ...bytes.add(
          'key',
          intent.idempotencyKey === undefined
            ? undefined
            : ring.seal(intent.idempotencyKey, [id, 'idempotency_key']),
        ),
      });
    }

    function begun(optOut: OptOut, item: Pending, state: SubjectState): Propagation {
      const { kind } = item.intent.subject;
      return begunPropagation(
        registered,
        optOut.requestedScopes,
        kind,
        (store) => isDue({ kind, suppressed: since(state), granted: state.granted }, store),
        optOut.recordedAt,
      );
    }

    const olderIds = [
      ...new Set(answers.filter((one) => one.propagation === undefined).map((one) => one.recorded.optOut.id)),
    ];
    const older =
      olderIds.length === 0
        ? new Map<string, Propagation>()
        : await propagationOf(client, registered, olderIds);
    for (const { item, recorded, propagation, decided } of answers) {
      const optOutId = recorded.optOut.id;
      const status = recorded.outcome === 'recorded' ? 201 : 200;
      const full = { ...recorded, propagation: propagation ?? older.get(optOutId) };
      if (full.propagation === undefined) throw new Error('an opt-out without a decision');
      const awaited = full.propagation.stores.map(({ store }) => store);
      const body = item.render(full as Recorded);
      const row = {
        ...audited(item, recorded.outcome === 'recorded' ? 'opt_out.recorded' : 'opt_out.repeated', optOutId),
        ...decided,
      };
      if (item.keyHex === undefined) rows.push(row);
      else {
        remembered.set(item.keyHex, { status, body, optOutId, intentHex: item.intentHex });
        rows.push({
          ...row,
          key_hmac: `\\x${item.keyHex.slice(0, 64)}`,
          intent_hmac: `\\x${item.intentHex}`,
          status,
          ...bytes.add('answer', ring.seal(body, [optOutId, 'answer'])),
        });
      }
      settle.push(() =>
        item.resolve({
          status,
          body,
          replayed: false,
          optOutId,
          decision:
            seqs.has(optOutId) && recorded.outcome === 'recorded'
              ? {
                  seq: seqs.get(optOutId)!,
                  subject: item.intent.subject,
                  recordedAt: recorded.optOut.recordedAt,
                  awaited,
                }
              : undefined,
        }),
      );
    }
    for (const { item, of } of replays) {
      const first = remembered.get(of);
      if (first === undefined) throw new Error('a replay of nothing');
      const { status, body, optOutId } = first;
      rows.push(audited(item, 'opt_out.replayed', optOutId));
      settle.push(() => item.resolve({ status, body, replayed: true, optOutId, decision: undefined }));
    }

    function audited(item: Pending, action: string, optOutId: string): object {
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

    const seqs = new Map<string, number>();
    if (rows.length === 0) {
      await client.query('commit');
      return 0;
    }
    const changed = [...subjects.entries()].filter(([, subject]) => subject.changed);
    const subjectRow = ([matchHex, subject]: [string, Subject]): object => {
      const address = addresses.get(matchHex);
      const { kind, value } = (address ?? { item: batch.find((one) => one.matchHex === matchHex)! }).item
        .intent.subject;
      return {
        id: subject.id,
        kind,
        match_key: `\\x${matchHex}`,
        version: subject.state.version,
        state: subject.state.suppressed,
        granted: subject.state.granted,
        // An erased subject who asks again has given the address again.
        ...bytes.add(
          'sealed',
          subject.isNew || (subject.erased && address !== undefined)
            ? ring.seal(value.reveal(), [subject.id, kind])
            : undefined,
        ),
      };
    };
    const moved = changed.filter(([, subject]) => !subject.isNew);
    const newSubjects = JSON.stringify(changed.filter(([, subject]) => subject.isNew).map(subjectRow));
    const movedSubjects = JSON.stringify(moved.map(subjectRow));
    const values = [JSON.stringify(rows), now, transport.id, newSubjects, ring.pepperId, bytes.all()];
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
      client.query<{ seq: number; opt_out_id: string }>(write),
      client.query('commit'),
    ]);
    if (command !== 'COMMIT') throw new Error(`commit was answered ${command}`);
    for (const row of written) seqs.set(row.opt_out_id, row.seq);
    return written.length;
  }

  /** The newest opt-out, by version, whose resulting state first covered all that was asked. */
  async function newestCovering(
    client: Client,
    state: SubjectState,
    scopes: readonly string[],
    made: ReadonlyMap<string, { optOut: OptOut; version: number }>,
  ): Promise<OptOut> {
    const ids = [...new Set(scopes.map((scope) => state.suppressed[scope]!.opt_out_id))];
    const recent = ids.flatMap((id) => made.get(id) ?? []).sort((a, b) => b.version - a.version)[0];
    // Whatever this batch made is newer than anything that was there before.
    if (recent !== undefined) return recent.optOut;
    const found = await findOptOutRecords(client, ring, ids);
    const newest = found.sort((a, b) => b.version - a.version)[0];
    if (newest === undefined) throw new Error('a state without its opt-out');
    return newest.optOut;
  }

  return {
    record: (intent, render) => {
      if (queue.length >= QUEUE) {
        return Promise.reject(new AbideError('overloaded', undefined, { retryAfterSeconds: 1 }));
      }
      const { caller, idempotencyKey } = intent;
      const matchKey = ring.matchKey(intent.subject);
      return new Promise((resolve, reject) => {
        queue.push({
          intent,
          render,
          matchKey,
          matchHex: matchKey.toString('hex'),
          keyHex:
            idempotencyKey === undefined
              ? undefined
              : keyName(
                  ring.fingerprint('idempotency-key', `${caller.client}\0${idempotencyKey}`).toString('hex'),
                  caller.client,
                ),
          intentHex: ring.fingerprint('intent', intentText(intent)).toString('hex'),
          resolve,
          reject,
        });
        schedule();
      });
    },
  };
}

const namesOf = ({ matchHex, keyHex }: Pending): string[] =>
  keyHex === undefined ? [matchHex] : [matchHex, keyHex];

const keyName = (keyHex: string, client: string): string => `${keyHex}${client}`;

const since = (state: SubjectState): Record<string, Instant> =>
  Object.fromEntries(
    Object.entries(state.suppressed).map(([scope, held]) => [scope, held.first_effective_at]),
  );

function whatItMeans(error: unknown, item: Pending): unknown {
  if (isLockTimeout(error) || isRace(error)) {
    const code = item.keyHex === undefined ? 'overloaded' : 'idempotency-key-in-use';
    return new AbideError(code, undefined, { cause: error, retryAfterSeconds: 1 });
  }
  return error;
}
