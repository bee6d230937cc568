// An opt-out: what a client asks to have recorded, what became of that, and how it is read back.
import type { Instant, SubjectState } from '../../suppression/decision.ts';
import type { Scope } from '../../suppression/scope.ts';
import type { SubjectKind } from '../../suppression/subject-kind.ts';
import type { Address, Subject } from '../../suppression/subject.ts';
import type { Caller } from './audit.ts';
import type { Propagation } from './propagation.ts';

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
  /** Undefined, as `masked` is, once the subject is erased, and if what is sealed was damaged. */
  readonly address: Address | undefined;
  readonly masked: string | undefined;
  /** As this opt-out or grant left it. */
  readonly state: SubjectState;
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
