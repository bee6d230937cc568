// Where an opt-out has arrived. It is computed from acknowledgements and exceptions at the moment of asking, never stored.
import type { Instant } from '../suppression/decision.ts';
import { meets } from '../suppression/scope.ts';
import type { Scope } from '../suppression/scope.ts';
import type { SubjectKind } from '../suppression/subject-kind.ts';
import type { DecisionPropagation, Propagation, StorePropagation } from './contract/propagation.ts';
import { toMilliseconds } from './database.ts';
import type { Queryable } from './database.ts';
import type { RegisteredStore } from './stores.ts';

type Coverage = Pick<RegisteredStore, 'name' | 'accepts' | 'scopes' | 'topics' | 'required' | 'retiredAt'>;

/** The asked scopes that no required store in service covers for any of these kinds of subject (undefined: for any at all). */
export const uncoveredScopes = <S extends Scope>(
  stores: readonly Coverage[],
  asked: readonly S[],
  kinds?: readonly SubjectKind[],
): S[] =>
  asked.filter(
    (scope) =>
      !stores.some(
        (store) =>
          store.required &&
          store.retiredAt === undefined &&
          (kinds === undefined || kinds.some((kind) => store.accepts.includes(kind))) &&
          store.scopes.some((stored) => meets(scope, stored, store.topics)),
      ),
  );

type Row = {
  id: string;
  seq: number;
  subject_id: string;
  kind: SubjectKind;
  requested_scopes: Scope[];
  first_completed_at: string | null;
  recorded_at: string;
  store: string | null;
  required: boolean;
  added_at: string;
  retired_at: string | null;
  paused: boolean;
  read_back: boolean;
  outcome: 'verified' | 'applied' | 'superseded' | null;
  acknowledged_at: string | null;
  first_acknowledged_at: string | null;
  latency_ms: number | null;
  attempts: number | null;
  evidence: { appliedAt?: string; verifiedAt?: string } | null;
  exception: 'quarantine' | 'redrive' | 'absent' | null;
  exception_code: string | null;
  exception_attempts: number | null;
  exception_since: string | null;
  below_mark: boolean;
};

/**
 * `decided` selects the decisions of `o`, which is what is asked for. An exception that began after the acknowledgement is drift,
 * and speaks for what was acknowledged. A decision acknowledged while a newer one of its subject is parked stays acknowledged.
 */
const createSql = (table: string, decided: string, firstCompleted: string): string => `
  select o.id, d.seq, d.subject_id, d.kind, o.requested_scopes, ${firstCompleted} as first_completed_at, d.recorded_at,
         s.name as store, s.required, s.added_at, s.retired_at,
         s.paused_at is not null as paused, s.evidence = 'read_back' as read_back,
         a.outcome, a.acknowledged_at, a.latency_ms, a.attempts, a.evidence,
         (select min(every.acknowledged_at) from acknowledgements every
          where every.store_id = s.id and every.generation between 1 and s.generation and every.seq = d.seq
         ) as first_acknowledged_at,
         e.kind as exception, e.code as exception_code, e.attempts as exception_attempts, e.since as exception_since,
         s.backfill_fence is null and d.seq <= s.scanned_through as below_mark
  from ${table} o
  cross join lateral (select * from decisions d where ${decided} offset 0) d
  left join stores s on due(d.kind, d.suppressed, d.granted, s.accepts, s.due_exact, s.due_channels)
  left join lateral (
    select * from acknowledgements a
    where a.store_id = s.id and a.generation = s.generation and a.seq = d.seq offset 0) a on true
  left join lateral (
    select x.seq, x.kind, x.code, x.attempts, x.since from exceptions x
    where x.subject_id = d.subject_id and x.store_id = s.id and x.generation = s.generation
      and d.seq between x.speaks_from and x.seq
    order by x.seq limit 1) e on a.seq is null or e.seq = d.seq or e.since > a.acknowledged_at
  where o.id = any ($1::uuid[])
  order by s.name, d.seq`;

