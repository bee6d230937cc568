import type { Instant } from '../../suppression/decision.ts';
import type { LagStatus } from './propagation-lag.ts';

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
