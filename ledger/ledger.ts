// What is true, as the rest of Abide may ask for it. Each group of methods is one file beside this one.
import type {
  AcknowledgementAnswer,
  AcknowledgementReport,
  Comparison,
  Newest,
  ReconciliationPage,
  SourceReport,
} from '../suppression/acknowledgement.ts';
import type { Decision, Instant, SubjectState } from '../suppression/decision.ts';
import type { Listed, ListingPage } from '../suppression/own-suppression.ts';
import type { Channel, DeclaredScopes, Scope } from '../suppression/scope.ts';
import type { Address, Subject } from '../suppression/subject.ts';
import type { SubjectKind } from '../suppression/subject-kind.ts';
import type { Signing } from './signing-key.ts';

export const REASONS = ['person_request', 'complaint', 'legal', 'other'] as const;
export type Reason = (typeof REASONS)[number];

/** The laws under which an opt-out is made, as stated by its client. */
export const REGIMES = [
  'gdpr',
  'uk_gdpr',
  'eprivacy',
  'ccpa',
  'tcpa',
  'can_spam',
  'casl',
  'au_spam',
  'lgpd',
] as const;
export type Regime = (typeof REGIMES)[number];

export const EVIDENCE_METHODS = [
  'web_form',
  'preference_center',
  'unsubscribe_link',
  'email',
  'sms',
  'phone',
  'letter',
  'in_person',
  'app',
  'browser_signal',
  'other',
] as const;

/** How the person said it: kept sealed, and returned to the client that gave it. */
export type Evidence = {
  readonly method: (typeof EVIDENCE_METHODS)[number];
  /** What the person was shown or said. */
  readonly statement?: string | undefined;
  /** Where from: a page, a call's number, a campaign. */
  readonly source?: string | undefined;
};

/** What a client asks to have recorded. */
export type OptOutIntent = {
  /** Identifiers of one person, at least one, each once. */
  readonly subjects: readonly Subject[];
  readonly scopes: readonly Scope[];
  /** As stated by the client, brought to milliseconds; undefined: the time of receipt. */
  readonly effectiveAt: Instant | undefined;
  readonly reason: Reason;
  readonly note: string | undefined;
  readonly regimes: readonly Regime[];
  readonly evidence: Evidence | undefined;
  readonly idempotencyKey: string | undefined;
  readonly apiVersion: string;
  readonly caller: Caller;
  readonly traceparent: string | undefined;
  /** `performance.now()` when the request arrived: recording brings it to the database's clock. */
  readonly receivedAtMs: number;
};

/** Who asks, for the audit log. */
export type Caller = {
  readonly client: string;
  readonly keyId: string;
  readonly address: string;
  readonly requestId: string;
  readonly budgets?: Budgets | undefined;
};

/** What a key spends per day: people newly opted out, grants tried, people asked about. */
export const DIRECTIONS = ['opt_out', 'grant', 'check'] as const;
export type Direction = (typeof DIRECTIONS)[number];

/** How much of each a key may spend per day (UTC), together with the keys of its lineage; undefined: no limit. */
export type Budgets = {
  readonly lineage: string;
  readonly perDay: Readonly<Record<Direction, number | undefined>>;
};

export type OptOut = {
  readonly id: string;
  readonly requestedScopes: readonly Scope[];
  readonly effectiveAt: Instant;
  readonly receivedAt: Instant;
  readonly recordedAt: Instant;
  readonly reason: Reason;
  readonly regimes: readonly Regime[];
  readonly client: string;
  readonly idempotencyKey: string;
  readonly firstCompletedAt: Instant | undefined;
};

/** How far one decision has come in one store. */
export type DecisionPropagation = {
  readonly seq: number;
  readonly subjectId: string;
  readonly state: StorePropagation['state'];
  readonly recordedAt: Instant;
  readonly appliedAt: Instant | undefined;
  readonly verifiedAt: Instant | undefined;
  readonly acknowledgedAt: Instant | undefined;
  readonly latencyMs: number | undefined;
  readonly attempts: number | undefined;
  readonly reason: string | undefined;
};

/** How far a store is with everything that it must hold of an opt-out: the last of its decisions counts. */
export type StorePropagation = Omit<DecisionPropagation, 'seq' | 'subjectId' | 'state'> & {
  readonly store: string;
  readonly required: boolean;
  readonly state:
    'pending' | 'verified' | 'applied' | 'superseded' | 'absent' | 'quarantined' | 'paused' | 'retired';
  /** One per subject; none while it is only about to be recorded. */
  readonly decisions: readonly DecisionPropagation[];
};

