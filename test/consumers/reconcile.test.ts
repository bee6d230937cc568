// What a pass makes of a store that cannot read everybody. test/pipeline shows that it finds what real stores lost.
import { expect, test } from '@jest/globals';
import { reconcileAlways } from '../../consumers/reconcile.ts';
import { TryLater } from '../../connectors/contract/connector.ts';
import type { Held } from '../../connectors/contract/connector.ts';
import type { Comparison, ReconciliationPage } from '../../suppression/acknowledgement.ts';
import { eventually } from '../harness/eventually.ts';
import { decided } from './fakes.ts';

const SCOPES = { scopes: ['email', 'sms', 'push'], topics: false };

/** One page of these people, compared in calls of two; the store's own suppressions are to be told for `ownScopes`. */
function reconcile(people: readonly string[], read: (who: string) => Held, ownScopes?: readonly string[]) {
  const page: ReconciliationPage = {
    run: 1,
    generation: 1,
    after: '',
    through: 'z',
    isLast: true,
    decisions: people.map((who) => decided(who)),
    own: ownScopes && { scopes: ownScopes, others: [] },
    pauseMs: 0,
  };
  const stopping = new AbortController();
  const compared: Comparison[] = [];
  const calls: number[] = [];
  const over = reconcileAlways({
    ledger: {
      reconciliationPage: () => Promise.resolve(compared.length === 0 ? page : undefined),
      compared: (_page, comparison) => {
        compared.push(comparison);
        return Promise.resolve();
      },
    },
    held: { ...SCOPES, topics: ownScopes !== undefined },
    batchMax: 2,
    keyOf: ({ kind, subjectId }) => Promise.resolve({ kind, key: subjectId }),
    readBack: (keys) => {
      calls.push(keys.length);
      return Promise.resolve().then(() => keys.map(({ key }) => read(key)));
    },
    onFailure: () => undefined,
    signal: stopping.signal,
  });
  return {
    page,
    compared,
    calls,
    [Symbol.asyncDispose]: async () => {
      stopping.abort();
      await over;
    },
  };
}

const holdsAll: Held = { version: 1, suppressed: SCOPES.scopes };

// Seen: a key that somebody had made a string held up the whole pass, so nothing else that the store had lost was found.
test('whom a store cannot read, while it reads others, is not held there, and the pass goes on', async () => {
  await using t = reconcile(['ada', 'bob', 'cyd', 'dan', 'eve'], (who) => {
    if (who === 'ada' || who === 'dan') throw new Error('chokes');
    return holdsAll;
  });
  await eventually(() => expect(t.compared).toHaveLength(1));
  const [ada, , , dan] = t.page.decisions;
  expect(t.compared[0]).toMatchObject({
    compared: 5,
    unread: 0,
    differences: [
      { seq: ada!.seq, kind: 'missing', heldVersion: undefined },
      { seq: dan!.seq, kind: 'missing', heldVersion: undefined },
    ],
  });
  // Each of the two is read once more, and then somebody else, to see whether the store is still there.
  expect(t.calls).toEqual([2, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
});

test('a store that goes away in the middle of a page has lost nobody', async () => {
  let isFirst = true;
  let away: number | undefined;
  await using t = reconcile(['ada', 'bob', 'cyd', 'dan', 'eve'], (who) => {
    const wasFirst = isFirst;
    isFirst = false;
    if (who === 'dan') away ??= 4;
    if (wasFirst || (away !== undefined && away-- > 0)) throw new Error('away');
    return holdsAll;
  });
  await eventually(() => expect(t.compared).toHaveLength(1));
  expect(t.compared[0]).toMatchObject({ compared: 5, differences: [] });
  expect(away).toBeLessThanOrEqual(0);
});

test('of very many topics that a store suppresses by itself so much is told as the API takes, the rest the next time', async () => {
  const topics = Array.from({ length: 100 }, (_, n) => `email/${`${n}`.padStart(63, 'x')}`);
  const people = Array.from({ length: 500 }, (_, n) => `person-${n}`);
  await using t = reconcile(
    people,
    () => ({ version: 1, suppressed: [...SCOPES.scopes, ...topics] }),
    topics,
  );
  await eventually(() => expect(t.compared).toMatchObject([{ compared: 500, own: 500 }]));
  const { ownSuppressions } = t.compared[0]!;
  expect(ownSuppressions).toHaveLength(200);
  expect(JSON.stringify(ownSuppressions).length).toBeLessThan(2 * 1024 * 1024);
});

test('a store that asks to come later is read later, in one piece', async () => {
  let asked = 0;
  await using t = reconcile(['ada', 'bob', 'cyd'], () => {
    asked += 1;
    if (asked === 1) throw new TryLater(10);
    return holdsAll;
  });
  await eventually(() => expect(t.compared).toMatchObject([{ compared: 3, differences: [] }]));
  expect(t.calls).toEqual([2, 2, 1]);
});

test('a pass that is told to stop in the middle of a page stops there', async () => {
  const t = reconcile(['ada', 'bob', 'cyd', 'dan', 'eve', 'fay'], () => holdsAll);
  await eventually(() => expect(t.calls.length).toBeGreaterThan(0));
  await t[Symbol.asyncDispose]();
  expect(t.calls.length).toBeLessThanOrEqual(3);
});

test('of a store that reads nobody nothing is said, with a few calls a round', async () => {
  let isAway = true;
  await using t = reconcile(['ada', 'bob', 'cyd', 'dan', 'eve'], () => {
    if (isAway) throw new Error('away');
    return holdsAll;
  });
  await eventually(() => expect(t.calls.length).toBeGreaterThan(3));
  expect(t.compared).toEqual([]);
  isAway = false;
  await eventually(() => expect(t.compared).toMatchObject([{ compared: 5, differences: [] }]));
  expect(t.calls.slice(0, 4)).toEqual([2, 1, 1, 1]);
});
