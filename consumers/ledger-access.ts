import type {
  AcknowledgementAnswer,
  AcknowledgementReport,
  Comparison,
  Newest,
  ReconciliationPage,
} from '../suppression/acknowledgement.ts';
import type { Decision, Instant } from '../suppression/decision.ts';
import type { Listed, ListingPage } from '../suppression/own-suppression.ts';

/** A decision that a store must hold, straight from the ledger: one that is not parked, or whose next try has come. */
export type OutstandingDecision = Decision & {
  /** Attempts known to the ledger (from its exceptions); 0 if it was never tried or never failed. */
  readonly attempts: number;
  /** How often another try was asked for since the last one failed: a failed try says which it answers for. */
  readonly asked: number;
  readonly lane: 'live' | 'backfill';
};

export type OutstandingPage = {
  readonly generation: number;
  /** Since when the name has meant this store; undefined: the API's version does not say. */
  readonly targetSince?: Instant | undefined;
  readonly decisions: readonly OutstandingDecision[];
  /** Sequence numbers of rows that this worker cannot read (a newer API's, say): they stay outstanding. */
  readonly unreadable?: readonly number[];
  /** Where the next page begins; undefined after the last. */
  readonly next: string | undefined;
  /** The store is paused or retired: what the stream brings is not carried either. */
  readonly paused?: true | undefined;
  /** This worker does not hold the store's lease: an empty page says nothing of what is due. */
  readonly unleased?: true | undefined;
};

/**
 * What a worker may ask of the ledger, for its one store. Inside the API's process it is a few functions of ledger/;
 * elsewhere the same over HTTP with a key bound to the store.
 */
export type LedgerAccess = {
  /** Live decisions first, then back-fill; at most 2,000 a page. Empty unless this worker holds the store's lease. */
  outstanding(ask: {
    readonly after?: string | undefined;
    readonly limit: number;
    /** Holds an empty answer up to this long. */
    readonly waitMs?: number;
    readonly signal: AbortSignal;
  }): Promise<OutstandingPage>;
  acknowledge(report: AcknowledgementReport, signal: AbortSignal): Promise<AcknowledgementAnswer>;
  /** The newest state of a known subject, for lifting in a store without versions, or one that cannot be read. */
  newest(subjectId: string, signal: AbortSignal): Promise<Newest>;
  /** Throws AbideError('not-found') if it is destroyed. */
  transportKey(id: number, signal: AbortSignal): Promise<Buffer>;
  /** The newest canary that the store has acknowledged; undefined: there is none. */
  canary(signal: AbortSignal): Promise<Decision | undefined>;
  /** The next page of the store's reconciliation; undefined: nothing is to be compared now. */
  reconciliationPage(signal: AbortSignal): Promise<ReconciliationPage | undefined>;
  compared(page: ReconciliationPage, comparison: Comparison, signal: AbortSignal): Promise<void>;
  /** Where to go on with the store's own list; undefined: it is not gone through, now or at all. */
  listingPage(signal: AbortSignal): Promise<ListingPage | undefined>;
  listed(page: ListingPage, listed: Listed, signal: AbortSignal): Promise<void>;
};
