// Whether stores still hold what they acknowledged, and what they suppress by themselves.
import type { Instant } from '../../suppression/decision.ts';

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
