import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import type { Propagation, StorePropagation } from '../../ledger/contract/propagation.ts';
import { createPropagationWatch } from '../../ledger/wait-for-propagation.ts';

const SEQ = 7;
const store = (name: string, state: StorePropagation['state']): StorePropagation => {
  const stands = {
    state,
    recordedAt: '2026-11-24T09:00:00.000Z',
    appliedAt: undefined,
    verifiedAt: undefined,
    acknowledgedAt: undefined,
    latencyMs: undefined,
    attempts: undefined,
    reason: undefined,
  };
  return {
    store: name,
    required: true,
    ...stands,
    decisions: [{ seq: SEQ, subjectId: 'ada', ...stands }],
  };
};

/** A ledger with one opt-out: the states of its stores, and how often it was looked at. */
function oneOptOut(states: Record<string, StorePropagation['state']>) {
  const ledger = { states, looks: 0, beforeAnswer: (): void => undefined };
  const watch = createPropagationWatch((ids) => {
    ledger.looks += 1;
    // Without a pause between looks the clock of the test would never be reached.
    if (ledger.looks > 1_000) throw new Error('looked at without pause');
    const stores = Object.entries(ledger.states).map(([name, state]) => store(name, state));
    const open = stores.some(({ state }) => state !== 'verified');
    const propagation: Propagation = {
      state: open ? 'pending' : 'complete',
      required: stores.length,
      confirmed: 0,
      verified: 0,
      uncovered: [],
      firstCompletedAt: undefined,
      stores,
    };
    ledger.beforeAnswer();
    return Promise.resolve(new Map(ids.map((id) => [id, propagation])));
  });
  const settle = (name: string): void => {
    ledger.states = { ...ledger.states, [name]: 'verified' };
    watch.settled(name, [SEQ]);
  };
  return { ledger, watch, settle };
}

const signal = (): AbortSignal => new AbortController().signal;
const pass = (ms: number): Promise<void> => jest.advanceTimersByTimeAsync(ms);

// Looks follow the clock, and they are counted here: on a busy machine the next one would be due in the middle of a test.
beforeEach(() => {
  jest.useFakeTimers();
});
afterEach(() => {
  jest.useRealTimers();
});

test('a wait ends when the last of its stores has settled, and looks once before and once after', async () => {
  const { ledger, watch, settle } = oneOptOut({ crm: 'pending', mail: 'pending' });
  const waiting = watch.wait('a', 10_000, signal());
  await pass(0);
  for (let others = 0; others < 20; others += 1) watch.settled('crm', [100 + others]);
  settle('crm');
  await pass(0);
  expect(ledger.looks).toBe(1);
  settle('mail');
  expect((await waiting).state).toBe('complete');
  expect(ledger.looks).toBe(2);
});

test('what settles while the ledger is looked at is not missed', async () => {
  const { ledger, watch, settle } = oneOptOut({ crm: 'pending' });
  ledger.beforeAnswer = () => {
    if (ledger.looks === 1) settle('crm');
  };
  expect((await watch.wait('a', 10_000, signal())).state).toBe('complete');
  expect(ledger.looks).toBe(2);
});

test('what was recorded here is looked at when its stores have settled it, and not before', async () => {
  const { ledger, watch, settle } = oneOptOut({ crm: 'pending', mail: 'pending' });
  const waiting = watch.wait('a', 10_000, signal(), [{ seq: SEQ, awaited: ['crm', 'mail'] }]);
  settle('crm');
  await pass(0);
  expect(ledger.looks).toBe(0);
  settle('mail');
  expect((await waiting).state).toBe('complete');
  expect(ledger.looks).toBe(1);
});

test('what was recorded here and settled by another process is found by looking', async () => {
  const { ledger, watch } = oneOptOut({ crm: 'verified' });
  const fresh = [{ seq: SEQ, awaited: ['crm'] }];
  const waiting = watch.wait('a', 10_000, signal(), fresh);
  await pass(1_000);
  expect((await waiting).state).toBe('complete');
  expect(ledger.looks).toBe(1);
});

test("another process' acknowledgement is noticed by looking again", async () => {
  const { ledger, watch } = oneOptOut({ crm: 'pending' });
  ledger.beforeAnswer = () => {
    if (ledger.looks === 1) ledger.states = { crm: 'verified' };
  };
  const waiting = watch.wait('a', 10_000, signal());
  await pass(1_000);
  expect((await waiting).state).toBe('complete');
});

test.each(['quarantined', 'paused', 'pending'] as const)(
  'a store that is %s, and was heard of before, is not looked at without pause',
  async (state) => {
    const { ledger, watch } = oneOptOut({ crm: state });
    const other = watch.wait('b', 350, signal());
    watch.settled('crm', [SEQ]);
    const waiting = watch.wait('a', 350, signal());
    await pass(350);
    expect((await waiting).state).toBe('pending');
    await other;
    // One look at once, one more for what was heard meanwhile, then ever fewer.
    expect(ledger.looks).toBeLessThan(20);
  },
);

test('a store that is away for half a minute is looked at ever more seldom, and noticed within a second', async () => {
  const { ledger, watch } = oneOptOut({ crm: 'pending' });
  const waiting = watch.wait('a', 60_000, signal());
  await pass(30_000);
  expect(ledger.looks).toBeLessThan(40);
  ledger.states = { crm: 'verified' };
  await pass(1_000);
  expect((await waiting).state).toBe('complete');
});

test('many who wait for one moment share a look', async () => {
  const { ledger, watch, settle } = oneOptOut({ crm: 'pending' });
  const waiting = Array.from({ length: 50 }, (_, n) => watch.wait(`id-${n}`, 10_000, signal()));
  await pass(0);
  expect(ledger.looks).toBeLessThanOrEqual(2);
  settle('crm');
  await Promise.all(waiting);
  expect(ledger.looks).toBeLessThanOrEqual(4);
});

test('a client that leaves is waited for no longer', async () => {
  const { watch } = oneOptOut({ crm: 'pending' });
  const gone = new AbortController();
  const waiting = watch.wait('a', 60_000, gone.signal);
  await pass(0);
  gone.abort();
  expect((await waiting).state).toBe('pending');
});