export type Propagation = {
  readonly state: 'pending' | 'complete' | 'uncovered';
  readonly required: number;
  readonly confirmed: number;
  readonly verified: number;
  /** Scopes that no required store covers for any of the subjects' kinds. */
  readonly uncovered: readonly Scope[];
  readonly firstCompletedAt: Instant | undefined;
  readonly stores: readonly StorePropagation[];
};

export type RecordedOutcome = 'recorded' | 'already_opted_out' | 'already_recorded';

/** What the ledger made of an intent. The text of the answer is made from it, stored with it and returned to every retry. */
export type Recorded = {
  readonly outcome: RecordedOutcome;
  readonly optOut: OptOut;
  /** Those of this request, each with its resulting state. */
  readonly subjects: readonly { readonly subject: Subject; readonly state: SubjectState }[];
  /** What this request asked for (a repeat answers with an older opt-out). */
  readonly asked: readonly Scope[];
  readonly idempotencyKey: string;
  /** A date up to an hour ahead was taken as the time of receipt. */
  readonly effectiveAtAdjusted: boolean;
  readonly propagation: Propagation;
};

export type RecordAnswer = {
  readonly status: number;
  /** The body, as `render` made it; for a replay byte for byte the first one. */
  readonly body: string;
  readonly replayed: boolean;
  readonly optOutId: string;
  /** Empty if nothing new was decided. */
  readonly decisions: readonly RecordedDecision[];
};

export type RecordedDecision = {
  readonly seq: number;
  readonly subject: Subject;
  /** The required stores that must hold it. */
  readonly awaited: readonly string[];
};

/** An opt-out as its client reads it back. */
export type FoundOptOut = {
  readonly optOut: OptOut;
  /** In the order in which the request named them. */
  readonly subjects: readonly FoundSubject[];
  /** Every scope that was asked for is still suppressed, for each subject. */
  readonly inForce: boolean;
  readonly evidence: Evidence | undefined;
  readonly propagation: Propagation;
};

export type FoundSubject = {
  readonly id: string;
  readonly kind: SubjectKind;
  /** Undefined, as `masked` is, once the subject is erased. */
  readonly address: Address | undefined;
  readonly masked: string | undefined;
  /** As this opt-out or grant left it. */
  readonly state: SubjectState;
};

/** What became of one identifier whose address was to be erased. */
export type Erased = {
  readonly subject: Subject;
  /** `unknown`: the ledger has no such identifier. */
  readonly outcome: 'erased' | 'already_erased' | 'unknown';
  /** It stays what it was. */
  readonly state: SubjectState;
};

/** A consent that a client asks to have recorded. */
export type GrantIntent = Omit<
  OptOutIntent,
  'subjects' | 'effectiveAt' | 'reason' | 'note' | 'regimes' | 'evidence'
> & {
  readonly subject: Subject;
  /** Those of the scopes that nobody could refuse today: they are refused unless this person has refused them before. */
  readonly undeclared: readonly Scope[];
  /** When the person consented, brought to milliseconds. */
  readonly grantedAt: Instant;
  readonly evidence: Evidence;
};

export type Grant = {
  readonly id: string;
  readonly requestedScopes: readonly Scope[];
  /** Those that were suppressed until then. */
  readonly liftedScopes: readonly Scope[];
  readonly grantedAt: Instant;
  readonly receivedAt: Instant;
  readonly recordedAt: Instant;
  readonly client: string;
  readonly idempotencyKey: string;
};

/** `not_suppressed`: none of it was suppressed, so there is nothing to record. */
export type RecordedGrant = {
  readonly subject: Subject;
  readonly asked: readonly Scope[];
  /** What stays suppressed for the subject. */
  readonly stillSuppressed: readonly Scope[];
} &
  /** `already_recorded`: the same consent was recorded before. `inForce`: none of its scopes is suppressed, nor its channel. */
  (
    | {
        readonly outcome: 'recorded' | 'already_recorded';
        readonly grant: Grant;
        readonly inForce: boolean;
        readonly propagation: Propagation;
      }
    | { readonly outcome: 'not_suppressed' }
  );

/** Like RecordAnswer; `grantId` is undefined if there was nothing to record. */
export type GrantAnswer = Omit<RecordAnswer, 'optOutId'> & { readonly grantId: string | undefined };

