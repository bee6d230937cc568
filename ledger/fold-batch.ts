// What a batch of intents makes, in order of arrival: the second item of a subject sees what the first one made of it. Nothing is
// written here: the result is rows to write, and each caller is answered once they are committed.
import { randomUUIDv7 } from 'node:crypto';
import { isDue } from '../suppression/acknowledgement.ts';
import type { Instant, SubjectState } from '../suppression/decision.ts';
import { AbideError } from '../suppression/errors.ts';
import { seal } from '../suppression/seal.ts';
import type { SealingKey } from '../suppression/seal.ts';
import type { Scope } from '../suppression/scope.ts';
import type { Subject } from '../suppression/subject.ts';
import type { SubjectKind } from '../suppression/subject-kind.ts';
import type { Spending } from './budgets.ts';
import type {
  OptOut,
  OptOutIntent,
  RecordAnswer,
  Recorded,
  RecordedDecision,
  RecordedOutcome,
} from './contract/opt-outs.ts';
import type { Propagation } from './contract/propagation.ts';
import { toMilliseconds } from './database.ts';
import type { Client } from './database.ts';
import { findNewestOf, findOptOut, findOptOutTogether, findSameOptOut, sealEvidence } from './find.ts';
import { foldIntent, namedBy } from './fold.ts';
import type { Folded, Locked, Looks } from './fold.ts';
import type { KeyRing } from './key-ring.ts';
import { begunPropagation, propagationOf } from './propagation.ts';
import { Bytes, joinAnswer } from './record-rows.ts';
import type { BatchRows, ItemRow, Opened, RememberedAnswer, SubjectRow } from './record-rows.ts';
import { sinceOf } from './reissue.ts';
import type { RegisteredStore } from './stores.ts';
import type { SubjectKey } from './subject-key.ts';

/** An intent, and the caller that waits for its outcome. */
export type Pending = {
  readonly intent: OptOutIntent;
  readonly render: (recorded: Recorded) => string;
  /** One per subject, in the intent's order. */
  readonly keys: readonly SubjectKey[];
  /** Namespaced by client; undefined if the request names no key. */
  readonly keyHex: string | undefined;
  /** As it was under peppers that were replaced. */
  readonly olderKeyHexes: readonly string[];
  /** What is asked for, under the pepper in use and then under those. */
  readonly intentHexes: readonly string[];
  /** Names of its subjects and of its key: an item that shares one goes after it. */
  readonly names: readonly string[];
  /** When it has waited as long as an item may wait. */
  readonly until: number;
  readonly resolve: (answer: RecordAnswer) => void;
  readonly reject: (error: unknown) => void;
};

/** What this very batch made. */
type Made = {
  readonly optOut: OptOut;
  readonly subjectIds: readonly string[];
  readonly propagation: Propagation;
};

/** One decision per subject: the columns of the opt-out with those of its first decision, and the rows of the others. */
type Decided = {
  readonly decisions: readonly (Omit<RecordedDecision, 'seq'> & { readonly id: string })[];
  readonly columns: ItemRow;
  readonly others: readonly ItemRow[];
};

/** The answer to an item before it is put into words. */
type Outcome = {
  readonly item: Pending;
  readonly recorded: Omit<Recorded, 'propagation'>;
  /** Undefined if only the ledger knows it: for an opt-out that existed before. */
  readonly propagation: Propagation | undefined;
  /** Undefined if nothing was decided. */
  readonly decided: Decided | undefined;
};

/** Is given the sequence numbers of the decisions, by their ids. */
type Answer = (seqs: ReadonlyMap<string, number>) => void;

export type FoldedBatch = {
  readonly rows: BatchRows;
  /** Nobody gets a 2xx before the rows are committed. */
  readonly answer: Answer;
};

type Using = {
  readonly client: Client;
  readonly ring: KeyRing;
  readonly transport: SealingKey;
  readonly stores: readonly RegisteredStore[];
  readonly spending: Spending;
};

