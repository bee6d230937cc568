import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import {
  compareHeld,
  differenceOf,
  heldOfItsOwn,
  isDue,
  mustClear,
  mustHold,
} from '../../suppression/acknowledgement.ts';
import { heldAs } from '../../suppression/scope.ts';
import { SUBJECT_KINDS } from '../../suppression/subject-kind.ts';
import { anyDecided, anyScope, anyStoreScopes } from './arbitrary-scopes.ts';

const DAY = '2026-01-01T00:00:00.000Z';
const crm = { scopes: ['email', 'sms'], topics: false, accepts: ['email', 'phone'] };
const decided = (suppressed: string[], granted: Record<string, number> = {}, version = 3) => ({
  kind: 'email' as const,
  version,
  suppressed: Object.fromEntries(suppressed.map((scope) => [scope, DAY])),
  granted: Object.fromEntries(
    Object.entries(granted).map(([scope, of]) => [scope, { at: DAY, version: of }]),
  ),
});
const held = (version: number | undefined, ...suppressed: string[]) => ({ version, suppressed });

describe('a decision is due', () => {
  test.each([
    ['a scope that the store holds is suppressed', decided(['sms']), true],
    ['a scope that the store holds is granted: it may have to be cleared', decided([], { email: 2 }), true],
    ['no scope is the store’s', decided(['push', 'analytics']), false],
    ['a topic of a channel that it cannot hold apart', decided(['email/news']), false],
    ['nothing is decided', decided([]), false],
  ])('where %s: %#', (_when, decision, due) => {
    expect(isDue(decision, crm)).toBe(due);
  });

  test('never to a store that does not accept the kind of subject', () => {
    for (const kind of SUBJECT_KINDS)
      expect(isDue({ ...decided(['email']), kind }, crm)).toBe(crm.accepts.includes(kind));
  });
});

describe('what a store holds, compared with what was decided', () => {
  test.each([
    ['exactly that', held(3, 'email'), 'held'],
    ['more, of its own', held(3, 'email', 'sms', 'push'), 'held'],
    ['nothing', held(3), 'missing'],
    ['another scope', held(3, 'sms'), 'missing'],
    ['that, without keeping versions', held(undefined, 'email'), 'held'],
    ['nothing, without keeping versions', held(undefined), 'missing'],
    ['that, under an older version', held(2, 'email'), 'held'],
    ['a newer version, with it', held(4, 'email'), 'newer'],
    ['a newer version, without it: that one decides', held(4), 'newer'],
  ])('%s is %s', (_what, is, expected) => {
    expect(compareHeld(decided(['email']), crm, is)).toBe(expected);
  });

  test('is in the store’s own names', () => {
    const topics = { scopes: ['email/news', 'email/offers'], topics: true };
    expect(compareHeld(decided(['email']), topics, held(3, 'email'))).toBe('missing');
    expect(compareHeld(decided(['email']), topics, held(3, 'email/news'))).toBe('missing');
    expect(compareHeld(decided(['email']), topics, held(3, 'email/news', 'email/offers'))).toBe('held');
  });

  test('of a scope that the store cannot hold is nobody’s fault', () => {
    expect(compareHeld(decided(['email', 'push']), crm, held(3, 'email'))).toBe('held');
  });

  test('is held exactly where nothing that must be held is left out', () => {
    fc.assert(
      fc.property(anyDecided, anyStoreScopes, fc.uniqueArray(anyScope), (state, store, suppressed) => {
        const is = compareHeld({ ...state, version: 3 }, store, { version: 3, suppressed });
        const left = mustHold(state, store).filter((scope) => !(suppressed as string[]).includes(scope));
        expect(is).toBe(left.length === 0 ? 'held' : 'missing');
      }),
    );
  });
});

describe('what a step has to clear', () => {
  test('is what was granted since the store was told last', () => {
    const grant = decided(['sms'], { email: 3 });
    expect(mustClear(grant, crm, 2)).toEqual(['email']);
    expect(mustClear(grant, crm, 0)).toEqual(['email']);
  });

  test('is nothing of a grant that the store was told of: what it suppressed since, it did by itself', () => {
    const later = decided(['sms'], { email: 3 }, 5);
    expect(mustClear(later, crm, 3)).toEqual([]);
    expect(mustClear(later, crm, 4)).toEqual([]);
  });

  test('is nothing that another scope still suppresses', () => {
    const topics = { scopes: ['email/news', 'email/offers'], topics: true };
    // Granted for the channel, but refused for one of its topics.
    expect(mustClear(decided(['email/news'], { email: 3 }), topics, 2)).toEqual(['email/offers']);
  });

  test('is never what must be held, and only what the store holds at all', () => {
    fc.assert(
      fc.property(anyDecided, anyStoreScopes, fc.integer({ min: 0, max: 9 }), (state, store, before) => {
        const cleared = mustClear(state, store, before);
        const kept = mustHold(state, store);
        expect(cleared.filter((scope) => kept.includes(scope))).toEqual([]);
        const names = Object.keys(state.granted).flatMap((scope) => heldAs(scope, store));
        expect(cleared.every((scope) => names.includes(scope))).toBe(true);
        // A store that knows more has less to clear.
        expect(mustClear(state, store, before + 1).every((scope) => cleared.includes(scope))).toBe(true);
      }),
    );
  });
});

test('a decision is due exactly where something must be held, or may have to be cleared', () => {
  fc.assert(
    fc.property(anyDecided, anyStoreScopes, (state, store) => {
      const accepting = { ...store, accepts: ['email'] };
      const names = [...Object.keys(state.suppressed), ...Object.keys(state.granted)].flatMap((scope) =>
        heldAs(scope, store),
      );
      expect(isDue({ ...state, kind: 'email' }, accepting)).toBe(names.length > 0);
      expect(isDue({ ...state, kind: 'phone' }, accepting)).toBe(false);
    }),
  );
});

describe('what a store that had acknowledged holds now', () => {
  const store = { scopes: ['email', 'sms'], topics: false };
  const decision = {
    version: 4,
    suppressed: { email: '2026-01-01T00:00:00.000Z', push: '2026-01-01T00:00:00.000Z' },
  };
  const held = (version: number | undefined, ...suppressed: string[]) => ({ version, suppressed });

  test.each([
    ['all of it', held(4, 'email'), undefined],
    ['all of it, without a version', held(undefined, 'email'), undefined],
    ['more than was decided', held(4, 'email', 'sms'), undefined],
    ['nobody', undefined, 'missing'],
    ['nothing, without a version', held(undefined), 'missing'],
    ['an older version that lacks it', held(3), 'older'],
    ['an older version that happens to hold it', held(3, 'email'), 'older'],
    ['this version, lifted', held(4), 'resurrected'],
    ['a newer version', held(5), 'ahead'],
    ['a version that nobody follows, lifted', held(2 ** 52 + 2), 'resurrected'],
    ['a version that nobody follows, with all of it', held(2 ** 52 + 2, 'email'), undefined],
  ])('%s', (_, answer, kind) => {
    expect(differenceOf(decision, store, answer)).toBe(kind);
  });

  test('a decision of which the store must hold nothing is missing nothing', () => {
    expect(differenceOf({ version: 1, suppressed: {} }, store, undefined)).toBeUndefined();
  });
  test('what no decision told it is its own', () => {
    expect(heldOfItsOwn(decision, store, held(4, 'email', 'sms'))).toEqual(['sms']);
    expect(heldOfItsOwn(decision, store, held(4, 'email'))).toEqual([]);
    expect(heldOfItsOwn(decision, store, undefined)).toEqual([]);
  });
});
