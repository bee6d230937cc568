import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { UNKNOWN_SUBJECT } from '../../suppression/decision.ts';
import type { SubjectState } from '../../suppression/decision.ts';
import { applyGrant, applyOptOut } from '../../suppression/precedence.ts';

const on = (day: number): string => `2026-01-${String(day).padStart(2, '0')}T00:00:00.000Z`;
const NOW = on(31);
const optOut = (state: SubjectState, id: string, scopes: readonly string[], day: number) =>
  applyOptOut(state, { id, scopes, effectiveAt: on(day) });
const since = (first: number, last: number, id: string) => ({
  first_effective_at: on(first),
  last_effective_at: on(last),
  opt_out_id: id,
});

describe('an opt-out', () => {
  test('of somebody unknown is version 1', () => {
    expect(optOut(UNKNOWN_SUBJECT, 'a', ['email', 'sms'], 5)).toEqual({
      kind: 'recorded',
      state: { version: 1, suppressed: { email: since(5, 5, 'a'), sms: since(5, 5, 'a') }, granted: {} },
    });
  });

  test('that adds a scope is a new version, and dates what was there already only wider', () => {
    const { state } = optOut(UNKNOWN_SUBJECT, 'a', ['email'], 5);
    expect(optOut(state, 'b', ['email', 'push'], 3)).toEqual({
      kind: 'recorded',
      state: { version: 2, suppressed: { email: since(3, 5, 'a'), push: since(3, 3, 'b') }, granted: {} },
    });
  });

  test('that adds nothing is no version; between the dates that are known it changes nothing at all', () => {
    const { state } = optOut(UNKNOWN_SUBJECT, 'a', ['email'], 5);
    const earlier = optOut(state, 'b', ['email'], 3);
    expect(earlier).toEqual({
      kind: 'already_opted_out',
      widened: true,
      state: { version: 1, suppressed: { email: since(3, 5, 'a') }, granted: {} },
    });
    expect(optOut(earlier.state, 'c', ['email'], 9)).toMatchObject({ widened: true, state: { version: 1 } });
    expect(optOut(earlier.state, 'd', ['email'], 4)).toEqual({ ...earlier, widened: false });
  });

  test('of a topic counts in its own right, also under its channel', () => {
    const { state } = optOut(UNKNOWN_SUBJECT, 'a', ['email'], 5);
    expect(optOut(state, 'b', ['email/news'], 5).kind).toBe('recorded');
  });

  test('suppresses after a grant whatever its date, and the grant is gone', () => {
    const { state } = optOut(UNKNOWN_SUBJECT, 'a', ['email'], 5);
    const granted = applyGrant(state, { scopes: ['email'], at: on(10) }, NOW);
    if (granted.kind !== 'granted') throw new Error(granted.kind);
    expect(optOut(granted.state, 'b', ['email'], 1)).toEqual({
      kind: 'recorded',
      state: { version: 3, suppressed: { email: since(1, 1, 'b') }, granted: {} },
    });
  });

  test('leaves what it was given as it was', () => {
    const { state } = optOut(UNKNOWN_SUBJECT, 'a', ['email'], 5);
    const before = structuredClone(state);
    optOut(state, 'b', ['email', 'sms'], 1);
    applyGrant(state, { scopes: ['email'], at: on(9) }, NOW);
    expect(state).toEqual(before);
    expect(UNKNOWN_SUBJECT).toEqual({ version: 0, suppressed: {}, granted: {} });
  });
});

describe('a grant', () => {
  const state = optOut(optOut(UNKNOWN_SUBJECT, 'a', ['email'], 5).state, 'b', ['email', 'sms'], 8).state;

  test('later than the last date of every scope that it names lifts them, in a new version', () => {
    expect(applyGrant(state, { scopes: ['email'], at: on(9) }, NOW)).toEqual({
      kind: 'granted',
      state: {
        version: 3,
        suppressed: { sms: since(8, 8, 'b') },
        granted: { email: { at: on(9), version: 3 } },
      },
    });
  });

  test.each([
    ['on a tie', 8],
    ['earlier than the last date, though later than the first', 6],
    ['earlier than both', 1],
  ])('%s is refused: the opt-out stands', (_when, day) => {
    expect(applyGrant(state, { scopes: ['email'], at: on(day) }, NOW)).toEqual({
      kind: 'refused',
      scopes: ['email'],
    });
  });

  test('is refused whole where it is too early for one of its scopes', () => {
    const later = optOut(state, 'c', ['sms'], 20).state;
    expect(applyGrant(later, { scopes: ['email', 'sms'], at: on(15) }, NOW)).toEqual({
      kind: 'refused',
      scopes: ['sms'],
    });
  });

  test('ahead of the database’s clock is refused; at its very moment it is not', () => {
    expect(applyGrant(state, { scopes: ['email'], at: on(21) }, on(20))).toMatchObject({ kind: 'refused' });
    expect(applyGrant(state, { scopes: ['email'], at: on(20) }, on(20))).toMatchObject({ kind: 'granted' });
  });

  test('of what is not suppressed is nothing', () => {
    expect(applyGrant(state, { scopes: ['push'], at: on(20) }, NOW)).toEqual({ kind: 'nothing_to_grant' });
    expect(applyGrant(UNKNOWN_SUBJECT, { scopes: ['email'], at: on(20) }, NOW)).toEqual({
      kind: 'nothing_to_grant',
    });
  });

  test('lifts a topic and leaves its channel, and the reverse', () => {
    const both = optOut(UNKNOWN_SUBJECT, 'a', ['email', 'email/news'], 5).state;
    const topic = applyGrant(both, { scopes: ['email/news'], at: on(9) }, NOW);
    const channel = applyGrant(both, { scopes: ['email'], at: on(9) }, NOW);
    expect(topic).toMatchObject({ kind: 'granted', state: { suppressed: { email: since(5, 5, 'a') } } });
    expect(channel).toMatchObject({
      kind: 'granted',
      state: { suppressed: { 'email/news': since(5, 5, 'a') } },
    });
  });
});

