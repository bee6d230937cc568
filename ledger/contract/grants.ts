// The only way back: a consent that a client asks to have recorded, what became of that, and how it is read back.
import type { Instant } from '../../suppression/decision.ts';
import type { Scope } from '../../suppression/scope.ts';
import type { Subject } from '../../suppression/subject.ts';
import type { Evidence, FoundSubject, OptOutIntent, RecordAnswer } from './opt-outs.ts';
import type { Propagation } from './propagation.ts';

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
