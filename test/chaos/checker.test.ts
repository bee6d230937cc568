// Consents, as the checker sees them: what nobody gave, what was answered and not done, and what went further than it says. All
// other faults are shown to it on a real system (chaos.pg.redis.test.ts).
import { describe, expect, test } from '@jest/globals';
import { check, stillPromised } from './checker.ts';
import type { Category, Evidence } from './checker.ts';
import type { Answered } from './clients.ts';

const EMAIL = 'ada@example.com';
const told = { email: EMAIL, key: undefined, outcome: 'recorded', attempts: 1, answeredAt: 0 };
const no: Answered = { ...told, says: 'no', scopes: ['email', 'sms'], id: 'out' };
const yes: Answered = { ...told, says: 'yes', scopes: ['email'], id: 'grant' };

/** Ada opted out of email and sms, consented to email, and crm holds sms. */
const LIFTED: Evidence = {
  answered: [no, yes],
  unanswered: [],
  ledger: {
    decisions: [
      {
        seq: 1,
        subject_id: 'ada',
        opt_out_id: 'out',
        cause: 'opt_out',
        version: 1,
        scopes: ['email', 'sms'],
      },
      { seq: 2, subject_id: 'ada', opt_out_id: null, cause: 'grant', version: 2, scopes: ['sms'] },
    ],
    opt_outs: [{ id: 'out', subject_id: 'ada', scopes: ['email', 'sms'] }],
    grants: [{ id: 'grant', subject_id: 'ada', scopes: ['email'] }],
    settled: { crm: [1, 2] },
    audited: 1,
  },
  stores: { crm: new Map([[EMAIL, { version: 2, suppressed: ['sms'] }]]) },
  lies: [],
  calledOk: ['crm'],
};
const [opted, granted] = LIFTED.ledger.decisions;
const categories = (evidence: Evidence): Category[] =>
  [...new Set(check(evidence).map(({ category }) => category))].sort();

test('a consent that was given, and lifts exactly that: nothing is found', () => {
  expect(check(LIFTED)).toEqual([]);
});

test('one that was asked for and never answered may have been recorded, or not', () => {
  const open = { says: 'yes', email: EMAIL, scopes: ['email'] } as const;
  expect(check({ ...LIFTED, answered: [no], unanswered: [open] })).toEqual([]);
  const { grants: _, ...ledger } = LIFTED.ledger;
  const without = { ...ledger, grants: [], decisions: [opted!], settled: { crm: [1] } };
  const stores = { crm: new Map([[EMAIL, { version: 1, suppressed: ['email', 'sms'] }]]) };
  expect(check({ ...LIFTED, answered: [no], unanswered: [open], ledger: without, stores })).toEqual([]);
});

test('one that nobody gave: resurrected, and what it lifted is lost', () => {
  expect(categories({ ...LIFTED, answered: [no] })).toEqual(['lag_lie', 'lost', 'resurrected']);
});

test('one that lifts more than it says: resurrected', () => {
  const decisions = [opted!, { ...granted!, scopes: [] }];
  expect(categories({ ...LIFTED, ledger: { ...LIFTED.ledger, decisions } })).toContain('resurrected');
});

test('a decision that lifts without a grant: resurrected', () => {
  const decisions = [...LIFTED.ledger.decisions, { ...granted!, seq: 3, version: 3, scopes: [] }];
  expect(categories({ ...LIFTED, ledger: { ...LIFTED.ledger, decisions } })).toContain('resurrected');
});

test('one that was answered and is not in the ledger: lost', () => {
  expect(categories({ ...LIFTED, ledger: { ...LIFTED.ledger, grants: [] } })).toContain('lost');
});

test('one that a store did not take: it holds what nobody decided', () => {
  const stores = { crm: new Map([[EMAIL, { version: 2, suppressed: ['email', 'sms'] }]]) };
  expect(categories({ ...LIFTED, stores })).toEqual(['duplicate']);
});

describe('after the ledger went back to before the consent', () => {
  const remembered = stillPromised(
    [
      { ...no, answeredAt: 1 },
      { ...yes, answeredAt: 3 },
    ],
    2,
    new Map([[EMAIL, 'out']]),
  );
  const back: Evidence = {
    ...LIFTED,
    ...remembered,
    ledger: { ...LIFTED.ledger, grants: [], decisions: [opted!], settled: { crm: [1] } },
    stores: { crm: new Map([[EMAIL, { version: 1, suppressed: ['email', 'sms'] }]]) },
  };

  test('it may be forgotten, and then everybody has forgotten it', () => {
    expect(check(back)).toEqual([]);
    expect(categories({ ...back, stores: LIFTED.stores })).toContain('wrong_order');
  });

  test('what was suppressed and is not recorded anew is lost', () => {
    const ledger = { ...back.ledger, decisions: [], opt_outs: [], settled: { crm: [] }, audited: 0 };
    const others = stillPromised([{ ...no, answeredAt: 3 }], 2, new Map());
    expect(categories({ ...back, ...others, ledger })).toEqual(['lost']);
    const anew = stillPromised([{ ...no, answeredAt: 3 }], 2, new Map([[EMAIL, 'out']]));
    expect(categories({ ...back, ...anew })).toEqual([]);
  });
});