export type FoundGrant = {
  readonly grant: Grant;
  readonly subject: FoundSubject;
  readonly inForce: boolean;
  readonly stillSuppressed: readonly Scope[];
  readonly evidence: Evidence;
  readonly propagation: Propagation;
};

export type ListFilter = {
  /** Undefined: every client's (opt_outs:read_all). */
  readonly client: string | undefined;
  readonly limit: number;
  readonly cursor?: string | undefined;
  readonly since?: Instant | undefined;
  readonly until?: Instant | undefined;
  readonly state?: Propagation['state'] | undefined;
  readonly store?: string | undefined;
  readonly reason?: Reason | undefined;
};

export type CheckItem = {
  readonly subjects: readonly Subject[];
  /** What would be done: a message on a channel, perhaps about a topic, or a purpose. */
  readonly scope: Scope;
  /** False for a topic that nobody can have refused by this name: it may be any of its channel's, misspelt. */
  readonly isDeclared: boolean;
};
export type CheckAnswer = {
  readonly canSend: boolean;
  readonly reason: 'opted_out' | 'topic_required' | undefined;
  readonly optOutId: string | undefined;
  readonly effectiveAt: Instant | undefined;
};

/** A key's own limits: null removes one; a limit that is not named stays. */
export type KeyLimits = {
  readonly [Name in 'ratePerSecond' | 'optOutsPerDay' | 'grantsPerDay' | 'checksPerDay']?:
    number | null | undefined;
};

export type ApiKey = {
  readonly id: string;
  readonly client: string;
  readonly scopes: readonly string[];
  /** A worker's key is bound to one store. */
  readonly store: string | undefined;
  /** Calls per second of each class; undefined, here and below: what the configuration says. */
  readonly ratePerSecond: number | undefined;
  readonly optOutsPerDay: number | undefined;
  readonly grantsPerDay: number | undefined;
  readonly checksPerDay: number | undefined;
  /** The first of the keys that were rotated into this one: they share the daily budgets. */
  readonly lineage: string;
  readonly createdAt: Instant;
  readonly expiresAt: Instant | undefined;
  readonly revokedAt: Instant | undefined;
  readonly lastUsedAt: Instant | undefined;
};

/** A decision as a worker gets it straight from the ledger, sealed anew under a living transport key. */
export type Outstanding = Decision & {
  readonly attempts: number;
  /** How often another try was asked for since the last one failed. */
  readonly asked: number;
  readonly lane: 'live' | 'backfill';
};

/** A page of what is outstanding. */
export type OutstandingPage = {
  readonly generation: number;
  /** Since when the name has meant this store. */
  readonly targetSince: Instant;
  readonly decisions: readonly Outstanding[];
  readonly next: string | undefined;
  /** The store is paused or retired: a worker that learns of decisions elsewhere carries none of them either. */
  readonly paused?: true;
  /** The worker that asks does not hold the store's lease, so it is given nothing: that says nothing about what is due. */
  readonly unleased?: true;
};

/** One pass over a store, and how many subjects it found in each condition. */
export type Reconciliation = {
  readonly id: number;
  readonly asked: boolean;
  /** How far the store had verified when it began. */
  readonly through: number;
  readonly startedAt: Instant;
  readonly finishedAt: Instant | undefined;
  readonly compared: number;
  readonly missing: number;
  readonly older: number;
  readonly resurrected: number;
  readonly ahead: number;
  readonly own: number;
  /** How many of these were recorded as opt-outs; undefined: the configuration does not ask for that. */
  readonly recorded: number | undefined;
  /** People whose address is erased: they cannot be compared. */
  readonly unread: number;
};

/** How far the store's own list has been gone through. */
export type Listing = {
  readonly asked: boolean;
  readonly startedAt: Instant;
  readonly finishedAt: Instant | undefined;
  /** Entries looked at, opt-outs recorded from them, and entries that are no address of their kind. */
  readonly listed: number;
  readonly recorded: number;
  readonly unread: number;
};

export type LagStatus = 'ok' | 'paused' | 'backfilling' | 'late' | 'unknown';

