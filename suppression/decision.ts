import type { SubjectKind } from './subject-kind.ts';

/**
 * An instant as RFC 3339 text in UTC with milliseconds, `2026-11-24T09:00:00.000Z`: it sorts as text and survives
 * JSON, Avro and PostgreSQL unchanged.
 */
export type Instant = string;

/** Why a scope of a subject is suppressed: the earliest and latest date stated for it, and the opt-out that began it. */
export type Suppressed = {
  readonly first_effective_at: Instant;
  readonly last_effective_at: Instant;
  readonly opt_out_id: string;
};

/** A scope that the person's grant took away and that was not suppressed since; `version` is the grant's own. */
export type Granted = { readonly at: Instant; readonly version: number };

/** The current state of a subject as the ledger holds it. */
export type SubjectState = {
  readonly version: number;
  readonly suppressed: Readonly<Record<string, Suppressed>>;
  readonly granted: Readonly<Record<string, Granted>>;
};

export const UNKNOWN_SUBJECT: SubjectState = { version: 0, suppressed: {}, granted: {} };

export const CAUSES = ['opt_out', 'grant', 'reissue'] as const;
export type Cause = (typeof CAUSES)[number];

/**
 * A decision as every change source delivers it: the subject's whole resulting state, never a change to it, so that
 * order does not matter and replays are harmless.
 */
export type Decision = {
  /** Position in the ledger, below 2^53. Commit order may differ from it. */
  readonly seq: number;
  readonly optOutId: string | undefined;
  readonly subjectId: string;
  readonly kind: SubjectKind;
  /** Taken under the subject's row lock: for one subject a higher version is the newer state. */
  readonly version: number;
  /** Scope → since when. */
  readonly suppressed: Readonly<Record<string, Instant>>;
  readonly granted: Readonly<Record<string, Granted>>;
  readonly effectiveAt: Instant;
  readonly recordedAt: Instant;
  /** The address under a transport key (base64url); undefined once the subject is erased. */
  readonly sealed: string | undefined;
  readonly transportKeyId: number | undefined;
  readonly traceparent: string | undefined;
};
