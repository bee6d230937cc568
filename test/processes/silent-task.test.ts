import { expect, test } from '@jest/globals';
import { createSilentTask } from '../../processes/silent-task.ts';

/** The seconds at which a task is restarted if `ends` are what is seen of it, 5 s apart. */
const restartsOf = (ends: readonly (string | undefined)[], runs = true): number[] => {
  const isSilent = createSilentTask();
  return ends.flatMap((end, n) =>
    isSilent({ progress: end, isDue: runs, nowMs: 5_000 * n }) ? [5 * n] : [],
  );
};
const times = <T>(count: number, end: T): T[] => Array.from({ length: count }, () => end);

// Debezium waited for ever on a dead line to the database, and Connect said that its task ran.
test('a task that says that it runs and brings nothing is restarted, less and less often', () => {
  expect(restartsOf(times(100, '7'))).toEqual([30, 90, 210, 450]);
});

test('once something came it is restarted as soon as before', () => {
  expect(restartsOf([...times(20, '7'), ...times(8, '8')])).toEqual([30, 90, 130]);
});

test('one that brings something, does not run, or of which the brokers do not tell is not', () => {
  expect(restartsOf(Array.from({ length: 100 }, (_, n) => String(n)))).toEqual([]);
  expect(restartsOf(times(100, '7'), false)).toEqual([]);
  expect(restartsOf(times(100, undefined))).toEqual([]);
  expect(restartsOf([...times(6, '7'), ...times(100, undefined), ...times(6, '7')])).toEqual([]);
});