export type StoreLag = {
  readonly store: string;
  readonly connector: string;
  readonly required: boolean;
  readonly status: LagStatus;
  /** Of a paused store, whose status may be a worse one. */
  readonly paused?: true;
  readonly evidence: 'read_back' | 'applied' | 'relay';
  readonly outstanding: number | null;
  /** If the count stopped at 10,000, `outstanding` is at least that many. */
  readonly outstanding_is_at_least?: true;
  readonly oldest_outstanding_seconds: number | null;
  readonly absent: number | null;
  readonly quarantined: number | null;
  readonly verified_through: number | null;
  readonly last_acknowledged_at: Instant | null;
  readonly latency_ms: {
    readonly count: number;
    readonly p50: number | null;
    readonly p95: number | null;
    readonly p99: number | null;
    readonly max: number | null;
    readonly window_seconds: number;
  };
  readonly worker: { readonly instances: number; readonly last_seen_at: Instant | null };
  readonly last_error: { readonly code: string; readonly at: string } | null;
  readonly backfill: { readonly remaining: number; readonly started_at: Instant } | null;
  /** The age of the newest canary that the store has acknowledged; null: there is none. */
  readonly canary_age_seconds: number | null;
  /** Decisions that the store had acknowledged, was found not to hold and does not hold again yet; outstanding all the same. */
  readonly drift: number | null;
  /** A whole pass found that the store holds everything up to here; null: there was no such pass in this generation. */
  readonly reconciled_through: number | null;
  readonly drain_eta_seconds: number | null;
};

export type SourceLag = {
  readonly kind: string;
  readonly status: SourceReport['status'];
  readonly position_age_seconds: number | null;
  readonly retained_wal_bytes: number | null;
  readonly slot: string | null;
  readonly task?: string;
  /** Over Kafka: how many records a worker could not read since it started, of the worker with the most. */
  readonly parked?: number;
  readonly redriven: number;
};

export type LagReport = {
  readonly as_of: Instant;
  readonly status: LagStatus;
  readonly uncovered: readonly Channel[];
  readonly sources: readonly SourceLag[];
  readonly stores: readonly StoreLag[];
};

export const PARKED_KINDS = ['quarantine', 'redrive', 'absent'] as const;
export type ParkedKind = (typeof PARKED_KINDS)[number];

/** A decision that a store keeps failing, or whose person it does not have: its clock runs, and it is tried again. */
export type Parked = {
  readonly store: string;
  readonly seq: number;
  /** Undefined if no opt-out caused it: a subject decided again, or a grant. */
  readonly optOutId: string | undefined;
  readonly subjectId: string;
  readonly subjectKind: SubjectKind;
  readonly version: number;
  readonly kind: ParkedKind;
  readonly code: string | undefined;
  readonly attempts: number;
  readonly recordedAt: Instant;
  /** The age of the oldest decision that it speaks for, as the lag counts it. */
  readonly ageSeconds: number;
  readonly since: Instant;
  readonly nextTryAt: Instant;
};

export type ParkedInFull = Parked & {
  readonly generation: number;
  /** It speaks for every unsettled decision of its subject from this one to its own. */
  readonly speaksFrom: number;
  /** The subject's version now: a newer one that the store takes settles this one as well. */
  readonly newestVersion: number;
  /** What the store last proved of this subject, for this or an older version; undefined if it never did. */
  readonly lastEvidence:
    | {
        readonly seq: number;
        readonly version: number;
        readonly outcome: string;
        readonly held: { readonly version: number | undefined; readonly suppressed: readonly string[] };
        readonly acknowledgedAt: Instant;
        readonly worker: string;
      }
    | undefined;
};

export type ParkedFilter = {
  readonly limit: number;
  readonly cursor: string | undefined;
  readonly kind: ParkedKind | undefined;
  readonly code: string | undefined;
};

/** One, those with a code, or all. */
export type ParkedWhich = { readonly seq: number } | { readonly code: string } | { readonly all: true };

/** Whether a sender may rely on a store's own copy. */
export type Gate = {
  readonly store: string;
  /** Why to hold; undefined: send. */
  readonly reason: Exclude<LagStatus, 'ok'> | 'outstanding' | 'retired' | undefined;
  readonly verifiedThrough: number | undefined;
  readonly oldestOutstandingSeconds: number | undefined;
  /** People whom the store did not have when it was told: should it have them now, its copy does not suppress them. */
  readonly absent: number | undefined;
  readonly asOf: Instant;
};

export const IMPORT_FORMATS = ['csv', 'ndjson'] as const;
export type ImportFormat = (typeof IMPORT_FORMATS)[number];

/** The largest file that is taken. */
export const FILE_BYTES_MAX = 1024 ** 3;

