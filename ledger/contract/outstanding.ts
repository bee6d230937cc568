// What a worker is given to carry.
import type { Decision, Instant } from '../../suppression/decision.ts';

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