const SCOPES = ['email', 'sms', 'push', 'email/news'] as const;
const anyStep = fc.record({
  is: fc.constantFrom('opt-out', 'opt-out', 'grant'),
  scopes: fc.subarray([...SCOPES], { minLength: 1 }),
  day: fc.integer({ min: 1, max: 28 }),
});

/** Scopes as a plain model has them: every date stated since the scope was last lifted; none: not suppressed. */
type Model = Map<string, number[]>;

test('whatever is asked in whatever order, the state is what a plain model says', () => {
  fc.assert(
    fc.property(fc.array(anyStep, { maxLength: 30 }), (steps) => {
      const model: Model = new Map();
      const lifted = new Set<string>();
      let state: SubjectState = UNKNOWN_SUBJECT;
      for (const [n, { is, scopes, day }] of steps.entries()) {
        const before = state;
        const has = (scope: string): number[] => model.get(scope) ?? [];
        if (is === 'opt-out') {
          const isNew = scopes.some((scope) => has(scope).length === 0);
          const effect = optOut(state, String(n), scopes, day);
          expect(effect.kind).toBe(isNew ? 'recorded' : 'already_opted_out');
          state = effect.state;
          expect(state.version).toBe(before.version + (isNew ? 1 : 0));
          for (const scope of scopes) {
            model.set(scope, [...has(scope), day]);
            lifted.delete(scope);
          }
          // Nothing that was suppressed is lost, and the opt-out that began it stays.
          for (const [scope, was] of Object.entries(before.suppressed))
            expect(state.suppressed[scope]?.opt_out_id).toBe(was.opt_out_id);
        } else {
          const named = scopes.filter((scope) => has(scope).length > 0);
          const isLater = named.every((scope) => day > Math.max(...has(scope)));
          const effect = applyGrant(state, { scopes, at: on(day) }, NOW);
          expect(effect.kind).toBe(named.length === 0 ? 'nothing_to_grant' : isLater ? 'granted' : 'refused');
          if (effect.kind !== 'granted') continue;
          state = effect.state;
          expect(state.version).toBe(before.version + 1);
          for (const scope of named) {
            model.delete(scope);
            lifted.add(scope);
          }
        }
        const suppressed = [...model].filter(([, days]) => days.length > 0);
        expect(Object.keys(state.suppressed).sort()).toEqual(suppressed.map(([scope]) => scope).sort());
        for (const [scope, days] of suppressed)
          expect(state.suppressed[scope]).toMatchObject({
            first_effective_at: on(Math.min(...days)),
            last_effective_at: on(Math.max(...days)),
          });
        expect(Object.keys(state.granted).sort()).toEqual([...lifted].sort());
        for (const { version } of Object.values(state.granted))
          expect(version).toBeLessThanOrEqual(state.version);
      }
    }),
    { numRuns: 500 },
  );
});

test('opt-outs alone may come in any order: the same scopes and dates remain', () => {
  fc.assert(
    fc.property(
      fc
        .array(anyStep, { minLength: 1, maxLength: 12 })
        .chain((steps) =>
          fc.tuple(fc.constant(steps), fc.shuffledSubarray(steps, { minLength: steps.length })),
        ),
      ([steps, shuffled]) => {
        const fold = (all: typeof steps) =>
          all.reduce<SubjectState>(
            (state, { scopes, day }, n) => optOut(state, String(n), scopes, day).state,
            UNKNOWN_SUBJECT,
          );
        const dates = ({ suppressed }: SubjectState) =>
          Object.fromEntries(
            Object.entries(suppressed).map(([scope, { first_effective_at, last_effective_at }]) => [
              scope,
              [first_effective_at, last_effective_at],
            ]),
          );
        expect(dates(fold(shuffled))).toEqual(dates(fold(steps)));
      },
    ),
  );
});