/** `receiving` is not shown: a file that did not arrive completely is no import. */
export const IMPORT_STATES = [
  'awaiting_approval',
  'pending',
  'running',
  'done',
  'failed',
  'cancelled',
] as const;
export type ImportState = (typeof IMPORT_STATES)[number];

/** What applies to a row of a file that says nothing else. */
export type ImportDefaults = {
  readonly scopes: readonly Scope[] | undefined;
  readonly reason: Reason;
  /** Undefined: when the file was received. */
  readonly effectiveAt: Instant | undefined;
};

/** What rows are read by besides the import's own parameters: as it was configured where the file was received. */
export type ReadBy = DeclaredScopes & { readonly defaultRegion?: string | undefined };

export type NewImport = {
  readonly format: ImportFormat;
  readonly dryRun: boolean;
  readonly defaults: ImportDefaults;
  readonly readBy: ReadBy;
  readonly caller: Caller;
  /** Of the caller's key: a rotated key is the same key. */
  readonly lineage: string;
};

/** A file of opt-outs, and how far it is recorded. */
export type Import = Pick<NewImport, 'format' | 'dryRun' | 'defaults' | 'readBy'> & {
  readonly id: string;
  readonly client: string;
  readonly keyId: string;
  readonly lineage: string;
  readonly state: ImportState;
  readonly bytes: number;
  readonly rowsTotal: number;
  readonly rowsDone: number;
  readonly counts: ImportCounts;
  /** A row may have several; beyond the first hundred thousand only the count is kept. */
  readonly errorsFound: number;
  readonly receivedAt: Instant;
  readonly startedAt: Instant | undefined;
  readonly finishedAt: Instant | undefined;
  readonly approval: { readonly client: string; readonly keyId: string; readonly at: Instant } | undefined;
  readonly failure: string | undefined;
  /** The same file before, read otherwise: rows that were taken then count as `already`, whatever came after them. */
  readonly repeats: string | undefined;
};

/** Rows: `already` changed nothing, `invalid` could not be read. For a dry run, what they would be. */
export type ImportCounts = { readonly recorded: number; readonly already: number; readonly invalid: number };

export const ROW_ERROR_CODES = [
  'invalid',
  'missing',
  'too_far_ahead',
  'not_utf8',
  'not_json',
  'wrong_number_of_fields',
] as const;

/** Why a row was not taken; it never contains a value. */
export type RowError = {
  readonly row: number;
  /** Where the row begins in the file. */
  readonly line: number;
  /** Undefined: the row as a whole. */
  readonly column: string | undefined;
  readonly code: (typeof ROW_ERROR_CODES)[number];
};

/** A row that can be read: the identifiers of one person, each kind once, and what the person refuses. */
export type ImportRow = Pick<OptOutIntent, 'subjects' | 'scopes' | 'effectiveAt' | 'reason'> & {
  readonly row: number;
  readonly line: number;
};

/** Every row after `after` through `through`: each is either readable or has at least one error. */
export type ImportBatch = {
  readonly after: number;
  readonly through: number;
  readonly rows: readonly ImportRow[];
  readonly errors: readonly RowError[];
  /** How many rows were taken when the file came before. */
  readonly taken: number;
};

