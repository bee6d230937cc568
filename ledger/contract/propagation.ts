// How far the stores are with what was recorded.
import type { Instant } from '../../suppression/decision.ts';
import type { Scope } from '../../suppression/scope.ts';

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
