// Who may ask, and for what.
import type { Instant } from '../../suppression/decision.ts';

/** What a key may do. `acknowledgements:write` is for workers and bound to one store. */
export const KEY_SCOPES = [
  'opt_outs:write',
  'opt_outs:read',
  'opt_outs:read_all',
  'grants:write',
  'imports:write',
  'imports:approve',
  'subjects:read',
  'subjects:erase',
  'checks:read',
  'lag:read',
  'stores:write',
  'acknowledgements:write',
] as const;
export const ADMINISTRATOR_SCOPES = KEY_SCOPES.filter((scope) => scope !== 'acknowledgements:write');

/** A key's own limits: null removes one; a limit that is not named stays. */
export type KeyLimits = {
  readonly [Name in 'ratePerSecond' | 'optOutsPerDay' | 'grantsPerDay' | 'checksPerDay']?:
    number | null | undefined;
};

export type ApiKey = {
  readonly id: string;
  readonly client: string;
  readonly scopes: readonly string[];
  /** A worker's key is bound to one store. */
  readonly store: string | undefined;
  /** Calls per second of each class; undefined, here and below: what the configuration says. */
  readonly ratePerSecond: number | undefined;
  readonly optOutsPerDay: number | undefined;
  readonly grantsPerDay: number | undefined;
  readonly checksPerDay: number | undefined;
  /** The first of the keys that were rotated into this one: they share the daily budgets. */
  readonly lineage: string;
  readonly createdAt: Instant;
  readonly expiresAt: Instant | undefined;
  readonly revokedAt: Instant | undefined;
  readonly lastUsedAt: Instant | undefined;
};
