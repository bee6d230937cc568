import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { toCarried } from '../../consumers/carried.ts';
import { toItem } from '../../consumers/carry-batch.ts';
import { UNKNOWN_SUBJECT } from '../../suppression/decision.ts';
import type { SubjectState } from '../../suppression/decision.ts';
import { applyGrant, applyOptOut } from '../../suppression/precedence.ts';
import { heldAs } from '../../suppression/scope.ts';
import { anyScope, anyStoreScopes } from '../suppression/arbitrary-scopes.ts';
import { FakeStore, decided } from './fakes.ts';

const dayOf = (n: number): string => new Date(Date.UTC(2026, 0, n)).toISOString();

/** In the order in which the ledger gives them out: shorter names first. */
const fromTheLedger = (granted: SubjectState['granted']): SubjectState['granted'] =>
  Object.fromEntries(Object.entries(granted).sort(([a], [b]) => a.length - b.length));

type Step = { readonly isGrant: boolean; readonly scopes: readonly string[]; readonly isCarried: boolean };

/** The state after each opt-out or consent that changed it, oldest first. */
function statesAfter(steps: readonly Step[]): (SubjectState & Pick<Step, 'isCarried'>)[] {
  const states: (SubjectState & Pick<Step, 'isCarried'>)[] = [];
  for (const [n, { isGrant, scopes, isCarried }] of steps.entries()) {
    const before = states.at(-1) ?? UNKNOWN_SUBJECT;
    const at = dayOf(n + 1);
    const effect = isGrant
      ? applyGrant(before, { scopes, at }, at)
      : applyOptOut(before, { id: `${n}`, scopes, effectiveAt: at });
    if ('state' in effect && effect.state.version > before.version)
      states.push({ ...effect.state, isCarried });
  }
  return states;
}

const anySteps = fc.array(
  fc.record({
    isGrant: fc.boolean(),
    scopes: fc.uniqueArray(anyScope, { minLength: 1, maxLength: 3 }),
    /** Otherwise a later one overtakes it, and the store never hears of it. */
    isCarried: fc.boolean(),
  }),
  { minLength: 1, maxLength: 12 },
);

test('after whatever a store was told of a person it holds what is suppressed, under its own names, and nothing else', () => {
  fc.assert(
    fc.property(anySteps, anyStoreScopes, (steps, held) => {
      const store = new FakeStore();
      for (const { version, suppressed, granted, isCarried } of statesAfter(steps)) {
        if (!isCarried) continue;
        const decision = {
          ...decided('ada', { version, suppressed: Object.keys(suppressed) }),
          granted: fromTheLedger(granted),
        };
        const item = toItem(toCarried(decision, 'live', 'stream'), 'ada@example.com', {
          held,
          makeKey: (value) => value,
        });
        store.write(item);
        const names = Object.keys(suppressed).flatMap((scope) => heldAs(scope, held));
        expect(store.suppressedOf('ada')).toEqual([...new Set(names)].sort());
      }
    }),
    { numRuns: 2_000 },
  );
});