const OF_OPT_OUTS = createSql('opt_outs', 'd.opt_out_id = o.id', 'o.first_completed_at');
const OF_GRANTS = createSql(
  'grants',
  'd.subject_id = o.subject_id and d.version = o.version',
  'null::timestamptz',
);
/** The newest decision of each subject. */
const OF_SUBJECTS = createSql(
  "(select id, version, '{}'::text[] as requested_scopes from subjects)",
  'd.subject_id = o.id and d.version = o.version',
  'null::timestamptz',
);

/** If an opt-out has several decisions, a store shows the state that is last to end: the first of these. */
const LAST_FIRST = [
  'retired',
  'quarantined',
  'paused',
  'pending',
  'absent',
  'applied',
  'superseded',
  'verified',
] as const;

function stateOf(row: Row): DecisionPropagation['state'] {
  // An exception beside an acknowledgement is drift: the store no longer holds what it acknowledged.
  if (row.outcome !== null && row.exception === null) return row.outcome;
  // At or below the mark, a decision without an exception is confirmed without a row: old partitions may be detached.
  if (row.exception === null && row.below_mark) return row.read_back ? 'verified' : 'applied';
  if (row.retired_at !== null) return 'retired';
  if (row.exception === 'absent') return 'absent';
  if (row.paused) return 'paused';
  return row.exception === 'quarantine' ? 'quarantined' : 'pending';
}

const millis = (at: string | null | undefined): Instant | undefined =>
  at === null || at === undefined ? undefined : toMilliseconds(at);

/** A worker's clock is only for diagnosis and may be wrong: its times are shown within those of the database. */
function boundByDatabase(row: Row, at: Instant | undefined): Instant | undefined {
  if (at === undefined || row.acknowledged_at === null) return undefined;
  const [from, to] = [toMilliseconds(row.recorded_at), toMilliseconds(row.acknowledged_at)];
  return at < from ? from : at > to ? to : at;
}

/**
 * When every store that was required at the time had first confirmed, or was retired: stores that joined later do not undo it.
 * Undefined if that never was the case, or nobody knows when: old partitions may be detached.
 */
function firstCompleted(rows: readonly Row[]): string | undefined {
  const required = rows
    .filter((row) => row.required && (row.retired_at === null || row.retired_at > row.recorded_at))
    .sort((a, b) => (a.added_at < b.added_at ? -1 : 1));
  let at: string | undefined;
  for (const row of required) {
    if (at !== undefined && row.added_at > at) break;
    const confirmed =
      row.first_acknowledged_at ??
      (row.exception === 'absent' ? row.exception_since : row.below_mark ? null : row.retired_at);
    if (confirmed === null) return undefined;
    if (at === undefined || confirmed > at) at = confirmed;
  }
  return at;
}

const toDecision = (row: Row): DecisionPropagation => ({
  seq: row.seq,
  subjectId: row.subject_id,
  state: stateOf(row),
  recordedAt: toMilliseconds(row.recorded_at),
  appliedAt: boundByDatabase(row, row.evidence?.appliedAt),
  verifiedAt: boundByDatabase(row, row.evidence?.verifiedAt),
  acknowledgedAt: millis(row.acknowledged_at),
  latencyMs: row.latency_ms ?? undefined,
  attempts: row.attempts ?? row.exception_attempts ?? undefined,
  reason: row.exception_code ?? undefined,
});

/** The greatest, if every value is known. */
const last = <T extends string | number>(values: readonly (T | undefined)[]): T | undefined =>
  values.reduce((a, b) => (a === undefined || b === undefined ? undefined : a > b ? a : b));

