import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import {
  channelOfTopic,
  CHANNELS,
  heldAs,
  isChannel,
  isScope,
  meets,
  PURPOSES,
} from '../../suppression/scope.ts';
import { anyScope, anyStoreScopes } from './arbitrary-scopes.ts';

test.each([
  ...CHANNELS,
  ...PURPOSES,
  'email/newsletter',
  'sms/a',
  'push/2026.q4_offers-b',
  `email/${'x'.repeat(63)}`,
])('%s is a scope', (text) => {
  expect(isScope(text)).toBe(true);
});

test.each([
  '',
  'Email',
  'fax',
  'email/',
  'email/News',
  'email/-a',
  'email/a/b',
  'email/a b',
  'fax/news',
  'analytics/web',
  `email/${'x'.repeat(64)}`,
  'email\n',
  'constructor',
  'ada@example.com',
])('%j is none', (text) => {
  expect(isScope(text)).toBe(false);
});

test('a topic has a channel; a channel and a purpose have none', () => {
  expect(['email/news', 'sms/a', 'email', 'analytics'].map(channelOfTopic)).toEqual([
    'email',
    'sms',
    undefined,
    undefined,
  ]);
  expect(['email', 'email/news', 'toString'].map(isChannel)).toEqual([true, false, false]);
});

describe('a decided scope meets a store’s', () => {
  test.each([
    // decided, stored, topics, meets
    ['email', 'email', false, true],
    ['email', 'sms', true, false],
    ['email/news', 'email/news', false, true],
    ['email/news', 'email/offers', true, false],
    // A store that can hold topics apart takes one whose channel it has; a store that cannot must not block the channel.
    ['email/news', 'email', true, true],
    ['email/news', 'email', false, false],
    // A channel covers its topics, whatever the store can hold.
    ['email', 'email/news', true, true],
    ['email', 'email/news', false, true],
    ['email', 'sms/news', true, false],
    ['analytics', 'analytics', false, true],
    ['analytics', 'profiling', true, false],
    ['email', 'analytics', true, false],
  ])('%s, %s, topics %p: %p', (decided, stored, topics, expected) => {
    expect(meets(decided, stored, topics)).toBe(expected);
  });

  test('exactly where the store has a name to hold it under', () => {
    fc.assert(
      fc.property(anyScope, anyStoreScopes, (decided, store) => {
        const names = heldAs(decided, store);
        expect(names.length > 0).toBe(store.scopes.some((stored) => meets(decided, stored, store.topics)));
        // Never under the name of another scope that covers more, and never twice.
        for (const name of names) expect(name === decided || channelOfTopic(name) === decided).toBe(true);
        expect(new Set(names).size).toBe(names.length);
      }),
    );
  });
});

test.each([
  ['email', ['email', 'sms'], false, ['email']],
  ['email', ['email/news', 'email/offers', 'sms'], false, ['email/news', 'email/offers']],
  ['email', ['email', 'email/news'], true, ['email', 'email/news']],
  ['email/news', ['email'], true, ['email/news']],
  ['email/news', ['email'], false, []],
  ['email/news', ['email', 'email/news'], true, ['email/news']],
  ['profiling', ['email'], true, []],
])('%s is held by a store of %j (topics %p) as %j', (decided, scopes, topics, names) => {
  expect(heldAs(decided, { scopes, topics })).toEqual(names);
});
