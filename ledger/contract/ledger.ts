// What is true, as the rest of Abide may ask for it. What each group of methods takes and gives is one file beside this one; how it
// is done is the folder above.
import type {
  AcknowledgementAnswer,
  AcknowledgementReport,
  Comparison,
  Newest,
  ReconciliationPage,
} from '../../suppression/acknowledgement.ts';
import type { Decision, Instant, SubjectState } from '../../suppression/decision.ts';
import type { Listed, ListingPage } from '../../suppression/own-suppression.ts';
import type { Subject } from '../../suppression/subject.ts';
import type { ApiKey, KeyLimits } from './api-keys.ts';
import type { Caller } from './audit.ts';
import type { CheckAnswer, CheckItem } from './checks.ts';
import type { Erased } from './erasure.ts';
import type { Gate } from './gate.ts';
import type { FoundGrant, GrantAnswer, GrantIntent, RecordedGrant } from './grants.ts';
import type { Imports } from './imports.ts';
import type {
  FoundOptOut,
  ListFilter,
  OptOutIntent,
  RecordAnswer,
  Recorded,
  RecordedDecision,
} from './opt-outs.ts';
import type { OutstandingPage } from './outstanding.ts';
import type { LagReport } from './propagation-lag.ts';
import type { Propagation } from './propagation.ts';
import type { Parked, ParkedFilter, ParkedInFull, ParkedWhich } from './quarantine.ts';
import type { Listing, Reconciliation } from './reconciliation.ts';
import type { Signing } from './signing.ts';
import type { Use } from './usage.ts';

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
