// Scopes and stores as fast-check makes them up: few enough that they often meet.
import fc from 'fast-check';
import type { StoreScopes } from '../../suppression/scope.ts';

const SCOPES = [
  'email',
  'sms',
  'push',
  'email/news',
  'email/offers',
  'sms/news',
  'push/a',
  'analytics',
  'profiling',
  'automated_decisions',
] as const;

export const anyScope = fc.constantFrom(...SCOPES);

export const anyStoreScopes: fc.Arbitrary<StoreScopes> = fc.record({
  scopes: fc.uniqueArray(anyScope, { minLength: 1 }),
  topics: fc.boolean(),
});

const anyDay = fc
  .integer({ min: 1, max: 28 })
  .map((day) => `2026-01-${String(day).padStart(2, '0')}T00:00:00.000Z`);

/** The two halves of a decision's state: no scope is in both. */
export const anyDecided = fc
  .uniqueArray(fc.tuple(anyScope, fc.boolean(), anyDay, fc.integer({ min: 1, max: 9 })), {
    selector: ([scope]) => scope,
  })
  .map((parts) => ({
    suppressed: Object.fromEntries(parts.filter(([, is]) => is).map(([scope, , day]) => [scope, day])),
    granted: Object.fromEntries(
      parts.filter(([, is]) => !is).map(([scope, , at, version]) => [scope, { at, version }]),
    ),
  }));