/** The items share no subject and no key with any other recording under way: all of them are locked. */
export async function foldBatch(
  batch: readonly Pending[],
  { subjects, remembered: answeredBefore, now, clockOffsetMs }: Opened,
  { client, ring, transport, stores, spending }: Using,
): Promise<FoldedBatch> {
  const nowMs = Date.parse(now);
  const bytes = new Bytes();
  /** Oldest first. */
  const made: Made[] = [];
  /** The address given for each subject that is new or was erased. */
  const addresses = new Map<string, Subject>();
  /** `recorded`: what the body says, if it was made in this very batch. */
  const remembered = new Map<string, RememberedAnswer & { readonly recorded?: Recorded }>(answeredBefore);
  /** The intents under the keys that are new in this batch. */
  const claimed = new Map<string, string>();
  const outcomes: Outcome[] = [];
  const replays: { readonly item: Pending; readonly of: string }[] = [];
  const answers: Answer[] = [];

  const refuse = (item: Pending, error: AbideError): number => answers.push(() => item.reject(error));

  async function take(item: Pending): Promise<void> {
    const { intent, keyHex } = item;
    const before = keyHex && (remembered.get(keyHex)?.intentHex ?? claimed.get(keyHex));
    if (before !== undefined) {
      if (item.intentHexes.includes(before)) replays.push({ item, of: keyHex! });
      else refuse(item, new AbideError('idempotency-key-reused'));
      return;
    }
    const receivedAt = new Date(clockOffsetMs + intent.receivedAtMs).toISOString();
    const named = namedBy(item.keys, subjects);
    const folded = await foldIntent(intent, named, { receivedAt, nowMs }, looksOf(item));
    if (folded.kind === 'too_far_ahead') {
      const errors = [{ pointer: '/effective_at', detail: 'must not be more than an hour in the future' }];
      refuse(item, new AbideError('invalid-value', undefined, { errors }));
      return;
    }
    // Nothing is recorded under the key either.
    if (folded.kind === 'exhausted') return void refuse(item, folded.error);
    if (keyHex !== undefined) claimed.set(keyHex, item.intentHexes[0]!);
    const { optOut, propagation, decided } =
      folded.kind === 'recorded'
        ? decide(item, named, folded, receivedAt)
        : {
            optOut: folded.before,
            propagation: made.find((one) => one.optOut.id === folded.before.id)?.propagation,
            decided: undefined,
          };
    outcomes.push({
      item,
      propagation,
      decided,
      recorded: {
        outcome: folded.kind,
        optOut,
        subjects: intent.subjects.map((subject, n) => ({ subject, state: named[n]!.state })),
        asked: intent.scopes,
        idempotencyKey: intent.idempotencyKey ?? `auto_${optOut.id}`,
        effectiveAtAdjusted: folded.adjusted,
      },
    });
  }

  const looksOf = ({ intent: { caller } }: Pending): Looks<OptOut> => ({
    same: (named, scopes, effectiveAt) =>
      findSameOptOut(
        client,
        ring,
        named.map(({ id }) => id),
        scopes,
        effectiveAt,
      ),
    covering: (named, scopes) =>
      named.length === 1 ? newestCovering(named[0]!, scopes) : newestTogether(named, scopes),
    spend: (count) => spending.take(caller, count),
    // Otherwise a spent key could learn of anybody whether they opted out: a person who did not would be refused, and stay
    // unchanged.
    tell: ({ client: whose }) => (whose === caller.client ? undefined : spending.take(caller, 0)),
  });

  /**
   * The newest opt-out, by version, whose resulting state first covered all that was asked; undefined if no opt-out did: a canary
   * is suppressed without any.
   */
  async function newestCovering(
    { id, state }: Locked,
    scopes: readonly string[],
  ): Promise<OptOut | undefined> {
    const ids = new Set(scopes.map((scope) => state.suppressed[scope]!.opt_out_id));
    // Whatever this batch made is newer than anything that was there before.
    const recent = made.findLast(({ optOut }) => ids.has(optOut.id));
    if (recent !== undefined) return recent.optOut;
    return await findNewestOf(client, ring, id, [...ids]);
  }

  async function newestTogether(
    named: readonly Locked[],
    scopes: readonly Scope[],
  ): Promise<OptOut | undefined> {
    const ids = named.map(({ id }) => id);
    const recent = made.findLast(
      ({ optOut, subjectIds }) =>
        ids.every((id) => subjectIds.includes(id)) &&
        scopes.every((scope) => optOut.requestedScopes.includes(scope)),
    );
    return recent?.optOut ?? (await findOptOutTogether(client, ring, ids, scopes));
  }

  function decide(
    { intent, keys }: Pending,
    named: readonly Locked[],
    { id, effectiveAt, isStated }: Extract<Folded<OptOut>, { kind: 'recorded' }>,
    receivedAt: Instant,
  ): { optOut: OptOut; propagation: Propagation; decided: Decided } {
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
      const { hex } = keys[n]!;
      subjects.set(hex, locked);
      addresses.set(hex, subject);
      return { id: randomUUIDv7(), subject, awaited: awaitedBy(subject.kind, locked.state) };
    });
    const propagation = begunPropagation(
      stores,
      [...new Set(decisions.flatMap(({ awaited }) => awaited))],
      intent.scopes,
      intent.subjects.map(({ kind }) => kind),
      optOut.recordedAt,
    );
    made.push({ optOut, subjectIds: named.map((locked) => locked.id), propagation });
    const [first, ...others] = named.map((locked, n): ItemRow => {
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
    const { note, evidence, idempotencyKey } = intent;
    const columns = {
      ...first,
      effective_at_stated: isStated,
      received_at: receivedAt,
      requested_scopes: intent.scopes,
      reason: intent.reason,
      regimes: intent.regimes,
      ...bytes.add('note', note === undefined ? undefined : ring.seal(note, [id, 'note'])),
      ...bytes.add('evidence', evidence === undefined ? undefined : sealEvidence(ring, evidence, id)),
      ...bytes.add(
        'key',
        idempotencyKey === undefined ? undefined : ring.seal(idempotencyKey, [id, 'idempotency_key']),
      ),
    };
    return { optOut, propagation, decided: { decisions, columns, others } };
  }

  const awaitedBy = (kind: SubjectKind, state: SubjectState): string[] =>
    stores
      .filter(
        (store) =>
          store.required &&
          store.retiredAt === undefined &&
          isDue({ kind, suppressed: since(state), granted: state.granted }, store),
      )
      .map(({ name }) => name);

  /** Answers in the words of the caller and under its key; gives the rows that say so. */
  function put({ item, recorded, decided }: Outcome, propagation: Propagation | undefined): ItemRow[] {
    if (propagation === undefined) throw new Error('an opt-out without a decision');
    const { keyHex, intent } = item;
    const intentHex = item.intentHexes[0]!;
    const { outcome, optOut } = recorded;
    const status = outcome === 'recorded' ? 201 : 200;
    const full: Recorded = { ...recorded, propagation };
    const body = item.render(full);
    const { effectiveAtAdjusted, subjects: named } = recorded;
    const facts =
      outcome === 'recorded' && !effectiveAtAdjusted
        ? undefined
        : { effectiveAtAdjusted, states: named.map(({ state }) => state) };
    const answered = { status, body, optOutId: optOut.id };
    answers.push((seqs) => {
      const decisions = (decided?.decisions ?? []).map(({ id, ...decision }): RecordedDecision => ({
        seq: seqs.get(id)!,
        ...decision,
      }));
      item.resolve({ ...answered, replayed: false, decisions });
    });
    const audited = auditColumns(
      item,
      outcome === 'recorded' ? 'opt_out.recorded' : 'opt_out.repeated',
      optOut.id,
    );
    const row = { ...audited, ...decided?.columns };
    const others = decided?.others ?? [];
    if (keyHex === undefined) return [row, ...others];
    remembered.set(keyHex, {
      ...answered,
      facts,
      apiVersion: intent.apiVersion,
      intentHex,
      recorded: full,
    });
    const underKey = {
      key_hmac: `\\x${keyHex.slice(0, 64)}`,
      intent_hmac: `\\x${intentHex}`,
      status,
      ...bytes.add('answer', ring.seal(joinAnswer(body, facts), [optOut.id, 'answer'])),
    };
    return [{ ...row, ...underKey }, ...others];
  }

  async function replay({ item, of }: (typeof replays)[number]): Promise<ItemRow> {
    const first = remembered.get(of);
    if (first === undefined) throw new Error('a replay of nothing');
    const { status, optOutId } = first;
    const body = first.apiVersion === item.intent.apiVersion ? first.body : await inOtherWords(item, first);
    answers.push(() => item.resolve({ status, body, replayed: true, optOutId, decisions: [] }));
    return auditColumns(item, 'opt_out.replayed', optOutId);
  }

  /**
   * The first answer to a key in the words of another API version: the same opt-out, with its propagation as of now. One of the
   * versions names one identifier, so their order is the same.
   */
  async function inOtherWords(
    { intent, render }: Pending,
    first: RememberedAnswer & { readonly recorded?: Recorded },
  ): Promise<string> {
    if (first.recorded !== undefined) return render(first.recorded);
    const found = await findOptOut(client, { ring, stores }, first.optOutId, undefined);
    if (found === undefined) throw new Error('an answer without its opt-out');
    const { outcome } = JSON.parse(first.body) as { outcome: RecordedOutcome };
    return render({
      outcome,
      optOut: found.optOut,
      subjects: intent.subjects.map((subject, n) => ({
        subject,
        // Without facts, what the opt-out made of its one identifier is what was answered.
        state: first.facts?.states[n] ?? found.subjects[0]!.state,
      })),
      asked: intent.scopes,
      idempotencyKey: intent.idempotencyKey!,
      effectiveAtAdjusted: first.facts?.effectiveAtAdjusted ?? false,
      propagation: found.propagation,
    });
  }

  function toSubjectRow(hex: string, { id, state, isNew, erased }: Locked): SubjectRow {
    const given = addresses.get(hex);
    // An erased subject who asks again has given the address again.
    const sealed =
      given !== undefined && (isNew || erased)
        ? ring.seal(given.value.reveal(), [id, given.kind])
        : undefined;
    return {
      id,
      kind: given?.kind,
      match_key: `\\x${hex}`,
      version: state.version,
      state: state.suppressed,
      granted: state.granted,
      ...bytes.add('sealed', sealed),
    };
  }

  for (const item of batch) await take(item);
  const unknown = outcomes.filter(({ propagation }) => propagation === undefined);
  const older = await propagationsOf(unknown.map(({ recorded }) => recorded.optOut.id));
  const items = outcomes.flatMap((one) => put(one, one.propagation ?? older.get(one.recorded.optOut.id)));
  for (const one of replays) items.push(await replay(one));
  const changed = [...subjects].filter(([, { changed: isChanged }]) => isChanged);
  const subjectRows = (isNew: boolean): SubjectRow[] =>
    changed.filter(([, locked]) => locked.isNew === isNew).map(([hex, locked]) => toSubjectRow(hex, locked));
  return {
    rows: {
      items,
      newSubjects: subjectRows(true),
      movedSubjects: subjectRows(false),
      bytes,
      now,
      transportKeyId: transport.id,
    },
    answer: (seqs) => {
      for (const answer of answers) answer(seqs);
    },
  };

  async function propagationsOf(ids: readonly string[]): Promise<ReadonlyMap<string, Propagation>> {
    return ids.length === 0 ? new Map() : await propagationOf(client, stores, [...new Set(ids)]);
  }
}

const since = (state: SubjectState): Record<string, Instant> => sinceOf(state.suppressed);

/** The columns of an item's row in the audit log. */
function auditColumns({ intent }: Pending, action: string, optOutId: string): ItemRow {
  const { caller, scopes, apiVersion } = intent;
  return {
    opt_out_id: optOutId,
    client: caller.client,
    key_id: caller.keyId,
    api_version: apiVersion,
    caller_address: caller.address,
    action,
    request_id: caller.requestId,
    details: { scopes, api_version: apiVersion },
  };
}
