// Decisions that a store does not take, or whose person it does not have.
import type { Instant } from '../../suppression/decision.ts';
import type { SubjectKind } from '../../suppression/subject-kind.ts';

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
