// The two statements of recording: the first locks and reads what a batch is about, the second writes all of it.
import type { Recorded } from './contract/opt-outs.ts';
import type { Locked, LockedRow } from './fold.ts';
import { LOCKED, toLocked } from './fold.ts';
import type { SubjectState } from '../suppression/decision.ts';
import { NORMAL_FORM } from '../suppression/subject.ts';
import { commit, together } from './database.ts';
import type { Client } from './database.ts';
import type { KeyRing } from './key-ring.ts';
import { selectRows, toParameter } from './rows.ts';
import type { Columns, RowOf } from './rows.ts';
import { everyMatch } from './subject-key.ts';
import type { SubjectKey } from './subject-key.ts';

// The clock is read last in the list, after every lock was waited for (fold.ts); the transaction draws its id here, in a
// statement before the one that takes sequence numbers (fence.ts).
const LOCK = `
  with ${LOCKED}
  select (select json_agg(locked) from locked) as subjects,
         (select json_agg(json_build_object('client', k.client, 'key', encode(k.key_hmac, 'hex'),
            'intent', encode(k.intent_hmac, 'hex'), 'status', k.status, 'answer', encode(k.answer, 'base64'),
            'version', k.api_version, 'id', k.opt_out_id))
          from idempotency_keys k where k.key_hmac = any ($3::bytea[])) as keys,
         pg_current_xact_id()::text as xid,
         extract(epoch from statement_timestamp()) * 1000 as came_ms,
         clock_timestamp() as now`;

/** What an answer in the words of another API version takes besides the opt-out itself. */
export type AnswerFacts = Pick<Recorded, 'effectiveAtAdjusted'> & {
  /** What each of the identifiers had come to, in the order of the request. */
  readonly states: readonly SubjectState[];
};

/** What is kept of the answer to a key. */
export type RememberedAnswer = {
  readonly status: number;
  readonly body: string;
  /** Undefined if the opt-out was made by this answer as it was asked for, so that it says all of it. */
  readonly facts: AnswerFacts | undefined;
  readonly apiVersion: string;
  readonly optOutId: string;
  readonly intentHex: string;
};

/** As one text, to be sealed: a body is JSON without line ends. */
export const joinAnswer = (body: string, facts: AnswerFacts | undefined): string =>
  facts === undefined ? body : `${body}\n${JSON.stringify(facts)}`;

function splitAnswer(text: string): Pick<RememberedAnswer, 'body' | 'facts'> {
  const [body = '', facts] = text.split('\n');
  return { body, facts: facts === undefined ? undefined : (JSON.parse(facts) as AnswerFacts) };
}

/** The name of a client's key within a batch. */
export const keyName = (keyHex: string, client: string): string => `${keyHex}${client}`;

export type Opened = {
  /** Those that exist, locked, by match key in hexadecimal. */
  readonly subjects: Map<string, Locked>;
  /** By `keyName`. */
  readonly remembered: ReadonlyMap<string, RememberedAnswer>;
  /** The database's clock, once every lock was waited for. */
  readonly now: string;
  /**
   * What leads from `performance.now()` to the database's clock, in milliseconds since 1970. It errs towards later, by what the
   * statement took to the database: an opt-out must not seem to have come before it did, or an earlier consent would lift it.
   */
  readonly clockOffsetMs: number;
};

/** Each item gives the keys of its subjects, and the name of its own key: now, and under peppers that were replaced. */
export async function lockAndRead(
  client: Client,
  ring: KeyRing,
  batch: readonly {
    readonly keys: readonly SubjectKey[];
    readonly keyHex: string | undefined;
    readonly olderKeyHexes: readonly string[];
  }[],
): Promise<Opened> {
  const keys = batch.flatMap((item) => item.keys);
  const named = new Set(batch.flatMap(({ keyHex, olderKeyHexes }) => [keyHex ?? [], olderKeyHexes].flat()));
  const currentName = new Map(
    batch.flatMap(({ keyHex, olderKeyHexes }) => olderKeyHexes.map((older) => [older, keyHex!] as const)),
  );
  const askedMs = performance.now();
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
    came_ms: string;
    now: string;
  }>({
    name: 'record-lock',
    text: LOCK,
    values: [
      everyMatch(keys),
      ring.pepperId,
      [...named].map((name) => Buffer.from(name.slice(0, 64), 'hex')),
    ],
  });
  const row = rows[0]!;
  const remembered = new Map<string, RememberedAnswer>();
  for (const { client: owner, key, intent, status, answer, version: apiVersion, id } of row.keys ?? []) {
    const name = keyName(key, owner);
    remembered.set(currentName.get(name) ?? name, {
      status,
      ...splitAnswer(ring.unseal(Buffer.from(answer, 'base64'), [id, 'answer'])),
      apiVersion,
      optOutId: id,
      intentHex: intent,
    });
  }
  const clockOffsetMs = Number(row.came_ms) - askedMs;
  return { subjects: toLocked(row.subjects, keys), remembered, now: row.now, clockOffsetMs };
}

/** Columns whose bytes travel in one binary parameter and are cut out by position: as text they would be twice as long. */
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
export type ItemRow = RowOf<typeof ITEM>;

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
export type SubjectRow = RowOf<typeof SUBJECT>;

// One row of `item` per intent. Each has an audit row; one with a key has its answer; one that decided something has its opt-out
// and the decision of its first subject. The decisions of its other subjects are rows of their own, with nothing else.
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

// A statement apart, since the trigger that checks an update costs as much as a third of the rest even if nothing is updated.
const WRITE_AND_MOVE = `${ITEMS}, moved as (
    update subjects s set version = x.version, state = x.state, granted = x.granted,
      sealed = coalesce(${CUT('sealed')}, s.sealed), updated_at = $2
    from (${selectRows(SUBJECT, '$7')}) x
    where s.id = any ($8::uuid[]) and s.id = x.id
  )
  select seq, id from decided`;

/** Collects the bytes of a batch; each part has two columns, or none if there is nothing. */
export class Bytes {
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

export type BatchRows = {
  readonly items: readonly ItemRow[];
  readonly newSubjects: readonly SubjectRow[];
  readonly movedSubjects: readonly SubjectRow[];
  /** What the rows' positions refer to. */
  readonly bytes: Bytes;
  readonly now: string;
  readonly transportKeyId: number;
};

/** Returns the sequence numbers that the decisions got, by their ids. When it returns, everything is committed. */
export async function writeAndCommit(
  client: Client,
  ring: KeyRing,
  { items, newSubjects, movedSubjects, bytes, now, transportKeyId }: BatchRows,
): Promise<ReadonlyMap<string, number>> {
  if (items.length === 0) {
    await commit(client);
    return new Map();
  }
  const values = [
    toParameter(ITEM, items),
    now,
    transportKeyId,
    toParameter(SUBJECT, newSubjects),
    ring.pepperId,
    bytes.all(),
  ];
  const write =
    movedSubjects.length === 0
      ? { name: 'record-write', text: WRITE, values }
      : {
          name: 'record-write-and-move',
          text: WRITE_AND_MOVE,
          values: [...values, toParameter(SUBJECT, movedSubjects), movedSubjects.map(({ id }) => id)],
        };
  // If the first fails, the second rolls back.
  const [{ rows }] = await together(client, () => [
    client.query<{ seq: number; id: string }>(write),
    commit(client),
  ]);
  return new Map(rows.map(({ id, seq }) => [id, seq]));
}