/** Files of opt-outs: kept sealed while they are received, and until they are recorded. */
export type Imports = {
  /** Begins to receive a file; gives its id. Throws AbideError('too-many-requests'). */
  begin(fields: NewImport): Promise<string>;
  /** Keeps the next piece, `n` from 0. */
  keep(id: string, n: number, piece: Buffer): Promise<void>;
  /**
   * The file is complete. It is the same import as one with the same file and parameters before, unless that failed or was
   * cancelled, or is done without some of its rows, which are read otherwise now: then those are tried again. An import of more
   * rows than `approveAbove` waits for an approval, unless it is a dry run.
   */
  submit(
    id: string,
    file: {
      readonly sha256: Buffer;
      readonly bytes: number;
      readonly rows: number;
      readonly approveAbove: number;
    },
  ): Promise<{ readonly import: Import; readonly isNew: boolean }>;
  /** For a file that did not arrive completely, or cannot be read. */
  abandon(id: string): Promise<void>;
  /** `client` undefined, here and below: any client's. */
  find(id: string, client: string | undefined): Promise<Import | undefined>;
  /** Newest first. Throws AbideError: invalid-value (cursor). */
  list(filter: {
    readonly client: string | undefined;
    readonly limit: number;
    readonly cursor: string | undefined;
    readonly state: ImportState | undefined;
  }): Promise<{ readonly imports: readonly Import[]; readonly nextCursor: string | undefined }>;
  /** By row. Throws AbideError: invalid-value (cursor). */
  errors(
    id: string,
    page: { readonly limit: number; readonly cursor: string | undefined },
  ): Promise<{ readonly errors: readonly RowError[]; readonly nextCursor: string | undefined }>;
  /** Throws AbideError: not-found, second-key-needed, import-not-waiting. */
  approve(id: string, caller: Caller, lineage: string): Promise<Import>;
  /** Throws AbideError: not-found, import-not-waiting. */
  cancel(id: string, client: string | undefined, caller: Caller): Promise<Import>;

  /** The oldest import that nobody carries; `holder` carries it from now on. */
  claim(holder: string): Promise<Import | undefined>;
  /** False: somebody else carries it. */
  renew(id: string, holder: string): Promise<boolean>;
  /** Leaves it to the next process that claims it. */
  release(id: string, holder: string): Promise<void>;
  /** The rows that an import did not take. */
  notTaken(id: string): Promise<ReadonlySet<number>>;
  /** Undefined: there are no more. */
  piece(id: string, n: number): Promise<Buffer | undefined>;
  /** Records a batch, and how far the import is with it; `before` is the batch before. False: another process carries it. */
  record(of: Import, holder: string, batch: ImportBatch, before: Promise<unknown>): Promise<boolean>;
  /** `failure`: why the import cannot go on. */
  finish(id: string, holder: string, failure?: string): Promise<Import | undefined>;
  /** Whether live opt-outs wait to be recorded in this process: they go first. */
  isLiveWaiting(): boolean;
  /** Resolves when there may be something to claim, or after a while. */
  untilWaiting(signal: AbortSignal): Promise<void>;
};

export type AuditEntry = {
  readonly seq: number;
  readonly at: Instant;
  readonly client: string | undefined;
  readonly keyId: string | undefined;
  readonly callerAddress: string | undefined;
  readonly action: string;
  readonly resource: string | undefined;
  readonly requestId: string | undefined;
  readonly details: Record<string, unknown>;
};

/** A call to a version of the API by a key that was let in. */
export type Use = { readonly version: string; readonly client: string; readonly keyId: string };

/** How often a key used a version, and when it last did. */
export type Usage = Use & { readonly count: number; readonly lastAt: Instant };

/**
 * Every method throws AbideError('ledger-unavailable') if the database cannot be asked. A method that writes resolves only after
 * COMMIT.
 */