function toStore(store: string, rows: readonly Row[]): StorePropagation {
  const decisions = rows.map(toDecision);
  const state = LAST_FIRST.find((one) => decisions.some((decision) => decision.state === one))!;
  const ofAll = <T extends string | number>(value: (decision: DecisionPropagation) => T | undefined) =>
    last(decisions.map(value));
  return {
    store,
    required: rows[0]!.required,
    state,
    recordedAt: decisions[0]!.recordedAt,
    appliedAt: ofAll((one) => one.appliedAt),
    verifiedAt: ofAll((one) => one.verifiedAt),
    acknowledgedAt: ofAll((one) => one.acknowledgedAt),
    latencyMs: ofAll((one) => one.latencyMs),
    attempts: ofAll((one) => one.attempts),
    reason: decisions.find((one) => one.state === state)?.reason,
    decisions,
  };
}

/** Reads the propagation by id as of now, with one of the statements above. */
const createRead =
  (name: string, text: string) =>
  async (
    db: Queryable,
    stores: readonly Coverage[],
    ids: readonly string[],
  ): Promise<Map<string, Propagation>> => {
    const { rows } = await db.query<Row>({ name, text, values: [ids] });
    return toPropagations(rows, stores);
  };

/** The propagation of each opt-out as of now; an id without a decision is left out. */
export const propagationOf = createRead('propagation-of', OF_OPT_OUTS);

/** The same for grants. */
export const propagationOfGrants = createRead('propagation-of-grants', OF_GRANTS);

/** How far the newest decision of each subject has come. */
export const propagationOfSubjects = createRead('propagation-of-subjects', OF_SUBJECTS);

function toPropagations(rows: readonly Row[], stores: readonly Coverage[]): Map<string, Propagation> {
  const answers = new Map<string, Propagation>();
  // What the registry said a moment ago may be older than the rows.
  const retired = new Set(rows.flatMap((row) => (row.retired_at === null ? [] : row.store)));
  const inService = stores.filter(({ name }) => !retired.has(name));
  for (const [id, group] of Map.groupBy(rows, (row) => row.id)) {
    const head = group[0]!;
    const due = group.filter((row) => row.store !== null);
    const byStore = [...Map.groupBy(due, (row) => row.store!)];
    const listed = byStore.map(([store, ofStore]) => toStore(store, ofStore));
    const counted = listed.filter((store, n) => store.required && byStore[n]![1][0]!.retired_at === null);
    const confirmed = counted.filter(({ state }) =>
      ['verified', 'applied', 'superseded'].includes(state),
    ).length;
    const absent = counted.filter(({ state }) => state === 'absent').length;
    const state =
      counted.length === 0 ? 'uncovered' : confirmed + absent === counted.length ? 'complete' : 'pending';
    answers.set(id, {
      state,
      required: counted.length,
      confirmed,
      verified: counted.filter((store) => store.state === 'verified').length,
      uncovered: uncoveredScopes(
        inService,
        head.requested_scopes,
        group.map((row) => row.kind),
      ),
      firstCompletedAt: millis(
        head.first_completed_at ?? (counted.length > 0 ? firstCompleted(due) : undefined),
      ),
      stores: listed,
    });
  }
  return answers;
}

/** A fresh opt-out's propagation: none of these stores has confirmed yet. */
export const begunPropagation = (
  stores: readonly RegisteredStore[],
  awaited: readonly string[],
  asked: readonly Scope[],
  kinds: readonly SubjectKind[],
  recordedAt: Instant,
): Propagation => ({
  state: awaited.length === 0 ? 'uncovered' : 'pending',
  required: awaited.length,
  confirmed: 0,
  verified: 0,
  uncovered: uncoveredScopes(stores, asked, kinds),
  firstCompletedAt: undefined,
  stores: awaited.map((store) => ({
    store,
    required: true,
    state: 'pending',
    recordedAt,
    appliedAt: undefined,
    verifiedAt: undefined,
    acknowledgedAt: undefined,
    latencyMs: undefined,
    attempts: undefined,
    reason: undefined,
    decisions: [],
  })),
});
