import { expect, test } from '@jest/globals';
import { nextTryMs } from '../../client/next-try.ts';

const passing = { retryable: true, retryAfterSeconds: undefined };
const so = { isRepeatable: true, tries: 1, triesMax: 10, leftMs: 60_000, chance: 1 };

test('each try waits twice as long as the one before it, and never more than five seconds', () => {
  const waits = [1, 2, 3, 4, 5, 6, 7, 8, 9].map((tries) => nextTryMs(passing, { ...so, tries }));
  expect(waits).toEqual([100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000]);
});

test('half of the wait is by chance, so that those who failed together come back apart', () => {
  expect([0, 0.5, 1].map((chance) => nextTryMs(passing, { ...so, tries: 4, chance }))).toEqual([
    400, 600, 800,
  ]);
});

test('it waits at least as long as the answer asks', () => {
  expect(nextTryMs({ retryable: true, retryAfterSeconds: 3 }, { ...so, chance: 0 })).toBe(3_050);
});

test.each([
  ['what is wrong with the request stays wrong', { retryable: false }, {}],
  ['what may have been done once is not done twice', {}, { isRepeatable: false }],
  ['the tries are used up', {}, { tries: 10 }],
  ['the time would be over', {}, { leftMs: 100 }],
  ['the answer asks for more than the time that is left', { retryAfterSeconds: 86_400 }, {}],
])('there is no further try where %s', (_, problem, state) => {
  expect(nextTryMs({ ...passing, ...problem }, { ...so, ...state })).toBeUndefined();
});