export type Ledger = {
  /**
   * Records one intent; concurrent intents share a transaction. Throws AbideError: invalid-value (date ahead),
   * idempotency-key-reused, idempotency-key-in-use, overloaded, ledger-unavailable.
   */
  record(intent: OptOutIntent, render: (recorded: Recorded) => string): Promise<RecordAnswer>;
  /** `client` undefined: any client's (opt_outs:read_all). */
  findOptOut(id: string, client: string | undefined): Promise<FoundOptOut | undefined>;
  /** The same, all of it as it was at one moment, by the database's clock. */
  findOptOutAsOf(
    id: string,
    client: string | undefined,
  ): Promise<{ readonly asOf: Instant; readonly found: FoundOptOut } | undefined>;
  readonly signing: Signing;
  /** Undefined: no such store. */
  listOptOuts(
    filter: ListFilter,
  ): Promise<{ optOuts: readonly FoundOptOut[]; nextCursor: string | undefined } | undefined>;
  lookupSubject(
    subject: Subject,
  ): Promise<{ state: SubjectState; optOuts: readonly FoundOptOut[]; propagation: Propagation | undefined }>;
  /**
   * Erases the addresses of these people, all or none; they stay suppressed. Throws AbideError: erasure-too-early (a store does not
   * hold it yet, and could never be told).
   */
  erase(subjects: readonly Subject[], caller: Caller): Promise<readonly Erased[]>;
  /**
   * Records the person's own later consent. Throws AbideError: invalid-value (a date ahead), grant-not-later, and what record
   * throws.
   */
  grant(intent: GrantIntent, render: (granted: RecordedGrant) => string): Promise<GrantAnswer>;
  /** `client` as for findOptOut. */
  findGrant(id: string, client: string | undefined): Promise<FoundGrant | undefined>;
  /**
   * Holds no connection while it waits. Resolves when every required store has confirmed, or after `waitMs`. `fresh` is what was
   * recorded just now: none of it is looked for before it can be there.
   */
  waitForPropagation(
    optOutId: string,
    waitMs: number,
    signal: AbortSignal,
    fresh?: readonly RecordedDecision[],
  ): Promise<Propagation>;
  checkSendable(items: readonly CheckItem[]): Promise<{ asOf: Instant; items: readonly CheckAnswer[] }>;
  /**
   * Spends from today's budget (UTC) of the caller's key, all of `count` or nothing; a key without a budget spends nothing. Throws
   * AbideError('budget-exhausted'), which the audit log holds once per key, day and direction.
   */
  spend(caller: Caller, direction: 'check', count: number): Promise<void>;
  lag(): Promise<LagReport>;
  /** Judged by a lag that was read after the call. Undefined: no such store. */
  gate(store: string, maxAgeSeconds: number | undefined): Promise<Gate | undefined>;

  /** Oldest first. Undefined, here and below: no such store in service. Throws AbideError: invalid-value (cursor). */
  listParked(
    store: string,
    filter: ParkedFilter,
  ): Promise<{ parked: readonly Parked[]; nextCursor: string | undefined } | undefined>;
  findParked(store: string, seq: number): Promise<ParkedInFull | undefined>;
  /** Has them tried again now, within about a second; returns how many. */
  retryParked(store: string, which: ParkedWhich, caller: Caller): Promise<number | undefined>;

  acknowledge(store: string, report: AcknowledgementReport): Promise<AcknowledgementAnswer>;
  /**
   * Deliverable decisions, live first. `worker`: the page is empty until this worker's reports have taken the store's lease.
   * `stanza`: what the worker goes by; throws `another-stanza` if the configuration says otherwise. With `waitMs` an empty answer
   * is held until something is due. Undefined: no such store.
   */
  outstanding(
    store: string,
    ask: {
      after: string | undefined;
      limit: number;
      waitMs: number;
      worker: string | undefined;
      stanza?: Buffer | undefined;
      signal: AbortSignal;
    },
  ): Promise<OutstandingPage | undefined>;
  newest(store: string, subjectId: string): Promise<Newest | undefined>;
  transportKey(id: number): Promise<Buffer | undefined>;
  /** The newest canary that the store has acknowledged. */
  canary(store: string): Promise<Decision | undefined>;
  /** For the worker that holds the lease; undefined: nothing is to be compared now, or no such store. */
  reconciliationPage(store: string, worker: string): Promise<ReconciliationPage | undefined>;
  /** False: the page was counted already, or its pass is over. */
  compared(
    store: string,
    page: Pick<ReconciliationPage, 'run' | 'generation' | 'after' | 'through' | 'isLast'>,
    comparison: Comparison,
  ): Promise<boolean>;
  /** For the worker that holds the lease; undefined: nothing is to be listed now, or at all. */
  listingPage(store: string, worker: string): Promise<ListingPage | undefined>;
  /** False: the page was taken already, or the list is over. */
  listed(store: string, page: Pick<ListingPage, 'generation' | 'pages'>, listed: Listed): Promise<boolean>;
  /** Undefined: there is none, since nothing that the store suppresses by itself is recorded. */
  listing(store: string): Promise<Listing | undefined>;
  /** Begins a pass at full speed, and returns its id. Undefined: no such store in service, or it cannot be read. */
  reconcile(store: string, caller: Caller): Promise<number | undefined>;
  /** The latest passes, newest first. Undefined: no such store. */
  reconciliations(store: string, limit: number): Promise<readonly Reconciliation[] | undefined>;

  readonly imports: Imports;

  authenticate(token: string): Promise<ApiKey | undefined>;
  /** Only counts, without a query: the count is written some seconds later. */
  countUse(use: Use): void;
  createKey(fields: {
    client: string;
    scopes: readonly string[];
    store: string | undefined;
    expiresAt: Instant | undefined;
    limits?: KeyLimits | undefined;
    /** Sets the token beforehand (the administrator's by ABIDE_ADMIN_KEY). */
    token?: string;
    caller: Caller | undefined;
  }): Promise<{ key: ApiKey; token: string }>;
  listKeys(): Promise<readonly ApiKey[]>;
  /** Throws if the database cannot be asked, or its schema is not this version's. */
  ready(): Promise<void>;
};
