import { expect, test } from '@jest/globals';
import { recordedOf, toBeRecorded } from '../../suppression/own-suppression.ts';

const RECORDED = ['email', 'email/offers', 'sms', 'profiling'];

test.each<[string, string[], string[], string[]]>([
  ['what nobody decided is recorded', ['email', 'sms'], ['sms'], ['email']],
  ['what is decided already is not', ['sms'], ['sms'], []],
  ['nor what the configuration does not name', ['push', 'email/unheard-of'], [], []],
  ['a topic is recorded in its own right', ['email/offers'], ['sms'], ['email/offers']],
  ['but not where its channel is decided', ['email/offers'], ['email'], []],
  ['nor where the channel is recorded with it', ['email', 'email/offers'], [], ['email']],
  ['a purpose is no topic of anything', ['profiling'], ['email'], ['profiling']],
])('%s', (_, own, decided, recorded) => {
  const state = Object.fromEntries(decided.map((scope) => [scope, {}]));
  expect(toBeRecorded(own, RECORDED, state)).toEqual(recorded);
});

test('recorded are the scopes that a store holds, and where it can hold them the declared topics of its channels', () => {
  const topics = { email: ['offers', 'news'], push: ['games'] };
  expect(recordedOf({ scopes: ['email', 'sms', 'email/offers'], topics: true }, topics)).toEqual([
    'email',
    'email/offers',
    'email/news',
    'sms',
  ]);
  expect(recordedOf({ scopes: ['email', 'sms'], topics: false }, topics)).toEqual(['email', 'sms']);
});
